// Which replica a call goes to, and what is repeated: in fake time, with replicas that do as the test says.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Metadata, status as CODES } from '@grpc/grpc-js';

import { CONNECTING, ENDING, SERVING, UNREACHED } from '../src/replica.js';
import { Replicas } from '../src/replicas.js';
import { FakeClock, looked, outcomeOf, settled } from './fakes.js';

const failure = (code, pushback) => {
  const metadata = new Metadata();
  if (pushback !== undefined) metadata.set('grpc-retry-pushback-ms', pushback);
  return Object.assign(new Error('no'), { code: CODES[code], details: 'no', metadata });
};

class FakeReplica {
  word = SERVING;
  isQuiet = false;
  turn = 0;
  calls = [];
  questions = [];
  // How long it takes to say that it lives; without this, until the test says so.
  answersIn = null;
  isLeft = false;
  isClosed = false;

  constructor(place, listener, clock) {
    Object.assign(this, { place, listener, clock, askedAt: clock.now() });
  }

  getToken(_request, _metadata, timeoutMs) {
    const call = { isCancelled: false };
    const answer = new Promise((resolve, reject) => Object.assign(call, { gives: resolve, fails: reject }));
    this.calls.push(call);
    this.clock.after(timeoutMs, () => call.fails(failure('DEADLINE_EXCEEDED')));
    return { answer, cancel: () => { call.isCancelled = true; } };
  }

  ask() {
    this.question ??= new Promise((resolve) => {
      this.askedAt = this.clock.now();
      this.questions.push(resolve);
      if (this.answersIn !== null) this.clock.after(this.answersIn, () => resolve(true));
    }).then((lives) => {
      this.question = null;
      if (lives) this.isQuiet = false;
      this.listener.changed();
      return lives;
    });
    return this.question;
  }

  becomes(word) {
    this.word = word;
    this.listener.changed();
  }

  leave(left) {
    this.isLeft = true;
    this.left = left;
  }

  close() {
    this.isClosed = true;
    this.left?.();
  }
}

// Replicas at these addresses, as the name server has them.
async function replicasAt(...addresses) {
  const clock = new FakeClock();
  const names = { addresses, lookUps: 0 };
  const lookup = async () => {
    names.lookUps += 1;
    if (names.addresses instanceof Error) throw names.addresses;
    return names.addresses;
  };
  const made = [];
  const make = (place, listener) => {
    const replica = new FakeReplica(place, listener, clock);
    made.push(replica);
    return replica;
  };
  const replicas = new Replicas([{ host: 'broker', port: 1 }], make, clock, { lookup, chance: () => 1 });
  // The call is wrapped, since a promise of a promise would be waited for.
  const call = async (ms) => {
    const asked = looked(replicas.getToken({}, new Metadata(), clock.now() + (ms ?? 10_000)));
    await settled();
    return { asked };
  };
  return { clock, names, made, replicas, call };
}

const counts = (made) => made.map(({ calls }) => calls.length);

test('calls go to all addresses in turn', async () => {
  const { made, call } = await replicasAt('a', 'b', 'c');
  for (let at = 0; at < 6; at += 1) await call();
  assert.deepEqual(counts(made), [2, 2, 2]);
});

test('who is not reached, ends or is silent is out of turn while another is there', async () => {
  const { made, call } = await replicasAt('a', 'b', 'c', 'd');
  await call();
  made[0].becomes(UNREACHED);
  made[1].becomes(ENDING);
  made[2].isQuiet = true;
  for (let at = 0; at < 3; at += 1) await call();
  assert.deepEqual(counts(made), [1, 0, 0, 3]);
  made[3].becomes(CONNECTING);
  await call();
  assert.deepEqual(counts(made), [1, 1, 0, 3], 'rather who ends than nobody');
});

test('a call waits while nobody is there yet, but not beyond its time', async () => {
  const { clock, made, call } = await replicasAt('a');
  const { asked: first } = await call();
  made[0].calls[0].gives('token');
  assert.equal(await first, 'token');
  made[0].becomes(CONNECTING);
  const { asked } = await call(1_000);
  const { asked: hurried } = await call(100);
  await clock.pass(100);
  assert.equal((await outcomeOf(hurried)).code, 'DEADLINE_EXCEEDED');
  assert.equal(made[0].calls.length, 1);
  made[0].becomes(SERVING);
  await settled();
  made[0].calls[1].gives('other');
  assert.equal(await asked, 'other');
});

test('UNAVAILABLE is tried elsewhere after a short pause, four times in all', async () => {
  const { clock, made, call } = await replicasAt('a', 'b');
  const { asked } = await call();
  const tried = () => made.flatMap(({ calls }) => calls);
  for (const [at, pause] of [100, 200, 400].entries()) {
    assert.equal(tried().length, at + 1);
    for (const { calls } of made) calls.at(-1)?.fails(failure('UNAVAILABLE'));
    await clock.pass(pause - 1);
    assert.equal(tried().length, at + 1, `not before ${pause} ms`);
    await clock.pass(1);
  }
  assert.deepEqual(counts(made), [2, 2]);
  for (const { calls } of made) calls.at(-1).fails(failure('UNAVAILABLE'));
  assert.equal((await outcomeOf(asked)).code, 'UNAVAILABLE');
});

test('the broker\'s pushback takes the place of the pause, and a negative one ends it', async () => {
  const { clock, made, call } = await replicasAt('a');
  const { asked } = await call();
  made[0].calls[0].fails(failure('RESOURCE_EXHAUSTED', '3000'));
  await clock.pass(2_999);
  assert.equal(made[0].calls.length, 1);
  await clock.pass(1);
  assert.equal(made[0].calls.length, 2);
  made[0].calls[1].fails(failure('UNAVAILABLE', '-1'));
  await clock.pass(5_000);
  assert.equal((await outcomeOf(asked)).code, 'UNAVAILABLE');
  assert.equal(made[0].calls.length, 2);
});

test('nothing else is repeated, nor what could only fail after the call\'s time', async () => {
  for (const [code, pushback] of [['DEADLINE_EXCEEDED'], ['INTERNAL'], ['NOT_FOUND'], ['CANCELLED'], ['UNAVAILABLE', '10000'],
    ['UNAVAILABLE', 'soon']]) {
    const { clock, made, call } = await replicasAt('a', 'b');
    const { asked } = await call();
    made[0].calls[0].fails(failure(code, pushback));
    assert.equal((await outcomeOf(asked)).code, code);
    await clock.pass(20_000);
    assert.deepEqual(counts(made), [1, 0]);
  }
});

test('a replica that lives is waited for, however long its sign-in takes', async () => {
  const { clock, made, call } = await replicasAt('a', 'b');
  const { asked } = await call();
  for (let at = 0; at < 8; at += 1) {
    await clock.pass(500);
    assert.equal(made[0].questions.length, at + 1);
    made[0].questions[at](true);
    await settled();
  }
  made[0].calls[0].gives('token');
  assert.equal(await asked, 'token');
  assert.deepEqual(counts(made), [1, 0]);
});

test('a replica that falls silent is left for another, and out of turn until it answers', async () => {
  const { clock, made, call } = await replicasAt('a', 'b');
  const { asked } = await call();
  await clock.pass(899);
  assert.deepEqual(counts(made), [1, 0]);
  await clock.pass(1);
  assert.deepEqual(counts(made), [1, 1]);
  assert.ok(made[0].calls[0].isCancelled && made[0].isQuiet);
  made[1].calls[0].gives('token');
  assert.equal(await asked, 'token');
  await call();
  assert.deepEqual(counts(made), [1, 2]);
});

test('where nobody else is there, the silent one is waited for', async () => {
  const { clock, made, call } = await replicasAt('a');
  const { asked } = await call();
  await clock.pass(5_000);
  assert.equal(made[0].calls[0].isCancelled, false);
  made[0].calls[0].gives('token');
  assert.equal(await asked, 'token');
});

test('a replica that lives is not left in the last moments of a call', async () => {
  for (const ms of [1_000, 200, 60, 20]) {
    const { clock, made, call } = await replicasAt('a', 'b', 'c');
    const { asked } = await call(ms);
    for (const replica of made) replica.answersIn = 10;
    await clock.pass(ms);
    assert.equal((await outcomeOf(asked)).code, 'DEADLINE_EXCEEDED');
    assert.deepEqual(counts(made), [1, 0, 0], `${ms} ms`);
    assert.ok(made[0].questions.length <= 4, `${made[0].questions.length} questions in ${ms} ms`);
  }
});

test('nobody is left with less time than the question takes', async () => {
  const { clock, made, call } = await replicasAt('a', 'b');
  await call(40);
  await clock.pass(40);
  assert.deepEqual(counts(made), [1, 0]);
});

test('a call that leaves silent ones is asked four times in all, and then waits', async () => {
  const { clock, made, call } = await replicasAt('a', 'b', 'c');
  const { asked } = await call(30_000);
  for (const replica of made) replica.answersIn = 600;
  await clock.pass(29_000);
  const calls = made.flatMap((replica) => replica.calls);
  assert.equal(calls.length, 4);
  const waited = calls.filter(({ isCancelled }) => !isCancelled);
  assert.equal(waited.length, 1);
  waited[0].gives('token');
  assert.equal(await asked, 'token');
});

test('the silent one is left as soon as another is there, unless it has spoken by then', async () => {
  for (const speaks of [false, true]) {
    const { clock, made, call } = await replicasAt('a', 'b');
    await call();
    made[1].becomes(UNREACHED);
    await clock.pass(2_000);
    assert.deepEqual([counts(made), made[0].questions.length, made[0].isQuiet], [[1, 0], 1, true]);
    if (speaks) made[0].questions[0](true);
    await settled();
    made[1].becomes(SERVING);
    await settled();
    assert.deepEqual(counts(made), [1, speaks ? 0 : 1]);
    await clock.pass(500);
    assert.equal(made[0].questions.length, speaks ? 2 : 1, 'asked again as the call goes on');
  }
});

test('a replica without an answer to the question is connected to anew', async () => {
  const { made, call } = await replicasAt('a');
  await call();
  made[0].listener.silent(made[0]);
  assert.equal(made.length, 2);
  assert.ok(made[0].isLeft && !made[1].isLeft);
});

test('names are looked up while calls come, every five seconds, and at once where a connection is lost', async () => {
  const { clock, names, made, call } = await replicasAt('a');
  await call();
  await clock.pass(4_999);
  await call();
  assert.equal(names.lookUps, 1);
  names.addresses = ['b', 'c'];
  await clock.pass(1);
  await call();
  assert.deepEqual(made.map(({ place, isLeft }) => [place.address, isLeft]), [['a', true], ['b', false], ['c', false]]);
  await clock.pass(60_000);
  assert.equal(names.lookUps, 2, 'nobody asks');
  made[1].listener.lost();
  made[2].listener.lost();
  await clock.pass(0);
  assert.equal(names.lookUps, 3);
  made[1].listener.lost();
  await clock.pass(999);
  assert.equal(names.lookUps, 3);
  await clock.pass(1);
  assert.equal(names.lookUps, 4);
});

test('while a name can\'t be looked up, what it stood for goes on to count; without any the error says so', async () => {
  const { clock, names, made, call } = await replicasAt('a');
  await call();
  names.addresses = Object.assign(new Error('no'), { code: 'EAI_AGAIN' });
  await clock.pass(5_000);
  await call();
  assert.deepEqual(counts(made), [2]);

  const nowhere = await replicasAt();
  nowhere.names.addresses = Object.assign(new Error('no'), { code: 'ENOTFOUND' });
  const { asked } = await nowhere.call();
  await nowhere.clock.pass(700);
  const error = await outcomeOf(asked);
  assert.deepEqual([error.code, error.isTemporary, nowhere.names.lookUps], ['UNAVAILABLE', true, 4]);
  assert.match(error.message, /broker can't be looked up: ENOTFOUND/);
});

test('leaving waits for the calls that are under way, closing doesn\'t', async () => {
  const { made, replicas, call } = await replicasAt('a');
  const { asked } = await call();
  replicas.leave(() => {});
  assert.equal(made[0].isLeft, false);
  made[0].calls[0].gives('token');
  assert.equal(await asked, 'token');
  await settled();
  assert.ok(made[0].isClosed);
  assert.equal((await outcomeOf((await call()).asked)).code, 'CANCELLED');
});

test('closing ends those that are left, too', async () => {
  const { clock, names, made, replicas, call } = await replicasAt('a');
  await call();
  names.addresses = ['b'];
  await clock.pass(5_000);
  await call();
  assert.deepEqual(made.map(({ isLeft, isClosed }) => [isLeft, isClosed]), [[true, false], [false, false]]);
  replicas.close();
  assert.deepEqual(made.map(({ isClosed }) => isClosed), [true, true]);
});
