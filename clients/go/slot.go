package tokenbroker

import (
	"sync"
	"time"
	"unicode/utf8"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
)

// One user's token and what keeps it good: at most one flight to the broker, or one sleeper that begins the next when the token
// is to be renewed and somebody asked lately.
//
// Must never have two calls under way, tie one to whoever asked for it, or let one that failed stand in the way of the next; nor
// displace a good token by anything but its successor or a complaint.

const (
	// A user who was asked for within this time has the token renewed ahead of its end. Whoever asks more rarely waits for a
	// call, or has a token that is still good renewed behind the answer.
	idleAfter = 10 * time.Minute
	// How often a hit looks after a renewal that is due.
	nudgeEvery = time.Second
	// Most complaints that are remembered, and most ids of one call: the contract's.
	complaintsMax = 16
	// Longest of these ids, in characters: the contract's. With another in it the broker refuses the call.
	idMax = 64
	// Most calls of one flight: the second, where the answer was complained of while it came or took longer than the token lives.
	callsMax = 2
)

// complaint is a token that the vault's API rejected.
type complaint struct {
	id string
	// When it would have ended.
	ends time.Time
	// Whether calls name it: until the broker has answered with it all the same, and never where the contract takes no such id.
	named bool
}

// flight is what callers wait for.
type flight struct {
	done chan struct{}
	// Set before done is closed: one of them.
	token   *Token
	failure *Error
}

func (f *flight) land(token *Token, failure *Error) {
	f.token, f.failure = token, failure
	close(f.done)
}

// asker calls the broker, and then done: from another goroutine, so that whoever has it call may hold a lock.
type asker interface {
	ask(user User, rejected []string, done func(*pb.Token, error))
}

// shared is what all slots share.
type shared struct {
	asker   asker
	clock   clock
	jitter  func() float64
	counted counted
}

type slot struct {
	user   User
	shared *shared

	mu     sync.Mutex
	held   *Token
	asked  time.Time
	nudged time.Time
	flight *flight
	// The renewal to come, and which of them counts.
	sleeper timer
	serial  int
	// The newest last.
	complaints []complaint
	// No call before this, and why.
	stoppedUntil time.Time
	stopped      *Error
	// Failures in a row.
	failures int
	// After an answer, no call before this.
	rested time.Time
	// Whether nobody finds it any more: nothing may begin here.
	gone bool
}

func newSlot(user User, shared *shared) *slot { return &slot{user: user, shared: shared} }

// hit is the token, if it is good. One that is due is renewed behind it.
func (s *slot) hit(now time.Time) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held.isGood(now) {
		return nil
	}
	s.asked = now
	if !now.Before(s.held.life.renew) && now.Sub(s.nudged) >= nudgeEvery {
		s.nudged = now
		if !s.gone && s.flight == nil && s.sleeper == nil && !s.isStopped(now) {
			s.begin(now)
		}
	}
	return s.held
}

// next is the token, why there is none, or what to wait for; nothing of these where the slot is gone.
func (s *slot) next(now time.Time) (*Token, *Error, *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone:
		return nil, nil, nil
	case s.held.isGood(now):
		s.asked = now
		return s.held, nil, nil
	case s.flight == nil && s.isStopped(now):
		s.asked = now
		return nil, s.stopped, nil
	}
	s.asked = now
	if s.flight == nil {
		s.begin(now)
	}
	return nil, nil, s.flight
}

// rejected takes a complaint; whether it is news. Only the token that is held can be complained of: another has gone already.
func (s *slot) rejected(token *Token, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetEnded(now)
	if s.gone || s.held == nil || s.held.id != token.id || s.complaintOf(token.id) != nil {
		return false
	}
	if len(s.complaints) == complaintsMax {
		s.complaints = s.complaints[1:]
	}
	s.complaints = append(s.complaints, complaint{id: token.id, ends: s.held.life.ends, named: canBeNamed(token.id)})
	s.held, s.rested = nil, now
	if s.stopped != nil && isOurOwnPause(s.stopped) {
		// Made up when there was a good token: now somebody waits.
		s.stopped = nil
	}
	if s.flight == nil && !s.isStopped(now) {
		s.begin(now)
	}
	return true
}

// isIdle says whether no call is under way, and when somebody asked last.
func (s *slot) isIdle() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.flight == nil
}

// leave has nothing begin here any more, and whoever waits get this error; not done while a call is under way, unless forced.
func (s *slot) leave(why *Error, force bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil && !force {
		return false
	}
	s.gone = true
	s.wakeNever()
	if s.flight != nil {
		s.flight.land(nil, why)
		s.flight = nil
	}
	return true
}

// begin is the start of a flight, which takes the place of a sleeper. The lock is held.
func (s *slot) begin(now time.Time) {
	s.wakeNever()
	flying := &flight{done: make(chan struct{})}
	s.flight = flying
	if wait := s.rested.Sub(now); wait > 0 {
		s.shared.clock.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.call(flying, 1)
		})
		return
	}
	s.call(flying, 1)
}

// call asks the broker, for the first or the last time in this flight. The lock is held.
func (s *slot) call(flying *flight, calls int) {
	if s.flight != flying {
		return
	}
	sent := s.shared.clock.Now()
	named := s.named(sent)
	s.shared.counted.calls.Add(1)
	s.shared.asker.ask(s.user, named, func(answer *pb.Token, failure error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settle(flying, calls, sent, named, answer, failure)
	})
}

// settle notes what a call brought that began at sent and named these; all under one lock, so that no complaint falls in between.
func (s *slot) settle(flying *flight, calls int, sent time.Time, named []string, answer *pb.Token, failure error) {
	if s.flight != flying {
		return
	}
	now := s.shared.clock.Now()
	if failure != nil {
		s.fail(errorOf(failure), now)
		return
	}
	life := lifeOf(sent, answer, s.shared.jitter())
	hasEnded := !now.Before(life.ends)
	tookLong := now.Sub(sent) >= rest
	isStale := s.isStale(answer.GetTokenId(), named)
	switch {
	case calls < callsMax && (isStale || hasEnded && tookLong):
		s.call(flying, calls+1)
	case hasEnded:
		s.fail(unavailable("the broker's answer holds a token that has ended"+liveLonger), now)
	default:
		s.held = newToken(s.user, answer, life, s.shared.clock)
		s.failures, s.stopped, s.rested = 0, nil, now.Add(rest)
		s.finish(s.held, nil)
		s.sleepUntil(later(life.renew, s.rested), now)
	}
}

// fail notes a failure; where a token is there that is to be renewed, it is tried again.
func (s *slot) fail(failure *Error, now time.Time) {
	s.shared.counted.failures.Add(1)
	hasToken := s.held.isGood(now)
	until := now.Add(pauseAfter(failure, s.failures, hasToken, s.shared.jitter()))
	if hasToken && isOurOwnPause(failure) && s.held.life.ends.Before(until) {
		// Once the token has ended somebody waits for the next.
		until = s.held.life.ends
	}
	s.failures++
	s.stopped, s.stoppedUntil = failure, until
	s.finish(nil, failure)
	if hasToken {
		s.sleepUntil(until, now)
	}
	// Without a token the next who asks begins anew.
}

func (s *slot) finish(token *Token, failure *Error) {
	flying := s.flight
	s.flight = nil
	flying.land(token, failure)
}

// sleepUntil has the next flight begin then, if somebody asked lately.
func (s *slot) sleepUntil(then, now time.Time) {
	s.wakeNever()
	serial := s.serial
	s.sleeper = s.shared.clock.AfterFunc(then.Sub(now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.serial != serial {
			return
		}
		s.sleeper = nil
		if now := s.shared.clock.Now(); now.Sub(s.asked) <= idleAfter {
			s.begin(now)
		}
	})
}

// wakeNever calls the sleeper off, even one that wakes right now.
func (s *slot) wakeNever() {
	s.serial++
	if s.sleeper != nil {
		s.sleeper.Stop()
		s.sleeper = nil
	}
}

func (s *slot) isStopped(now time.Time) bool { return s.stopped != nil && now.Before(s.stoppedUntil) }

func (s *slot) forgetEnded(now time.Time) {
	kept := s.complaints[:0]
	for _, one := range s.complaints {
		if now.Before(one.ends) {
			kept = append(kept, one)
		}
	}
	s.complaints = kept
}

func canBeNamed(id string) bool { return id != "" && utf8.RuneCountInString(id) <= idMax }

func (s *slot) complaintOf(id string) *complaint {
	for at := range s.complaints {
		if s.complaints[at].id == id {
			return &s.complaints[at]
		}
	}
	return nil
}

// named are the ids that a call names, the newest first.
func (s *slot) named(now time.Time) (ids []string) {
	s.forgetEnded(now)
	for at := len(s.complaints) - 1; at >= 0; at-- {
		if s.complaints[at].named {
			ids = append(ids, s.complaints[at].id)
		}
	}
	return ids
}

// isStale says whether this answer was complained of before its call could name it. Where it was named, the vault insists on the
// token: it is believed from now on, or each call would cost a sign-in.
func (s *slot) isStale(id string, named []string) bool {
	one := s.complaintOf(id)
	if one == nil || !one.named {
		return false
	}
	for _, name := range named {
		if name == id {
			one.named = false
		}
	}
	return one.named
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
