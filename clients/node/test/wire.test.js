// The contract over real connections: requests, answers and errors.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';

import { ErrorReason, TokenBrokerError, TokenSource } from '../src/index.js';
import { TEMPORARY } from '../src/reasons.js';
import { REASONS_ON_THE_WIRE, errorOf } from '../src/wire.js';
import { MERCHANT, NUMBER } from './fakes.js';
import { failure, reply, serve } from './server.js';

const sourceOf = (port, more) => new TokenSource({ endpoints: `http://127.0.0.1:${port}`, ...more });

test('the reasons are the contract\'s, in the code and in the types', () => {
  assert.deepEqual(Object.keys(ErrorReason), REASONS_ON_THE_WIRE.filter((name) => name !== 'ERROR_REASON_UNSPECIFIED'));
  const types = readFileSync(new URL('../types/index.d.ts', import.meta.url), 'utf8');
  const typed = /export type ErrorReason =([^;]*);/.exec(types)[1].match(/\w+/g);
  assert.deepEqual(typed, Object.keys(ErrorReason));
  assert.ok([...TEMPORARY].every((name) => name && name in ErrorReason));
});

test('a token comes as the broker sends it, and complaints go to it', async () => {
  let answers = 0;
  const broker = await serve(() => reply(`token-${answers += 1}`));
  const source = sourceOf(broker.port);
  const token = await source.token(MERCHANT, NUMBER);
  assert.deepEqual([token.accessToken, token.tokenId, token.scope], ['secret of token-1', 'token-1', 'read']);
  assert.ok(token.expiresInMs > 50_000 && token.expiresInMs <= 60_500);
  source.rejected(token);
  assert.equal((await source.token(MERCHANT, NUMBER)).tokenId, 'token-2');
  const asked = broker.seen.calls.map(({ request }) => [request.merchantId, request.number, request.rejectedTokenIds]);
  assert.deepEqual(asked, [[MERCHANT, NUMBER, []], [MERCHANT, NUMBER, ['token-1']]]);
  assert.equal(broker.seen.peers.size, 1, 'one connection');
  source.close();
  broker.close();
});

test('an error says all that the broker says', async () => {
  const details = {
    ErrorInfo: {
      reason: 'CREDENTIALS_REJECTED',
      domain: 'token-broker',
      metadata: { vault_error: '273', held_until: '2027-01-15T08:00:00Z' },
    },
    RetryInfo: { retryDelay: { seconds: 7, nanos: 500_000_000 } },
    RequestInfo: { requestId: 'its-id' },
    BadRequest: { fieldViolations: [{ field: 'number', description: 'is none' }] },
  };
  const broker = await serve(() => { throw failure('FAILED_PRECONDITION', details); });
  const source = sourceOf(broker.port);
  const error = await source.token(MERCHANT, NUMBER).catch((caught) => caught);
  assert.ok(error instanceof TokenBrokerError);
  assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', 'CREDENTIALS_REJECTED']);
  assert.deepEqual([error.retryAfterMs, error.requestId], [7_500, 'its-id']);
  assert.deepEqual(error.fieldViolations, [{ field: 'number', description: 'is none' }]);
  assert.equal(error.heldUntil.toISOString(), '2027-01-15T08:00:00.000Z');
  assert.deepEqual([error.metadata.vault_error, error.isPermanent, error.isTemporary], ['273', true, false]);
  assert.equal(`${error}`, 'TokenBrokerError: CREDENTIALS_REJECTED: the text '
    + '(vault_error: 273; held_until: 2027-01-15T08:00:00Z; try again in 8 s; request id: its-id)');
  assert.equal(broker.seen.calls.length, 1);
  source.close();
  broker.close();
});

test('the reason of somebody else is none, and a newer one is judged by the code', () => {
  const info = (domain, reason) => errorOf(failure('UNAVAILABLE', { ErrorInfo: { reason, domain } }));
  assert.deepEqual([info('example.org', 'INTERNAL').reason, info('example.org', 'INTERNAL').isTemporary], [null, true]);
  const newer = info('token-broker', 'OF_A_NEWER');
  assert.deepEqual([newer.reason, newer.isTemporary], ['OF_A_NEWER', true]);
  assert.equal(info('token-broker', 'INTERNAL').isTemporary, false, 'the reason decides');
  const bare = errorOf({ code: 14, details: 'connection\nlost\u001b[2J' });
  assert.deepEqual([bare.reason, bare.retryAfterMs, bare.heldUntil, bare.requestId], [null, null, null, null]);
  assert.equal(bare.message, 'UNAVAILABLE: connection\\u000alost\\u001b[2J');
  const broken = failure('UNAVAILABLE', {}, { 'grpc-status-details-bin': Buffer.from([0xff, 0xff, 0xff]) });
  assert.deepEqual([errorOf(broken).code, errorOf(broken).reason], ['UNAVAILABLE', null]);
});

test('a pushback over the wire is obeyed', async () => {
  const answers = [() => { throw failure('UNAVAILABLE', {}, { 'grpc-retry-pushback-ms': '0' }); }, () => reply('good')];
  const broker = await serve(() => answers.shift()());
  const source = sourceOf(broker.port);
  assert.equal((await source.token(MERCHANT, NUMBER)).tokenId, 'good');
  assert.equal(broker.seen.calls.length, 2);
  assert.deepEqual(source.counts(), { users: 1, calls: 1, failures: 0, complaints: 0 });
  source.close();
  broker.close();
});

test('proxies of the environment are not used unless asked for', async () => {
  const broker = await serve(() => reply('good'));
  process.env.http_proxy = 'http://127.0.0.1:1';
  try {
    const source = sourceOf(broker.port);
    assert.equal((await source.token(MERCHANT, NUMBER)).tokenId, 'good');
    source.close();
    const proxied = sourceOf(broker.port, { useProxy: true, timeoutMs: 5_000 });
    const error = await proxied.token(MERCHANT, NUMBER).catch((caught) => caught);
    assert.equal(error.code, 'UNAVAILABLE');
    proxied.close();
  } finally {
    delete process.env.http_proxy;
  }
  broker.close();
});

test('a process ends by itself while a source is open', async () => {
  const broker = await serve(() => reply('good', { renewIn: { seconds: 30 } }));
  const program = `
    import { TokenSource } from ${JSON.stringify(new URL('../src/index.js', import.meta.url).href)};
    const source = new TokenSource({ endpoints: 'http://127.0.0.1:${broker.port}' });
    console.log((await source.token('m', '+447871239999')).tokenId);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  // Longer than a start of Node takes, and shorter than any timer of the source's.
  const late = setTimeout(() => child.kill(), 9_000);
  let said = '';
  child.stdout.on('data', (data) => { said += data; });
  assert.deepEqual([(await once(child, 'close'))[0], said], [0, 'good\n']);
  clearTimeout(late);
  broker.close();
});
