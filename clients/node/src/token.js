// A token of one user, and its end by the monotonic clock.
//
// Must never show the secret: neither printed, inspected nor written as JSON.

import { inspect } from 'node:util';

import { masked, onOneLine, seconds } from './text.js';

// How every token is presented (RFC 6750).
const BEARER = 'Bearer ';

export class Token {
  #clock;
  #user;
  #answer;
  #ends;

  constructor(clock, user, answer, ends) {
    this.#clock = clock;
    this.#user = user;
    this.#answer = answer;
    this.#ends = ends;
  }

  // The secret.
  get accessToken() {
    return this.#answer.accessToken;
  }

  // The value of the header `Authorization`: the secret again.
  get authorization() {
    return BEARER + this.#answer.accessToken;
  }

  // Its name, which is safe to log and the same everywhere.
  get tokenId() {
    return this.#answer.tokenId;
  }

  // What it allows, as the vault says.
  get scope() {
    return this.#answer.scope;
  }

  // How long it still lives; 0 once it has ended.
  get expiresInMs() {
    return Math.max(0, this.#ends - this.#clock.now());
  }

  get merchantId() {
    return this.#user.merchantId;
  }

  // Not for logs.
  get number() {
    return this.#user.number;
  }

  toString() {
    const { merchantId, number } = this.#user;
    const said = `id ${this.tokenId}, merchant ${merchantId}, number ${masked(number)}`;
    return onOneLine(`Token(${said}, expires in ${seconds(this.expiresInMs)})`);
  }

  toJSON() {
    return {
      tokenId: this.tokenId,
      merchantId: this.merchantId,
      number: masked(this.number),
      scope: this.scope,
      expiresInMs: this.expiresInMs,
    };
  }

  [inspect.custom]() {
    return this.toString();
  }
}
