/** Where the brokers are, and how each side knows the other. */
export interface TokenSourceOptions {
  /** `http://host:port` or `https://host:port`, one or more. Names are looked up again and again, and stand for all addresses. */
  endpoints: string | readonly string[];
  /** The CA of the brokers' certificates, in PEM: needed for `https://`. */
  caFile?: string;
  /** A service account's token, which is read for each call. Not along with a certificate. */
  tokenFile?: string;
  /** Our certificate, in PEM, with `keyFile`. */
  certificateFile?: string;
  /** Its key, in PEM. */
  keyFile?: string;
  /** How long `token` waits at most: by default 30 s; more than 10 min count as 10 min. */
  timeoutMs?: number;
  /** Whether the environment's proxy (`grpc_proxy`, `https_proxy`, `http_proxy`, `no_proxy`) is used: by default it isn't. */
  useProxy?: boolean;
}

/** What one caller may want otherwise. */
export interface TokenOptions {
  /** How long this caller waits at most; by default as long as the source says. */
  timeoutMs?: number;
  /** Ends this caller's wait, with the signal's reason. The call to the broker goes on for the others. */
  signal?: AbortSignal;
}

export interface WithTokenOptions<R> extends TokenOptions {
  /** Whether the API says with this answer that the token is dead; by default, whether `status` or `statusCode` is 401. */
  isRejected?: (response: R) => boolean | Promise<boolean>;
}

export interface Counts {
  /** Users that the source knows. */
  users: number;
  /** Calls to the broker. */
  calls: number;
  /** Those, with their repeats, that brought no token. */
  failures: number;
  /** Tokens that were complained of. */
  complaints: number;
}

/** Tokens, from memory as far as they are there. Make one for the process. */
export class TokenSource {
  /** Asks nobody yet. Throws a `ConfigurationError` where the options can't be. */
  constructor(options: TokenSourceOptions);
  /** The token in memory, or the one that the broker has. Throws a `TokenBrokerError`. */
  token(merchantId: string, number: string, options?: TokenOptions): Promise<Token>;
  /** The token in memory, if it is good; never waits. */
  cached(merchantId: string, number: string): Token | undefined;
  /** Takes the complaint that the API answered this token with 401; whether that is news. */
  rejected(token: Token): boolean;
  /** Has the tokens of these users in memory; throws the error of the first who has none, once all were tried. */
  warm(users: Iterable<readonly [merchantId: string, number: string]>): Promise<void>;
  /**
   * Runs `send`; where its answer is a 401, once more with the next token. Throws `TokenRejected` where that doesn't help, and
   * the broker's error where it has no next token.
   */
  withToken<R>(
    merchantId: string,
    number: string,
    send: (token: Token) => R | Promise<R>,
    options?: WithTokenOptions<R>,
  ): Promise<R>;
  counts(): Counts;
  /** Ends calls, timers and connections; whoever waits gets an error. */
  close(): void;
}

/** A token of one user. Printed, it shows no secret. */
export class Token {
  private constructor();
  /** The secret. */
  readonly accessToken: string;
  /** The value of the header `Authorization`. */
  readonly authorization: string;
  /** Its name, safe to log and the same everywhere. */
  readonly tokenId: string;
  /** What it allows, as the vault says; may be empty. */
  readonly scope: string;
  /** How long it still lives, by the monotonic clock. */
  readonly expiresInMs: number;
  readonly merchantId: string;
  /** Not for logs. */
  readonly number: string;
}

/** Why there is no token. `message` is for people; programs decide by `reason`. */
export class TokenBrokerError extends Error {
  /** gRPC's name of the code, such as `UNAVAILABLE`; null where it is this process that is at fault. */
  readonly code: string | null;
  /** One of `ErrorReason`, or one of a newer broker's; null where no broker answered. */
  readonly reason: ErrorReason | (string & {}) | null;
  /** How long to wait before trying again, where the broker says so. */
  readonly retryAfterMs: number | null;
  /** Until when the broker does not ask the vault for this user. */
  readonly heldUntil: Date | null;
  /** What the broker calls this call in its log. */
  readonly requestId: string | null;
  readonly fieldViolations: ReadonlyArray<{ readonly field: string; readonly description: string }>;
  /** What the broker says beside the reason, such as `vault_error`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Whether a later call may fare better without anybody's help. */
  readonly isTemporary: boolean;
  /** Whether somebody has to mend something first. */
  readonly isPermanent: boolean;
}

/** An option is missing or wrong. */
export class ConfigurationError extends TokenBrokerError {}

/** The API refuses the next token as well, or the vault gives the same again. */
export class TokenRejected extends TokenBrokerError {}

/** Why there is no token, as the contract names it. */
export type ErrorReason =
  | 'INVALID_REQUEST'
  | 'CALLER_UNAUTHENTICATED'
  | 'IDENTITY_UNAVAILABLE'
  | 'CALLER_NOT_ALLOWED'
  | 'USER_NOT_CONFIGURED'
  | 'CREDENTIALS_REJECTED'
  | 'SECOND_FACTOR_REQUIRED'
  | 'VAULT_REQUEST_REJECTED'
  | 'VAULT_THROTTLED'
  | 'VAULT_UNAVAILABLE'
  | 'VAULT_RESPONSE_INVALID'
  | 'SIGN_IN_TOO_SOON'
  | 'MIN_REMAINING_UNATTAINABLE'
  | 'DEADLINE_EXCEEDED'
  | 'BROKER_OVERLOADED'
  | 'BROKER_SHUTTING_DOWN'
  | 'INTERNAL';
export const ErrorReason: { readonly [Reason in ErrorReason]: Reason };
