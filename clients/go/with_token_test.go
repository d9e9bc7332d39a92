package tokenbroker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
)

// obliging is a broker that answers each call with the next of these.
type obliging struct {
	answers []*pb.Token
	asked   int
}

func (o *obliging) ask(_ User, _ []string, done func(*pb.Token, error)) {
	answer := o.answers[o.asked]
	o.asked++
	go done(answer, nil)
}

type body struct {
	io.Reader
	isClosed bool
}

func (b *body) Close() error {
	b.isClosed = true
	return nil
}

func TestA401IsAComplaintAndOneRepeat(t *testing.T) {
	for _, c := range []struct {
		tokens, sent string
		statuses     []int
		want         int // 0 for KindRejected
		complaints   int64
	}{
		{"a", "a", []int{200}, 200, 0},
		{"a", "a", []int{500}, 500, 0},
		{"a b", "a b", []int{401, 200}, 200, 1},
		{"a b", "a b", []int{401, 503}, 503, 1},
		{"a b c", "a b", []int{401, 401}, 0, 1},
		// The vault insists: there is no other token to send.
		{"a a", "a", []int{401}, 0, 1},
	} {
		broker := &obliging{}
		for _, id := range strings.Fields(c.tokens) {
			broker.answers = append(broker.answers, answered(id, time.Hour, 0))
		}
		source := over(broker, newFakeClock(), func() float64 { return 1 }, testTimeout)
		var sent []string
		var bodies []*body
		response, err := source.WithToken(context.Background(), "m", "+1", func(token *Token) (*http.Response, error) {
			status, body := c.statuses[len(sent)], &body{Reader: strings.NewReader("")}
			sent, bodies = append(sent, token.ID()), append(bodies, body)
			return &http.Response{StatusCode: status, Body: body}, nil
		})
		equal(t, strings.Join(sent, " "), c.sent)
		equal(t, source.Counts().Complaints, c.complaints)
		for at, body := range bodies {
			equal(t, body.isClosed, c.statuses[at] == 401)
		}
		var failure *Error
		switch {
		case c.want != 0 && (err != nil || response.StatusCode != c.want):
			t.Fatal(response, err)
		case c.want == 0 && (!errors.As(err, &failure) || failure.Kind != KindRejected || response != nil):
			t.Fatal(response, err)
		case c.want == 0 && !strings.Contains(failure.Error(), "the vault's API answers 401 to a new token as well: "):
			t.Fatal(failure)
		}
	}
}

func TestWhatSendFailsWithComesBack(t *testing.T) {
	broker := &obliging{answers: []*pb.Token{answered("a", time.Hour, 0)}}
	source := over(broker, newFakeClock(), func() float64 { return 1 }, testTimeout)
	_, err := WithToken(context.Background(), source, "m", "+1",
		func(*Token) (int, error) { return 0, io.ErrUnexpectedEOF }, func(int) bool { return true })
	equal(t, err == io.ErrUnexpectedEOF, true)
	equal(t, source.Counts().Complaints, 0)
}
