// One user's token: calls, renewals, failures and complaints, in fake time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SECRET, fakeSource, outcomeOf, settled } from './fakes.js';

// A source that holds the token `first`, just fetched.
async function held(more) {
  const here = fakeSource();
  const asked = here.token();
  await settled();
  await here.broker.last.gives('first', more);
  return { ...here, first: await asked };
}

test('one call for all who ask, and then none', async () => {
  const { broker, source, token, cached } = fakeSource();
  assert.equal(cached(), undefined);
  const asked = [token(), token(), token()];
  await settled();
  assert.equal(broker.calls.length, 1);
  await broker.last.gives('first');
  for (const one of await Promise.all(asked)) assert.equal(one.tokenId, 'first');
  assert.equal((await token()).authorization, `Bearer ${SECRET}`);
  assert.equal(cached().tokenId, 'first');
  assert.deepEqual(source.counts(), { users: 1, calls: 1, failures: 0, complaints: 0 });
});

test('a token is renewed behind who uses it, at the time that the broker names', async () => {
  const { broker, clock, cached } = await held();
  await clock.pass(79_999);
  assert.equal(broker.calls.length, 1);
  await clock.pass(1);
  assert.equal(broker.calls.length, 2);
  assert.equal(cached().tokenId, 'first', 'handed out while the next is fetched');
  await broker.last.gives('second');
  assert.equal(cached().tokenId, 'second');
});

test('nobody asked for ten minutes: the token is not renewed, but behind the next who asks', async () => {
  const { broker, clock, cached } = await held({ expiresInMs: 900_000, renewInMs: 600_001 });
  await clock.pass(700_000);
  assert.equal(broker.calls.length, 1);
  assert.equal(clock.timers, 0);
  assert.equal(cached().tokenId, 'first');
  await settled();
  assert.equal(broker.calls.length, 2);
});

test('an ended token is never handed out', async () => {
  const { broker, clock, cached, token } = await held();
  await clock.pass(99_999);
  await broker.last.fails();
  assert.equal(cached().tokenId, 'first');
  await clock.pass(1);
  assert.equal(cached(), undefined);
  const asked = token();
  assert.equal(await outcomeOf(asked), 'waits');
  await broker.last.gives('second');
  assert.equal((await asked).tokenId, 'second');
});

test('a good token is handed out while the broker is down, which is asked more and more rarely', async () => {
  const { broker, clock, cached, source } = await held({ expiresInMs: 1_000_000 });
  await clock.pass(80_000);
  for (const wait of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
    const calls = broker.calls.length;
    await broker.last.fails();
    await clock.pass(wait - 1);
    assert.equal(broker.calls.length, calls, `not before ${wait} ms`);
    assert.equal(cached().tokenId, 'first');
    await clock.pass(1);
    assert.equal(broker.calls.length, calls + 1, `after ${wait} ms`);
  }
  assert.equal(source.counts().failures, 7);
});

test('after a failure callers get its error at once, without a call, for as long as the broker says', async () => {
  const { broker, clock, token } = fakeSource({}, 0);
  const asked = token();
  await settled();
  await broker.last.fails({ code: 'UNAVAILABLE', reason: 'VAULT_THROTTLED', retryAfterMs: 7_000 });
  const error = await outcomeOf(asked);
  assert.equal(error.reason, 'VAULT_THROTTLED');
  await clock.pass(6_999);
  assert.equal(await outcomeOf(token()), error);
  assert.equal(broker.calls.length, 1);
  await clock.pass(1);
  assert.equal(await outcomeOf(token()), 'waits');
  assert.equal(broker.calls.length, 2);
});

test('a refusal is repeated after ten seconds, and not renewed by itself', async () => {
  const { broker, clock, token } = fakeSource();
  const asked = token();
  await settled();
  await broker.last.fails({ code: 'NOT_FOUND', reason: 'USER_NOT_CONFIGURED' });
  assert.equal((await outcomeOf(asked)).reason, 'USER_NOT_CONFIGURED');
  await clock.pass(9_999);
  assert.equal((await outcomeOf(token())).reason, 'USER_NOT_CONFIGURED');
  await clock.pass(60_000);
  assert.equal(broker.calls.length, 1);
});

test('a complaint is news once, and the next call names it', async () => {
  const { broker, source, first, cached, token } = await held();
  assert.equal(source.rejected(first), true);
  assert.equal(source.rejected(first), false);
  assert.equal(cached(), undefined);
  await settled();
  assert.deepEqual(broker.calls.map(({ named }) => named), [[], ['first']], 'at once, without a rest');
  const asked = token();
  await broker.last.gives('second');
  assert.equal((await asked).tokenId, 'second');
  assert.equal(source.rejected(first), false, 'it has been replaced');
  assert.equal(source.counts().complaints, 1);
});

test('complaints are named while their tokens would have lived, the newest first, and sixteen at most', async () => {
  const { broker, clock, source, token } = await held();
  for (let next = 2; next <= 20; next += 1) {
    source.rejected(await token());
    await settled();
    await broker.last.gives(`token-${next}`, { expiresInMs: 100_000 + next });
  }
  source.rejected(await token());
  await settled();
  assert.deepEqual(broker.last.named, Array.from({ length: 16 }, (_, at) => `token-${20 - at}`));
  await broker.last.gives('short', { expiresInMs: 1_000_000, renewInMs: 100_010 });
  await clock.pass(100_010);
  assert.deepEqual(broker.last.named, Array.from({ length: 10 }, (_, at) => `token-${20 - at}`));
});

test('a token that was named and comes all the same is believed, and not named any more', async () => {
  const { broker, clock, source, first, token } = await held();
  source.rejected(first);
  await settled();
  await broker.last.gives('first');
  assert.equal((await token()).tokenId, 'first');
  assert.equal(broker.calls.length, 2);
  assert.equal(source.rejected(await token()), false, 'while it is remembered, no news');
  await clock.pass(80_000);
  assert.deepEqual(broker.last.named, []);
});

test('an id that the broker would refuse is not named, and spoils no later call', async () => {
  for (const [id, isNamed] of [['', false], ['x'.repeat(65), false], ['x'.repeat(64), true], ['😀'.repeat(64), true]]) {
    const { broker, source, token } = fakeSource();
    const asked = token();
    await settled();
    await broker.last.gives(id);
    assert.equal(source.rejected(await asked), true);
    await settled();
    assert.deepEqual(broker.last.named, isNamed ? [id] : [], `${id.length}`);
    await broker.last.gives('next');
    assert.equal((await token()).tokenId, 'next');
  }
});

test('an answer complained of before the call could name it makes a second call, and no third', async () => {
  const { broker, clock, source, first, token } = await held();
  await clock.pass(80_000);
  assert.deepEqual(broker.last.named, []);
  source.rejected(first);
  const asked = token();
  await broker.last.gives('first');
  assert.equal(await outcomeOf(asked), 'waits');
  assert.deepEqual(broker.calls.map(({ named }) => named), [[], [], ['first']]);
  await broker.last.gives('first');
  assert.equal((await asked).tokenId, 'first');
  assert.equal(broker.calls.length, 3);
});

test('a complaint ends a pause of our own, and not one that the broker named', async () => {
  for (const [told, calls] of [[{}, 3], [{ retryAfterMs: 7_000 }, 2], [{ code: 'INTERNAL' }, 2]]) {
    const { broker, clock, source, first } = await held();
    await clock.pass(80_000);
    await broker.last.fails(told);
    source.rejected(first);
    await settled();
    assert.equal(broker.calls.length, calls, JSON.stringify(told));
  }
});

test('after an answer there is no call for a second, however short the token lives', async () => {
  const { broker, clock, token } = await held({ expiresInMs: 100, renewInMs: 0 });
  await clock.pass(100);
  const asked = token();
  await clock.pass(899);
  assert.equal(broker.calls.length, 1);
  await clock.pass(1);
  assert.equal(broker.calls.length, 2);
  await broker.last.gives('second');
  assert.equal((await asked).tokenId, 'second');
});

test('an answer with a token that has ended is an error, and asked for again only where it took long', async () => {
  const quick = fakeSource();
  const asked = quick.token();
  await settled();
  await quick.broker.last.gives('dead', { expiresInMs: 0 });
  assert.match((await outcomeOf(asked)).message, /has ended/);
  assert.equal(quick.broker.calls.length, 1);

  const slow = fakeSource();
  const other = slow.token();
  await slow.clock.pass(2_000);
  await slow.broker.last.gives('dead', { expiresInMs: 1_500 });
  assert.equal(await outcomeOf(other), 'waits');
  await slow.broker.last.gives('good');
  assert.equal((await other).tokenId, 'good');

  const slower = fakeSource();
  const last = slower.token();
  for (const calls of [1, 2]) {
    await slower.clock.pass(2_000);
    assert.equal(slower.broker.calls.length, calls);
    await slower.broker.last.gives('dead', { expiresInMs: 1_500 });
  }
  assert.match((await outcomeOf(last)).message, /has ended/);
  assert.equal(slower.broker.calls.length, 2, 'and no third');
});

test('a fault in what asks is an error like others, and does not stand in the way of the next call', async () => {
  const { broker, clock, token } = fakeSource();
  const asked = token();
  await settled();
  await broker.last.fails(new RangeError('out of range'));
  assert.equal((await outcomeOf(asked)).code, 'INTERNAL');
  await clock.pass(10_000);
  const next = token();
  await settled();
  await broker.last.gives('good');
  assert.equal((await next).tokenId, 'good');
});
