package tokenbroker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"
)

// What is read from files: the CA, the certificate and its key, the token.
//
// Must never wait for a file longer than its call has time, nor have ever more threads wait for a disk that is gone.

const (
	// Files that take longer to read are not waited for: there is a channel that works.
	readTimeout = 2 * time.Second
	// Most reads at once: a read that hangs holds a thread.
	readersMax = 8
)

var readers = make(chan struct{}, readersMax)

func readFile(ctx context.Context, option, path string) (string, *Error) {
	type outcome struct {
		text []byte
		err  error
	}
	read := make(chan outcome, 1)
	refuse := func(err error) (string, *Error) {
		fault := fmt.Sprintf("the file can't be read: %v", err)
		return "", configurationError(option, fault, "give a file that is there and may be read")
	}
	select {
	case readers <- struct{}{}:
		go func() {
			defer func() { <-readers }()
			text, err := os.ReadFile(path)
			read <- outcome{text, err}
		}()
	case <-ctx.Done():
		return refuse(fmt.Errorf("%s: not in time", path))
	}
	select {
	case done := <-read:
		if done.err != nil {
			return refuse(done.err)
		}
		return string(done.text), nil
	case <-ctx.Done():
		return refuse(fmt.Errorf("%s: not in time", path))
	}
}

func readToken(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	text, fault := readFile(ctx, "TokenFile", path)
	if fault != nil {
		return "", fault
	}
	token := strings.TrimSpace(text)
	if token == "" || strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		// What it holds may be a secret all the same: it is not shown.
		fault := path + " holds no token, which is one word of plain ASCII"
		return "", configurationError("TokenFile", fault, "see that the service account's token is projected there")
	}
	return token, nil
}

// pems is the contents of the files that a channel is made of.
type pems struct{ ca, certificate, key string }

func readPems(ctx context.Context, options *Options) (read pems, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, file := range []struct {
		option, path string
		text         *string
	}{
		{"CAFile", options.CAFile, &read.ca},
		{"CertificateFile", options.CertificateFile, &read.certificate},
		{"KeyFile", options.KeyFile, &read.key},
	} {
		if file.path == "" {
			continue
		}
		text, fault := readFile(ctx, file.option, file.path)
		if fault != nil {
			return pems{}, fault
		}
		*file.text = text
	}
	return read, nil
}

// tls is the configuration of these; none for plaintext.
func (p pems) tls(options *Options) (*tls.Config, error) {
	if options.CAFile == "" {
		return nil, nil
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !config.RootCAs.AppendCertsFromPEM([]byte(p.ca)) {
		return nil, configurationError("CAFile", options.CAFile+" has no certificate in it", "give the broker's CA, in PEM")
	}
	if options.CertificateFile != "" {
		pair, err := tls.X509KeyPair([]byte(p.certificate), []byte(p.key))
		if err != nil {
			fault := fmt.Sprintf("%s and %s are no pair: %v", options.CertificateFile, options.KeyFile, err)
			return nil, configurationError("CertificateFile", fault, "give a certificate and its own key, in PEM")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
