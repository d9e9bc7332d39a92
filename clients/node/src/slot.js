// One user's token and what keeps it good: a call, or a timer until the token is to be renewed.
//
// Must never have two calls under way, tie one to whoever asked for it, or let one that failed stand in the way of the next; nor
// displace a good token by anything but its successor or a complaint.

import { sleep } from './clock.js';
import { TokenBrokerError } from './errors.js';
import { REST, life, pause } from './rules.js';
import { Token } from './token.js';

// A user who was asked for within this time has the token renewed ahead of its end. Whoever asks more rarely waits for a call, or
// has a token that is still good renewed behind the answer.
export const IDLE_AFTER = 10 * 60_000;
// Most complaints that are remembered, and most ids of one call: the contract's.
const COMPLAINTS_MAX = 16;
// Longest id that a call may name, in characters: the contract's.
const TOKEN_ID_MAX = 64;
// Most calls of one flight: the second, where the answer was complained of while it came or took longer than the token lives.
const CALLS_MAX = 2;

// Whether the pause after this failure is the back-off alone: neither did the broker name a wait, nor is no repeat of use.
const isOurOwnPause = (error) => error.retryAfterMs === null && error.isTemporary;

const mayName = (id) => id !== '' && [...id].length <= TOKEN_ID_MAX;

const hasEnded = () => new TokenBrokerError({
  code: 'UNAVAILABLE',
  text: "the broker's answer holds a token that has ended: see that the vault's tokens live longer than a call takes",
});

// Whatever a call ends with, as callers get it: anything else than our own error is a fault of this package.
const asOurs = (error) => error instanceof TokenBrokerError ? error
  : new TokenBrokerError({ code: 'INTERNAL', text: `the client is at fault: ${error?.message ?? error}` });

export class Slot {
  #user;
  #shared;
  // The token and its life, until it is complained of.
  #held = null;
  #flight = null;
  // Ends the timer that wakes us, where there is one.
  #unset = null;
  // The oldest first: { id, ends, named }; `named` until the broker has answered with it all the same, and never where the broker
  // would refuse the id: that must not spoil the user's later calls.
  #complaints = [];
  // No call before `until`, and why.
  #stopped = null;
  // Failures in a row.
  #failures = 0;
  // After an answer, no call before this.
  #rested;
  #asked;
  #isOver = false;

  // `shared` is what all slots of a source have in common: { clock, chance, ask, counted }.
  constructor(user, shared) {
    this.#user = user;
    this.#shared = shared;
    this.#rested = this.#asked = this.#now();
  }

  get isCalling() {
    return this.#flight !== null;
  }

  noteAsked() {
    this.#asked = this.#now();
  }

  // The token, if it is good; one that is due is renewed behind it.
  hit() {
    const now = this.#now();
    if (this.#held === null || this.#held.ends <= now) return undefined;
    const isMinded = this.#flight !== null || this.#unset !== null || this.#isStopped(now);
    if (this.#held.renew <= now && !isMinded) this.#begin();
    return this.#held.token;
  }

  // A promise of the token, shared by all who wait for the same call.
  next() {
    const token = this.hit();
    if (token) return Promise.resolve(token);
    if (this.#flight === null && this.#isStopped(this.#now())) return Promise.reject(this.#stopped.error);
    return this.#flight ?? this.#begin();
  }

  // Takes a complaint; whether it is news. Only the token that is held can be complained of: another has gone already.
  rejected(token) {
    const now = this.#now();
    this.#complaints = this.#complaints.filter(({ ends }) => ends > now);
    const isHeld = this.#held?.token.tokenId === token.tokenId;
    if (!isHeld || this.#complaints.some(({ id }) => id === token.tokenId)) return false;
    this.#complaints.push({ id: token.tokenId, ends: this.#held.ends, named: mayName(token.tokenId) });
    this.#complaints.splice(0, this.#complaints.length - COMPLAINTS_MAX);
    this.#held = null;
    this.#rested = now;
    // Made up when there was a good token: now somebody waits.
    if (this.#stopped && isOurOwnPause(this.#stopped.error)) this.#stopped = null;
    if (this.#flight === null && !this.#isStopped(now)) this.#begin();
    return true;
  }

  // No timer fires any more, and no call begins.
  end() {
    this.#isOver = true;
    this.#unset?.();
    this.#held = null;
  }

  #now() {
    return this.#shared.clock.now();
  }

  #isStopped(now) {
    return this.#stopped !== null && this.#stopped.until > now;
  }

  #begin() {
    this.#unset?.();
    this.#unset = null;
    // Later, so that the flight is known before it can end.
    const flight = Promise.resolve().then(() => this.#fly());
    // Nobody may be waiting; whoever does, has the error from the same promise.
    flight.catch(() => {});
    this.#flight = flight;
    return flight;
  }

  // One flight: a call, or two where the first brought what does not count.
  async #fly() {
    const { clock, ask, counted } = this.#shared;
    if (this.#rested > this.#now()) await sleep(clock, this.#rested - this.#now());
    for (let calls = 1; ; calls += 1) {
      const named = this.#named();
      const sent = this.#now();
      counted.calls += 1;
      let answer = null;
      let error = null;
      try {
        answer = await ask(this.#user, named);
      } catch (caught) {
        error = asOurs(caught);
      }
      const settled = answer ? this.#answered(sent, named, answer, calls < CALLS_MAX) : { error };
      if (settled === null) continue;
      this.#flight = null;
      if (settled.token) return settled.token;
      this.#failed(settled.error);
      throw settled.error;
    }
  }

  // Notes what a call brought that began at `sent` and named these; null if that does not count, and another call may be made.
  #answered(sent, named, answer, mayRepeat) {
    const now = this.#now();
    const { clock, chance } = this.#shared;
    const { ends, renew } = life(sent, answer, chance());
    const isPast = ends <= now;
    const isStale = this.#isStale(answer.tokenId, named);
    if (mayRepeat && (isStale || (isPast && now >= sent + REST))) return null;
    if (isPast) return { error: hasEnded() };
    const token = new Token(clock, this.#user, answer, ends);
    this.#held = this.#isOver ? null : { token, ends, renew };
    this.#failures = 0;
    this.#stopped = null;
    this.#rested = now + REST;
    this.#wakeAt(Math.max(renew, this.#rested));
    return { token };
  }

  // Notes a failure, and when to try again, if a token is there that is to be renewed: without one the next who asks begins anew.
  #failed(error) {
    this.#shared.counted.failures += 1;
    const now = this.#now();
    const held = this.#held !== null && this.#held.ends > now ? this.#held : null;
    let until = now + pause(error, this.#failures, held !== null, this.#shared.chance());
    // Once the token has ended somebody waits for the next.
    if (held && isOurOwnPause(error)) until = Math.min(until, held.ends);
    this.#failures += 1;
    this.#stopped = { until, error };
    if (held) this.#wakeAt(until);
  }

  #wakeAt(instant) {
    if (this.#isOver) return;
    const wake = () => {
      this.#unset = null;
      if (this.#now() - this.#asked <= IDLE_AFTER) this.#begin();
    };
    this.#unset = this.#shared.clock.after(Math.max(0, instant - this.#now()), wake);
  }

  // The ids that a call names, the newest first.
  #named() {
    const now = this.#now();
    this.#complaints = this.#complaints.filter(({ ends }) => ends > now);
    return this.#complaints.filter(({ named }) => named).map(({ id }) => id).reverse();
  }

  // Whether this answer to a call was complained of before the call could name it. Where it was named, the vault insists on the
  // token: it is believed from now on, or each call would cost a sign-in.
  #isStale(id, named) {
    const complaint = this.#complaints.find((one) => one.named && one.id === id);
    if (!complaint) return false;
    complaint.named = !named.includes(id);
    return complaint.named;
  }
}
