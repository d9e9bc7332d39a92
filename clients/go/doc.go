// Package tokenbroker hands out the vault's access tokens of users, from this process's own memory and from the token broker.
//
// Make one TokenSource for the process:
//
//	source, err := tokenbroker.New(tokenbroker.Options{Endpoints: []string{"http://127.0.0.1:50051"}})
//	token, err := source.Token(ctx, merchantID, number)
//	request.Header.Set("Authorization", token.Authorization())
//
// It keeps each user's token until it ends, renews it behind the callers, and has one call under way for each user at most. A
// token that is good is handed out while every broker is down. WithToken runs a request with what a 401 of the vault's API asks
// for.
//
// The package must never show an access token or a number in full in what it prints, hand out a token that has ended, or ask in a
// loop.
package tokenbroker
