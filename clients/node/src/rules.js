// Pure: when a token ends and is renewed, and how long to pause after a failure. Times are in milliseconds.
//
// Must never have a token live longer than the broker said, nor name an instant that lets a call follow the last one at once.

// No token lives longer: the contract's.
const LIFETIME_MAX = 7 * 24 * 3_600_000;
// Of its life so much passes before a token is renewed, where the broker does not say when …
const SHARE_LEAST = 0.75;
// … and up to so much more, by chance, so that callers who began together do not come at once.
const SHARE_SPREAD = 0.1;
// After an answer, the next call for the same user comes no sooner, unless the token was complained of: whatever a broker says of
// its tokens' lives, it is not asked in a loop.
export const REST = 1_000;
// After a failure while there is no token: soon, since somebody waits; and no later than this, since a broker that is back is
// back.
const WITHOUT_TOKEN = { first: 200, longest: 2_000 };
// After a failed renewal: the token at hand is good, and all callers lost the same broker.
const WITH_TOKEN = { first: 1_000, longest: 30_000 };
// After an answer that no repeat helps against: somebody may have mended its cause, which nobody tells.
const REFUSED = 10_000;
// A wait that the broker names is kept, but it is asked again after this long: whoever mended the cause may have ended the wait.
const PUSHBACK_MAX = 10 * 60_000;
// Such a part of it is added by chance.
const PUSHBACK_SPREAD = 0.1;
// Least part of a pause that chance leaves: full jitter may say nothing at all, which is no pause.
const JITTER_LEAST = 0.05;

const between = (least, value, most) => Math.min(Math.max(value, least), most);

// The two instants of a token's life that count, for a call that began at `sent`: counted from there, since nobody knows how long
// the answer was on its way. `chance` is 0 to 1, here and below.
export function life(sent, { expiresInMs, renewInMs }, chance) {
  const lives = between(0, expiresInMs ?? 0, LIFETIME_MAX);
  const share = SHARE_LEAST + SHARE_SPREAD * between(0, chance, 1);
  const renew = renewInMs === undefined ? lives * share : between(0, renewInMs, lives);
  return { ends: sent + lives, renew: sent + renew };
}

// The pause after so many failures before this one, doubling, with full jitter.
export function backoff({ first, longest }, failures, chance) {
  return Math.min(first * 2 ** failures, longest) * between(JITTER_LEAST, chance, 1);
}

// How long the source asks nothing for a user after this failure, the first of `before` + 1 in a row.
export function pause(error, before, hasToken, chance) {
  const ours = error.isPermanent ? REFUSED : backoff(hasToken ? WITH_TOKEN : WITHOUT_TOKEN, before, chance);
  const named = Math.min(error.retryAfterMs ?? 0, PUSHBACK_MAX) * (1 + PUSHBACK_SPREAD * between(0, chance, 1));
  return Math.max(named, ours);
}
