// A broker of the test's own, over real connections: answers as the test says, and notes what it was asked.

import { Metadata, Server, ServerCredentials, status as CODES } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { fileURLToPath } from 'node:url';

import { CHECK, GET_TOKEN } from '../src/wire.js';

const includeDirs = [fileURLToPath(new URL('../protos', import.meta.url))];
const types = loadSync('google/rpc/error_details.proto', { includeDirs, longs: Number });

// `answer(request)` gives a reply, maybe later, or throws a failure. Ends with the test, however that ends.
export async function serve(t, answer, credentials = ServerCredentials.createInsecure()) {
  const server = new Server();
  const seen = { calls: [], questions: 0, peers: new Set() };
  server.addService({ GetToken: GET_TOKEN }, {
    async GetToken(call, done) {
      seen.calls.push({ request: call.request, authorization: call.metadata.get('authorization')[0] });
      seen.peers.add(call.getPeer());
      try {
        done(null, await answer(call.request));
      } catch (failure) {
        done(failure);
      }
    },
  });
  server.addService({ Check: CHECK }, {
    Check(_call, done) {
      seen.questions += 1;
      done(null, { status: 'SERVING' });
    },
  });
  const port = await new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) => (error ? reject(error) : resolve(bound)));
  });
  t.after(() => server.forceShutdown());
  return { port, seen };
}

export const reply = (tokenId, more = {}) => ({
  token: { accessToken: `secret of ${tokenId}`, tokenId, scope: 'read', expiresIn: { seconds: 60, nanos: 500_000_000 }, ...more },
});

// A failure as the broker sends it, with these messages of google.rpc.
export function failure(code, details, trailers = {}) {
  const packed = Object.entries(details).map(([name, detail]) => ({
    typeUrl: `type.googleapis.com/google.rpc.${name}`,
    value: types[`google.rpc.${name}`].serialize(detail),
  }));
  const metadata = new Metadata();
  const status = { code: CODES[code], message: 'no', details: packed };
  metadata.set('grpc-status-details-bin', types['google.rpc.Status'].serialize(status));
  for (const [key, value] of Object.entries(trailers)) metadata.set(key, value);
  return Object.assign(new Error('no'), { code: CODES[code], details: 'the text', metadata });
}
