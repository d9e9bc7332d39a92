// Package tokenbrokertest starts a real broker and a vault that fails on demand, both of them programs of this machine, for tests:
//
//	broker := tokenbrokertest.Start(t)
//	source, err := tokenbroker.New(tokenbroker.Options{Endpoints: []string{broker.Endpoint}})
//	user := broker.NewUser(t)
//	token, err := source.Token(ctx, user.MerchantID(), user.Number())
//	broker.Control(t, "revoke", map[string]any{"all": true})
//
// The programs are found by TOKEN_BROKER_SANDBOX_PROGRAM and TOKEN_BROKER_PROGRAM, or else in PATH.
//
// Must never leave a program behind: the two end once their standard input does, however the test's process ends.
package tokenbrokertest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	tokenbroker "example.org/token-broker/clients/go"
)

const (
	// The variables that name the two programs, and what they are called where the variables are not set.
	sandboxVariable, sandboxName = "TOKEN_BROKER_SANDBOX_PROGRAM", "token-broker-sandbox"
	brokerVariable, brokerName   = "TOKEN_BROKER_PROGRAM", "token-broker"
	// The sandbox itself gives its broker 30 s and says so: this is for a program that is no sandbox.
	startTimeout = time.Minute
	// It ends at once. Killed, it could not end its broker.
	endTimeout = 10 * time.Second
	// The control answers from memory.
	controlTimeout = 10 * time.Second
	// So much is shown of a line that isn't a sandbox's.
	shownMax = 100
)

// Never by a proxy of the environment: it is on this machine.
var client = &http.Client{Timeout: controlTimeout, Transport: &http.Transport{DisableKeepAlives: true}}

// Broker is a broker that runs, with its vault. It may be shared by tests that run at once.
type Broker struct {
	// Endpoint is where the broker is, for tokenbroker.Options: in plaintext.
	Endpoint string
	// VaultURL is the vault, also for calls of its API: GET VaultURL/v1/customer is 200 with a live token, else 401.
	VaultURL string
	// MerchantID is that of all users.
	MerchantID string

	mu      sync.Mutex
	numbers []string
	known   int

	command *exec.Cmd
	input   io.Closer
	said    bytes.Buffer
	ended   chan struct{}
}

// Start starts a broker for this test, and ends it with the test. The arguments are the sandbox's own, such as "--lifetime", "20s",
// or "--broker-log", "broker.log".
func Start(t testing.TB, arguments ...string) *Broker {
	t.Helper()
	broker, err := New(arguments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker
}

// New is Start for all tests of a package, in its TestMain: Close ends it.
func New(arguments ...string) (*Broker, error) {
	sandbox, err := program(sandboxVariable, sandboxName)
	if err != nil {
		return nil, err
	}
	broker, err := program(brokerVariable, brokerName)
	if err != nil {
		return nil, err
	}
	b := &Broker{ended: make(chan struct{})}
	b.command = exec.Command(sandbox, append([]string{"--listen", "127.0.0.1:0", "--broker", broker}, arguments...)...)
	b.command.Stderr = &b.said
	input, inputErr := b.command.StdinPipe()
	output, outputErr := b.command.StdoutPipe()
	for _, err := range []error{inputErr, outputErr, b.command.Start()} {
		if err != nil {
			return nil, fmt.Errorf("%s can't be started: %w", sandbox, err)
		}
	}
	b.input = input
	late := time.AfterFunc(startTimeout, func() { b.command.Process.Kill() })
	line, unfinished := bufio.NewReader(output).ReadBytes('\n')
	late.Stop()
	go func() {
		b.command.Wait()
		close(b.ended)
	}()
	if unfinished != nil {
		b.Close()
		return nil, fmt.Errorf("%s did not start: %s", sandbox, b.why())
	}
	if err := b.read(line); err != nil {
		b.Close()
		shown := line[:min(len(line), shownMax)]
		return nil, fmt.Errorf("%s says %q: have %s name %s (%w)", sandbox, shown, sandboxVariable, sandboxName, err)
	}
	return b, nil
}

// NewUser is a user whom no test has had so far.
func (b *Broker) NewUser(t testing.TB) tokenbroker.User {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.numbers) == 0 {
		t.Fatalf("all %d users have been handed out: start another Broker", b.known)
	}
	number := b.numbers[0]
	b.numbers = b.numbers[1:]
	return tokenbroker.NewUser(b.MerchantID, number)
}

// Control tells the vault to fail, to revoke, or how to be: POSTs body as JSON to its /_sandbox/ + path, and has what it answers.
// Without a body (nil) it asks, such as for "stats".
//
//	broker.Control(t, "faults", []any{map[string]any{"kind": "reply", "status": 503, "body": "busy", "number": user.Number()}})
//	broker.Control(t, "settings", map[string]any{"lifetime": "2s"})
//	broker.Control(t, "revoke", map[string]any{"access_token": token.AccessToken()})
func (b *Broker) Control(t testing.TB, path string, body any) map[string]any {
	t.Helper()
	method := http.MethodPost
	if body == nil {
		method = http.MethodGet
	}
	answer, err := b.ask(method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// DropFaults ends what the vault was told to do wrong and has not done yet, everybody's, and an outage.
func (b *Broker) DropFaults(t testing.TB) {
	t.Helper()
	if _, err := b.ask(http.MethodDelete, "faults", nil); err != nil {
		t.Fatal(err)
	}
}

// Close ends both programs. It may be called more than once.
func (b *Broker) Close() {
	// What can't be ended has ended.
	_ = b.input.Close()
	_ = b.command.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(endTimeout, func() { b.command.Process.Kill() })
	defer late.Stop()
	<-b.ended
}

func (b *Broker) read(line []byte) error {
	var told struct {
		Endpoint   string   `json:"endpoint"`
		VaultURL   string   `json:"vault_url"`
		MerchantID string   `json:"merchant_id"`
		Numbers    []string `json:"numbers"`
	}
	if err := json.Unmarshal(line, &told); err != nil {
		return err
	}
	if told.Endpoint == "" || told.VaultURL == "" {
		return errors.New("no endpoint")
	}
	b.Endpoint, b.VaultURL, b.MerchantID = told.Endpoint, told.VaultURL, told.MerchantID
	b.numbers, b.known = told.Numbers, len(told.Numbers)
	return nil
}

func (b *Broker) ask(method, path string, body any) (map[string]any, error) {
	var sent io.Reader
	if body != nil {
		packed, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(packed)
	}
	request, err := http.NewRequest(method, b.VaultURL+"/_sandbox/"+path, sent)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		select {
		case <-b.ended:
			return nil, fmt.Errorf("the sandbox has ended: %s", b.why())
		default:
			return nil, fmt.Errorf("the sandbox does not answer: %w", err)
		}
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the sandbox refuses %s %s: %s", method, path, said)
	}
	var answer map[string]any
	return answer, json.Unmarshal(said, &answer)
}

// why it has ended.
func (b *Broker) why() string {
	if said := bytes.TrimSpace(b.said.Bytes()); len(said) > 0 {
		return string(said)
	}
	return fmt.Sprintf("%s, without a word", b.command.ProcessState)
}

// program is where it is found.
func program(variable, name string) (string, error) {
	named := os.Getenv(variable)
	looked := named
	if named == "" {
		looked = name
	}
	found, err := exec.LookPath(looked)
	if err == nil {
		return found, nil
	}
	where := fmt.Sprintf("there is no %s in PATH, and no %s", name, variable)
	if named != "" {
		where = fmt.Sprintf("%s names %s, which is no program", variable, named)
	}
	return "", fmt.Errorf("%s: have %s name the %s of the release's archive, token-broker-VERSION-ARCH.tar.gz", where, variable, name)
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
