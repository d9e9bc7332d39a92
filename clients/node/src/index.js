// What the package gives to its users.

export { ConfigurationError, TokenBrokerError, TokenRejected } from './errors.js';
export { ErrorReason } from './reasons.js';
export { TokenSource } from './source.js';
export { Token } from './token.js';
