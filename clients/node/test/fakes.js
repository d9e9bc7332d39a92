// Time that passes when a test says so, and a broker that answers as a test says: no test here waits for a clock.

import { TokenBrokerError } from '../src/errors.js';
import { TokenSource } from '../src/source.js';

export const MERCHANT = 'bece038f-2e46-49f4-b25e-89cd38d6dc16';
export const NUMBER = '+447871239999';
export const SECRET = 'the secret itself';

export class FakeClock {
  #now = 1_000;
  #timers = new Set();

  now() {
    return this.#now;
  }

  get timers() {
    return this.#timers.size;
  }

  after(ms, run) {
    const timer = { at: this.#now + ms, run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  // Lets so many milliseconds pass, and what is due happen at its time.
  async pass(ms) {
    const end = this.#now + ms;
    await settled();
    for (;;) {
      const [first] = [...this.#timers].filter(({ at }) => at <= end).sort((one, other) => one.at - other.at);
      if (!first) break;
      this.#now = Math.max(this.#now, first.at);
      this.#timers.delete(first);
      first.run();
      await settled();
    }
    this.#now = end;
    await settled();
  }
}

// Whatever can happen without time passing has happened.
export async function settled() {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

// A broker whose calls stay open until the test ends them.
export class FakeBroker {
  calls = [];

  ask = (user, named) => new Promise((resolve, reject) => {
    this.calls.push({
      user,
      named,
      gives: async (id, more = {}) => {
        resolve({ accessToken: SECRET, tokenId: id, scope: 'read', expiresInMs: 100_000, renewInMs: 80_000, ...more });
        await settled();
      },
      fails: async (told) => {
        reject(told instanceof Error ? told : new TokenBrokerError({ code: 'UNAVAILABLE', text: 'no', ...told }));
        await settled();
      },
    });
  });

  get last() {
    return this.calls.at(-1);
  }
}

// A source in fake time over a fake broker, by the greatest chance.
export function fakeSource(options = {}, chance = 1) {
  const clock = new FakeClock();
  const broker = new FakeBroker();
  const inner = { clock, ask: broker.ask, chance: () => chance };
  const source = new TokenSource({ endpoints: 'http://127.0.0.1:50051', ...options }, inner);
  const token = (more) => looked(source.token(MERCHANT, NUMBER, more));
  return { clock, broker, source, token, cached: () => source.cached(MERCHANT, NUMBER) };
}

// A promise that the test looks at later: that it fails before is no fault.
export function looked(promise) {
  promise.catch(() => {});
  return promise;
}

// How a promise stands, once whatever can happen has happened.
export async function outcomeOf(promise) {
  let outcome = 'waits';
  promise.then((value) => { outcome = value; }, (error) => { outcome = error; });
  await settled();
  return outcome;
}
