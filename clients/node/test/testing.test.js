// What the package has for the suites of those who use it: without the two programs as far as that goes, and with them.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { ErrorReason, TokenSource } from '../src/index.js';
import { TestBroker } from '../src/testing/index.js';

const VARIABLES = ['TOKEN_BROKER_SANDBOX_PROGRAM', 'TOKEN_BROKER_PROGRAM'];
const given = Object.fromEntries([...VARIABLES, 'PATH'].map((name) => [name, process.env[name]]));
const unset = VARIABLES.filter((name) => !given[name]);
const skip = unset.length > 0 && `without the real programs: ${unset.join(' and ')} not set`;
const folder = mkdtempSync(path.join(tmpdir(), 'token-broker-'));
after(() => rmSync(folder, { recursive: true }));
afterEach(() => {
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

// Has this script in the place of the sandbox.
function standIn(script) {
  const program = path.join(folder, 'sandbox');
  writeFileSync(program, `#!/bin/sh\n${script}\n`);
  chmodSync(program, 0o700);
  process.env.TOKEN_BROKER_SANDBOX_PROGRAM = program;
  process.env.TOKEN_BROKER_PROGRAM = '/bin/sh';
}

function connectionTo(url) {
  const { hostname, port } = new URL(url);
  return net.connect({ host: hostname, port: Number(port), timeout: 10_000 });
}

// Returns once nothing listens there any more: a connection that is still taken is over when the program is.
async function awaitEnd(...urls) {
  const late = Date.now() + 10_000;
  for (const url of urls) {
    for (let code; code !== 'ECONNREFUSED'; ) {
      assert.ok(Date.now() < late, `${url} is still there`);
      const connection = connectionTo(url);
      connection.on('error', (error) => { code = error.code; });
      connection.on('timeout', () => connection.destroy());
      connection.resume();
      await new Promise((resolve) => connection.once('close', resolve));
    }
  }
}

test('programs that are not there are named', async () => {
  process.env.PATH = folder;
  delete process.env.TOKEN_BROKER_SANDBOX_PROGRAM;
  await assert.rejects(TestBroker.start(),
    /no token-broker-sandbox in PATH, and no TOKEN_BROKER_SANDBOX_PROGRAM: have TOKEN_BROKER_SANDBOX_PROGRAM name .*tar\.gz/);
  process.env.TOKEN_BROKER_SANDBOX_PROGRAM = '/bin/sh';
  process.env.TOKEN_BROKER_PROGRAM = '/gone/broker';
  await assert.rejects(TestBroker.start(), /TOKEN_BROKER_PROGRAM names \/gone\/broker, which is no program: have TOKEN_BROKER_PROGRAM/);
});

test('what does not start says why', async () => {
  for (const [script, why] of [
    ["echo 'the port is taken' >&2; exit 1", /did not start: the port is taken$/],
    ['exit 3', /did not start: it ended with 3, without a word$/],
    ['echo hello; exec cat', /says "hello": have TOKEN_BROKER_SANDBOX_PROGRAM name token-broker-sandbox$/],
  ]) {
    standIn(script);
    await assert.rejects(TestBroker.start(), why);
  }
});

test('users are new until there are none', async () => {
  const told = { endpoint: 'http://127.0.0.1:1', vault_url: 'http://127.0.0.1:1', merchant_id: 'm', numbers: ['+1', '+2'] };
  standIn(`echo '${JSON.stringify(told)}'; exec cat`);
  const broker = await TestBroker.start();
  assert.deepEqual([broker.newUser(), broker.newUser()], [['m', '+1'], ['m', '+2']]);
  assert.throws(() => broker.newUser(), /all 2 users have been handed out: start another TestBroker/);
  await assert.rejects(broker.control('stats'), /the sandbox does not answer: .*ECONNREFUSED/);
  await broker.close();
});

test('its arguments are the sandbox\'s', async () => {
  standIn(`echo "$@" > ${folder}/arguments; exit 1`);
  await assert.rejects(TestBroker.start({ sandboxArguments: ['--lifetime', '20s'] }), /without a word/);
  assert.equal(readFileSync(path.join(folder, 'arguments'), 'utf8'), '--listen 127.0.0.1:0 --broker /bin/sh --lifetime 20s\n');
});

describe('with the real programs', () => {
  let broker;
  let source;
  before(async () => {
    if (skip) return;
    broker = await TestBroker.start();
    source = new TokenSource({ endpoints: broker.endpoint });
  });
  after(async () => {
    if (skip) return;
    source.close();
    await broker.close();
  });

  async function customer(token) {
    const request = http.get(`${broker.vaultUrl}/v1/customer`, { agent: false, headers: { authorization: token.authorization } });
    const [response] = await once(request, 'response');
    response.resume();
    return { status: response.statusCode, tokenId: token.tokenId };
  }

  test('a token is live until it is revoked', { skip, timeout: 30_000 }, async () => {
    const user = broker.newUser();
    const first = await source.token(...user);
    assert.deepEqual(await source.withToken(...user, customer), { status: 200, tokenId: first.tokenId });
    assert.deepEqual(await broker.control('revoke', { access_token: first.accessToken }), { revoked: 1 });
    assert.equal((await customer(first)).status, 401);
    const used = await source.withToken(...user, customer);
    assert.equal(used.status, 200);
    assert.notEqual(used.tokenId, first.tokenId);
  });

  test('the vault fails for one user', { skip, timeout: 30_000 }, async () => {
    const [merchantId, number] = broker.newUser();
    const refusal = { kind: 'refusal', error_id: 11, error: 'WRONG_LOGIN_OR_PASSWORD_EXCEPTION', message: 'no', number, times: 2 };
    assert.deepEqual(await broker.control('faults', [refusal]), { unused_faults: 2 });
    await assert.rejects(source.token(merchantId, number), { reason: ErrorReason.CREDENTIALS_REJECTED });
    assert.ok((await source.token(...broker.newUser())).tokenId);
    assert.equal((await broker.control('stats')).unused_faults, 1);
    await broker.dropFaults();
    assert.equal((await broker.control('stats')).unused_faults, 0);
    await assert.rejects(broker.control('faults', {}), /the sandbox refuses POST faults: .*a JSON list of faults is wanted/);
  });

  test('the arguments reach the sandbox, and closing ends both programs', { skip, timeout: 30_000 }, async () => {
    const other = await TestBroker.start({ sandboxArguments: ['--lifetime', '20s'] });
    const its = new TokenSource({ endpoints: other.endpoint });
    const { expiresInMs } = await its.token(...other.newUser());
    assert.ok(expiresInMs > 15_000 && expiresInMs <= 20_000, `${expiresInMs}`);
    its.close();
    await other.close();
    await awaitEnd(other.endpoint, other.vaultUrl);
    await other.close();
    await assert.rejects(other.control('stats'), /the sandbox has ended: it ended with 0, without a word/);
  });

  // In a process of its own. `rest` is what it does once it has told where everything is.
  async function suite(t, rest) {
    const module = new URL('../src/testing/index.js', import.meta.url);
    const program = `import { TestBroker } from '${module}'; const one = await TestBroker.start();
      console.log(one.endpoint, one.vaultUrl); ${rest}`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    const ended = once(child, 'close');
    const [line] = await once(child.stdout.setEncoding('utf8'), 'data');
    return { child, ended, urls: line.trim().split(' ') };
  }

  test('a suite that is killed leaves nothing', { skip, timeout: 30_000 }, async (t) => {
    const { child, ended, urls } = await suite(t, 'process.stdin.resume();');
    child.kill('SIGKILL');
    await ended;
    await awaitEnd(...urls);
  });

  test('a suite that forgets to close it ends', { skip, timeout: 30_000 }, async (t) => {
    const { ended, urls } = await suite(t, '');
    assert.deepEqual(await ended, [0, null]);
    await awaitEnd(...urls);
  });
});
