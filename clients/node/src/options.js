// Pure: what a source is told, looked at before anything is made of it.
//
// Must never read a file or look a name up: each is done when it is needed, and again as it changes.

import { isIP } from 'node:net';

import { ConfigurationError } from './errors.js';

// How long `token` waits at most, from the look-up of the broker's name to the answer, repeats included: a sign-in takes seconds.
const TIMEOUT_DEFAULT = 30_000;
// A longer one counts as this: the broker's own.
const TIMEOUT_MAX = 10 * 60_000;
const KNOWN = ['endpoints', 'caFile', 'tokenFile', 'certificateFile', 'keyFile', 'timeoutMs', 'useProxy'];
const FILES = ['caFile', 'tokenFile', 'certificateFile', 'keyFile'];
const EXAMPLE = 'give a URL such as http://127.0.0.1:50051, or https://token-broker.example.org:50051 and a caFile';
const URL_PARTS = /^(https?):\/\/(\[[^\]]*\]|[^:/?#@[\]]+)(?::([^/?#]*))?\/?$/i;

const refuse = (text) => {
  throw new ConfigurationError(text);
};

// The options as the rest of the package has them: { endpoints: [{ host, port }], isTls, …files, timeoutMs, useProxy }.
export function checked(options) {
  if (options === null || typeof options !== 'object') refuse('options: missing: give an object with endpoints');
  for (const name of Object.keys(options)) {
    if (!KNOWN.includes(name)) refuse(`${name}: there is no such option: the options are ${KNOWN.join(', ')}`);
  }
  for (const name of FILES) {
    const value = options[name];
    if (value !== undefined && (typeof value !== 'string' || value === '')) refuse(`${name}: not a path: give a string`);
  }
  const { useProxy = false } = options;
  if (typeof useProxy !== 'boolean') refuse('useProxy: neither true nor false: give one of the two');
  const said = typeof options.endpoints === 'string' ? [options.endpoints] : options.endpoints;
  if (!Array.isArray(said) || said.length === 0) refuse(`endpoints: there is none: ${EXAMPLE}`);
  const endpoints = said.map(endpoint);
  const isTls = endpoints[0].isTls;
  if (endpoints.some((one) => one.isTls !== isTls)) {
    refuse('endpoints: http:// and https:// are mixed: a source speaks TLS to all its brokers or to none: give one scheme');
  }
  checkSecurity(options, isTls);
  const { caFile, tokenFile, certificateFile, keyFile } = options;
  const timeoutMs = timeout(options.timeoutMs, TIMEOUT_DEFAULT);
  return { endpoints, isTls, caFile, tokenFile, certificateFile, keyFile, timeoutMs, useProxy };
}

// The time to wait, for the source or for one of its callers.
export function timeout(said, otherwise) {
  if (said === undefined) return otherwise;
  if (typeof said !== 'number' || !(said > 0)) refuse('timeoutMs: not a time: give milliseconds, more than 0');
  return Math.min(said, TIMEOUT_MAX);
}

function endpoint(said) {
  const shown = JSON.stringify(said);
  const parts = typeof said === 'string' ? URL_PARTS.exec(said) : null;
  if (parts === null) refuse(`endpoints: ${shown} is no URL: ${EXAMPLE}`);
  const [, scheme, name, digits = ''] = parts;
  if (digits === '') refuse(`endpoints: ${shown} has no port: write it behind the host, such as :50051`);
  const port = /^\d{1,5}$/.test(digits) ? Number(digits) : 0;
  if (port < 1 || port > 65_535) refuse(`endpoints: ${shown} has a port that can't be: give a number, 1 to 65535`);
  const host = name.startsWith('[') ? name.slice(1, -1) : name;
  if (name.startsWith('[') ? isIP(host) !== 6 : !/^[\w.-]+$/.test(host)) {
    refuse(`endpoints: ${shown} has a host that can't be: ${EXAMPLE}`);
  }
  return { host, port, isTls: scheme.toLowerCase() === 'https' };
}

function checkSecurity({ caFile, tokenFile, certificateFile, keyFile }, isTls) {
  if (isTls && !caFile) refuse("caFile: missing, which https:// needs: give the CA of the brokers' certificates, in PEM");
  for (const [name, value] of Object.entries({ caFile, tokenFile, certificateFile, keyFile })) {
    if (value && !isTls) refuse(`${name}: is of no use over http://, where everybody reads along: use https://, or leave it out`);
  }
  if (certificateFile && !keyFile) refuse('keyFile: missing, which certificateFile needs: give its key, in PEM');
  if (keyFile && !certificateFile) refuse('certificateFile: missing, which keyFile needs: give its certificate, in PEM');
  if (tokenFile && certificateFile) refuse('tokenFile: given along with certificateFile: have one of the two');
}
