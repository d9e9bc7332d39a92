package tokenbroker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/runtime/protoimpl"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// answer is an error of a broker with these details.
func answer(t *testing.T, code codes.Code, text string, details ...any) error {
	t.Helper()
	failed := &spb.Status{Code: int32(code), Message: text}
	for _, detail := range details {
		packed, err := anypb.New(protoimpl.X.ProtoMessageV2Of(detail))
		if err != nil {
			t.Fatal(err)
		}
		failed.Details = append(failed.Details, packed)
	}
	return status.FromProto(failed).Err()
}

func TestAnErrorTellsAllThatTheBrokerSays(t *testing.T) {
	failure := errorOf(answer(t, codes.FailedPrecondition, "the vault refuses\nthe password",
		&errdetails.ErrorInfo{Domain: "token-broker", Reason: "CREDENTIALS_REJECTED", Metadata: map[string]string{
			"vault_error": "", "held_until": "2027-01-15T08:00:00Z",
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.RequestInfo{RequestId: "0123"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "number", Description: "is none"},
		}},
	))
	equal(t, failure.Reason, CredentialsRejected)
	equal(t, failure.Code, codes.FailedPrecondition)
	equal(t, failure.RequestID, "0123")
	equal(t, failure.FieldViolations[0], FieldViolation{"number", "is none"})
	wait, named := failure.RetryAfter()
	equal(t, named, true)
	equal(t, wait, 1500*time.Millisecond)
	until, named := failure.HeldUntil()
	equal(t, named, true)
	equal(t, until.Format(time.RFC3339), "2027-01-15T08:00:00Z")
	equal(t, failure.IsPermanent(), true)
	equal(t, failure.Error(), `token broker: CREDENTIALS_REJECTED: the vault refuses\u000athe password; `+
		`held_until 2027-01-15T08:00:00Z; try again in 1.5s; request id 0123`)
	equal(t, status.Code(failure), codes.FailedPrecondition)
}

func TestWhatIsNotTheBrokersWordIsIgnored(t *testing.T) {
	failure := errorOf(answer(t, codes.Unavailable, "busy", &errdetails.ErrorInfo{Domain: "googleapis.com", Reason: "INTERNAL"}))
	equal(t, failure.Reason, "")
	equal(t, failure.IsTemporary(), true)
	equal(t, failure.Error(), "token broker: no answer of a broker (Unavailable): busy")
	_, named := failure.RetryAfter()
	equal(t, named, false)
	_, named = failure.HeldUntil()
	equal(t, named, false)
}

func TestTheReasonSaysWhatIsTemporaryAndWithoutOneTheCode(t *testing.T) {
	for name, number := range pb.ErrorReason_value {
		temporary, known := Reason(name).isTemporary()
		equal(t, known, number != 0)
		equal(t, temporary, strings.Contains("IDENTITY_UNAVAILABLE VAULT_THROTTLED VAULT_UNAVAILABLE VAULT_RESPONSE_INVALID "+
			"SIGN_IN_TOO_SOON DEADLINE_EXCEEDED BROKER_OVERLOADED BROKER_SHUTTING_DOWN", name))
	}
	for _, c := range []struct {
		code   codes.Code
		reason Reason
		want   bool
	}{
		{codes.ResourceExhausted, InvalidRequest, false},
		{codes.ResourceExhausted, "OF_A_NEWER_BROKER", true},
		{codes.NotFound, "OF_A_NEWER_BROKER", false},
		{codes.Canceled, "", true}, {codes.Aborted, "", true}, {codes.DeadlineExceeded, "", true}, {codes.Unavailable, "", true},
		{codes.Internal, "", false}, {codes.Unauthenticated, "", false},
	} {
		failure := &Error{Kind: KindBroker, Code: c.code, Reason: c.reason}
		equal(t, failure.IsTemporary(), c.want)
		equal(t, failure.IsPermanent(), !c.want)
	}
}

func TestNothingThatIsPrintedIsSecret(t *testing.T) {
	clock, source := newFakeClock(), newBench(t).source
	source.users.getOrAdd(someUser.named(), source.shared)
	token := newToken(someUser, answered("its id", time.Minute, 0), life{ends: clock.now.Add(9 * time.Second)}, clock)
	equal(t, token.AccessToken(), "secret of its id")
	equal(t, token.Authorization(), "Bearer secret of its id")
	equal(t, token.String(), "token its id of bece038f-2e46-49f4-b25e-89cd38d6dc16 …9999, ends in 9s")
	held := struct{ t Token }{*token}
	who := struct{ user User }{someUser}
	asText, _ := json.Marshal(map[string]any{"user": someUser, "token": token, "who": who, "users": []*User{&someUser}})
	equal(t, string(asText), `{"token":{},"user":"bece038f-2e46-49f4-b25e-89cd38d6dc16 …9999",`+
		`"users":["bece038f-2e46-49f4-b25e-89cd38d6dc16 …9999"],"who":{}}`)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		within := map[string]Token{"a": *token}
		for _, shown := range []any{token, *token, held, []*Token{token}, within, someUser, &someUser, who, source} {
			said := fmt.Sprintf(verb, shown)
			for _, secret := range []string{"secret", "7365637265", "+44787", "44787123"} {
				if strings.Contains(said, secret) {
					t.Errorf("%s shows %q: %s", verb, secret, said)
				}
			}
		}
	}
	equal(t, fmt.Sprint(User{}), " …")
	for number, shown := range map[string]string{"+447871239999": "m …9999", "+123": "m …", "": "m …", "+12345": "m …2345"} {
		equal(t, NewUser("m", number).String(), shown)
	}
}

func TestOtherPeoplesTextStaysOnItsLine(t *testing.T) {
	for text, wanted := range map[string]string{
		"plain …é漢🔑":    "plain …é漢🔑",
		"a\nb\x1b[2J":   `a\u000ab\u001b[2J`,
		"\u202ea\u200b": `\u202ea\u200b`,
		"\U000e0041":    `\udb40\udc41`,
	} {
		equal(t, onOneLine(text), wanted)
	}
}

func TestOptionsThatCannotBeAreRefusedByName(t *testing.T) {
	plain, secure := []string{"http://127.0.0.1:50051"}, []string{"https://broker.cards.svc:50051"}
	for _, c := range []struct {
		options Options
		says    string
	}{
		{Options{}, "option Endpoints: there is none: give"},
		{Options{Endpoints: []string{"127.0.0.1:50051"}}, "option Endpoints: \"127.0.0.1:50051\" is no URL"},
		{Options{Endpoints: []string{"dns:///broker:50051"}}, "is no URL"},
		{Options{Endpoints: []string{"http://"}}, "is no URL"},
		{Options{Endpoints: []string{"http://broker:0"}}, "a port that can't be"},
		{Options{Endpoints: []string{"http://broker:65536"}}, "a port that can't be"},
		{Options{Endpoints: []string{"http://broker:port"}}, "is no URL"},
		{Options{Endpoints: []string{"http://broker:1/path"}}, "more than a scheme"},
		{Options{Endpoints: []string{"http://me:secret@broker:1"}}, "one has a user in it"},
		{Options{Endpoints: []string{"http://a:1", "https://b:1"}, CAFile: "ca"}, "some are http:// and some are https://"},
		{Options{Endpoints: plain, CAFile: "ca"}, "option CAFile: goes with https:// only"},
		{Options{Endpoints: plain, TokenFile: "token"}, "option TokenFile: goes with https:// only"},
		{Options{Endpoints: plain, CertificateFile: "c", KeyFile: "k"}, "option CertificateFile: goes with https:// only"},
		{Options{Endpoints: plain, KeyFile: "k"}, "option KeyFile: goes with https:// only"},
		{Options{Endpoints: secure}, "option CAFile: it is missing"},
		{Options{Endpoints: secure, CAFile: "ca", CertificateFile: "c"}, "option KeyFile: it is missing"},
		{Options{Endpoints: secure, CAFile: "ca", KeyFile: "k"}, "option CertificateFile: it is missing"},
		{
			Options{Endpoints: secure, CAFile: "ca", TokenFile: "t", CertificateFile: "c", KeyFile: "k"},
			"option TokenFile: CertificateFile is given as well",
		},
		{Options{Endpoints: plain, Timeout: -1}, "option Timeout: it is less than nothing"},
	} {
		_, err := New(c.options)
		var failure *Error
		if !errors.As(err, &failure) || failure.Kind != KindConfiguration || !strings.Contains(failure.Error(), c.says) {
			t.Errorf("%v: %v, and not %q", c.options, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("it shows a password: %v", err)
		}
	}
	for _, options := range []Options{
		{Endpoints: []string{"http://[::1]:50051", "HTTP://broker"}},
		{Endpoints: secure, CAFile: "ca", TokenFile: "t"},
		{Endpoints: secure, CAFile: "ca", CertificateFile: "c", KeyFile: "k", Timeout: time.Hour},
	} {
		source, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		source.Close()
	}
}

func TestACallTakesALittleLessThanItsCallerWaits(t *testing.T) {
	for timeout, want := range map[time.Duration][2]time.Duration{
		0:               {30 * time.Second, 29_900 * time.Millisecond},
		time.Hour:       {10 * time.Minute, 10*time.Minute - 100*time.Millisecond},
		time.Nanosecond: {1, 1},
		time.Second / 2: {500 * time.Millisecond, 450 * time.Millisecond},
	} {
		caller, call := (&Options{Timeout: timeout}).times()
		equal(t, [2]time.Duration{caller, call}, want)
	}
}
