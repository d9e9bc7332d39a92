// The adapter by which a suite for all languages drives this package: commands as lines of JSON on standard input, answers on
// standard output.
//
// Must never hold a command up for another, nor decide anything: it hands over what the package says.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	tokenbroker "example.org/token-broker/clients/go"
	"google.golang.org/grpc/codes"
)

// A command with many users is a long line.
const lineMax = 16 << 20

type command struct {
	ID              any         `json:"id"`
	Do              string      `json:"do"`
	Endpoints       []string    `json:"endpoints"`
	CAFile          string      `json:"ca_file"`
	TokenFile       string      `json:"token_file"`
	CertificateFile string      `json:"certificate_file"`
	KeyFile         string      `json:"key_file"`
	TimeoutSeconds  float64     `json:"timeout_seconds"`
	UseProxy        bool        `json:"use_proxy"`
	MerchantID      string      `json:"merchant_id"`
	Number          string      `json:"number"`
	TokenID         string      `json:"token_id"`
	URL             string      `json:"url"`
	Users           [][2]string `json:"users"`
}

type object map[string]any

// tokenName is by which a command names a token that an earlier one was answered with.
type tokenName struct{ merchantID, number, id string }

type adapter struct {
	http *http.Client

	mu     sync.Mutex
	source *tokenbroker.TokenSource
	tokens map[tokenName]*tokenbroker.Token

	writing sync.Mutex
}

var errNotOpen = errors.New("no source is open: open one first")

func main() {
	transport := &http.Transport{Proxy: nil}
	adapter := &adapter{http: &http.Client{Transport: transport}, tokens: map[tokenName]*tokenbroker.Token{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		var command command
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			fmt.Fprintln(os.Stderr, "a line is no command:", err)
			os.Exit(1)
		}
		// What waits for nobody is done in turn, so that a command that follows finds it done.
		switch command.Do {
		case "token", "use", "warm":
			source := adapter.current()
			go func() { adapter.answer(command, func() (object, error) { return adapter.wait(source, command) }) }()
		default:
			adapter.answer(command, func() (object, error) { return adapter.atOnce(command) })
		}
	}
	if source := adapter.current(); source != nil {
		source.Close()
	}
}

func (a *adapter) current() *tokenbroker.TokenSource {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.source
}

func (a *adapter) answer(command command, do func() (object, error)) {
	done, err := do()
	reply := object{"id": command.ID, "ok": done}
	if err != nil {
		reply = object{"id": command.ID, "error": errorObject(err)}
	}
	line, err := json.Marshal(reply)
	if err != nil {
		panic(err)
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func (a *adapter) replace(source *tokenbroker.TokenSource) {
	a.mu.Lock()
	before := a.source
	a.source = source
	a.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

func (a *adapter) atOnce(command command) (object, error) {
	if command.Do == "open" {
		source, err := tokenbroker.New(tokenbroker.Options{
			Endpoints: command.Endpoints, CAFile: command.CAFile, TokenFile: command.TokenFile,
			CertificateFile: command.CertificateFile, KeyFile: command.KeyFile,
			Timeout: seconds(command.TimeoutSeconds), UseProxy: command.UseProxy,
		})
		if err != nil {
			return nil, err
		}
		a.replace(source)
		return object{}, nil
	}
	source := a.current()
	if source == nil {
		return nil, errNotOpen
	}
	switch command.Do {
	case "cached":
		token, is := source.Cached(command.MerchantID, command.Number)
		if !is {
			return object{"token_id": nil}, nil
		}
		return object{"token_id": token.ID()}, nil
	case "rejected":
		a.mu.Lock()
		token := a.tokens[tokenName{command.MerchantID, command.Number, command.TokenID}]
		a.mu.Unlock()
		if token == nil {
			return nil, fmt.Errorf("no token %s was handed out", command.TokenID)
		}
		return object{"is_news": source.Rejected(token)}, nil
	case "counts":
		counts := source.Counts()
		return object{
			"users": counts.Users, "calls": counts.Calls, "failures": counts.Failures, "complaints": counts.Complaints,
		}, nil
	case "close":
		a.replace(nil)
		return object{}, nil
	default:
		return nil, fmt.Errorf("there is no command %q", command.Do)
	}
}

func (a *adapter) wait(source *tokenbroker.TokenSource, command command) (object, error) {
	if source == nil {
		return nil, errNotOpen
	}
	ctx := context.Background()
	if command.TimeoutSeconds > 0 {
		within, cancel := context.WithTimeout(ctx, seconds(command.TimeoutSeconds))
		defer cancel()
		ctx = within
	}
	switch command.Do {
	case "use":
		return a.use(ctx, source, command)
	case "warm":
		users := make([]tokenbroker.User, 0, len(command.Users))
		for _, user := range command.Users {
			users = append(users, tokenbroker.NewUser(user[0], user[1]))
		}
		return object{}, source.Warm(ctx, users)
	}
	token, err := source.Token(ctx, command.MerchantID, command.Number)
	if err != nil {
		return nil, err
	}
	a.keep(token)
	return object{
		"token_id": token.ID(), "access_token": token.AccessToken(), "expires_in_seconds": token.ExpiresIn().Seconds(),
		"scope": token.Scope(), "shown": fmt.Sprintf("%v %+v %#v %s", token, *token, token, token),
	}, nil
}

func (a *adapter) keep(token *tokenbroker.Token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[tokenName{token.MerchantID(), token.Number(), token.ID()}] = token
}

func (a *adapter) use(ctx context.Context, source *tokenbroker.TokenSource, command command) (object, error) {
	requests, used := 0, ""
	send := func(token *tokenbroker.Token) (*http.Response, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, command.URL, nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", token.Authorization())
		requests, used = requests+1, token.ID()
		a.keep(token)
		return a.http.Do(request)
	}
	response, err := source.WithToken(ctx, command.MerchantID, command.Number, send)
	if err != nil {
		return nil, err
	}
	return object{"status": response.StatusCode, "token_id": used, "requests": requests}, response.Body.Close()
}

// errorObject is what the package says of an error.
func errorObject(err error) object {
	said := object{
		"kind": "configuration", "code": nil, "reason": nil, "retry_after_seconds": nil, "held_until": nil, "request_id": nil,
		"fields": []object{}, "is_temporary": false, "text": err.Error(),
	}
	var failure *tokenbroker.Error
	if !errors.As(err, &failure) {
		return said
	}
	switch failure.Kind {
	case tokenbroker.KindBroker:
		said["kind"], said["code"] = "broker", codeNames[failure.Code]
	case tokenbroker.KindRejected:
		said["kind"] = "rejected"
	}
	said["text"] = failure.Error()
	if failure.Reason != "" {
		said["reason"] = failure.Reason
	}
	if wait, is := failure.RetryAfter(); is {
		said["retry_after_seconds"] = wait.Seconds()
	}
	if until, is := failure.HeldUntil(); is {
		said["held_until"] = until.UTC().Format(time.RFC3339)
	}
	if failure.RequestID != "" {
		said["request_id"] = failure.RequestID
	}
	fields := []object{}
	for _, violation := range failure.FieldViolations {
		fields = append(fields, object{"field": violation.Field, "description": violation.Description})
	}
	said["fields"], said["is_temporary"] = fields, failure.IsTemporary()
	return said
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// codeNames are gRPC's own, which Go writes otherwise.
var codeNames = map[codes.Code]string{
	codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS",
	codes.PermissionDenied: "PERMISSION_DENIED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED", codes.OutOfRange: "OUT_OF_RANGE",
	codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE",
	codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
}
