package tokenbroker

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestOneCallHoweverManyAsk(t *testing.T) {
	b := newBench(t)
	first, second := b.wait(), b.wait()
	if first != second {
		t.Fatal("they wait for two calls")
	}
	b.broker.take(t).done(answered("a", time.Hour, 0), nil)
	equal(t, first.token.ID(), "a")
	equal(t, b.cached(), "a")
	b.noCall()
	equal(t, b.source.Counts(), Counts{Users: 1, Calls: 1})
}

func TestATokenIsRenewedBehindThoseWhoAskAndEndsOnTime(t *testing.T) {
	b := newBench(t)
	b.held(answered("a", 100*time.Second, 60*time.Second))
	b.clock.advance(59 * time.Second)
	b.noCall()
	b.clock.advance(time.Second)
	equal(t, b.broker.underWay(), 1)
	equal(t, b.cached(), "a")
	b.broker.take(t).done(answered("b", 100*time.Second, 60*time.Second), nil)
	equal(t, b.cached(), "b")
	b.clock.advance(60 * time.Second)
	call := b.broker.take(t)
	b.clock.advance(39 * time.Second)
	equal(t, b.cached(), "b")
	b.clock.advance(time.Second)
	equal(t, b.cached(), "")
	call.done(nil, failed(codes.Unavailable))
	equal(t, b.source.Counts().Failures, 1)
}

func TestALifeIsCountedFromWhenTheCallWasSent(t *testing.T) {
	b := newBench(t)
	flight := b.wait()
	b.clock.advance(8 * time.Second)
	b.broker.take(t).done(answered("a", 10*time.Second, 0), nil)
	equal(t, flight.token.ExpiresIn(), 2*time.Second)
	b.clock.advance(2 * time.Second)
	equal(t, flight.token.ExpiresIn(), 0)
	equal(t, b.cached(), "")
}

func TestWhoAsksRarelyHasItRenewedOnTheNextAsk(t *testing.T) {
	b := newBench(t)
	b.held(answered("a", time.Hour, 30*time.Minute))
	b.clock.advance(31 * time.Minute)
	b.noCall()
	equal(t, b.cached(), "a")
	equal(t, b.broker.underWay(), 1)
	equal(t, b.cached(), "a")
	equal(t, b.broker.underWay(), 1)
}

func TestAFailureIsRepeatedToAllUntilItsPauseIsOver(t *testing.T) {
	b := newBench(t)
	flight := b.wait()
	b.broker.take(t).done(nil, failed(codes.Unavailable))
	equal(t, flight.failure.Code, codes.Unavailable)
	b.clock.advance(199 * time.Millisecond)
	_, failure, _ := b.next()
	equal(t, failure, flight.failure)
	b.noCall()
	b.clock.advance(time.Millisecond)
	b.wait()
	b.broker.take(t).done(nil, failed(codes.NotFound))
	b.clock.advance(9 * time.Second)
	_, failure, _ = b.next()
	equal(t, failure.Code, codes.NotFound)
	b.clock.advance(time.Second)
	b.wait()
	b.broker.take(t).done(answered("a", time.Hour, 0), nil)
	equal(t, b.cached(), "a")
	equal(t, b.source.Counts(), Counts{Users: 1, Calls: 3, Failures: 2})
}

func TestAGoodTokenIsHandedOutWhileEveryBrokerIsDown(t *testing.T) {
	b := newBench(t)
	b.held(answered("a", 100*time.Second, 60*time.Second))
	b.clock.advance(60 * time.Second)
	for _, pause := range []time.Duration{1, 2, 4, 8, 16} {
		equal(t, b.cached(), "a")
		b.broker.take(t).done(nil, failed(codes.Unavailable))
		b.clock.advance(pause*time.Second - 1)
		b.noCall()
		b.clock.advance(1)
	}
	// The next pause would outlast the token: it is cut, since then somebody waits.
	b.broker.take(t).done(nil, failed(codes.Unavailable))
	b.clock.advance(9 * time.Second)
	equal(t, b.cached(), "")
	equal(t, b.broker.underWay(), 1)
}

func TestAnAnswerIsFollowedByNoOtherCallAtOnce(t *testing.T) {
	b := newBench(t)
	// A token that is due from the start, and one that ends at once.
	b.held(answered("a", 100*time.Second, time.Nanosecond))
	b.clock.advance(999 * time.Millisecond)
	equal(t, b.cached(), "a")
	b.noCall()
	b.clock.advance(time.Millisecond)
	b.broker.take(t).done(answered("b", 500*time.Millisecond, 0), nil)
	b.clock.advance(500 * time.Millisecond)
	flight := b.wait()
	b.noCall()
	b.clock.advance(500 * time.Millisecond)
	b.broker.take(t).done(answered("c", time.Hour, 0), nil)
	equal(t, flight.token.ID(), "c")
}

func TestAnAnswerThatHasEndedIsAFailure(t *testing.T) {
	b := newBench(t)
	flight := b.wait()
	b.broker.take(t).done(answered("a", 0, 0), nil)
	equal(t, flight.failure.IsTemporary(), true)
	b.clock.advance(time.Minute)
	flight = b.wait()
	// It took longer than the token lives: asked again at once, but once only.
	b.clock.advance(2 * time.Second)
	b.broker.take(t).done(answered("a", time.Second, 0), nil)
	b.clock.advance(2 * time.Second)
	b.broker.take(t).done(answered("a", time.Second, 0), nil)
	equal(t, isOver(flight), true)
	equal(t, flight.failure.IsTemporary(), true)
	b.noCall()
}

func TestAComplaintHasTheNextTokenAskedForAtOnce(t *testing.T) {
	b := newBench(t)
	first := b.held(answered("a", time.Hour, 0))
	equal(t, b.source.Rejected(first), true)
	equal(t, b.source.Rejected(first), false)
	equal(t, b.cached(), "")
	call := b.broker.take(t)
	equal(t, fmt.Sprint(call.rejected), "[a]")
	call.done(answered("b", time.Hour, 0), nil)
	equal(t, b.cached(), "b")
	// It has been replaced: not news.
	equal(t, b.source.Rejected(first), false)
	equal(t, b.source.Counts(), Counts{Users: 1, Calls: 2, Complaints: 1})
	// It is named until it would have ended.
	second, _ := b.source.Cached(someUser.MerchantID(), someUser.Number())
	b.clock.advance(59 * time.Minute)
	equal(t, b.source.Rejected(second), true)
	call = b.broker.take(t)
	equal(t, fmt.Sprint(call.rejected), "[b a]")
	b.clock.advance(time.Minute)
	call.done(nil, failed(codes.Unavailable))
	b.clock.advance(time.Minute)
	b.wait()
	equal(t, len(b.broker.take(t).rejected), 0)
}

func TestATokenThatTheVaultInsistsOnIsBelieved(t *testing.T) {
	b := newBench(t)
	first := b.held(answered("a", time.Hour, 30*time.Minute))
	b.source.Rejected(first)
	b.broker.take(t).done(answered("a", time.Hour, time.Second), nil)
	equal(t, b.cached(), "a")
	equal(t, b.source.Rejected(first), false)
	b.clock.advance(time.Second)
	equal(t, len(b.broker.take(t).rejected), 0)
}

func TestAnAnswerComplainedOfBeforeTheCallCouldNameItMakesASecondCall(t *testing.T) {
	b := newBench(t)
	first := b.held(answered("a", time.Hour, time.Minute))
	b.clock.advance(time.Minute)
	call := b.broker.take(t)
	equal(t, len(call.rejected), 0)
	equal(t, b.source.Rejected(first), true)
	b.noCall()
	flight := b.wait()
	call.done(answered("a", time.Hour, time.Minute), nil)
	equal(t, isOver(flight), false)
	call = b.broker.take(t)
	equal(t, fmt.Sprint(call.rejected), "[a]")
	call.done(answered("b", time.Hour, time.Minute), nil)
	equal(t, flight.token.ID(), "b")
}

func TestComplaintsAreSixteenAtMost(t *testing.T) {
	b := newBench(t)
	token := b.held(answered("0", time.Hour, 0))
	var wanted []string
	for n := 1; n <= 20; n++ {
		equal(t, b.source.Rejected(token), true)
		call := b.broker.take(t)
		wanted = append([]string{fmt.Sprint(n - 1)}, wanted...)
		if len(wanted) > 16 {
			wanted = wanted[:16]
		}
		if !reflect.DeepEqual(call.rejected, wanted) {
			t.Fatalf("%v, and not %v", call.rejected, wanted)
		}
		call.done(answered(fmt.Sprint(n), time.Hour, 0), nil)
		token, _ = b.source.Cached(someUser.MerchantID(), someUser.Number())
	}
}

func TestAnIDThatTheContractDoesNotTakeIsNamedInNoCall(t *testing.T) {
	for id, isNamed := range map[string]bool{
		"": false, strings.Repeat("é", 64): true, strings.Repeat("x", 65): false,
	} {
		b := newBench(t)
		token := b.held(answered(id, time.Hour, 0))
		equal(t, b.source.Rejected(token), true)
		call := b.broker.take(t)
		equal(t, len(call.rejected) == 1, isNamed)
		// The broker can't be told: its answer is believed, or each call would be made twice.
		call.done(answered(id, time.Hour, 0), nil)
		b.noCall()
		equal(t, b.cached(), id)
		equal(t, b.source.Rejected(token), false)
	}
}

func TestAComplaintEndsThePauseThatWasMadeUpBehindAGoodToken(t *testing.T) {
	b := newBench(t)
	first := b.held(answered("a", time.Hour, time.Minute))
	b.clock.advance(time.Minute)
	b.broker.take(t).done(nil, failed(codes.Unavailable))
	b.source.Rejected(first)
	equal(t, fmt.Sprint(b.broker.take(t).rejected), "[a]")
	// But not one that helps against nothing.
	b = newBench(t)
	first = b.held(answered("a", time.Hour, time.Minute))
	b.clock.advance(time.Minute)
	b.broker.take(t).done(nil, failed(codes.NotFound))
	b.source.Rejected(first)
	b.noCall()
	_, failure, _ := b.next()
	equal(t, failure.Code, codes.NotFound)
}

func TestASleeperThatWakesAsItIsCalledOffBeginsNothing(t *testing.T) {
	b := newBench(t)
	first := b.held(answered("a", time.Hour, time.Minute))
	wakes := b.clock.timers[0].f
	b.source.Rejected(first)
	b.broker.take(t).done(nil, failed(codes.NotFound))
	wakes()
	b.noCall()
}
