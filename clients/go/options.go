package tokenbroker

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What a source is told: its brokers, and how each side knows the other. Must never read a file: each is read when it is needed,
// and again as it is replaced.

const (
	// It covers a sign-in with all its repeats.
	defaultTimeout = 30 * time.Second
	// The broker honours no longer deadline.
	timeoutMax = 10 * time.Minute
	// A source waits this much longer than its calls take, so that it is the call that says what took so long …
	ahead = 100 * time.Millisecond
	// … but no more than such a part of a short time.
	aheadShare = 10

	example = "http://127.0.0.1:50051"
)

// Options is what a TokenSource is told.
type Options struct {
	// Endpoints are brokers, such as http://127.0.0.1:50051, or names of several, such as
	// https://token-broker-headless.cards.svc:50051: each name is looked up again and again, and all its addresses are asked in
	// turn. At least one; all over TLS, or none.
	Endpoints []string
	// CAFile is the CA of the brokers' certificates, in PEM: needed for https, and read again as it is replaced.
	CAFile string
	// TokenFile is where the service account's token is, by which the broker knows us. It is read for each call.
	TokenFile string
	// CertificateFile and KeyFile are the certificate and its key by which the broker knows us, in PEM; read again as they are
	// replaced.
	CertificateFile string
	KeyFile         string
	// Timeout is how long Token waits at most, whatever its context says: 30 s where it is zero, 10 min at most.
	Timeout time.Duration
	// UseProxy has connections made through the proxy that HTTPS_PROXY and NO_PROXY name, which must be one of http://. Without it
	// they are not looked at.
	UseProxy bool
}

// endpoint is where brokers are.
type endpoint struct {
	host, port string
	isTLS      bool
}

func (e endpoint) String() string { return net.JoinHostPort(e.host, e.port) }

// checked is the endpoints, where the options fit together.
func (o *Options) checked() ([]endpoint, error) {
	if len(o.Endpoints) == 0 {
		return nil, configurationError("Endpoints", "there is none", "give the broker's, such as "+example)
	}
	endpoints := make([]endpoint, 0, len(o.Endpoints))
	for _, text := range o.Endpoints {
		parsed, fault := parseEndpoint(text)
		if fault != nil {
			return nil, fault
		}
		if len(endpoints) > 0 && parsed.isTLS != endpoints[0].isTLS {
			return nil, configurationError("Endpoints", "some are http:// and some are https://", "give all of one kind")
		}
		endpoints = append(endpoints, parsed)
	}
	if fault := o.identityFault(endpoints[0].isTLS); fault != nil {
		return nil, fault
	}
	if o.Timeout < 0 {
		return nil, configurationError("Timeout", "it is less than nothing", "leave it out for 30 s, or give up to 10 min")
	}
	return endpoints, nil
}

func (o *Options) identityFault(isTLS bool) *Error {
	const missing = "it is missing, and "
	const plaintext = "goes with https:// only, and an endpoint is http://"
	const toTLS = "make the endpoints https://, or leave it out"
	switch {
	case isTLS && o.CAFile == "":
		return configurationError("CAFile", missing+"an endpoint is https://", "give the file of the broker's CA, in PEM")
	case !isTLS && o.CAFile != "":
		return configurationError("CAFile", plaintext, toTLS)
	case !isTLS && o.TokenFile != "":
		return configurationError("TokenFile", plaintext+", where everybody could read the token", toTLS)
	case !isTLS && o.CertificateFile != "":
		return configurationError("CertificateFile", plaintext, toTLS)
	case !isTLS && o.KeyFile != "":
		return configurationError("KeyFile", plaintext, toTLS)
	case o.CertificateFile != "" && o.KeyFile == "":
		return configurationError("KeyFile", missing+"CertificateFile is given", "give the file of the certificate's key, in PEM")
	case o.KeyFile != "" && o.CertificateFile == "":
		return configurationError("CertificateFile", missing+"KeyFile is given", "give the file of the certificate, in PEM")
	case o.TokenFile != "" && o.CertificateFile != "":
		return configurationError("TokenFile", "CertificateFile is given as well", "give one of them")
	}
	return nil
}

// parseEndpoint takes scheme, host and port, and nothing else.
func parseEndpoint(text string) (endpoint, *Error) {
	refuse := func(fault string) (endpoint, *Error) {
		return endpoint{}, configurationError("Endpoints", fault, "give a URL such as "+example+", or https:// with CAFile")
	}
	parsed, err := url.Parse(text)
	// Where it has a user, it may have a password: then it is not shown.
	if strings.Contains(text, "@") {
		return refuse("one has a user in it")
	}
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Hostname() == "" {
		return refuse(fmt.Sprintf("%q is no URL of a broker", text))
	}
	if strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		return refuse(fmt.Sprintf("%q has more than a scheme, a host and a port", text))
	}
	port := parsed.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[parsed.Scheme]
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return refuse(fmt.Sprintf("%q has a port that can't be: it is a number, 1 to 65535", text))
	}
	return endpoint{host: parsed.Hostname(), port: port, isTLS: parsed.Scheme == "https"}, nil
}

// times are how long a caller waits, and how long a call takes, at most.
func (o *Options) times() (caller, call time.Duration) {
	caller = shorter(o.Timeout, timeoutMax)
	if caller == 0 {
		caller = defaultTimeout
	}
	return caller, caller - shorter(ahead, caller/aheadShare)
}
