// The contract on the wire: its messages and methods, and the errors that come back.
//
// Must never take the word of anybody but the broker for an error's reason.

import { fileURLToPath } from 'node:url';

import { status as CODES } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

import { TokenBrokerError } from './errors.js';

const FILES = ['tokenbroker/v1/token_broker.proto', 'google/rpc/error_details.proto', 'grpc/health/v1/health.proto'];
// `google.rpc.ErrorInfo.domain` of every error of the broker.
const DOMAIN = 'token-broker';
// The trailer with a `google.rpc.Status`.
const DETAILS = 'grpc-status-details-bin';
// The broker's word on when to try again, in milliseconds; negative for "don't".
const PUSHBACK = 'grpc-retry-pushback-ms';

const includeDirs = [fileURLToPath(new URL('../protos', import.meta.url))];
const types = loadSync(FILES, { includeDirs, longs: Number, enums: String, defaults: true });

export const SERVICE = 'tokenbroker.v1.TokenBrokerService';
export const GET_TOKEN = types[SERVICE].GetToken;
export const CHECK = types['grpc.health.v1.Health'].Check;
// The contract's reasons, for tests.
export const REASONS_ON_THE_WIRE = types['tokenbroker.v1.ErrorReason'].type.value.map(({ name }) => name);

// A google.protobuf.Duration in milliseconds; undefined where there is none.
const millis = (duration) => duration ? duration.seconds * 1_000 + duration.nanos / 1e6 : undefined;

// What the rest of the package knows of an answer.
export function answerOf({ token }) {
  if (!token) throw new TokenBrokerError({ code: 'INTERNAL', text: "the broker's answer holds no token: report it" });
  const { accessToken, tokenId, scope } = token;
  return { accessToken, tokenId, scope, expiresInMs: millis(token.expiresIn), renewInMs: millis(token.renewIn) };
}

// How long the broker has the next try wait: milliseconds; null where it does not say; negative where no try is worth it.
export function pushbackOf(failure) {
  const [said] = failure.metadata?.get(PUSHBACK) ?? [];
  if (said === undefined) return null;
  return /^\d{1,9}$/.test(said) ? Number(said) : -1;
}

// The error of a call, as grpc-js has it, as callers get it.
export function errorOf(failure) {
  const told = { code: CODES[failure.code] ?? 'UNKNOWN', text: failure.details || failure.message };
  for (const { name, detail } of detailsOf(failure)) {
    if (name === 'ErrorInfo' && detail.domain === DOMAIN) {
      told.reason = detail.reason;
      told.metadata = { ...detail.metadata };
    }
    if (name === 'RetryInfo') told.retryAfterMs = millis(detail.retryDelay);
    if (name === 'RequestInfo') told.requestId = detail.requestId;
    if (name === 'BadRequest') {
      told.fieldViolations = detail.fieldViolations.map(({ field, description }) => ({ field, description }));
    }
  }
  return new TokenBrokerError(told);
}

// What can't be read is left out: the code and the text stand without it.
function detailsOf(failure) {
  try {
    const [packed] = failure.metadata?.get(DETAILS) ?? [];
    const details = packed ? types['google.rpc.Status'].deserialize(packed).details : [];
    return details
      .map(({ typeUrl, value }) => ({ name: typeUrl.replace('type.googleapis.com/google.rpc.', ''), value }))
      .filter(({ name }) => `google.rpc.${name}` in types)
      .map(({ name, value }) => ({ name, detail: types[`google.rpc.${name}`].deserialize(value) }));
  } catch {
    return [];
  }
}
