package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestACallerWhoGivesUpEndsNoCall(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := b.source.Token(ctx, someUser.MerchantID(), someUser.Number())
		ended <- err
	}()
	for b.broker.underWay() == 0 {
		runtime.Gosched()
	}
	cancel()
	err := <-ended
	var failure *Error
	if !errors.As(err, &failure) || failure.Code != codes.Canceled || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.broker.take(t).done(answered("a", time.Hour, 0), nil)
	token, err := b.source.Token(cancelled(), someUser.MerchantID(), someUser.Number())
	if err != nil || token.ID() != "a" {
		t.Fatal(token, err)
	}
}

func TestACallerWhoHasGivenUpBeginsNoCall(t *testing.T) {
	b := newBench(t)
	_, err := b.source.Token(cancelled(), someUser.MerchantID(), someUser.Number())
	equal(t, errors.Is(err, context.Canceled), true)
	b.noCall()
}

func TestNobodyWaitsLongerThanTheTimeout(t *testing.T) {
	b := newBench(t)
	ended := make(chan error)
	go func() {
		_, err := b.source.Token(context.Background(), someUser.MerchantID(), someUser.Number())
		ended <- err
	}()
	b.clock.awaitTimers(1)
	b.clock.advance(testTimeout)
	var failure *Error
	if err := <-ended; !errors.As(err, &failure) || failure.Code != codes.DeadlineExceeded || !failure.IsTemporary() {
		t.Fatal(err)
	}
	equal(t, b.clock.pending(), 0)
}

func TestCloseEndsEverything(t *testing.T) {
	b := newBench(t)
	b.held(answered("a", time.Hour, time.Minute))
	equal(t, b.clock.pending(), 1)
	other := b.source.users.getOrAdd(names{"m", "+1"}, b.source.shared)
	_, _, flight := other.next(b.clock.Now())
	call := b.broker.take(t)
	b.source.Close()
	b.source.Close()
	equal(t, flight.failure.Code, codes.Canceled)
	call.done(answered("b", time.Hour, 0), nil)
	equal(t, b.clock.pending(), 0)
	_, err := b.source.Token(context.Background(), someUser.MerchantID(), someUser.Number())
	var failure *Error
	if !errors.As(err, &failure) || failure.Code != codes.Canceled {
		t.Fatal(err)
	}
	equal(t, b.cached(), "")
	b.noCall()
}

func TestWarmTellsWhoHasNone(t *testing.T) {
	b := newBench(t)
	ended := make(chan error)
	users := []User{NewUser("m", "+447871230001"), NewUser("m", "+447871230002")}
	go func() { ended <- b.source.Warm(context.Background(), users) }()
	for b.broker.underWay() < 2 {
		b.clock.awaitTimers(2)
	}
	for _, call := range b.broker.calls {
		if call.user.named() == users[0].named() {
			call.done(answered("a", time.Hour, 0), nil)
		} else {
			call.done(nil, failed(codes.NotFound))
		}
	}
	var warm *WarmError
	var failure *Error
	err := <-ended
	if !errors.As(err, &warm) || !errors.As(err, &failure) || failure.Code != codes.NotFound {
		t.Fatal(err)
	}
	equal(t, fmt.Sprint(warm.Users), "[m …0002]")
}

func TestAWarmThatIsGivenUpHasNoMoreCallsUnderWayThanItMay(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	users := make([]User, 5_000)
	for at := range users {
		users[at] = NewUser("m", fmt.Sprintf("+44%09d", at))
	}
	ended := make(chan error)
	go func() { ended <- b.source.Warm(ctx, users) }()
	for b.broker.underWay() < warmAtOnce {
		runtime.Gosched()
	}
	cancel()
	var warm *WarmError
	if err := <-ended; !errors.As(err, &warm) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	equal(t, len(warm.Users), len(users))
	equal(t, b.broker.underWay(), warmAtOnce)
}

func TestUsersAreBoundedAndWhoIsCalledForStays(t *testing.T) {
	b := newBench(t)
	user := func(n int) names { return names{"m", fmt.Sprintf("+44%09d", n)} }
	slots := map[int]*slot{}
	for n := 0; n <= usersMax; n++ {
		slots[n] = b.source.users.getOrAdd(user(n), b.source.shared)
		if n == 0 {
			slots[n].next(b.clock.Now())
		}
		b.clock.advance(time.Second)
	}
	equal(t, b.source.Counts().Users, usersMax+1-forgotten)
	for n := 0; n <= usersMax; n++ {
		known := b.source.users.get(user(n)) != nil
		equal(t, known, n == 0 || n > forgotten)
		token, failure, flight := slots[1].next(b.clock.Now())
		equal(t, token == nil && failure == nil && flight == nil, true)
	}
	equal(t, b.broker.underWay(), 1)
}

// Whatever happens in whatever order: one call at a time for a user, none in a loop, and no token that has ended or that was
// complained of.
func TestRandomHistories(t *testing.T) {
	for seed := int64(0); seed < 300; seed++ {
		random := rand.New(rand.NewSource(seed))
		b := newBench(t)
		var handedOut []*Token
		var soonest time.Time
		calls := int64(0)
		answeredAt := map[bool]int{}
		for step := 0; step < 300; step++ {
			b.lot = random.Float64()
			complained := false
			switch random.Intn(6) {
			case 0:
				b.clock.advance(time.Duration(random.Int63n(int64(20 * time.Second))))
			case 1:
				b.clock.advance(time.Duration(random.Int63n(int64(300 * time.Millisecond))))
			case 2:
				if token, _, _ := b.next(); token != nil {
					handedOut = append(handedOut, token)
				}
			case 3:
				if token, is := b.source.Cached(someUser.MerchantID(), someUser.Number()); is {
					handedOut = append(handedOut, token)
					equal(t, token.ExpiresIn() > 0, true)
				}
			case 4:
				if len(handedOut) > 0 {
					complained = b.source.Rejected(handedOut[len(handedOut)-1])
				}
			case 5:
				if b.broker.underWay() > 0 {
					call := b.broker.take(t)
					before := b.source.Counts().Calls
					ok := random.Intn(3) > 0
					answeredAt[ok]++
					if ok {
						id := fmt.Sprint(random.Intn(4))
						upTo30s := func() time.Duration { return time.Duration(random.Int63n(int64(30 * time.Second))) }
						call.done(answered(id, upTo30s(), upTo30s()), nil)
					} else {
						call.done(nil, failed([]codes.Code{codes.Unavailable, codes.NotFound}[random.Intn(2)]))
					}
					if b.source.Counts().Calls == before {
						// At the very least the shortest pause, 5 % of 200 ms.
						soonest = b.clock.Now().Add(10 * time.Millisecond)
					}
					calls = b.source.Counts().Calls
				}
			}
			if b.broker.underWay() > 1 {
				t.Fatalf("seed %d: %d calls at once", seed, b.broker.underWay())
			}
			if now := b.source.Counts().Calls; now > calls && !complained && b.clock.Now().Before(soonest) {
				t.Fatalf("seed %d: a call at once after the last", seed)
			} else {
				calls = now
			}
		}
		equal(t, answeredAt[true] > 0, true)
	}
}
