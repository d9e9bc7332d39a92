package tokenbroker

import (
	"math"
	"testing"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestATokenLivesNoLongerThanTheBrokerSays(t *testing.T) {
	sent := time.Unix(1_000, 0)
	seconds := func(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }
	for _, c := range []struct {
		expires, renew       *durationpb.Duration
		jitter               float64
		wantEnds, wantRenews int
	}{
		{seconds(1_000), nil, 0, 1_000, 750},
		{seconds(1_000), nil, 1, 1_000, 850},
		{seconds(1_000), nil, 99, 1_000, 850},
		{seconds(1_000), nil, -1, 1_000, 750},
		{seconds(-1), nil, 1, 0, 0},
		{nil, nil, 1, 0, 0},
		{seconds(math.MaxInt64), seconds(5), 1, 7 * 24 * 3_600, 5},
		// The broker has drawn its own lot.
		{seconds(1_000), seconds(900), 0, 1_000, 900},
		{seconds(1_000), seconds(900), 1, 1_000, 900},
		{seconds(1_000), seconds(2_000), 1, 1_000, 1_000},
		{seconds(1_000), seconds(-1), 1, 1_000, 850},
	} {
		got := lifeOf(sent, &pb.Token{ExpiresIn: c.expires, RenewIn: c.renew}, c.jitter)
		want := life{sent.Add(time.Duration(c.wantEnds) * time.Second), sent.Add(time.Duration(c.wantRenews) * time.Second)}
		if got != want {
			t.Errorf("%v: %v, and not %v", c, got, want)
		}
	}
}

func TestAPauseIsTheBrokersOrDoublesAndIsNeverNone(t *testing.T) {
	failure := func(code codes.Code, wait time.Duration) *Error {
		e := &Error{Kind: KindBroker, Code: code}
		if wait >= 0 {
			e.retryAfter = &wait
		}
		return e
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		failure  *Error
		before   int
		hasToken bool
		jitter   float64
		want     time.Duration
	}{
		{failure(codes.Unavailable, -1), 0, false, 1, 200 * ms},
		{failure(codes.Unavailable, -1), 2, false, 1, 800 * ms},
		{failure(codes.Unavailable, -1), 30, false, 1, 2 * time.Second},
		{failure(codes.Unavailable, -1), 0, false, 0, 10 * ms},
		{failure(codes.Unavailable, -1), 0, true, 1, time.Second},
		{failure(codes.DeadlineExceeded, -1), math.MaxInt, true, 1, 30 * time.Second},
		{failure(codes.NotFound, -1), 0, false, 0, 10 * time.Second},
		{failure(codes.Unavailable, 7*time.Second), 0, false, 0, 7 * time.Second},
		{failure(codes.Unavailable, 7*time.Second), 0, true, 1, 7_700 * ms},
		{failure(codes.Unavailable, 0), 0, false, 0, 10 * ms},
		{failure(codes.ResourceExhausted, 24*time.Hour), 0, true, 0, 10 * time.Minute},
		{failure(codes.FailedPrecondition, time.Second), 0, true, 0, 10 * time.Second},
		{configurationError("CAFile", "", ""), 0, false, 1, 10 * time.Second},
	} {
		if got := pauseAfter(c.failure, c.before, c.hasToken, c.jitter); got != c.want {
			t.Errorf("%v %d %v %v: %v, and not %v", c.failure, c.before, c.hasToken, c.jitter, got, c.want)
		}
	}
}
