// When a token ends and is renewed, and how long to pause after a failure.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { TokenBrokerError } from '../src/errors.js';
import { backoff, life, pause } from '../src/rules.js';

const SENT = 5_000;
const WEEK = 7 * 24 * 3_600_000;

test('a life is counted from when the call began', () => {
  const lives = (expiresInMs, renewInMs, chance) => {
    const { ends, renew } = life(SENT, { expiresInMs, renewInMs }, chance);
    return [ends - SENT, renew - SENT];
  };
  assert.deepEqual(lives(1_000_000, undefined, 0), [1_000_000, 750_000]);
  assert.deepEqual(lives(1_000_000, undefined, 1), [1_000_000, 850_000]);
  assert.deepEqual(lives(1_000_000, undefined, 99), [1_000_000, 850_000], 'whatever the chance');
  assert.deepEqual(lives(-1, undefined, 1), [0, 0]);
  assert.deepEqual(lives(undefined, undefined, 1), [0, 0]);
  assert.equal(lives(Number.MAX_SAFE_INTEGER, undefined, 1)[0], WEEK);
  for (const chance of [0, 1]) {
    assert.deepEqual(lives(1_000_000, 900_000, chance), [1_000_000, 900_000], 'the broker has drawn its own lot');
    assert.deepEqual(lives(1_000_000, 2_000_000, chance), [1_000_000, 1_000_000], 'not past its end');
    assert.deepEqual(lives(1_000_000, 0, chance), [1_000_000, 0]);
  }
});

test('a pause is the broker\'s or doubles, and is never none', () => {
  const cases = [
    // code, retryAfterMs, failures before, has a token, chance → pause
    ['UNAVAILABLE', null, 0, false, 1, 200],
    ['UNAVAILABLE', null, 1, false, 1, 400],
    ['UNAVAILABLE', null, 30, false, 1, 2_000],
    ['UNAVAILABLE', null, 0, false, 0, 10],
    ['UNAVAILABLE', null, 0, true, 1, 1_000],
    ['DEADLINE_EXCEEDED', null, 30, true, 1, 30_000],
    ['NOT_FOUND', null, 0, false, 0, 10_000],
    ['UNAVAILABLE', 7_000, 0, false, 0, 7_000],
    ['UNAVAILABLE', 7_000, 0, true, 1, 7_700],
    ['UNAVAILABLE', 0, 0, false, 0, 10],
    ['NOT_FOUND', 1_000, 0, false, 0, 10_000],
    ['RESOURCE_EXHAUSTED', 86_400_000, 0, true, 0, 600_000],
  ];
  for (const [code, retryAfterMs, before, hasToken, chance, wanted] of cases) {
    const error = new TokenBrokerError({ code, text: 'no', retryAfterMs });
    const paused = pause(error, before, hasToken, chance);
    assert.ok(Math.abs(paused - wanted) < 1e-6, `${code} ${retryAfterMs} ${before} ${hasToken} ${chance}: ${paused}`);
  }
});

test('a back-off doubles to the longest however often it fails', () => {
  for (const [failures, wanted] of [[0, 1_000], [1, 2_000], [4, 16_000], [5, 30_000], [32, 30_000], [5_000, 30_000]]) {
    assert.equal(backoff({ first: 1_000, longest: 30_000 }, failures, 1), wanted);
  }
  for (const chance of [0, -1, 1e-9]) assert.equal(backoff({ first: 1_000, longest: 30_000 }, 0, chance), 50);
});
