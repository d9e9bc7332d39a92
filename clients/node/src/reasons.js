// Pure: why there is no token, for programs: the reasons of the wire contract.
//
// Must never lose or rename one: callers' programs branch on them. A test holds them to the contract.

const NAMES = [
  'INVALID_REQUEST',
  'CALLER_UNAUTHENTICATED',
  'IDENTITY_UNAVAILABLE',
  'CALLER_NOT_ALLOWED',
  'USER_NOT_CONFIGURED',
  'CREDENTIALS_REJECTED',
  'SECOND_FACTOR_REQUIRED',
  'VAULT_REQUEST_REJECTED',
  'VAULT_THROTTLED',
  'VAULT_UNAVAILABLE',
  'VAULT_RESPONSE_INVALID',
  'SIGN_IN_TOO_SOON',
  'MIN_REMAINING_UNATTAINABLE',
  'DEADLINE_EXCEEDED',
  'BROKER_OVERLOADED',
  'BROKER_SHUTTING_DOWN',
  'INTERNAL',
];

// Each reason by its name, which is its value too.
export const ErrorReason = Object.freeze(Object.fromEntries(NAMES.map((name) => [name, name])));

// Those after which the same call may fare better later without anybody's help.
export const TEMPORARY = new Set([
  ErrorReason.IDENTITY_UNAVAILABLE,
  ErrorReason.VAULT_THROTTLED,
  ErrorReason.VAULT_UNAVAILABLE,
  ErrorReason.VAULT_RESPONSE_INVALID,
  ErrorReason.SIGN_IN_TOO_SOON,
  ErrorReason.DEADLINE_EXCEEDED,
  ErrorReason.BROKER_OVERLOADED,
  ErrorReason.BROKER_SHUTTING_DOWN,
]);
