package tokenbroker

import (
	"context"
	"fmt"
	"net/http"
)

// What a 401 of the vault's API asks for: a complaint, the next token, and the request once more.
//
// Must never repeat a request more than once, nor with the token that was rejected.

// WithToken calls send with this user's token. Where the vault's API answers 401, it complains of the token, and calls send once
// more with the next one: send makes a new request each time. The response is whichever counts; a second 401, or a vault that
// insists on its token, is an *Error of KindRejected. What send itself fails with comes back as it is.
func (s *TokenSource) WithToken(
	ctx context.Context, merchantID, number string, send func(*Token) (*http.Response, error),
) (*http.Response, error) {
	return WithToken(ctx, s, merchantID, number, send, func(response *http.Response) bool {
		if response.StatusCode != http.StatusUnauthorized {
			return false
		}
		if response.Body != nil {
			response.Body.Close()
		}
		return true
	})
}

// WithToken is the same for responses of any kind: isRejected says which of them is a 401, and frees what that one holds.
func WithToken[R any](
	ctx context.Context, source *TokenSource, merchantID, number string, send func(*Token) (R, error), isRejected func(R) bool,
) (R, error) {
	var none R
	token, err := source.Token(ctx, merchantID, number)
	if err != nil {
		return none, err
	}
	response, err := send(token)
	if err != nil || !isRejected(response) {
		return response, err
	}
	source.Rejected(token)
	next, err := source.Token(ctx, merchantID, number)
	if err != nil {
		return none, err
	}
	if next.ID() == token.ID() {
		return none, rejectedError(fmt.Sprintf("the vault insists on token %s: have its operator look at the user", token.ID()))
	}
	response, err = send(next)
	if err != nil || !isRejected(response) {
		return response, err
	}
	// It is not complained of: each complaint costs a sign-in, and a third token would fare no better.
	return none, rejectedError(fmt.Sprintf("first to %s, then to %s: it is not the token that it minds", token.ID(), next.ID()))
}
