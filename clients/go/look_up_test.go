package tokenbroker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/resolver"
)

func TestAllAddressesOfAllNamesAreUsedAndKeptWhileANameCannotBeLookedUp(t *testing.T) {
	names := map[string][]string{"one.": {"10.0.0.2", "10.0.0.1"}, "two": {"::1"}}
	looking := &looking{found: make([][]resolver.Address, 2), lookUp: lookUp{
		endpoints: []endpoint{{host: "one.", port: "1"}, {host: "two", port: "2"}},
		hosts: func(_ context.Context, name string) ([]string, error) {
			if found, is := names[name]; is {
				return append([]string(nil), found...), nil
			}
			return nil, errors.New("no such name")
		},
	}}
	shown := func() string {
		addresses, err := looking.lookAll(context.Background())
		said := fmt.Sprint(err)
		for _, one := range addresses {
			said += " " + one.Addr + "=" + one.ServerName
		}
		return said
	}
	equal(t, shown(), "<nil> 10.0.0.1:1=one:1 10.0.0.2:1=one:1 [::1]:2=two:2")
	delete(names, "one.")
	names["two"] = []string{"::2"}
	equal(t, shown(), "<nil> 10.0.0.1:1=one:1 10.0.0.2:1=one:1 [::2]:2=two:2")
	delete(names, "two")
	looking.found = make([][]resolver.Address, 2)
	equal(t, shown(), "the name one. can't be looked up: no such name")
}

func TestAProxyOfTheEnvironmentIsUsedOnlyWhereItIsAskedFor(t *testing.T) {
	// Only looked at once in a process, by net/http: before anything else here asks.
	t.Setenv("HTTPS_PROXY", "http://user:secret@proxy.example.org:3128")
	t.Setenv("NO_PROXY", "near.example.org")
	for _, c := range []struct {
		useProxy bool
		address  string
		want     bool
	}{
		{false, "broker.example.org:50051", false},
		{true, "broker.example.org:50051", true},
		{true, "near.example.org:50051", false},
		{true, "127.0.0.1:50051", false},
	} {
		found, fault := newDialer(c.useProxy, nil).proxy(c.address)
		equal(t, fault == nil, true)
		equal(t, found != nil, c.want)
	}
	// What is left to the proxy is not looked up here.
	looking := &looking{lookUp: lookUp{dialer: newDialer(true, nil)}}
	found, err := looking.look(context.Background(), endpoint{host: "broker.example.org", port: "50051"})
	equal(t, err == nil, true)
	equal(t, found[0].Addr, "broker.example.org:50051")
}

func TestAnEndpointThatIsAnAddressGoesByTheProxyAndWhatWasLookedUpDoesNot(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan string, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		if request, err := http.ReadRequest(bufio.NewReader(connection)); err == nil {
			asked <- request.Method + " " + request.Host
			io.WriteString(connection, "HTTP/1.1 200 OK\r\n\r\n")
		}
	}()
	dialer := newDialer(false, []endpoint{{host: "127.0.0.1", port: "1"}, {host: "broker.example.org", port: "2"}})
	dialer.proxies = http.ProxyURL(&url.URL{Scheme: "http", Host: listener.Addr().String()})
	// Nobody listens there: only the proxy can have connected.
	connection, err := dialer.dial(context.Background(), "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
	equal(t, <-asked, "CONNECT 127.0.0.1:1")
	if _, err := dialer.dial(context.Background(), "127.0.0.1:2"); err == nil || strings.Contains(err.Error(), "proxy") {
		t.Fatal(err)
	}
}

func TestAProxyThatCannotBeSpokenToIsRefused(t *testing.T) {
	for _, c := range []struct {
		proxy *url.URL
		err   error
		says  string
	}{
		{&url.URL{Scheme: "https", Host: "proxy:1", User: url.UserPassword("u", "s3cret")}, nil, "spoken to in https, "},
		{&url.URL{Scheme: "socks5", Host: "proxy:1", User: url.UserPassword("u", "s3cret")}, nil, "spoken to in socks5, "},
		{nil, errors.New(`invalid proxy address "http://u:s3cret@"`), "no URL of a proxy"},
	} {
		dialer := newDialer(false, []endpoint{{host: "broker", port: "1"}})
		dialer.proxies = func(*http.Request) (*url.URL, error) { return c.proxy, c.err }
		_, dialed := dialer.dial(context.Background(), "broker:1")
		_, lookedUp := (&looking{lookUp: lookUp{dialer: dialer}}).look(context.Background(), dialer.endpoints[0])
		for _, err := range []error{dialer.fault(), dialed, lookedUp} {
			said := fmt.Sprint(err)
			if !strings.Contains(said, "option UseProxy: ") || !strings.Contains(said, c.says) || strings.Contains(said, "s3c") {
				t.Errorf("%s, and not %q", said, c.says)
			}
		}
	}
}

func TestAProxyIsAskedToConnect(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{"HTTP/1.1 200 Connection established\r\n\r\n", "<nil>"},
		{"HTTP/1.1 407 Who are you\r\n\r\n", "the proxy refuses to connect: 407 Who are you"},
		{"nonsense\r\n\r\n", "the proxy does not answer: "},
		{"HTTP/1.1 200 OK\r\n\r\nmore", "the proxy says more than that it has connected"},
	} {
		ours, theirs := net.Pipe()
		asked := make(chan *http.Request, 1)
		go func() {
			request, err := http.ReadRequest(bufio.NewReader(theirs))
			if err == nil {
				asked <- request
			}
			io.WriteString(theirs, c.answer)
		}()
		proxy := &url.URL{Scheme: "http", User: url.UserPassword("user", "secret"), Host: "proxy:3128"}
		err := askProxy(context.Background(), ours, proxy, "broker.example.org:50051")
		if said := fmt.Sprint(err); !strings.HasPrefix(said, c.want) || strings.Contains(said, "secret") {
			t.Errorf("%s, and not %s", said, c.want)
		}
		request := <-asked
		equal(t, request.Method+" "+request.Host, "CONNECT broker.example.org:50051")
		request.Header.Set("Authorization", request.Header.Get("Proxy-Authorization"))
		user, password, _ := request.BasicAuth()
		equal(t, user+" "+password, "user secret")
		ours.Close()
		theirs.Close()
	}
}
