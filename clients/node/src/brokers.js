// What a source's calls go over, made anew as the files behind it are replaced.
//
// Must never give up what works for files that can't be used: they may be half of a pair that is being replaced; nor show what is
// in a file, or wait for one without end.

import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIPv6 } from 'node:net';
import { createSecureContext } from 'node:tls';

import { Metadata, credentials as CREDENTIALS } from '@grpc/grpc-js';

import { LATE, within } from './clock.js';
import { TokenBrokerError, closed } from './errors.js';
import { Replica } from './replica.js';
import { Replicas } from './replicas.js';
import { answerOf } from './wire.js';

// The files are looked at by whichever call comes, but no more often than this: there are few calls, and three small files.
const FILES_EVERY = 1_000;
// Files that take longer to read are not waited for.
const READ_MS = 2_000;
// A source waits this much longer than its calls take, a tenth of a short time, so that it is the call that says what took so
// long.
const AHEAD = 100;
// What a header takes of a token (RFC 6750), which is shown to nobody where it has anything else.
const TOKEN = /^[\x21-\x7e]+$/;
// The variables of the environment by which grpc-js finds a proxy.
const PROXIES = ['grpc_proxy', 'https_proxy', 'http_proxy'];

const OPTIONS = {
  // A connection whose other end is gone without a word is noticed, between calls too: the broker minds no pings.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  // An address that nobody answers at is tried again soon, and then no later than this: a broker that is back is back.
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 2_000,
  // A connection that is made anew is another one.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_channelz': 0,
};

const unusable = (what, why) => new TokenBrokerError({
  code: 'FAILED_PRECONDITION',
  text: `${what} can't be used: ${why}`,
});

export class Brokers {
  #told;
  #clock;
  #callMs;
  // { replicas, files }, and when the files were last looked at.
  #made = null;
  #lookedAt = -Infinity;
  #reading = null;
  #isClosed = false;

  constructor(told, clock) {
    this.#told = told;
    this.#clock = clock;
    this.#callMs = told.timeoutMs - Math.min(AHEAD, told.timeoutMs / 10);
  }

  // This user's token, that is none of those that the vault's API rejected.
  async ask({ merchantId, number }, rejectedTokenIds) {
    const deadline = this.#clock.now() + this.#callMs;
    const request = { merchantId, number, rejectedTokenIds };
    const replicas = await this.#replicas();
    return answerOf(await replicas.getToken(request, await this.#metadata(), deadline));
  }

  close() {
    this.#isClosed = true;
    this.#made?.replicas.close();
  }

  // Of the files as they are or, where they can't be used, as they were. While they are read, others go on with what there is.
  async #replicas() {
    const isDue = this.#clock.now() >= this.#lookedAt + FILES_EVERY;
    if (this.#made && (!isDue || this.#reading)) return this.#made.replicas;
    this.#reading ??= this.#renew().finally(() => {
      this.#reading = null;
    });
    await this.#reading;
    return this.#made.replicas;
  }

  async #renew() {
    try {
      const files = await this.#read();
      if (this.#isClosed) throw closed();
      if (this.#made === null || files.some((content, at) => content !== this.#made.files[at])) {
        const replicas = this.#makeOf(files);
        this.#made?.replicas.leave();
        this.#made = { replicas, files };
      }
    } catch (error) {
      if (this.#made === null) throw error;
    } finally {
      this.#lookedAt = this.#clock.now();
    }
  }

  // The contents of the CA, the certificate and its key, as far as there are any.
  #read() {
    const { caFile, certificateFile, keyFile } = this.#told;
    return Promise.all([caFile, certificateFile, keyFile].map((file) => (file ? this.#readOne(file) : null)));
  }

  async #readOne(file) {
    let content;
    try {
      content = await within(this.#clock, readFile(file, 'utf8'), READ_MS);
    } catch (error) {
      throw unusable(file, `${error.code ?? error}: see that it is there and that this process may read it`);
    }
    if (content === LATE) throw unusable(file, 'reading it takes too long: see to the file system');
    return content;
  }

  async #metadata() {
    const metadata = new Metadata();
    if (this.#told.tokenFile) {
      const token = (await this.#readOne(this.#told.tokenFile)).trim();
      if (!TOKEN.test(token)) throw unusable(this.#told.tokenFile, "it holds no service account's token: one line, nothing else");
      metadata.set('authorization', `Bearer ${token}`);
    }
    return metadata;
  }

  #makeOf([ca, certificate, key]) {
    const { endpoints, isTls, useProxy } = this.#told;
    const credentials = isTls ? secure(this.#told, ca, certificate, key) : CREDENTIALS.createInsecure();
    const byProxy = useProxy && PROXIES.some((name) => process.env[name]);
    const make = ({ address, port, host }, listener) => {
      const target = byProxy ? `dns:///${authority(address, port)}` : `ipv${isIPv6(address) ? 6 : 4}:${authority(address, port)}`;
      const options = { ...OPTIONS, 'grpc.enable_http_proxy': Number(useProxy), 'grpc.default_authority': authority(host, port) };
      // The certificate is held to the name that was asked for, not to the address; an address has no such name (RFC 6066, 3).
      if (isTls && host !== address) options['grpc.ssl_target_name_override'] = host.replace(/\.$/, '');
      return new Replica({ target, credentials, options, clock: this.#clock, listener });
    };
    // A proxy looks names up itself.
    const more = byProxy ? { lookup: async (host) => [host] } : {};
    return new Replicas(endpoints, make, this.#clock, more);
  }
}

const authority = (host, port) => `${isIPv6(host) ? `[${host}]` : host}:${port}`;

// Looked at here, since the library would only find out as it connects.
function secure({ caFile, certificateFile }, ca, certificate, key) {
  try {
    new X509Certificate(ca);
  } catch (error) {
    throw unusable(caFile, `it holds no certificate in PEM (${error.code ?? error.name})`);
  }
  try {
    const pair = certificate === null ? {} : { cert: certificate, key };
    return CREDENTIALS.createFromSecureContext(createSecureContext({ ca, ...pair }));
  } catch (error) {
    throw unusable(certificateFile ?? caFile, `certificate and key are no pair in PEM (${error.code ?? error.name})`);
  }
}
