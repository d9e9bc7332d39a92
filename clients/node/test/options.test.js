// What a source refuses to be made of, and how it says so.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ConfigurationError, TokenBrokerError, TokenSource } from '../src/index.js';
import { checked } from '../src/options.js';

const TLS = { endpoints: 'https://broker:50051', caFile: 'ca.crt' };

test('each fault is named with its option, and how to mend it', () => {
  const cases = [
    [undefined, /^options: missing: give/],
    [{}, /^endpoints: there is none: give a URL such as/],
    [{ endpoints: [] }, /^endpoints: there is none/],
    [{ endpoints: ['broker:50051'] }, /^endpoints: "broker:50051" is no URL: give a URL such as/],
    [{ endpoints: 'ftp://broker:50051' }, /is no URL/],
    [{ endpoints: 'http://user:word@broker:50051' }, /endpoints: /],
    [{ endpoints: 'http://broker:50051/path' }, /is no URL/],
    [{ endpoints: [7] }, /^endpoints: 7 is no URL/],
    [{ endpoints: 'http://broker' }, /^endpoints: "http:\/\/broker" has no port: write it/],
    [{ endpoints: 'http://broker:0' }, /has a port that can't be: give a number, 1 to 65535/],
    [{ endpoints: 'http://broker:65536' }, /has a port that can't be/],
    [{ endpoints: 'http://broker:grpc' }, /has a port that can't be/],
    [{ endpoints: 'http://[::g]:1' }, /has a host that can't be/],
    [{ endpoints: 'http://bro ker:1' }, /has a host that can't be/],
    [{ endpoints: ['http://a:1', 'https://b:1'], caFile: 'ca.crt' }, /^endpoints: .* are mixed: .*give one scheme/],
    [{ endpoints: 'http://broker:50051', caFile: 'ca.crt' }, /^caFile: is of no use over http:\/\/.*use https:\/\//],
    [{ endpoints: 'http://broker:50051', tokenFile: 'token' }, /^tokenFile: is of no use over http:\/\//],
    [{ endpoints: 'http://broker:50051', certificateFile: 'c', keyFile: 'k' }, /^certificateFile: is of no use over http:\/\//],
    [{ endpoints: 'http://broker:50051', keyFile: 'k' }, /^keyFile: is of no use over http:\/\//],
    [{ endpoints: 'https://broker:50051' }, /^caFile: missing, which https:\/\/ needs: give/],
    [{ ...TLS, certificateFile: 'c' }, /^keyFile: missing, which certificateFile needs/],
    [{ ...TLS, keyFile: 'k' }, /^certificateFile: missing, which keyFile needs/],
    [{ ...TLS, tokenFile: 't', certificateFile: 'c', keyFile: 'k' }, /^tokenFile: given along with.*have one/],
    [{ ...TLS, tokenFile: '' }, /^tokenFile: not a path/],
    [{ ...TLS, timeoutMs: 0 }, /^timeoutMs: not a time/],
    [{ ...TLS, timeoutMs: NaN }, /^timeoutMs: not a time/],
    [{ ...TLS, timeoutMs: '30s' }, /^timeoutMs: not a time/],
    [{ ...TLS, useProxy: 'yes' }, /^useProxy: neither true nor false/],
    [{ ...TLS, timeout: 5 }, /^timeout: there is no such option: the options are endpoints, /],
  ];
  for (const [options, message] of cases) {
    assert.throws(() => new TokenSource(options), (error) => {
      assert.ok(error instanceof ConfigurationError && error instanceof TokenBrokerError);
      assert.deepEqual([error.isPermanent, error.code], [true, null]);
      assert.match(error.message, message);
      return true;
    }, JSON.stringify(options));
  }
});

test('endpoints are taken apart as they are written', () => {
  const { endpoints, isTls, timeoutMs, useProxy } = checked({
    endpoints: ['http://127.0.0.1:50051', 'HTTP://broker.cards.svc.:1/', 'http://[::1]:65535'],
  });
  const places = endpoints.map(({ host, port }) => [host, port]);
  assert.deepEqual(places, [['127.0.0.1', 50_051], ['broker.cards.svc.', 1], ['::1', 65_535]]);
  assert.deepEqual([isTls, timeoutMs, useProxy], [false, 30_000, false]);
});

test('nothing is read or asked before the first token is', () => {
  new TokenSource({ ...TLS, certificateFile: '/nowhere/tls.crt', keyFile: '/nowhere/tls.key' });
});
