// Tokens from this process's own memory, renewed behind it: what callers use.
//
// Must never hand out a token that has ended, have two calls under way for one user, or ask in a loop, whatever the broker
// answers.

import { inspect } from 'node:util';

import { Brokers } from './brokers.js';
import { systemClock } from './clock.js';
import { TokenBrokerError, TokenRejected, closed } from './errors.js';
import { checked, timeout } from './options.js';
import { Slot } from './slot.js';
import { seconds } from './text.js';
import { Token } from './token.js';
import { UserMap } from './user_map.js';

// Most calls of `warm` at once: it may be called with all users there are.
const WARM_AT_ONCE = 32;
// What the usual HTTP clients call the answer's status: fetch and axios the first, undici and node:http the second.
const isRejectedByStatus = (response) => (response?.status ?? response?.statusCode) === 401;

export class TokenSource {
  #users = new UserMap();
  #counted = { calls: 0, failures: 0, complaints: 0 };
  #timeoutMs;
  #shared;
  #brokers;
  // Called when the source is closed, by whoever waits.
  #leaving = new Set();
  #isClosed = false;

  // `inner` is for tests: { ask, clock, chance }.
  constructor(options, inner = {}) {
    const told = checked(options);
    const { clock = systemClock, chance = Math.random } = inner;
    this.#timeoutMs = told.timeoutMs;
    this.#brokers = inner.ask ? { ask: inner.ask, close() {} } : new Brokers(told, clock);
    const ask = (user, named) => this.#brokers.ask(user, named);
    this.#shared = { clock, chance, ask, counted: this.#counted };
  }

  // The one in memory, or the one that the broker has. Whoever stops waiting changes nothing for the others.
  async token(merchantId, number, options = {}) {
    checkUser(merchantId, number);
    const timeoutMs = timeout(options.timeoutMs, this.#timeoutMs);
    options.signal?.throwIfAborted();
    if (this.#isClosed) throw closed();
    let slot = this.#users.ask(merchantId, number);
    if (!slot) {
      slot = new Slot({ merchantId, number }, this.#shared);
      this.#users.add(merchantId, number, slot);
    }
    return slot.hit() ?? this.#wait(slot.next(), timeoutMs, options.signal);
  }

  // The one in memory if it is good; never waits, and makes no call but the renewal of a token that is due.
  cached(merchantId, number) {
    checkUser(merchantId, number);
    return this.#users.ask(merchantId, number)?.hit();
  }

  // Takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether that is
  // news.
  rejected(token) {
    if (!(token instanceof Token)) throw new TypeError('rejected: not a token: give the one that token() gave');
    const isNews = this.#users.find(token.merchantId, token.number)?.rejected(token) ?? false;
    if (isNews) this.#counted.complaints += 1;
    return isNews;
  }

  // Has the tokens of these users, [merchantId, number] each, in memory. All are tried; throws the first one's error who has
  // none.
  async warm(users) {
    const left = [...users].entries();
    const failed = [];
    const worker = async () => {
      for (const [at, [merchantId, number]] of left) {
        try {
          await this.token(merchantId, number);
        } catch (error) {
          failed.push({ at, error });
        }
      }
    };
    await Promise.all(Array.from({ length: WARM_AT_ONCE }, worker));
    failed.sort((one, other) => one.at - other.at);
    if (failed.length > 0) throw failed[0].error;
  }

  // Runs `send(token)`; where its answer is a 401, once more with the next token. Where the broker has none, throws the broker's
  // error, which says why and for how long.
  async withToken(merchantId, number, send, { isRejected = isRejectedByStatus, ...options } = {}) {
    const token = await this.token(merchantId, number, options);
    const response = await send(token);
    if (!(await isRejected(response))) return response;
    discard(response);
    this.rejected(token);
    const next = await this.token(merchantId, number, options);
    if (next.tokenId === token.tokenId) throw new TokenRejected('the vault insists on it: see what else the call lacks');
    const second = await send(next);
    if (!(await isRejected(second))) return second;
    // Not complained of: whatever the API minds, two tokens in a row are not it, and each complaint may cost a sign-in.
    discard(second);
    throw new TokenRejected('see that the token is for this API, and that nobody signs this user out');
  }

  // What it has done so far: users that it knows; calls to the broker; those that brought no token; tokens complained of.
  counts() {
    return { users: this.#users.size, ...this.#counted };
  }

  // Ends everything: calls, timers, connections. Whoever waits gets an error.
  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const leave of this.#leaving) leave(closed());
    this.#users.clear();
    this.#brokers.close();
  }

  // Without tokens and users.
  [inspect.custom]() {
    return `TokenSource ${inspect(this.counts())}`;
  }

  // What the call brings, if that is in time for this caller. Its timer is the one that keeps the process alive: somebody waits.
  #wait(flight, timeoutMs, signal) {
    return new Promise((resolve, reject) => {
      const text = `no token within ${seconds(timeoutMs)}`;
      const late = () => leave(new TokenBrokerError({ code: 'DEADLINE_EXCEEDED', text }));
      const aborted = () => leave(signal.reason);
      const unset = this.#shared.clock.after(timeoutMs, late, true);
      const leave = (error, token) => {
        unset();
        signal?.removeEventListener('abort', aborted);
        this.#leaving.delete(leave);
        if (token) resolve(token);
        else reject(error);
      };
      signal?.addEventListener('abort', aborted);
      this.#leaving.add(leave);
      flight.then((token) => leave(null, token), leave);
    });
  }
}

function checkUser(merchantId, number) {
  if (typeof merchantId !== 'string') throw new TypeError('merchantId: not a string');
  if (typeof number !== 'string') throw new TypeError('number: not a string: write it as "+447871239999"');
}

// An answer of fetch that nobody reads holds its connection.
function discard(response) {
  const body = response?.body;
  if (typeof body?.cancel === 'function') Promise.resolve(body.cancel()).catch(() => {});
  else if (typeof body?.dump === 'function') Promise.resolve(body.dump()).catch(() => {});
}
