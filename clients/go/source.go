package tokenbroker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Most calls of Warm at once: it may be called with all users there are.
	warmAtOnce = 32
	// How often a caller begins again whose slot was forgotten, or whose token ended before it could be had.
	tries = 3
)

// What callers use. Must never have a caller wait longer than it wants to, nor tie a call to it.

// TokenSource has tokens, from memory as far as they are there. Make one for the process: it is for all goroutines at once.
type TokenSource struct {
	users   userMap
	shared  *shared
	timeout time.Duration
	close   func()
	once    sync.Once
}

type counted struct{ calls, failures, complaints atomic.Int64 }

// Counts is what a source has done so far.
type Counts struct {
	// Users that it knows.
	Users int
	// Calls to the broker.
	Calls int64
	// Failures are those, with their repeats, that brought no token.
	Failures int64
	// Complaints are tokens that were complained of.
	Complaints int64
}

// New is a source of these options. Nothing is read and nobody is asked before the first token is: Warm shows whether all is
// well.
func New(options Options) (*TokenSource, error) {
	endpoints, err := options.checked()
	if err != nil {
		return nil, err
	}
	if fault := newDialer(options.UseProxy, endpoints).fault(); fault != nil {
		return nil, fault
	}
	timeout, callTime := options.times()
	random := jitter()
	brokers := newBrokers(options, endpoints, callTime, random)
	source := over(brokers, realClock{}, random, timeout)
	source.close = brokers.close
	return source, nil
}

// over is a source over whatever answers as a broker does.
func over(asker asker, clock clock, jitter func() float64, timeout time.Duration) *TokenSource {
	return &TokenSource{
		users:   userMap{slots: map[names]*slot{}},
		shared:  &shared{asker: asker, clock: clock, jitter: jitter},
		timeout: timeout,
		close:   func() {},
	}
}

// Token is this user's token: the one in memory, or the one that the broker has. It waits for as long as the context and the
// source's timeout let it. Whoever stops waiting changes nothing for the others: the call goes on.
//
// An error is an *Error. For a while after a failure it is repeated, and the broker is not asked.
func (s *TokenSource) Token(ctx context.Context, merchantID, number string) (*Token, error) {
	user, began := names{merchantID, number}, s.shared.clock.Now()
	if token := s.cached(user, began); token != nil {
		return token, nil
	}
	if ctx.Err() != nil {
		// Nobody waits for a call that would begin now.
		return nil, gaveUp(ctx.Err(), 0)
	}
	late := make(chan struct{})
	timer := s.shared.clock.AfterFunc(s.timeout, func() { close(late) })
	defer timer.Stop()
	for try := 0; try < tries; try++ {
		slot := s.users.getOrAdd(user, s.shared)
		if slot == nil {
			return nil, closed()
		}
		token, failure, flight := slot.next(s.shared.clock.Now())
		if flight != nil {
			select {
			case <-flight.done:
				token, failure = flight.token, flight.failure
			case <-ctx.Done():
				return nil, gaveUp(ctx.Err(), s.shared.clock.Now().Sub(began))
			case <-late:
				return nil, gaveUp(context.DeadlineExceeded, s.timeout)
			}
		}
		switch {
		case failure != nil:
			return nil, failure
		case token.isGood(s.shared.clock.Now()):
			return token, nil
		}
	}
	return nil, unavailable("each token had ended before it could be handed out" + liveLonger)
}

// Cached is this user's token if it is in memory and good; never waits. One that is due is renewed behind it.
func (s *TokenSource) Cached(merchantID, number string) (*Token, bool) {
	token := s.cached(names{merchantID, number}, s.shared.clock.Now())
	return token, token != nil
}

func (s *TokenSource) cached(user names, now time.Time) *Token {
	if slot := s.users.get(user); slot != nil {
		return slot.hit(now)
	}
	return nil
}

// Rejected takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether that
// is news: of a token that was complained of before, or that was replaced in the meantime, a complaint does nothing.
//
// Where the vault insists on the token, it is handed out again, and not asked about any more.
func (s *TokenSource) Rejected(token *Token) bool {
	slot := s.users.get(token.user.named())
	if slot == nil || !slot.rejected(token, s.shared.clock.Now()) {
		return false
	}
	s.shared.counted.complaints.Add(1)
	return true
}

// WarmError is who has no token, and why.
type WarmError struct {
	Users  []User
	Errors []error
}

// Error tells of each user, a line each.
func (e *WarmError) Error() string {
	lines := make([]string, len(e.Users))
	for at, user := range e.Users {
		lines[at] = fmt.Sprintf("%v: %v", user, e.Errors[at])
	}
	return strings.Join(lines, "\n")
}

// Unwrap is the first of the errors.
func (e *WarmError) Unwrap() error { return e.Errors[0] }

// Warm has the tokens of these users in memory, as far as there are any: for a start. Calls go out a few at a time. An error is a
// *WarmError.
func (s *TokenSource) Warm(ctx context.Context, users []User) error {
	began := s.shared.clock.Now()
	failures := make([]error, len(users))
	places := make(chan struct{}, warmAtOnce)
	var all sync.WaitGroup
	for at, user := range users {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			// What is under way goes on: each place that it leaves would be taken by a call more.
			failures[at] = gaveUp(ctx.Err(), s.shared.clock.Now().Sub(began))
			continue
		}
		all.Add(1)
		go func(at int, user User) {
			defer all.Done()
			_, failures[at] = s.Token(ctx, user.MerchantID(), user.Number())
			<-places
		}(at, user)
	}
	all.Wait()
	var failed WarmError
	for at, failure := range failures {
		if failure != nil {
			failed.Users, failed.Errors = append(failed.Users, users[at]), append(failed.Errors, failure)
		}
	}
	if len(failed.Users) > 0 {
		return &failed
	}
	return nil
}

// Counts is what it has done so far.
func (s *TokenSource) Counts() Counts {
	counted := &s.shared.counted
	return Counts{s.users.len(), counted.calls.Load(), counted.failures.Load(), counted.complaints.Load()}
}

// String is what it has done so far: without its users.
func (s *TokenSource) String() string { return fmt.Sprintf("TokenSource%+v", s.Counts()) }

// Format prints the same whatever the verb: fmt would look into the users.
func (s *TokenSource) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// Close ends everything: calls that are under way, connections, renewals. Whoever waits, or asks from now on, gets an error.
func (s *TokenSource) Close() {
	s.once.Do(func() {
		s.users.close(closed())
		s.close()
	})
}
