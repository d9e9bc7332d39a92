// What callers see of a source: waits, the 401 rule, warming, closing, and how many users it keeps.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';

import { TokenBrokerError, TokenRejected } from '../src/index.js';
import { USERS_MAX } from '../src/user_map.js';
import { MERCHANT, NUMBER, SECRET, fakeSource, looked, outcomeOf, settled } from './fakes.js';

test('a caller waits for its own time only, and the call goes on for the others', async () => {
  const { broker, clock, token } = fakeSource();
  const [hurried, patient] = [token({ timeoutMs: 1_000 }), token()];
  await clock.pass(1_000);
  const error = await outcomeOf(hurried);
  assert.deepEqual([error.code, error.reason, error.isTemporary], ['DEADLINE_EXCEEDED', null, true]);
  assert.match(error.message, /no token within 1 s/);
  await broker.last.gives('first');
  assert.equal((await patient).tokenId, 'first');
  assert.equal(broker.calls.length, 1);
});

test('a caller that aborts ends its own wait only', async () => {
  const { broker, token, cached } = fakeSource();
  const controller = new AbortController();
  const asked = token({ signal: controller.signal });
  await settled();
  const why = new Error('not wanted any more');
  controller.abort(why);
  assert.equal(await outcomeOf(asked), why);
  assert.equal(await outcomeOf(token({ signal: controller.signal })), why);
  await broker.last.gives('first');
  assert.equal(cached().tokenId, 'first');
});

test('the source waits 30 s where nothing else is said, and 10 min at most', async () => {
  for (const [timeoutMs, wanted] of [[undefined, 30_000], [5, 5], [1e9, 600_000]]) {
    const { clock, source } = fakeSource(timeoutMs === undefined ? {} : { timeoutMs });
    const asked = looked(source.token('m', NUMBER));
    await clock.pass(wanted - 1);
    assert.equal(await outcomeOf(asked), 'waits');
    await clock.pass(1);
    assert.equal((await outcomeOf(asked)).code, 'DEADLINE_EXCEEDED');
    source.close();
  }
});

// Runs `withToken` against an API that answers as listed, and a broker that gives these tokens.
async function use(statuses, tokens, options) {
  const { broker, source } = fakeSource();
  const sent = [];
  const send = async (token) => {
    sent.push(token.tokenId);
    return { status: statuses[sent.length - 1] };
  };
  const used = looked(source.withToken(MERCHANT, NUMBER, send, options));
  for (const [at, token] of tokens.entries()) {
    await settled();
    assert.equal(broker.calls.length, at + 1);
    if (token) await broker.last.gives(token);
    else await broker.last.fails({ reason: 'VAULT_UNAVAILABLE', retryAfterMs: 7_000 });
  }
  return { outcome: await outcomeOf(used), sent, counts: source.counts() };
}

test('401: one complaint, the next token, one repeat', async () => {
  const { outcome, sent, counts } = await use([401, 200], ['first', 'second']);
  assert.deepEqual([outcome.status, sent, counts.complaints], [200, ['first', 'second'], 1]);
});

test('whatever is no 401 is the answer', async () => {
  for (const status of [200, 403, 500]) {
    const { outcome, sent, counts } = await use([status], ['first']);
    assert.deepEqual([outcome.status, sent, counts.complaints], [status, ['first'], 0]);
  }
});

test('a second 401 is an error, and not repeated', async () => {
  const { outcome, sent, counts } = await use([401, 401, 200], ['first', 'second']);
  assert.ok(outcome instanceof TokenRejected && outcome instanceof TokenBrokerError && outcome.isPermanent);
  assert.match(outcome.message, /the vault's API answers 401 to a new token as well: /);
  assert.deepEqual([sent, counts.complaints], [['first', 'second'], 1]);
});

test('where there is no other token the request is not repeated, and the broker\'s error is passed on as it is', async () => {
  const { outcome: same, sent } = await use([401, 200], ['first', 'first']);
  assert.ok(same instanceof TokenRejected, String(same));
  const { outcome: none, sent: once } = await use([401, 200], ['first', null]);
  assert.ok(none instanceof TokenBrokerError && !(none instanceof TokenRejected), String(none));
  assert.deepEqual([none.code, none.reason, none.retryAfterMs], ['UNAVAILABLE', 'VAULT_UNAVAILABLE', 7_000]);
  assert.deepEqual([sent, once], [['first'], ['first']]);
});

test('a predicate says what a refusal is', async () => {
  const { outcome, sent } = await use([418, 200], ['first', 'second'], { isRejected: async ({ status }) => status === 418 });
  assert.deepEqual([outcome.status, sent], [200, ['first', 'second']]);
});

test('an answer that nobody gets is not left open', async () => {
  const { broker, source } = fakeSource();
  let cancelled = 0;
  const bodies = [{ status: 401, body: { cancel: async () => { cancelled += 1; } } }, { statusCode: 200 }];
  const used = source.withToken(MERCHANT, NUMBER, () => bodies.shift());
  for (const id of ['first', 'second']) {
    await settled();
    await broker.last.gives(id);
  }
  assert.equal((await used).statusCode, 200);
  assert.equal(cancelled, 1);
});

test('warming asks for all, a few at a time, and tells of the first that failed', async () => {
  const { broker, source } = fakeSource();
  const users = Array.from({ length: 40 }, (_, at) => [MERCHANT, `+4470000000${at}`]);
  const warmed = looked(source.warm(users));
  await settled();
  assert.equal(broker.calls.length, 32);
  await broker.calls[9].fails({ text: 'the ninth' });
  await broker.calls[3].fails({ text: 'the third' });
  for (let at = 0; at < broker.calls.length; at += 1) await broker.calls[at].gives(`token-${at}`);
  assert.match((await outcomeOf(warmed)).message, /the third/);
  assert.deepEqual(source.counts(), { users: 40, calls: 40, failures: 2, complaints: 0 });
});

test('closing ends waits, timers and calls to come', async () => {
  const { broker, clock, source, token, cached } = fakeSource();
  const first = token();
  await settled();
  await broker.last.gives('first');
  await first;
  assert.equal(clock.timers, 1);
  const waiting = looked(source.token(MERCHANT, '+12025550123'));
  await settled();
  source.close();
  source.close();
  assert.deepEqual([(await outcomeOf(waiting)).code, clock.timers, cached()], ['CANCELLED', 0, undefined]);
  assert.equal((await outcomeOf(token())).code, 'CANCELLED');
  await broker.last.gives('late');
  assert.equal(clock.timers, 0);
});

test('beyond ten thousand users those are forgotten who were not asked for for longest, but for those in a call', async () => {
  const { broker, source } = fakeSource();
  const number = (at) => `+44${String(at).padStart(9, '0')}`;
  looked(source.token(MERCHANT, number(0)));
  for (let at = 1; at < USERS_MAX; at += 1) looked(source.token(MERCHANT, number(at)));
  await settled();
  for (const call of broker.calls.slice(1)) void call.gives(call.user.number);
  await settled();
  source.cached(MERCHANT, number(1));
  const more = source.token(MERCHANT, number(USERS_MAX));
  await settled();
  assert.equal(source.counts().users, USERS_MAX);
  assert.equal(source.cached(MERCHANT, number(2)), undefined, 'longest not asked for');
  assert.equal(source.cached(MERCHANT, number(1)).tokenId, number(1), 'asked for since');
  await broker.calls[0].gives('zero');
  assert.equal(source.cached(MERCHANT, number(0)).tokenId, 'zero', 'in a call');
  await broker.last.gives('last');
  await more;
  source.close();
});

test('users are not mixed up, whatever their names', async () => {
  const { broker, source } = fakeSource();
  const asked = [source.token('a', 'bc'), source.token('ab', 'c'), source.token('1:a', 'b')];
  await settled();
  assert.equal(broker.calls.length, 3);
  for (const call of broker.calls) await call.gives(`${call.user.merchantId}/${call.user.number}`);
  assert.deepEqual((await Promise.all(asked)).map(({ tokenId }) => tokenId), ['a/bc', 'ab/c', '1:a/b']);
  await assert.rejects(source.token('a', 44), TypeError);
  await assert.rejects(source.token(undefined, 'b'), TypeError);
});

test('nothing that is printed shows a token or a number', async () => {
  const { broker, source, token } = fakeSource();
  const asked = token();
  await settled();
  await broker.last.gives('its id');
  const one = await asked;
  const all = { depth: 9, showHidden: true };
  const written = [`${one}`, JSON.stringify(one), JSON.stringify(source), Object.keys(one).join()];
  const shown = [...written, inspect(one, all), inspect({ one }, all), inspect(source, all)].join('\n');
  assert.ok(!shown.includes(SECRET) && !shown.includes('+44787'), shown);
  assert.ok(shown.includes('its id') && shown.includes('…9999') && shown.includes(MERCHANT), shown);
  assert.deepEqual([one.accessToken, one.scope, one.expiresInMs], [SECRET, 'read', 100_000]);
  assert.deepEqual([one.merchantId, one.number], [MERCHANT, NUMBER]);
  assert.throws(() => source.rejected({ tokenId: 'its id' }), TypeError);
});
