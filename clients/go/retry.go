package tokenbroker

import (
	"context"
	"strconv"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// gRPC's retry policy, as docs/callers.md has it: what the broker says is obeyed. Done here, since grpc-go before 1.40 has it
// only where the environment says GRPC_GO_RETRY=on, which nobody would; so all versions do the same.
//
// Must never repeat what the broker says no repeat helps against, nor wait beyond the call's time.

const (
	// A call and its repeats.
	attemptsMax = 4
	// The broker's word on when to try again, in milliseconds; negative for "don't".
	pushbackKey = "grpc-retry-pushback-ms"
)

// For failures without that word: a broker that goes away, or none there.
var betweenAttempts = backoff{100 * time.Millisecond, time.Second}

// getToken is the call with its repeats. Asking twice does no harm.
func getToken(
	ctx context.Context, stub pb.TokenBrokerServiceClient, request *pb.GetTokenRequest, jitter func() float64,
) (*pb.GetTokenResponse, error) {
	withoutWord := 0
	for attempt := 1; ; attempt++ {
		var trailer metadata.MD
		reply, err := stub.GetToken(ctx, request, grpc.Trailer(&trailer))
		if err == nil || attempt == attemptsMax {
			return reply, err
		}
		wait, isNamed, again := repeat(status.Code(err), trailer.Get(pushbackKey))
		if !again {
			return reply, err
		}
		if isNamed {
			withoutWord = 0
		} else {
			wait = scaled(betweenAttempts.widest(withoutWord), jitter())
			withoutWord++
		}
		if deadline, isSet := ctx.Deadline(); isSet && time.Until(deadline) <= wait {
			// What the broker said tells more than that the time is over.
			return reply, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return reply, err
		}
	}
}

// repeat is whether to ask again, and after which wait, if the broker names one.
func repeat(code codes.Code, pushback []string) (wait time.Duration, isNamed, again bool) {
	if code != codes.Unavailable && code != codes.ResourceExhausted {
		return 0, false, false
	}
	if len(pushback) == 0 {
		return 0, false, true
	}
	millis, err := strconv.ParseUint(pushback[0], 10, 31)
	if err != nil || len(pushback) > 1 {
		return 0, false, false
	}
	return time.Duration(millis) * time.Millisecond, true, true
}
