// A connection to one address of the brokers, and what is known of who is there.
//
// Must never take silence for a slow sign-in, nor a slow sign-in for silence: who is slow answers a question of another kind at
// once. Nor keep the process alive for longer than a call takes: so the question is put again and again, instead of watching the
// answer (grpc.health.v1.Health/Watch), since a call without an end holds a Node process.

import { Client, Metadata, connectivityState as STATES, status as CODES } from '@grpc/grpc-js';

import { CHECK, GET_TOKEN, SERVICE } from './wire.js';

// A replica that does not answer the question in this time is away. A busy one may take a while, but not this long.
const ANSWER_MS = 5_000;

// What is known of a replica: it is connected to; it takes calls; it ends or is not ready yet, but answers; nobody is reached
// there.
export const CONNECTING = 'connecting';
export const SERVING = 'serving';
export const ENDING = 'ending';
export const UNREACHED = 'unreached';

export class Replica {
  #client;
  #clock;
  #listener;
  #state = STATES.IDLE;
  #question = null;
  #calls = new Set();
  // Called once it has been left.
  #left = null;
  #isClosed = false;

  word = CONNECTING;
  // It was asked whether it lives, and has not answered yet.
  isQuiet = false;
  // When it was last asked, and the turn at which it last got a call.
  askedAt = -Infinity;
  turn = 0;

  // The listener's `changed` is called whenever more is known, `lost` where a connection ends, `silent` where one is of no use.
  constructor({ target, credentials, options, clock, listener }) {
    this.#clock = clock;
    this.#listener = listener;
    this.#client = new Client(target, credentials, options);
    this.#watch();
  }

  // A call for a token: { answer, cancel }; `answer` brings the reply, or ends with the library's error.
  getToken(request, metadata, timeoutMs) {
    return this.#call(GET_TOKEN, request, metadata, timeoutMs);
  }

  // Asks whether it lives and takes calls. One question at a time, whoever asks; whether there was an answer.
  ask() {
    this.#question ??= this.#ask().finally(() => {
      this.#question = null;
    });
    return this.#question;
  }

  // No more calls; those under way go on. Calls `left` once they are over.
  leave(left) {
    this.#left = left;
    if (this.#calls.size === 0) this.close();
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const call of this.#calls) call.cancel();
    this.#client.close();
    this.#left?.();
  }

  async #ask() {
    this.askedAt = this.#clock.now();
    const said = await this.#call(CHECK, { service: SERVICE }, new Metadata(), ANSWER_MS).answer.then(
      ({ status }) => (status === 'NOT_SERVING' ? ENDING : SERVING),
      // Who answers with another error lives, and does not say; of a connection that is lost the state tells.
      ({ code }) => (code === CODES.DEADLINE_EXCEEDED || this.#state !== STATES.READY ? null : SERVING),
    );
    if (this.#isClosed) return false;
    if (said) {
      this.word = said;
      this.isQuiet = false;
      this.#listener.changed();
    } else if (this.#state === STATES.READY) {
      this.#listener.silent(this);
    }
    return said !== null;
  }

  #call(method, request, metadata, timeoutMs) {
    let call;
    const answer = new Promise((resolve, reject) => {
      const { path, requestSerialize, responseDeserialize } = method;
      // The server is told the deadline; it is this wait that the caller can count on, since the library goes by the wall clock.
      const options = { deadline: Date.now() + timeoutMs };
      const done = (error, reply) => {
        unset();
        this.#calls.delete(call);
        if (this.#left && this.#calls.size === 0) this.close();
        if (error) reject(error);
        else resolve(reply);
      };
      const unset = this.#clock.after(timeoutMs, () => {
        reject({ code: CODES.DEADLINE_EXCEEDED, details: 'no answer in time' });
        call?.cancel();
      });
      call = this.#client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, metadata, options, done);
      this.#calls.add(call);
    });
    return { answer, cancel: () => call?.cancel() };
  }

  // Follows the connection, and has it made again whenever it is lost.
  #watch() {
    if (this.#isClosed) return;
    const channel = this.#client.getChannel();
    const state = channel.getConnectivityState(true);
    channel.watchConnectivityState(state, Infinity, () => process.nextTick(() => this.#watch()));
    const before = this.#state;
    this.#state = state;
    if (state === before) return;
    if (state === STATES.READY) {
      void this.ask();
      return;
    }
    this.word = state === STATES.TRANSIENT_FAILURE ? UNREACHED : CONNECTING;
    if (before === STATES.READY) this.#listener.lost();
    this.#listener.changed();
  }
}
