package tokenbroker

import (
	"fmt"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
)

const (
	// How every token is presented (RFC 6750).
	bearer = "Bearer "
	// Digits of a number that are shown, at its end: as in the broker's log.
	digitsShown = 4
)

// User is whose tokens are wanted: a number at a merchant. Must never show the number in whatever is printed of it: it is behind
// a function, so that not even a struct with a User in it, which fmt looks into by itself, shows it.
type User struct{ names func() names }

// names is a user as a source finds it.
type names struct{ merchantID, number string }

// NewUser is the user with this number, such as +447871239999, at this merchant. Whether there is such a user, the broker says.
func NewUser(merchantID, number string) User { return names{merchantID, number}.user() }

func (n names) user() User { return User{func() names { return n }} }

func (u User) named() names {
	if u.names == nil {
		return names{}
	}
	return u.names()
}

// MerchantID is the merchant's.
func (u User) MerchantID() string { return u.named().merchantID }

// Number is the user's: not for logs.
func (u User) Number() string { return u.named().number }

// String is the user with the number masked.
func (u User) String() string {
	shown := ""
	if digits := []rune(u.Number()); len(digits) > digitsShown {
		shown = string(digits[len(digits)-digitsShown:])
	}
	return fmt.Sprintf("%s …%s", onOneLine(u.MerchantID()), onOneLine(shown))
}

// Format prints the same whatever the verb.
func (u User) Format(f fmt.State, _ rune) { fmt.Fprint(f, u.String()) }

// MarshalText is the same for JSON and for logs that are made of it.
func (u User) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Token is a token of one user. It never changes. Must never show the secret or the number in whatever is printed of it: they are
// behind functions, as a User's number is.
type Token struct {
	user   User
	access func() string
	id     string
	scope  string
	life   life
	clock  clock
}

// NewToken is a token as a source hands it out, for your own tests.
func NewToken(user User, accessToken, id string, expiresIn time.Duration) *Token {
	clock := realClock{}
	return newToken(user, &pb.Token{AccessToken: accessToken, TokenId: id}, life{ends: clock.Now().Add(expiresIn)}, clock)
}

func newToken(user User, answer *pb.Token, life life, clock clock) *Token {
	secret := answer.GetAccessToken()
	return &Token{
		user: user, access: func() string { return secret },
		id: answer.GetTokenId(), scope: answer.GetScope(), life: life, clock: clock,
	}
}

// AccessToken is the secret itself: not for logs.
func (t *Token) AccessToken() string { return t.access() }

// Authorization is the value of that header: "Bearer" and the secret.
func (t *Token) Authorization() string { return bearer + t.access() }

// ID is the token's name, which is safe to log and the same everywhere.
func (t *Token) ID() string { return t.id }

// Scope is what it allows, as the vault says.
func (t *Token) Scope() string { return t.scope }

// MerchantID is that of the user whose token it is.
func (t *Token) MerchantID() string { return t.user.MerchantID() }

// Number is that of the user whose token it is: not for logs.
func (t *Token) Number() string { return t.user.Number() }

// ExpiresIn is how long it still lives, by the monotonic clock; zero once it has ended.
func (t *Token) ExpiresIn() time.Duration {
	if left := t.life.ends.Sub(t.clock.Now()); left > 0 {
		return left
	}
	return 0
}

// String tells all but the secret.
func (t Token) String() string {
	return fmt.Sprintf("token %s of %v, ends in %v", onOneLine(t.id), t.user, t.ExpiresIn().Round(time.Millisecond))
}

// Format prints the same whatever the verb: no verb shows the secret.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

func (t *Token) isGood(now time.Time) bool { return t != nil && now.Before(t.life.ends) }
