// A real broker with a vault that fails on demand, both of them programs of this machine, for test suites:
//
//   const broker = await TestBroker.start();
//   const source = new TokenSource({ endpoints: broker.endpoint });
//   const token = await source.token(...broker.newUser());
//   await broker.control('revoke', { all: true });
//   await broker.close();
//
// Must never be imported by the package itself, keep a process alive, or leave a program behind: the two end once their standard
// input does, however this process ends.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';

// The variables that name the two programs, and what they are called where the variables are not set.
const SANDBOX = { variable: 'TOKEN_BROKER_SANDBOX_PROGRAM', name: 'token-broker-sandbox' };
const BROKER = { variable: 'TOKEN_BROKER_PROGRAM', name: 'token-broker' };
// The sandbox itself gives its broker 30 s and says so: this is for a program that is no sandbox.
const START_MS = 60_000;
// It ends at once. Killed, it could not end its broker.
const END_MS = 10_000;
// The control answers from memory.
const CONTROL_MS = 10_000;
// So much is shown of a line that isn't a sandbox's.
const SHOWN_MAX = 100;

/** A broker that runs, with its vault. */
export class TestBroker {
  #child;
  #ended;
  #said;
  #numbers;
  #handedOut = 0;

  /** Starts both programs. `sandboxArguments` are the sandbox's own, such as `['--lifetime', '20s']`. */
  static async start({ sandboxArguments = [] } = {}) {
    const [sandbox, broker] = [programOf(SANDBOX), programOf(BROKER)];
    const child = spawn(sandbox, ['--listen', '127.0.0.1:0', '--broker', broker, ...sandboxArguments], { stdio: 'pipe' });
    const started = new TestBroker(child);
    const late = setTimeout(() => child.kill('SIGKILL'), START_MS);
    try {
      started.#read(sandbox, await started.#line(sandbox));
    } catch (error) {
      await started.close();
      throw error;
    } finally {
      clearTimeout(late);
    }
    // A suite that forgets to close it ends all the same, and the programs with it.
    for (const one of [child, child.stdin, child.stdout, child.stderr]) one.unref();
    return started;
  }

  constructor(child) {
    this.#child = child;
    this.#said = text(child.stderr);
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('close', (code, signal) => resolve(`it ended with ${code ?? signal}, without a word`));
    });
    // Whoever wants to end it may find that it has ended.
    child.stdin.on('error', () => {});
  }

  /** A user whom no test has had so far, as `[merchantId, number]`. */
  newUser() {
    if (this.#handedOut === this.#numbers.length) {
      throw new Error(`all ${this.#handedOut} users have been handed out: start another TestBroker`);
    }
    return [this.merchantId, this.#numbers[this.#handedOut++]];
  }

  /**
   * Tells the vault to fail, to revoke, or how to be: POSTs `body` to its `/_sandbox/` + `path`, and returns what it answers.
   * Without a body it asks, such as for `stats`.
   */
  control(path, body) {
    return this.#ask(body === undefined ? 'GET' : 'POST', path, body);
  }

  /** Ends what the vault was told to do wrong and has not done yet, everybody's, and an outage. */
  async dropFaults() {
    await this.#ask('DELETE', 'faults');
  }

  /** Ends both programs. */
  async close() {
    const child = this.#child;
    for (const one of [child, child.stdin, child.stdout, child.stderr]) one.ref?.();
    child.stdin.end();
    child.kill();
    const late = setTimeout(() => child.kill('SIGKILL'), END_MS);
    await this.#ended;
    clearTimeout(late);
  }

  async #line(sandbox) {
    const lines = createInterface({ input: this.#child.stdout });
    const line = once(lines, 'line').then(([line]) => line);
    const ended = this.#why().then((why) => {
      throw new Error(`${sandbox} did not start: ${why}`);
    });
    ended.catch(() => {}); // it ends after all
    line.catch(() => {});
    return Promise.race([line, ended]).finally(() => lines.close());
  }

  #read(sandbox, line) {
    let told;
    try {
      told = JSON.parse(line);
    } catch {
      const shown = JSON.stringify(line.slice(0, SHOWN_MAX));
      throw new Error(`${sandbox} says ${shown}: have ${SANDBOX.variable} name ${SANDBOX.name}`);
    }
    this.endpoint = told.endpoint;
    this.vaultUrl = told.vault_url;
    this.merchantId = told.merchant_id;
    this.#numbers = told.numbers;
  }

  // Why it has ended, once it has.
  async #why() {
    const ended = await this.#ended;
    return (await this.#said.catch(() => '')).trim() || ended;
  }

  async #ask(method, path, body) {
    let answer;
    try {
      answer = await ask(method, `${this.vaultUrl}/_sandbox/${path}`, body);
    } catch (error) {
      const { exitCode, signalCode } = this.#child;
      const hasEnded = exitCode !== null || signalCode !== null;
      throw new Error(`the sandbox ${hasEnded ? `has ended: ${await this.#why()}` : `does not answer: ${error.message}`}`);
    }
    if (answer.status !== 200) throw new Error(`the sandbox refuses ${method} ${path}: ${answer.said}`);
    return JSON.parse(answer.said);
  }
}

// Over a connection of its own, which no proxy of the environment gets: it is on this machine.
async function ask(method, url, body) {
  const request = http.request(url, { method, agent: false, timeout: CONTROL_MS });
  request.on('timeout', () => request.destroy(new Error(`no answer in ${CONTROL_MS / 1000} s`)));
  request.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = await once(request, 'response');
  return { status: response.statusCode, said: await text(response) };
}

// Where a program is.
function programOf({ variable, name }) {
  const named = process.env[variable];
  const looked = named || name;
  const places = looked.includes(path.sep)
    ? [looked]
    : (process.env.PATH ?? '').split(path.delimiter).map((directory) => path.join(directory, looked));
  const found = places.find(isProgram);
  if (found !== undefined) return path.resolve(found);
  const where = named ? `${variable} names ${named}, which is no program` : `there is no ${name} in PATH, and no ${variable}`;
  throw new Error(`${where}: have ${variable} name the ${name} of the release's archive, token-broker-VERSION-ARCH.tar.gz`);
}

function isProgram(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
