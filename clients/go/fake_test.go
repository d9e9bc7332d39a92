package tokenbroker

import (
	"context"
	"sort"
	"sync"
	"testing"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A clock that a test moves, and a broker that answers when a test says so: no test sleeps.

const testTimeout = 30 * time.Second

type fakeClock struct {
	mu     sync.Mutex
	set    *sync.Cond
	now    time.Time
	timers []*fakeTimer
}

type fakeTimer struct {
	clock *fakeClock
	at    time.Time
	f     func()
}

func newFakeClock() *fakeClock {
	clock := &fakeClock{now: time.Unix(1_000_000, 0)}
	clock.set = sync.NewCond(&clock.mu)
	return clock
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	added := &fakeTimer{c, c.now.Add(d), f}
	c.timers = append(c.timers, added)
	c.set.Broadcast()
	return added
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	for at, one := range t.clock.timers {
		if one == t {
			t.clock.timers = append(t.clock.timers[:at], t.clock.timers[at+1:]...)
			return true
		}
	}
	return false
}

// advance moves the clock, from timer to timer.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	until := c.now.Add(d)
	for {
		sort.SliceStable(c.timers, func(a, b int) bool { return c.timers[a].at.Before(c.timers[b].at) })
		if len(c.timers) == 0 || c.timers[0].at.After(until) {
			break
		}
		due := c.timers[0]
		c.timers = c.timers[1:]
		if due.at.After(c.now) {
			c.now = due.at
		}
		c.mu.Unlock()
		due.f()
		c.mu.Lock()
	}
	c.now = until
	c.mu.Unlock()
}

// awaitTimers waits until so many are set.
func (c *fakeClock) awaitTimers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.timers) < n {
		c.set.Wait()
	}
}

func (c *fakeClock) pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// asking is a call that is under way.
type asking struct {
	user     User
	rejected []string
	done     func(*pb.Token, error)
}

type fakeBroker struct {
	mu    sync.Mutex
	calls []asking
}

func (b *fakeBroker) ask(user User, rejected []string, done func(*pb.Token, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, asking{user, rejected, done})
}

func (b *fakeBroker) underWay() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.calls)
}

// take is the one call that is under way, which the test answers.
func (b *fakeBroker) take(t *testing.T) asking {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.calls) != 1 {
		t.Fatalf("%d calls are under way, and not 1", len(b.calls))
	}
	call := b.calls[0]
	b.calls = nil
	return call
}

// bench is a source of a test.
type bench struct {
	*testing.T
	clock  *fakeClock
	broker *fakeBroker
	source *TokenSource
	lot    float64
}

var someUser = NewUser("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999")

func newBench(t *testing.T) *bench {
	b := &bench{T: t, clock: newFakeClock(), broker: &fakeBroker{}, lot: 1}
	b.source = over(b.broker, b.clock, func() float64 { return b.lot }, testTimeout)
	return b
}

// next is what somebody who asks is told at once.
func (b *bench) next() (*Token, *Error, *flight) {
	return b.source.users.getOrAdd(someUser.named(), b.source.shared).next(b.clock.Now())
}

// wait is what somebody who asks waits for.
func (b *bench) wait() *flight {
	b.Helper()
	token, failure, flight := b.next()
	if flight == nil {
		b.Fatalf("nothing to wait for: %v %v", token, failure)
	}
	return flight
}

func (b *bench) cached() string {
	if token, is := b.source.Cached(someUser.MerchantID(), someUser.Number()); is {
		return token.ID()
	}
	return ""
}

// held has the source hold this token.
func (b *bench) held(answer *pb.Token) *Token {
	b.Helper()
	b.wait()
	b.broker.take(b.T).done(answer, nil)
	token, is := b.source.Cached(someUser.MerchantID(), someUser.Number())
	if !is {
		b.Fatal("the token is not held")
	}
	return token
}

func (b *bench) noCall() {
	b.Helper()
	if n := b.broker.underWay(); n != 0 {
		b.Fatalf("%d calls are under way, and not 0", n)
	}
}

func answered(id string, expiresIn, renewIn time.Duration) *pb.Token {
	token := &pb.Token{AccessToken: "secret of " + id, TokenId: id, Scope: "read", ExpiresIn: durationpb.New(expiresIn)}
	if renewIn > 0 {
		token.RenewIn = durationpb.New(renewIn)
	}
	return token
}

func failed(code codes.Code) error { return status.Error(code, "no") }

func isOver(f *flight) bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func equal[T comparable](t *testing.T, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Fatalf("%v, and not %v", got, wanted)
	}
}
