// Asks the broker for a user's token, and uses it: node caller.js MERCHANT NUMBER
//
// The environment says where the broker is (TOKEN_BROKER_TARGET), how it is known (TOKEN_BROKER_CA), who we are
// (TOKEN_BROKER_TOKEN_FILE, or TOKEN_BROKER_CERTIFICATE and TOKEN_BROKER_KEY), where the vault's API is (VAULT_URL), and in which
// folder the contract is (TOKEN_BROKER_PROTO).
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader'); // 0.8 or later

// A call's whole time, repeats included: a sign-in takes up to ten seconds.
const CALL_MS = 15_000;
// Most ids that one call can name: more than there are replicas.
const REJECTED_MAX = 16;

const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [{
    name: [{ service: 'tokenbroker.v1.TokenBrokerService' }],
    // Asking twice does no harm. How long to wait between is what the broker's pushback says; these are for errors without one:
    // a broker that goes away, or none there.
    retryPolicy: {
      maxAttempts: 4,
      initialBackoff: '0.1s',
      maxBackoff: '1s',
      backoffMultiplier: 2,
      retryableStatusCodes: ['UNAVAILABLE', 'RESOURCE_EXHAUSTED'],
    },
  }],
};
const OPTIONS = {
  'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  // A connection whose other end is gone without a word is noticed.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // When a replica says goodbye, the name is looked up again at once, not half a minute after the last time.
  'grpc.dns_min_time_between_resolutions_ms': 1_000,
};

const protos = path.dirname(require.resolve('google-proto-files/package.json'));
const types = loadSync(
  ['tokenbroker/v1/token_broker.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'],
  { includeDirs: [process.env.TOKEN_BROKER_PROTO ?? 'proto', protos], longs: Number });
const { TokenBrokerService } = grpc.loadPackageDefinition(types).tokenbroker.v1;

// One client for the whole process.
function connect(env = process.env) {
  if (!env.TOKEN_BROKER_CA) {
    return new TokenBrokerService(env.TOKEN_BROKER_TARGET, grpc.credentials.createInsecure(), OPTIONS);
  }
  const read = (name) => (env[name] ? fs.readFileSync(env[name]) : null);
  let credentials = grpc.credentials.createSsl(
    read('TOKEN_BROKER_CA'), read('TOKEN_BROKER_KEY'), read('TOKEN_BROKER_CERTIFICATE'));
  if (env.TOKEN_BROKER_TOKEN_FILE) {
    // The projected service-account token, read for each call: kubelet replaces it.
    const bearer = grpc.credentials.createFromMetadataGenerator((_, done) => {
      fs.readFile(env.TOKEN_BROKER_TOKEN_FILE, 'utf8', (error, token) => {
        if (error) return done(error);
        const metadata = new grpc.Metadata();
        metadata.set('authorization', `Bearer ${token.trim()}`);
        done(null, metadata);
      });
    });
    credentials = grpc.credentials.combineChannelCredentials(credentials, bearer);
  }
  return new TokenBrokerService(env.TOKEN_BROKER_TARGET, credentials, OPTIONS);
}

// The tokens that the vault's API answered with 401, while they would have lived: user → tokenId → when it would have ended,
// the newest last.
const rejected = new Map();
const userOf = (merchantId, number) => JSON.stringify([merchantId, number]);

function reject(merchantId, number, token) {
  for (const [user, ids] of rejected) {
    for (const [id, end] of ids) if (end <= performance.now()) ids.delete(id);
    if (ids.size === 0) rejected.delete(user);
  }
  const ids = rejected.get(userOf(merchantId, number)) ?? new Map();
  ids.set(token.tokenId, performance.now() + token.expiresIn.seconds * 1_000);
  if (ids.size > REJECTED_MAX) ids.delete(ids.keys().next().value);
  rejected.set(userOf(merchantId, number), ids);
}

function getToken(broker, merchantId, number) {
  // Named with each call: replicas hold tokens of their own, and any of them may answer.
  const dead = rejected.get(userOf(merchantId, number)) ?? new Map();
  const rejectedTokenIds = [...dead].filter(([, end]) => end > performance.now()).map(([id]) => id);
  return new Promise((resolve, refuse) => {
    broker.getToken({ merchantId, number, rejectedTokenIds }, { deadline: Date.now() + CALL_MS }, (error, reply) => {
      if (error) return refuse(error);
      // The vault insists on it: named again, it would only cost a sign-in with each call.
      if (rejectedTokenIds.includes(reply.token.tokenId)) dead.delete(reply.token.tokenId);
      resolve(reply.token);
    });
  });
}

// The broker's reason and the seconds to wait, where it says so; nothing if no broker answered.
function reasonAndWait(error) {
  const found = {};
  const [packed] = error.metadata?.get('grpc-status-details-bin') ?? [];
  for (const { type_url, value } of packed ? types['google.rpc.Status'].deserialize(packed).details : []) {
    const detail = types[type_url.split('/')[1]].deserialize(value);
    if (detail.reason) found.reason = detail.reason;
    if (detail.retryDelay) found.wait = Number(detail.retryDelay.seconds ?? 0) + (detail.retryDelay.nanos ?? 0) / 1e9;
  }
  return found;
}

// The status of a call of the vault's API.
async function callVault(token) {
  const headers = { authorization: `Bearer ${token.accessToken}` };
  return (await fetch(`${process.env.VAULT_URL}/v1/customer`, { headers, signal: AbortSignal.timeout(10_000) })).status;
}

async function main([merchant, number]) {
  const broker = connect();
  try {
    let token = await getToken(broker, merchant, number);
    let status = await callVault(token);
    // The vault knows this token no more, and maybe none of those that other replicas hold. One that comes back all the same is
    // its last word.
    const complained = new Set();
    while (status === 401 && !complained.has(token.tokenId) && complained.size < REJECTED_MAX) {
      complained.add(token.tokenId);
      reject(merchant, number, token);
      token = await getToken(broker, merchant, number);
      status = await callVault(token);
    }
    console.log(`${status} with token ${token.tokenId}`);
  } catch (error) {
    if (error.code === undefined) throw error;
    const { reason = 'no answer of a broker', wait } = reasonAndWait(error);
    const later = wait ? ` (try again in: ${wait} s)` : '';
    console.error(`${grpc.status[error.code]} ${reason}: ${error.details}${later}`);
    process.exitCode = 1;
  } finally {
    broker.close();
  }
}

module.exports = { connect, getToken, reject, reasonAndWait };
if (require.main === module) main(process.argv.slice(2));
