package tokenbroker

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	connecting "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // has replicas asked how they are, as the service config says
	"google.golang.org/grpc/keepalive"
)

// How gRPC is set up, in versions 1.33 to today's: what newer ones call otherwise is named.
//
// Must never use a proxy unless asked to: tokens go over these connections.

const (
	// A connection whose other end is gone without a word is noticed.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
	// A broker that is back is back: connecting is tried again no later than this, and from so little on.
	connectFirst   = 100 * time.Millisecond
	connectLongest = 2 * time.Second
	connectJitter  = 0.2
	connectGrowth  = 2
	// An address where nobody answers is given up after this long.
	connectTimeout = 5 * time.Second

	userAgent = "token-broker-go/" + Version
)

// Calls go to all replicas in turn that say that they are well. It has no retryPolicy: see retry.go.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "healthCheckConfig": {"serviceName": "tokenbroker.v1.TokenBrokerService"}
}`

// connect makes the channel; nobody is asked before the first call is made. config is nil for plaintext.
func connect(endpoints []endpoint, config *tls.Config, useProxy bool) (*grpc.ClientConn, error) {
	dialer := newDialer(useProxy, endpoints)
	options := []grpc.DialOption{
		grpc.WithResolvers(&lookUp{endpoints: endpoints, dialer: dialer, hosts: net.DefaultResolver.LookupHost}),
		grpc.WithContextDialer(dialer.dial),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithUserAgent(userAgent),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: connecting.Config{
				BaseDelay: connectFirst, Multiplier: connectGrowth, Jitter: connectJitter, MaxDelay: connectLongest,
			},
			MinConnectTimeout: connectTimeout,
		}),
	}
	if config == nil {
		// Since 1.44 WithTransportCredentials(insecure.NewCredentials()), which 1.33 has not; this one stays throughout 1.x.
		options = append(options, grpc.WithInsecure())
	} else {
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	// Since 1.63 NewClient, which 1.33 has not; this one stays throughout 1.x.
	return grpc.Dial(scheme+":///"+endpoints[0].String(), options...)
}

// dialer connects to an address that was looked up or, where a proxy is to be used, has the proxy connect to the endpoint.
type dialer struct {
	endpoints []endpoint
	// As http.ProxyFromEnvironment; none where no proxy is to be used.
	proxies func(*http.Request) (*url.URL, error)
}

func newDialer(useProxy bool, endpoints []endpoint) dialer {
	made := dialer{endpoints: endpoints}
	if useProxy {
		made.proxies = http.ProxyFromEnvironment
	}
	return made
}

// proxy is the one for this host and port, if there is one. What can't be used is told without its URL: it may hold a password.
func (d dialer) proxy(address string) (*url.URL, *Error) {
	if d.proxies == nil {
		return nil, nil
	}
	found, err := d.proxies(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	switch {
	case err != nil:
		return nil, configurationError("UseProxy", "what HTTPS_PROXY names is no URL of a proxy", proxyRemedy)
	case found != nil && found.Scheme != "http":
		fault := fmt.Sprintf("HTTPS_PROXY names a proxy that is spoken to in %s, which this package can't", found.Scheme)
		return nil, configurationError("UseProxy", fault, proxyRemedy)
	}
	return found, nil
}

const proxyRemedy = "name one that is http://, or leave UseProxy out"

// fault is why the proxies of the endpoints can't be used, if they can't.
func (d dialer) fault() *Error {
	for _, one := range d.endpoints {
		if _, fault := d.proxy(one.String()); fault != nil {
			return fault
		}
	}
	return nil
}

// proxyOf is the proxy by which to connect to this address: only endpoints have one, and what one was looked up as has none.
func (d dialer) proxyOf(address string) (*url.URL, *Error) {
	for _, one := range d.endpoints {
		if one.String() == address {
			return d.proxy(address)
		}
	}
	return nil, nil
}

func (d dialer) dial(ctx context.Context, address string) (net.Conn, error) {
	var direct net.Dialer
	proxy, fault := d.proxyOf(address)
	if fault != nil {
		return nil, fault
	}
	if proxy == nil {
		return direct.DialContext(ctx, "tcp", address)
	}
	port := proxy.Port()
	if port == "" {
		port = "80"
	}
	connection, err := direct.DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("the proxy can't be reached: %w", err)
	}
	if err := askProxy(ctx, connection, proxy, address); err != nil {
		connection.Close()
		return nil, err
	}
	return connection, nil
}

// askProxy has the proxy connect to the address. What it says beyond its answer is the broker's, and must not be swallowed: no
// broker speaks first, so there is nothing.
func askProxy(ctx context.Context, connection net.Conn, proxy *url.URL, address string) error {
	if deadline, isSet := ctx.Deadline(); isSet {
		connection.SetDeadline(deadline)
		defer connection.SetDeadline(time.Time{})
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		said := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+said)
	}
	if err := request.Write(connection); err != nil {
		return fmt.Errorf("the proxy can't be asked: %w", err)
	}
	buffered := bufio.NewReader(connection)
	response, err := http.ReadResponse(buffered, request)
	if err != nil {
		return fmt.Errorf("the proxy does not answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy refuses to connect: %s", response.Status)
	}
	if buffered.Buffered() > 0 {
		return errors.New("the proxy says more than that it has connected")
	}
	return nil
}
