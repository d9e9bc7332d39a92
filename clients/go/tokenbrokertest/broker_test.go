package tokenbrokertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tokenbroker "example.org/token-broker/clients/go"
)

// Has this test's program be a suite that is killed, in a process of its own.
const aSuite = "TOKENBROKERTEST_A_SUITE"

func TestMain(m *testing.M) {
	if os.Getenv(aSuite) == "" {
		os.Exit(m.Run())
	}
	broker, err := New()
	if err != nil {
		panic(err)
	}
	fmt.Println(broker.Endpoint, broker.VaultURL)
	io.Copy(io.Discard, os.Stdin)
}

// failing takes the place of a test that is to fail: Fatal ends its goroutine.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper()                      {}
func (f *failing) Fatal(said ...any)            { f.Fatalf("%s", fmt.Sprint(said...)) }
func (f *failing) Fatalf(text string, a ...any) { f.said = fmt.Sprintf(text, a...); panic(f) }

func failureOf(t *testing.T, run func(testing.TB)) (said string) {
	t.Helper()
	f := &failing{TB: t}
	defer func() {
		if raised := recover(); raised != nil && raised != any(f) {
			panic(raised)
		}
		said = f.said
	}()
	run(f)
	return "nothing"
}

func wants(t *testing.T, said string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("%q has no %q", said, part)
		}
	}
}

// standIn has this script in the place of the sandbox.
func standIn(t *testing.T, script string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sandbox")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(sandboxVariable, path)
	t.Setenv(brokerVariable, "/bin/sh")
}

// withThePrograms starts the real ones, or says why not.
func withThePrograms(t *testing.T, arguments ...string) *Broker {
	t.Helper()
	for _, variable := range []string{sandboxVariable, brokerVariable} {
		if os.Getenv(variable) == "" {
			t.Skipf("without the real programs: %s is not set", variable)
		}
	}
	return Start(t, arguments...)
}

func sourceOf(t *testing.T, broker *Broker) *tokenbroker.TokenSource {
	t.Helper()
	source, err := tokenbroker.New(tokenbroker.Options{Endpoints: []string{broker.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	return source
}

func tokenOf(t *testing.T, source *tokenbroker.TokenSource, user tokenbroker.User) *tokenbroker.Token {
	t.Helper()
	token, err := source.Token(context.Background(), user.MerchantID(), user.Number())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// awaitEnd returns once nothing listens there any more: a connection that is still taken is over when the program is.
func awaitEnd(t *testing.T, urls ...string) {
	t.Helper()
	late := time.Now().Add(10 * time.Second)
	for _, url := range urls {
		for {
			connection, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if errors.Is(err, syscall.ECONNREFUSED) {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("%s is still there", url)
			}
			if err == nil {
				connection.SetDeadline(late)
				io.Copy(io.Discard, connection)
				connection.Close()
			}
		}
	}
}

func TestProgramsThatAreNotThereAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(sandboxVariable, "")
	wants(t, failureOf(t, func(t testing.TB) { Start(t) }),
		"no token-broker-sandbox in PATH, and no TOKEN_BROKER_SANDBOX_PROGRAM: have TOKEN_BROKER_SANDBOX_PROGRAM name", ".tar.gz")
	t.Setenv(sandboxVariable, "/bin/sh")
	t.Setenv(brokerVariable, "/gone/broker")
	wants(t, failureOf(t, func(t testing.TB) { Start(t) }),
		"TOKEN_BROKER_PROGRAM names /gone/broker, which is no program: have TOKEN_BROKER_PROGRAM name the token-broker of")
}

func TestWhatDoesNotStartSaysWhy(t *testing.T) {
	for script, why := range map[string]string{
		"echo 'the port is taken' >&2; exit 1": "did not start: the port is taken",
		"exit 3":                               "did not start: exit status 3, without a word",
		"echo hello; cat":                      `says "hello\n": have TOKEN_BROKER_SANDBOX_PROGRAM name token-broker-sandbox`,
		"echo '{}'; cat":                       "no endpoint",
	} {
		standIn(t, script)
		wants(t, failureOf(t, func(t testing.TB) { Start(t) }), why)
	}
}

func TestUsersAreNewUntilThereAreNone(t *testing.T) {
	standIn(t, `echo '{"endpoint":"http://127.0.0.1:1","vault_url":"http://127.0.0.1:1","merchant_id":"m","numbers":["+1","+2"]}'; cat`)
	broker := Start(t)
	for _, number := range []string{"+1", "+2"} {
		if user := broker.NewUser(t); user.MerchantID() != "m" || user.Number() != number {
			t.Errorf("%s in the place of %s", user.Number(), number)
		}
	}
	wants(t, failureOf(t, func(t testing.TB) { broker.NewUser(t) }), "all 2 users have been handed out: start another Broker")
	wants(t, failureOf(t, func(t testing.TB) { broker.Control(t, "stats", nil) }), "the sandbox does not answer: ", "refused")
}

func TestATokenIsLiveUntilItIsRevoked(t *testing.T) {
	broker := withThePrograms(t)
	source, user := sourceOf(t, broker), broker.NewUser(t)
	first := tokenOf(t, source, user)
	customer := func(token *tokenbroker.Token) (*http.Response, error) {
		request, err := http.NewRequest(http.MethodGet, broker.VaultURL+"/v1/customer", nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", token.Authorization())
		return client.Do(request)
	}
	use := func() int {
		response, err := source.WithToken(context.Background(), user.MerchantID(), user.Number(), customer)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if status := use(); status != http.StatusOK || tokenOf(t, source, user).ID() != first.ID() {
		t.Fatalf("a live token: %d", status)
	}
	if answer := broker.Control(t, "revoke", map[string]any{"access_token": first.AccessToken()}); answer["revoked"] != 1.0 {
		t.Fatalf("revoked: %v", answer)
	}
	if response, err := customer(first); err != nil || response.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a revoked token: %v, %v", response, err)
	}
	if status := use(); status != http.StatusOK || tokenOf(t, source, user).ID() == first.ID() {
		t.Fatalf("the next token: %d", status)
	}
}

func TestTheVaultFailsForOneUser(t *testing.T) {
	broker := withThePrograms(t)
	source, user := sourceOf(t, broker), broker.NewUser(t)
	wrong := map[string]any{
		"kind": "refusal", "error_id": 11, "error": "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "message": "no", "number": user.Number(), "times": 2,
	}
	broker.Control(t, "faults", []any{wrong})
	_, err := source.Token(context.Background(), user.MerchantID(), user.Number())
	var failure *tokenbroker.Error
	if !errors.As(err, &failure) || failure.Reason != tokenbroker.CredentialsRejected {
		t.Fatalf("refused: %v", err)
	}
	tokenOf(t, source, broker.NewUser(t))
	if left := broker.Control(t, "stats", nil)["unused_faults"]; left != 1.0 {
		t.Errorf("%v faults are left", left)
	}
	broker.DropFaults(t)
	if left := broker.Control(t, "stats", nil)["unused_faults"]; left != 0.0 {
		t.Errorf("%v faults are left after all were dropped", left)
	}
	wants(t, failureOf(t, func(t testing.TB) { broker.Control(t, "faults", map[string]any{}) }),
		"the sandbox refuses POST faults: ", "a JSON list of faults is wanted")
}

func TestArgumentsReachTheSandbox(t *testing.T) {
	broker := withThePrograms(t, "--lifetime", "20s")
	if left := tokenOf(t, sourceOf(t, broker), broker.NewUser(t)).ExpiresIn(); left < 15*time.Second || left > 20*time.Second {
		t.Errorf("a life of %s", left)
	}
}

func TestClosingEndsBothPrograms(t *testing.T) {
	broker := withThePrograms(t)
	broker.Close()
	awaitEnd(t, broker.Endpoint, broker.VaultURL)
	broker.Close()
	wants(t, failureOf(t, func(t testing.TB) { broker.Control(t, "stats", nil) }), "the sandbox has ended: exit status 0, without a word")
}

func TestASuiteThatIsKilledLeavesNothing(t *testing.T) {
	withThePrograms(t)
	suite := exec.Command(os.Args[0])
	suite.Env = append(os.Environ(), aSuite+"=yes")
	input, err := suite.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	output, err := suite.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := suite.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	suite.Process.Kill()
	suite.Wait()
	awaitEnd(t, strings.Fields(line)...)
}
