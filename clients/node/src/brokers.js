// What a source's calls go over, made anew as the files behind it are replaced.
//
// Must never give up what works for files that can't be used: they may be half of a pair that is being replaced; nor show what is
// in a file, or wait for one without end.

import { X509Certificate } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { createSecureContext } from 'node:tls';

import { Metadata, credentials as CREDENTIALS } from '@grpc/grpc-js';

import { closed } from './errors.js';
import { Reader, unusable } from './reader.js';
import { Replica } from './replica.js';
import { Replicas } from './replicas.js';
import { answerOf } from './wire.js';

// The files are looked at by whichever call comes, but no more often than this: there are few calls, and three small files.
const FILES_EVERY = 1_000;
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

export class Brokers {
  #told;
  #clock;
  #callMs;
  // What connections are made of, and the token's file: two readers, since the one is needed now and then and the other always.
  #materials;
  #token;
  // { replicas, files }, and when the files were last looked at.
  #made = null;
  #lookedAt = -Infinity;
  #looking = null;
  // With those before, until their calls are over.
  #all = new Set();
  #isClosed = false;

  // `read` is for tests.
  constructor(told, clock, read) {
    this.#told = told;
    this.#clock = clock;
    this.#callMs = told.timeoutMs - Math.min(AHEAD, told.timeoutMs / 10);
    this.#materials = new Reader([told.caFile, told.certificateFile, told.keyFile], clock, read);
    this.#token = new Reader([told.tokenFile], clock, read);
  }

  // This user's token, that is none of those that the vault's API rejected.
  async ask({ merchantId, number }, rejectedTokenIds) {
    const deadline = this.#clock.now() + this.#callMs;
    const request = { merchantId, number, rejectedTokenIds };
    const metadata = await this.#metadata();
    await this.#look();
    // Taken at once: replicas that have no call yet may be left while anything is waited for.
    return answerOf(await this.#made.replicas.getToken(request, metadata, deadline));
  }

  close() {
    this.#isClosed = true;
    for (const replicas of [...this.#all]) replicas.close();
  }

  // Has replicas made of the files as they are or, where they can't be used, as they were. While they are read, others go on with
  // what there is.
  async #look() {
    const isDue = this.#clock.now() >= this.#lookedAt + FILES_EVERY;
    if (this.#made && (!isDue || this.#looking)) return;
    this.#looking ??= this.#renew().finally(() => {
      this.#looking = null;
    });
    await this.#looking;
  }

  async #renew() {
    try {
      const files = await this.#materials.read();
      if (this.#isClosed) throw closed();
      if (this.#made === null || files.some((content, at) => content !== this.#made.files[at])) {
        const before = this.#made?.replicas;
        const replicas = this.#makeOf(files);
        this.#all.add(replicas);
        this.#made = { replicas, files };
        before?.leave(() => this.#all.delete(before));
      }
    } catch (error) {
      if (this.#made === null) throw error;
    } finally {
      this.#lookedAt = this.#clock.now();
    }
  }

  async #metadata() {
    const metadata = new Metadata();
    if (this.#told.tokenFile) {
      const [content] = await this.#token.read();
      const token = content.trim();
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
