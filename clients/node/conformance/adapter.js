// Drives the installed package for the suite that all languages' packages go through: commands in JSON, one a line, on standard
// input; answers on standard output, in any order. Ends with its input.
//
// Must never use anything but what the package gives to everybody.

import { createInterface } from 'node:readline';

import { ConfigurationError, TokenBrokerError, TokenRejected, TokenSource } from 'token-broker-client';

// Most tokens that are kept to be complained of: more than a suite hands out between.
const HANDED_MAX = 10_000;

let source = null;
// The tokens that were handed out, by user and id.
const handed = new Map();

const inMs = (seconds) => (seconds == null ? undefined : seconds * 1_000);
const given = (options) => Object.fromEntries(Object.entries(options).filter(([, value]) => value != null));
const keyOf = ({ merchant_id, number }, tokenId) => JSON.stringify([merchant_id, number, tokenId]);

function keep(command, token) {
  handed.set(keyOf(command, token.tokenId), token);
  if (handed.size > HANDED_MAX) handed.delete(handed.keys().next().value);
}

const COMMANDS = {
  open(command) {
    source?.close();
    source = null;
    source = new TokenSource(given({
      endpoints: command.endpoints,
      caFile: command.ca_file,
      tokenFile: command.token_file,
      certificateFile: command.certificate_file,
      keyFile: command.key_file,
      timeoutMs: inMs(command.timeout_seconds),
      useProxy: command.use_proxy,
    }));
    return {};
  },

  async token(command) {
    const timeoutMs = inMs(command.timeout_seconds);
    const token = await source.token(command.merchant_id, command.number, given({ timeoutMs }));
    keep(command, token);
    return {
      token_id: token.tokenId,
      access_token: token.accessToken,
      expires_in_seconds: token.expiresInMs / 1_000,
      scope: token.scope,
      shown: `${token}`,
    };
  },

  cached(command) {
    const token = source.cached(command.merchant_id, command.number);
    if (token) keep(command, token);
    return { token_id: token?.tokenId ?? null };
  },

  rejected(command) {
    const token = handed.get(keyOf(command, command.token_id));
    if (!token) throw new Error(`no token ${command.token_id} was handed out`);
    return { is_news: source.rejected(token) };
  },

  async use(command) {
    let requests = 0;
    let tokenId = null;
    const response = await source.withToken(command.merchant_id, command.number, (token) => {
      requests += 1;
      tokenId = token.tokenId;
      keep(command, token);
      return fetch(command.url, { headers: { authorization: token.authorization } });
    });
    await response.arrayBuffer();
    return { status: response.status, token_id: tokenId, requests };
  },

  async warm(command) {
    await source.warm(command.users);
    return {};
  },

  counts() {
    return source.counts();
  },

  close() {
    source?.close();
    return {};
  },
};

const isoSeconds = (date) => date?.toISOString().replace(/\.\d+Z$/, 'Z') ?? null;

function kindOf(error) {
  if (error instanceof ConfigurationError) return 'configuration';
  if (error instanceof TokenRejected) return 'rejected';
  return error instanceof TokenBrokerError ? 'broker' : 'adapter';
}

const told = (error) => ({
  kind: kindOf(error),
  code: error.code ?? null,
  reason: error.reason ?? null,
  retry_after_seconds: error.retryAfterMs == null ? null : error.retryAfterMs / 1_000,
  held_until: isoSeconds(error.heldUntil),
  request_id: error.requestId ?? null,
  fields: error.fieldViolations ?? [],
  is_temporary: error.isTemporary ?? false,
  text: `${error}`,
});

async function answer(command) {
  try {
    return { id: command.id, ok: await COMMANDS[command.do](command) };
  } catch (error) {
    return { id: command.id, error: told(error) };
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  if (line.trim() === '') return;
  void answer(JSON.parse(line)).then((answered) => process.stdout.write(`${JSON.stringify(answered)}\n`));
});
lines.on('close', () => {
  source?.close();
  source = null;
});
