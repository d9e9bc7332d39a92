// The replicas behind the brokers' names: a connection to each, calls in turn, and on to another where one fails.
//
// Must never have a call wait for a replica while another is there, leave one that lives because it is slow, or repeat what the
// broker's answer says no repeat helps against.

import { promises as dns } from 'node:dns';
import { isIP } from 'node:net';

import { status as CODES } from '@grpc/grpc-js';

import { LATE, sleep, within } from './clock.js';
import { TokenBrokerError, closed } from './errors.js';
import { CONNECTING, ENDING, Replica, SERVING, UNREACHED } from './replica.js';
import { backoff } from './rules.js';
import { errorOf, pushbackOf } from './wire.js';

// While calls come, names are looked up and replicas asked how they are as often: new ones are found, and what ends is left.
const LOOK_EVERY = 5_000;
// Where a connection is lost they are looked up at once, but no more often than this: a rollout ends many at once.
const LOOK_LEAST = 1_000;
// Most tries of a call, those that ended in silence included, and the pauses between where the broker names none: as in the retry
// policy that docs/callers.md gives.
const TRIES = 4;
const BETWEEN_TRIES = { first: 100, longest: 1_000 };
// Least part of such a pause that chance leaves.
const JITTER_LEAST = 0.8;
const REPEATED = new Set([CODES.UNAVAILABLE, CODES.RESOURCE_EXHAUSTED]);
// A replica that has left a call without an answer for this long is asked whether it lives, again and again as the call goes on:
// answers from its memory take milliseconds; a sign-in that takes longer costs a question each time.
const QUIET = 500;
// The question is answered at once by a replica that lives. If it isn't for this long, the call goes elsewhere.
const PATIENCE = 400;
// In a short call, each of the two takes such a part of what is left, so that half of it is there for another replica …
const PARTS = 4;
// … but the answer is waited for so long, which is many round trips: to ask one replica too many may be one sign-in too many.
const PATIENCE_MIN = 50;

const keyOf = ({ address, port }) => `${address} ${port}`;
const late = () => new TokenBrokerError({ code: 'DEADLINE_EXCEEDED', text: 'no replica of the broker was reached in time' });

export class Replicas {
  #endpoints;
  #make;
  #clock;
  #lookup;
  #chance;
  #found = new Map();
  // What each endpoint's name stood for last, and why it could not be found out.
  #known = new Map();
  #lookUpError = null;
  #looking = null;
  #lookedAt = -Infinity;
  #unset = null;
  #turns = 0;
  // Who waits for a change of any kind.
  #waiting = [];
  #calls = 0;
  // Those that get no more calls, and end once theirs are over.
  #leaving = new Set();
  // Called once we have left ourselves.
  #left = null;
  #isClosed = false;

  // `make({ address, port, host }, listener)` makes a Replica.
  constructor(endpoints, make, clock, { lookup = lookUp, chance = Math.random } = {}) {
    this.#endpoints = endpoints;
    this.#make = make;
    this.#clock = clock;
    this.#lookup = lookup;
    this.#chance = chance;
  }

  // The broker's reply, by this instant; repeated where that may help.
  async getToken(request, metadata, deadline) {
    this.#calls += 1;
    try {
      return await this.#tries(request, metadata, deadline);
    } finally {
      this.#calls -= 1;
      if (this.#left && this.#calls === 0) this.close();
    }
  }

  // No more calls; those under way go on. Calls `left` once they are over.
  leave(left) {
    this.#left = left;
    if (this.#calls === 0) this.close();
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#unset?.();
    for (const replica of [...this.#found.values(), ...this.#leaving]) replica.close();
    this.#found.clear();
    this.#changed();
    this.#left?.();
  }

  // At one replica after the other, as long as that helps and there is time; one that falls silent costs a try as well.
  async #tries(request, metadata, deadline) {
    const tried = new Set();
    for (let tries = 1; ; tries += 1) {
      try {
        const outcome = await this.#try(tried, request, metadata, deadline, tries === TRIES);
        if (outcome !== LATE) return outcome;
      } catch (failure) {
        await this.#pause(failure, tries, deadline);
      }
    }
  }

  // Before the next try, or the error where there is none.
  async #pause(failure, tries, deadline) {
    // Our own, of a look-up that failed, may be repeated too; all else comes from the library.
    const isOurs = failure instanceof TokenBrokerError;
    const error = isOurs ? failure : errorOf(failure);
    const ours = backoff(BETWEEN_TRIES, tries - 1, JITTER_LEAST + (1 - JITTER_LEAST) * this.#chance());
    const wait = (isOurs ? null : pushbackOf(failure)) ?? ours;
    const mayRepeat = REPEATED.has(CODES[error.code]) && tries < TRIES && wait >= 0;
    if (!mayRepeat || this.#clock.now() + wait >= deadline || this.#isClosed) throw error;
    await sleep(this.#clock, wait);
  }

  // One try at one replica; LATE where that falls silent, unless it is the last try.
  async #try(tried, request, metadata, deadline, isLast) {
    const replica = await this.#pick(tried, deadline);
    tried.add(replica);
    const left = deadline - this.#clock.now();
    const { answer, cancel } = replica.getToken(request, metadata, left);
    if (isLast) return answer;
    const outcome = await this.#unlessSilent(replica, answer, left);
    if (outcome === LATE) cancel();
    return outcome;
  }

  // The answer, however long it takes while the replica lives; LATE where it doesn't and another is there. The answer ends by
  // itself with the time that is left, so nobody is left with less than it takes to hear that the replica lives.
  async #unlessSilent(replica, answer, left) {
    const quiet = Math.min(QUIET, left / PARTS);
    const patience = Math.max(PATIENCE_MIN, Math.min(PATIENCE, left / PARTS));
    const over = answer.then(() => true, () => true);
    for (;;) {
      const early = await within(this.#clock, answer, quiet);
      if (early !== LATE) return early;
      // That it lives, or the answer itself.
      const word = Promise.race([over, replica.ask().then((lives) => lives || over)]);
      if (await within(this.#clock, word, patience) !== LATE) continue;
      replica.isQuiet = true;
      if (await this.#hasAnother(replica, word)) return LATE;
    }
  }

  // Waits for another replica, or for this one's word; whether the other was first.
  async #hasAnother(replica, word) {
    for (;;) {
      if (this.#isAnotherThan(replica)) return true;
      if (await Promise.race([word, this.#change()])) return false;
    }
  }

  #isAnotherThan(one) {
    return [...this.#found.values()].some((replica) => replica !== one && replica.word === SERVING && !replica.isQuiet);
  }

  // The replica whose turn it is. Waits while none was reached yet, but some may be.
  async #pick(tried, deadline) {
    for (;;) {
      if (this.#isClosed) throw closed();
      this.#lookAfter();
      const picked = this.#best(tried);
      if (picked) {
        picked.turn = this.#turns += 1;
        return picked;
      }
      if (this.#looking === null && this.#found.size === 0) throw this.#nobody();
      if (await within(this.#clock, this.#change(), deadline - this.#clock.now()) === LATE) throw late();
    }
  }

  // Of those that take calls one that this call has not tried; rather one that ends, since it answers to its end, than one that
  // has just turned the call away; one that is silent, or not reached, only where nobody is being connected to: its error says
  // why.
  #best(tried) {
    const all = [...this.#found.values()];
    const isComing = this.#looking !== null || all.some(({ word }) => word === CONNECTING);
    const rank = (replica) => {
      if (replica.word === CONNECTING) return null;
      if (replica.word === UNREACHED) return isComing ? null : 5;
      if (replica.isQuiet) return isComing ? null : 4;
      return (tried.has(replica) ? 2 : 0) + (replica.word === ENDING ? 1 : 0);
    };
    const ranked = all.map((replica) => ({ replica, rank: rank(replica) })).filter((one) => one.rank !== null);
    ranked.sort((one, other) => one.rank - other.rank || one.replica.turn - other.replica.turn);
    return ranked[0]?.replica;
  }

  // What is due while calls come.
  #lookAfter() {
    const now = this.#clock.now();
    if (now >= this.#lookedAt + LOOK_EVERY || (this.#found.size === 0 && this.#lookUpError === null)) this.#lookUp();
    for (const replica of this.#found.values()) {
      const isReached = replica.word === SERVING || replica.word === ENDING;
      if (isReached && now >= replica.askedAt + LOOK_EVERY) void replica.ask();
    }
  }

  // Soon, since a replica was lost.
  #lookUpSoon() {
    if (this.#unset !== null || this.#isClosed) return;
    const wait = Math.max(0, this.#lookedAt + LOOK_LEAST - this.#clock.now());
    this.#unset = this.#clock.after(wait, () => {
      this.#unset = null;
      this.#lookUp();
    });
  }

  #lookUp() {
    if (this.#looking !== null || this.#isClosed) return;
    this.#lookedAt = this.#clock.now();
    this.#lookUpError = null;
    this.#looking = Promise.all(this.#endpoints.map((endpoint) => this.#lookUpOne(endpoint))).then(() => {
      this.#looking = null;
      if (!this.#isClosed) this.#take([...this.#known.values()].flat());
      this.#changed();
    });
  }

  // Where it fails, what the name stood for before goes on to count.
  async #lookUpOne(endpoint) {
    const { host, port } = endpoint;
    try {
      const addresses = await this.#lookup(host);
      this.#known.set(endpoint, addresses.map((address) => ({ address, port, host })));
    } catch (error) {
      this.#lookUpError = `${host} can't be looked up: ${error?.code ?? error}`;
    }
  }

  // Connects to who is new, and leaves who is listed no more.
  #take(listed) {
    const places = new Map(listed.map((place) => [keyOf(place), place]));
    for (const [key, replica] of this.#found) {
      if (places.has(key)) continue;
      this.#found.delete(key);
      this.#leave(replica);
    }
    for (const [key, place] of places) {
      if (!this.#found.has(key)) this.#connect(key, place);
    }
  }

  #connect(key, place) {
    const listener = {
      changed: () => this.#changed(),
      lost: () => this.#lookUpSoon(),
      // A connection that nobody answers on is made anew: the one before may lead nowhere.
      silent: (replica) => {
        if (this.#found.get(key) !== replica || this.#isClosed) return;
        this.#connect(key, place);
        this.#leave(replica);
        this.#lookUpSoon();
      },
    };
    this.#found.set(key, this.#make(place, listener));
    this.#changed();
  }

  #leave(replica) {
    this.#leaving.add(replica);
    replica.leave(() => this.#leaving.delete(replica));
  }

  // Fulfilled, with nothing, once more is known of any replica.
  #change() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #changed() {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #nobody() {
    const text = this.#lookUpError ?? "the brokers' names stand for no address";
    this.#lookUpError = null;
    return new TokenBrokerError({ code: 'UNAVAILABLE', text });
  }
}

// All addresses of a name, as the system's resolver has them.
async function lookUp(host) {
  if (isIP(host)) return [host];
  return (await dns.lookup(host, { all: true })).map(({ address }) => address);
}
