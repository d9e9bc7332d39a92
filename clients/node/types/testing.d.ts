/** A real broker with a vault that fails on demand, both of them programs of this machine, for test suites. */
export class TestBroker {
  private constructor();
  /**
   * Starts both programs, which `TOKEN_BROKER_SANDBOX_PROGRAM` and `TOKEN_BROKER_PROGRAM` name, or else are in `PATH`.
   * `sandboxArguments` are the sandbox's own, such as `['--lifetime', '20s']` or `['--broker-log', 'broker.log']`.
   */
  static start(options?: { sandboxArguments?: readonly string[] }): Promise<TestBroker>;
  /** Where the broker is, for a `TokenSource`: in plaintext. */
  readonly endpoint: string;
  /** The vault, also for calls of its API: `GET ${vaultUrl}/v1/customer` is 200 with a live token, else 401. */
  readonly vaultUrl: string;
  /** That of all users. */
  readonly merchantId: string;
  /** A user whom no test has had so far. */
  newUser(): [merchantId: string, number: string];
  /**
   * Tells the vault to fail, to revoke, or how to be: POSTs `body` to its `/_sandbox/` + `path`, and returns what it answers.
   * `control('faults', [{ kind: 'reply', status: 503, body: 'busy', number }])`, `control('settings', { lifetime: '2s' })`,
   * `control('revoke', { access_token: token.accessToken })`. Without a body it asks: `control('stats')`.
   */
  control(path: string, body?: unknown): Promise<any>;
  /** Ends what the vault was told to do wrong and has not done yet, everybody's, and an outage. */
  dropFaults(): Promise<void>;
  /** Ends both programs; so does the end of this process, however it comes. */
  close(): Promise<void>;
}
