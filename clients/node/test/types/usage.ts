// What users write, held to the types: compiled, never run.

import { ConfigurationError, ErrorReason, Token, TokenBrokerError, TokenRejected, TokenSource } from 'token-broker-client';
import { TestBroker } from 'token-broker-client/testing';

const source = new TokenSource({ endpoints: ['http://127.0.0.1:50051'], timeoutMs: 15_000, useProxy: false });

export async function use(signal: AbortSignal): Promise<string> {
  await source.warm([['m', '+447871239999']]);
  const token: Token = await source.token('m', '+447871239999', { timeoutMs: 5_000, signal });
  const cached: Token | undefined = source.cached('m', '+447871239999');
  const isNews: boolean = source.rejected(cached ?? token);
  const response: Response = await source.withToken('m', '+447871239999', (next) =>
    fetch('http://127.0.0.1', { headers: { authorization: next.authorization } }));
  const said = await source.withToken('m', '+1', async (next) => ({ isDead: next.expiresInMs === 0 }), {
    isRejected: (one) => one.isDead,
  });
  const { users, calls, failures, complaints } = source.counts();
  source.close();
  return `${response.status} ${said.isDead} ${isNews} ${users + calls + failures + complaints} ${token.tokenId} ${token.scope}`;
}

export function told(error: unknown): string {
  if (error instanceof ConfigurationError || error instanceof TokenRejected) return error.message;
  if (!(error instanceof TokenBrokerError)) throw error;
  if (error.reason === ErrorReason.CREDENTIALS_REJECTED) return `held until ${error.heldUntil?.toISOString()}`;
  const waitMs: number = error.retryAfterMs ?? 0;
  const fields = error.fieldViolations.map(({ field, description }) => `${field} ${description}`);
  return `${error.code} ${error.isTemporary} ${error.isPermanent} ${waitMs} ${error.requestId} ${fields} ${error.metadata['vault_error']}`;
}

// @ts-expect-error there is no such option
new TokenSource({ endpoint: 'http://127.0.0.1:50051' });
// @ts-expect-error a token is only had from a source
new Token();

export async function tried(): Promise<string> {
  const broker: TestBroker = await TestBroker.start({ sandboxArguments: ['--lifetime', '20s'] });
  const [merchantId, number] = broker.newUser();
  const token: Token = await new TokenSource({ endpoints: broker.endpoint }).token(...broker.newUser());
  const { revoked } = await broker.control('revoke', { access_token: token.accessToken });
  await broker.dropFaults();
  await broker.close();
  return `${merchantId} ${number} ${broker.vaultUrl} ${broker.merchantId} ${revoked} ${await broker.control('stats')}`;
}
