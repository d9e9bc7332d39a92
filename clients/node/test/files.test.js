// The files behind TLS, as they are replaced, and the token's: over real connections, with certificates that are made here.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { ServerCredentials } from '@grpc/grpc-js';

import { Brokers } from '../src/brokers.js';
import { systemClock } from '../src/clock.js';
import { checked } from '../src/options.js';
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

// A broker with TLS, and what asks it, whose clock can be put forward.
async function overTls(options, mustKnow) {
  const pair = [{ private_key: readFileSync(file('broker.key')), cert_chain: readFileSync(file('broker.crt')) }];
  const broker = await serve(() => reply('good'), ServerCredentials.createSsl(readFileSync(file('ca.crt')), pair, mustKnow));
  let ahead = 0;
  const clock = { ...systemClock, now: () => systemClock.now() + ahead };
  const told = { endpoints: `https://localhost:${broker.port}`, caFile: file('ca.crt'), timeoutMs: 5_000, ...options };
  const brokers = new Brokers(checked(told), clock);
  const ask = async () => {
    const outcome = await brokers.ask(USER, []).then(({ tokenId }) => tokenId, (error) => error);
    ahead += 1_000;
    return outcome;
  };
  const end = () => {
    brokers.close();
    broker.close();
  };
  return { broker, ask, end };
}

test('the token file is read for each call', async () => {
  writeFileSync(file('token'), 'first\n');
  const { broker, ask, end } = await overTls({ tokenFile: file('token') }, false);
  assert.equal(await ask(), 'good');
  writeFileSync(file('token'), 'second');
  assert.equal(await ask(), 'good');
  assert.deepEqual(broker.seen.calls.map(({ authorization }) => authorization), ['Bearer first', 'Bearer second']);
  assert.equal(broker.seen.peers.size, 1);
  end();
});

test('a token file that can\'t be is told of by its name, without what is in it', async () => {
  const { broker, ask, end } = await overTls({ tokenFile: file('unfit') }, false);
  for (const content of [null, '', 'sec ret', 'secret\nmore', 'sécret']) {
    if (content !== null) writeFileSync(file('unfit'), content);
    const error = await ask();
    assert.deepEqual([error.code, error.reason, error.isPermanent], ['FAILED_PRECONDITION', null, true]);
    assert.ok(error.message.includes('unfit') && !/s.c ?ret/.test(error.message), error.message);
  }
  assert.equal(broker.seen.calls.length, 0);
  end();
});

test('a certificate that is replaced makes a new connection, and one that can\'t be used leaves the old one', async () => {
  const use = (name) => {
    copyFileSync(file(`${name}.crt`), file('tls.crt'));
    copyFileSync(file(`${name}.key`), file('tls.key'));
  };
  use('one');
  const { broker, ask, end } = await overTls({ certificateFile: file('tls.crt'), keyFile: file('tls.key') }, true);
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
  end();
});

test('files that can\'t be used from the start are told of, and used as soon as they can be', async () => {
  const { ask, end } = await overTls({ caFile: file('later.crt') }, false);
  assert.match((await ask()).message, /later\.crt can't be used: ENOENT/);
  writeFileSync(file('later.crt'), 'no PEM');
  assert.match((await ask()).message, /later\.crt can't be used: it holds no certificate in PEM/);
  copyFileSync(file('ca.crt'), file('later.crt'));
  assert.equal(await ask(), 'good');
  end();
});

test('a broker with another name\'s certificate gets no call', async () => {
  const { broker, ask, end } = await overTls({ caFile: file('one.crt') }, false);
  const error = await ask();
  assert.equal(error.code, 'UNAVAILABLE');
  assert.equal(broker.seen.calls.length, 0);
  end();
  const named = await overTls({}, false);
  const other = await overTls({ endpoints: `https://127.0.0.1:${named.broker.port}` }, false);
  assert.equal((await other.ask()).code, 'UNAVAILABLE');
  assert.equal(named.broker.seen.calls.length, 0);
  named.end();
  other.end();
});
