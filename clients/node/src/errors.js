// What callers catch: why there is no token, and what to do about it.
//
// Must never hold or show a token, nor more than one line of what others wrote.

import { ErrorReason, TEMPORARY } from './reasons.js';
import { onOneLine, seconds } from './text.js';

// Where the broker gave no reason, the codes that a later call may fare better than.
const TEMPORARY_CODES = new Set(['UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'DEADLINE_EXCEEDED', 'ABORTED', 'CANCELLED']);

// `message` is for people: reason, text, what the broker adds, the wait and the request id, on one line. The text of a request
// that is malformed names its fields already.
export class TokenBrokerError extends Error {
  // `told` has `code` and `text`, and whatever else was said of the properties below.
  constructor(told) {
    super(inWords(told));
    this.code = told.code ?? null;
    this.reason = told.reason ?? null;
    this.retryAfterMs = told.retryAfterMs ?? null;
    this.requestId = told.requestId ?? null;
    this.fieldViolations = told.fieldViolations ?? [];
    this.metadata = told.metadata ?? {};
  }

  // Until when the broker does not ask the vault for this user, where it says so.
  get heldUntil() {
    const named = new Date(this.metadata.held_until ?? NaN);
    return Number.isNaN(named.getTime()) ? null : named;
  }

  // Whether a later call may fare better without anybody's help.
  get isTemporary() {
    return this.reason in ErrorReason ? TEMPORARY.has(this.reason) : TEMPORARY_CODES.has(this.code);
  }

  // Whether no later call fares better until somebody has mended something.
  get isPermanent() {
    return !this.isTemporary;
  }
}

// An option of the source is missing or wrong.
export class ConfigurationError extends TokenBrokerError {
  constructor(text) {
    super({ text });
  }
}

// The vault's API refuses the next token as well, or the vault gives the same again.
export class TokenRejected extends TokenBrokerError {
  constructor(why) {
    super({ text: `the vault's API answers 401 to a new token as well: ${why}` });
  }
}

// Whoever asks a source that is closed, or waits as it is, gets this.
export const closed = () => new TokenBrokerError({ code: 'CANCELLED', text: 'the source of tokens is closed: make a new one' });

// On the prototypes, so that no error lists its own name among what it has to say.
for (const type of [TokenBrokerError, ConfigurationError, TokenRejected]) {
  Object.defineProperty(type.prototype, 'name', { value: type.name, configurable: true, writable: true });
}

function inWords({ code, reason, text, retryAfterMs, requestId, metadata = {} }) {
  const named = reason ?? code;
  const more = Object.entries(metadata).filter(([, value]) => value !== '').map(([key, value]) => `${key}: ${value}`);
  if (retryAfterMs === 0) more.push('try again at once');
  if (retryAfterMs > 0) more.push(`try again in ${seconds(retryAfterMs)}`);
  if (requestId) more.push(`request id: ${requestId}`);
  return onOneLine(`${named ? `${named}: ` : ''}${text}${more.length > 0 ? ` (${more.join('; ')})` : ''}`);
}
