// The files behind TLS, as they are replaced, and the token's: over real connections, with certificates that are made here.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { ServerCredentials } from '@grpc/grpc-js';

import { Brokers } from '../src/brokers.js';
import { systemClock } from '../src/clock.js';
import { checked } from '../src/options.js';
import { READ_MS } from '../src/reader.js';
import { reply, serve } from './server.js';

let directory;
const file = (name) => join(directory, name);
const USER = { merchantId: 'm', number: '+447871239999' };

// A CA, and certificates of its: the broker's, and two of ours.
before(() => {
  directory = mkdtempSync(join(tmpdir(), 'token-broker-client-'));
  const openssl = (...words) => execFileSync('openssl', words, { cwd: directory, stdio: 'ignore' });
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
  openssl('req', '-x509', ...curve, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=a CA');
  for (const [name, alternative] of [['broker', 'DNS:localhost'], ['one', 'DNS:one'], ['two', 'DNS:two']]) {
    openssl('req', '-x509', ...curve, '-CA', 'ca.crt', '-CAkey', 'ca.key', '-keyout', `${name}.key`, '-out', `${name}.crt`,
      '-subj', `/CN=${name}`, '-addext', `subjectAltName=${alternative}`, '-addext', 'basicConstraints=critical,CA:FALSE');
  }
});
after(() => rmSync(directory, { recursive: true }));

// A broker with TLS, and what asks it, whose clock can be put forward; both end with the test, however that ends.
// Reading takes as long as the test says; nobody waits for it in earnest.
async function overTls(t, options, mustKnow, { answer = () => reply('good'), read = readFile } = {}) {
  const pair = [{ private_key: readFileSync(file('broker.key')), cert_chain: readFileSync(file('broker.crt')) }];
  const broker = await serve(t, answer, ServerCredentials.createSsl(readFileSync(file('ca.crt')), pair, mustKnow));
  let ahead = 0;
  const after = (ms, run, holds) => systemClock.after(ms === READ_MS && read !== readFile ? 200 : ms, run, holds);
  const clock = { now: () => systemClock.now() + ahead, after };
  const told = { endpoints: `https://localhost:${broker.port}`, caFile: file('ca.crt'), timeoutMs: 5_000, ...options };
  const brokers = new Brokers(checked(told), clock, read);
  const ask = async () => {
    const outcome = await brokers.ask(USER, []).then(({ tokenId }) => tokenId, (error) => error);
    ahead += 1_000;
    return outcome;
  };
  t.after(() => brokers.close());
  return { broker, brokers, ask };
}

test('the token file is read for each call', async (t) => {
  writeFileSync(file('token'), 'first\n');
  const { broker, ask } = await overTls(t, { tokenFile: file('token') }, false);
  assert.equal(await ask(), 'good');
  writeFileSync(file('token'), 'second');
  assert.equal(await ask(), 'good');
  assert.deepEqual(broker.seen.calls.map(({ authorization }) => authorization), ['Bearer first', 'Bearer second']);
  assert.equal(broker.seen.peers.size, 1);
});

test('a token file that can\'t be is told of by its name, without what is in it', async (t) => {
  const { broker, ask } = await overTls(t, { tokenFile: file('unfit') }, false);
  for (const content of [null, '', 'sec ret', 'secret\nmore', 'sécret']) {
    if (content !== null) writeFileSync(file('unfit'), content);
    const error = await ask();
    assert.deepEqual([error.code, error.reason, error.isPermanent], ['FAILED_PRECONDITION', null, true]);
    assert.ok(error.message.includes('unfit') && !/s.c ?ret/.test(error.message), error.message);
  }
  assert.equal(broker.seen.calls.length, 0);
});

test('a certificate that is replaced makes a new connection, and one that can\'t be used leaves the old one', async (t) => {
  const use = (name) => {
    copyFileSync(file(`${name}.crt`), file('tls.crt'));
    copyFileSync(file(`${name}.key`), file('tls.key'));
  };
  use('one');
  const { broker, ask } = await overTls(t, { certificateFile: file('tls.crt'), keyFile: file('tls.key') }, true);
  const outcomes = async () => [await ask(), broker.seen.peers.size];
  assert.deepEqual(await outcomes(), ['good', 1]);
  assert.deepEqual(await outcomes(), ['good', 1], 'nothing has changed');
  copyFileSync(file('two.crt'), file('tls.crt'));
  assert.deepEqual(await outcomes(), ['good', 1], 'half a pair');
  use('two');
  assert.deepEqual(await outcomes(), ['good', 2]);
  for (const name of ['tls.crt', 'tls.key']) writeFileSync(file(name), 'no PEM');
  assert.deepEqual(await outcomes(), ['good', 2]);
  rmSync(file('tls.key'));
  assert.deepEqual(await outcomes(), ['good', 2]);
});

test('a certificate that is replaced while a call waits for its token file ends no call', async (t) => {
  writeFileSync(file('token'), 'good');
  copyFileSync(file('ca.crt'), file('rotated.crt'));
  let hold = null;
  const read = async (path, ...more) => {
    if (path === file('token') && hold) await hold;
    return readFile(path, ...more);
  };
  const { ask } = await overTls(t, { caFile: file('rotated.crt'), tokenFile: file('token') }, false, { read });
  assert.equal(await ask(), 'good');
  let go;
  hold = new Promise((resolve) => { go = resolve; });
  const waiting = ask();
  hold = null;
  writeFileSync(file('rotated.crt'), `${readFileSync(file('ca.crt'))}\n`);
  const other = ask();
  // The first has the token as the second has new connections.
  setTimeout(go, 50);
  assert.deepEqual(await Promise.all([waiting, other]), ['good', 'good']);
});

test('closing ends calls over connections that were left', async (t) => {
  let answers = 0;
  // The first call has none.
  const answer = () => (answers += 1) === 1 ? new Promise(() => {}) : reply('good');
  copyFileSync(file('ca.crt'), file('rotated.crt'));
  const { broker, brokers, ask } = await overTls(t, { caFile: file('rotated.crt') }, false, { answer });
  const waiting = ask();
  while (broker.seen.calls.length === 0) await new Promise((resolve) => setImmediate(resolve));
  writeFileSync(file('rotated.crt'), `${readFileSync(file('ca.crt'))}\n`);
  await ask();
  assert.equal(await ask(), 'good');
  assert.equal(broker.seen.peers.size, 2);
  brokers.close();
  assert.equal((await waiting).code, 'CANCELLED');
});

test('files that hang leave the connections that there are, and are not read once more meanwhile', async (t) => {
  copyFileSync(file('ca.crt'), file('rotated.crt'));
  let hangs = false;
  let reads = 0;
  let wake;
  const read = (path, ...more) => {
    reads += 1;
    return hangs ? new Promise((resolve) => { wake = () => resolve(readFile(path, ...more)); }) : readFile(path, ...more);
  };
  const { broker, ask } = await overTls(t, { caFile: file('rotated.crt') }, false, { read });
  assert.equal(await ask(), 'good');
  hangs = true;
  reads = 0;
  for (let at = 0; at < 5; at += 1) assert.equal(await ask(), 'good');
  assert.deepEqual([reads, broker.seen.peers.size], [1, 1]);
  hangs = false;
  writeFileSync(file('rotated.crt'), `${readFileSync(file('ca.crt'))}\n`);
  wake();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(await ask(), 'good');
  assert.equal(broker.seen.peers.size, 2);
});

test('a token file that hangs fails its calls, and is read once', async (t) => {
  let reads = 0;
  const read = (path, ...more) => {
    if (path !== file('hangs')) return readFile(path, ...more);
    reads += 1;
    return new Promise(() => {});
  };
  const { broker, ask } = await overTls(t, { tokenFile: file('hangs') }, false, { read });
  for (const error of await Promise.all([ask(), ask()])) {
    assert.deepEqual([error.code, error.isPermanent], ['FAILED_PRECONDITION', true]);
    assert.match(error.message, /hangs can't be used: reading it takes too long/);
  }
  assert.equal((await ask()).code, 'FAILED_PRECONDITION');
  assert.deepEqual([reads, broker.seen.calls.length], [1, 0]);
});

test('files that can\'t be used from the start are told of, and used as soon as they can be', async (t) => {
  const { ask } = await overTls(t, { caFile: file('later.crt') }, false);
  assert.match((await ask()).message, /later\.crt can't be used: ENOENT/);
  writeFileSync(file('later.crt'), 'no PEM');
  assert.match((await ask()).message, /later\.crt can't be used: it holds no certificate in PEM/);
  copyFileSync(file('ca.crt'), file('later.crt'));
  assert.equal(await ask(), 'good');
});

test('a broker with another name\'s certificate gets no call', async (t) => {
  const { broker, ask } = await overTls(t, { caFile: file('one.crt') }, false);
  const error = await ask();
  assert.equal(error.code, 'UNAVAILABLE');
  assert.equal(broker.seen.calls.length, 0);
  const named = await overTls(t, {}, false);
  const other = await overTls(t, { endpoints: `https://127.0.0.1:${named.broker.port}` }, false);
  assert.equal((await other.ask()).code, 'UNAVAILABLE');
  assert.equal(named.broker.seen.calls.length, 0);
});
