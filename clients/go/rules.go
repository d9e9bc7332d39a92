package tokenbroker

// Pure: when a token ends and is renewed, and how long to pause after a failure.
//
// Must never have a token live longer than the broker said, nor name an instant that lets a call follow the last one at once.

import (
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// No token lives longer: the contract's.
	lifetimeMax = 7 * 24 * time.Hour
	// Of its life so much passes before a token is renewed where the broker does not say when, and up to so much more by chance:
	// callers that began together must not come at once. What is left is more than the broker's margin, in which a call may have
	// to wait.
	shareLeast  = 0.75
	shareSpread = 0.1
	// After an answer, the next call for the same user comes no sooner, unless the token was complained of: whatever a broker
	// says of its tokens' lives, it is not asked in a loop.
	rest = time.Second
	// After an answer that no repeat helps against: somebody may have mended its cause, which nobody tells.
	refused = 10 * time.Second
	// A wait that the broker names is kept, but after this long it is asked again: whoever mended the cause may have ended the
	// wait.
	pushbackMax = 10 * time.Minute
	// Such a part of it is added by chance.
	pushbackSpread = 0.1
	// The least part of a pause that jitter leaves: full jitter may say nothing at all, which is no pause.
	jitterLeast = 0.05
)

// backoff is a pause that doubles with each failure in a row.
type backoff struct{ first, longest time.Duration }

var (
	// While there is no token: soon, since somebody waits; and no later than this, since a broker that is back is back.
	withoutToken = backoff{200 * time.Millisecond, 2 * time.Second}
	// After a failed renewal: the token at hand is good, and all callers lost the same broker.
	withToken = backoff{time.Second, 30 * time.Second}
)

// widest is the pause after so many failures before this one, without jitter.
func (b backoff) widest(before int) time.Duration {
	pause := b.first
	for ; before > 0 && pause < b.longest; before-- {
		pause *= 2
	}
	return shorter(pause, b.longest)
}

// pause is the same with full jitter.
func (b backoff) pause(before int, jitter float64) time.Duration {
	return scaled(b.widest(before), clamped(jitter, jitterLeast))
}

// life is the two instants of a token's life that count.
type life struct {
	// From here on it is not handed out.
	ends time.Time
	// From here on it is renewed: not later than its end.
	renew time.Time
}

// lifeOf is the life of a token that a call brought which began at sent: counted from there, since nobody knows how long the
// answer was on its way.
func lifeOf(sent time.Time, answer *pb.Token, jitter float64) life {
	lives, _ := duration(answer.GetExpiresIn())
	lives = shorter(lives, lifetimeMax)
	renew, named := duration(answer.GetRenewIn())
	if !named {
		renew = scaled(lives, shareLeast+shareSpread*clamped(jitter, 0))
	}
	return life{ends: sent.Add(lives), renew: sent.Add(shorter(renew, lives))}
}

// pauseAfter is how long nothing is asked for a user after this failure, the first of before+1 in a row.
func pauseAfter(failure *Error, before int, hasToken bool, jitter float64) time.Duration {
	ours := withoutToken.pause(before, jitter)
	if hasToken {
		ours = withToken.pause(before, jitter)
	}
	if failure.IsPermanent() {
		ours = refused
	}
	named, _ := failure.RetryAfter()
	named = scaled(shorter(named, pushbackMax), 1+pushbackSpread*clamped(jitter, 0))
	if named > ours {
		return named
	}
	return ours
}

// isOurOwnPause says whether the pause after this failure is the back-off alone: neither did the broker name a wait, nor is no
// repeat of use.
func isOurOwnPause(failure *Error) bool {
	_, named := failure.RetryAfter()
	return !named && !failure.IsPermanent()
}

// duration is one of the wire, if it is there and can be.
func duration(wire *durationpb.Duration) (time.Duration, bool) {
	if wire == nil || wire.AsDuration() < 0 {
		return 0, false
	}
	return wire.AsDuration(), true
}

func shorter(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}

func scaled(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// clamped is the jitter as a number from least to 1.
func clamped(jitter, least float64) float64 {
	switch {
	case jitter > 1:
		return 1
	case jitter > least:
		return jitter
	default:
		return least
	}
}
