// Steady calls as a Node service makes them: node steady.js RATE USERS MERCHANT, until standard input ends; then one line of JSON.
//
// With the client and the call that examples/callers/node shows, by its path in CALLER. It must never slow down when the broker
// does: a call begins when it is due, and its time counts from then.
'use strict';

const { connect, getToken, reasonAndWait } = require(process.env.CALLER);
const { status } = require('@grpc/grpc-js');

const [rate, users, merchant] = process.argv.slice(2);
const broker = connect();
const seen = { calls: 0, slowest_ms: 0, failed: {} };
const underWay = new Set();

async function call(number, due) {
  const asked = Date.now();
  let failure;
  try {
    const { expiresAt } = await getToken(broker, merchant, number);
    if (expiresAt.seconds * 1e3 + expiresAt.nanos / 1e6 <= asked) failure = 'an expired token';
  } catch (error) {
    failure = `${status[error.code]} ${reasonAndWait(error).reason}: ${error.details}`;
  }
  seen.calls += 1;
  seen.slowest_ms = Math.max(seen.slowest_ms, Math.round((performance.now() - due) * 10) / 10);
  if (failure) seen.failed[failure] = (seen.failed[failure] ?? 0) + 1;
}

let turn = 0;
const began = performance.now();
// Timers are late: as many calls as are due by now.
const timer = setInterval(() => {
  for (const now = performance.now(); began + (turn * 1e3) / rate <= now; turn += 1) {
    const one = call(`+44700${String(turn % users).padStart(8, '0')}`, now).finally(() => underWay.delete(one));
    underWay.add(one);
  }
}, 2);

process.stdin.resume().on('end', async () => {
  clearInterval(timer);
  await Promise.all(underWay);
  broker.close();
  console.log(JSON.stringify(seen));
});
