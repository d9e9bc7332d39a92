// Asks the broker for a user's token, and uses it: caller MERCHANT NUMBER
//
// The environment says where the broker is (TOKEN_BROKER_TARGET), how it is known (TOKEN_BROKER_CA), who we are
// (TOKEN_BROKER_TOKEN_FILE, or TOKEN_BROKER_CERTIFICATE and TOKEN_BROKER_KEY), and where the vault's API is (VAULT_URL).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	pb "example.org/app/tokenbrokerv1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// A call's whole time, repeats included: a sign-in takes up to ten seconds.
const callTime = 15 * time.Second

// Most ids that one call can name: more than there are replicas.
const rejectedMax = 16

// Asking twice does no harm. How long to wait between is what the broker's pushback says; the backoff here is for errors without
// one: a broker that goes away, or none there.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "tokenbroker.v1.TokenBrokerService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
}`

// tokenFile is the projected service-account token, read for each call: kubelet replaces it.
type tokenFile string

func (path tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(path))
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }

// connect makes one connection for the whole process.
func connect() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		// A connection whose other end is gone without a word is noticed.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if ca := os.Getenv("TOKEN_BROKER_CA"); ca == "" {
		options = append(options, grpc.WithInsecure()) // since 1.44: WithTransportCredentials(insecure.NewCredentials())
	} else {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + ca)
		}
		if certificate := os.Getenv("TOKEN_BROKER_CERTIFICATE"); certificate != "" {
			// Read for each handshake: cert-manager replaces it.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(certificate, os.Getenv("TOKEN_BROKER_KEY"))
				return &pair, err
			}
		}
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if path := os.Getenv("TOKEN_BROKER_TOKEN_FILE"); path != "" {
			options = append(options, grpc.WithPerRPCCredentials(tokenFile(path)))
		}
	}
	return grpc.Dial(os.Getenv("TOKEN_BROKER_TARGET"), options...) // since 1.63: NewClient
}

type user struct{ merchant, number string }

type deadToken struct {
	id   string
	ends time.Time
}

// rejected are the tokens that the vault's API answered with 401, while they would have lived, the newest last.
var rejected = struct {
	sync.Mutex
	tokens map[user][]deadToken
}{tokens: map[user][]deadToken{}}

// keep drops those that have ended, and the one that is named.
func keep(tokens []deadToken, not string) (kept []deadToken) {
	for _, dead := range tokens {
		if time.Now().Before(dead.ends) && dead.id != not {
			kept = append(kept, dead)
		}
	}
	return kept
}

func reject(of user, token *pb.Token) {
	rejected.Lock()
	defer rejected.Unlock()
	for other, tokens := range rejected.tokens {
		if rejected.tokens[other] = keep(tokens, ""); len(rejected.tokens[other]) == 0 {
			delete(rejected.tokens, other)
		}
	}
	left := time.Duration(token.GetExpiresIn().GetSeconds()) * time.Second
	tokens := append(keep(rejected.tokens[of], token.GetTokenId()), deadToken{token.GetTokenId(), time.Now().Add(left)})
	if len(tokens) > rejectedMax {
		tokens = tokens[1:]
	}
	rejected.tokens[of] = tokens
}

// rejectedIDs are those of a user, without the one that is to be forgotten.
func rejectedIDs(of user, forget string) (ids []string) {
	rejected.Lock()
	defer rejected.Unlock()
	rejected.tokens[of] = keep(rejected.tokens[of], forget)
	for _, dead := range rejected.tokens[of] {
		ids = append(ids, dead.id)
	}
	if ids == nil {
		delete(rejected.tokens, of)
	}
	return ids
}

func getToken(broker pb.TokenBrokerServiceClient, of user) (*pb.Token, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	// Named with each call: replicas hold tokens of their own, and any of them may answer.
	named := rejectedIDs(of, "")
	request := &pb.GetTokenRequest{MerchantId: of.merchant, Number: of.number, RejectedTokenIds: named}
	reply, err := broker.GetToken(ctx, request)
	for _, id := range named {
		if id == reply.GetToken().GetTokenId() {
			// The vault insists on it: named again, it would only cost a sign-in with each call.
			rejectedIDs(of, id)
		}
	}
	return reply.GetToken(), err
}

// inWords is the code, the broker's reason and the wait, where it says so.
func inWords(err error) string {
	failed := status.Convert(err)
	reason, wait := "no answer of a broker", time.Duration(0)
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			wait = time.Duration(detail.GetRetryDelay().GetSeconds())*time.Second +
				time.Duration(detail.GetRetryDelay().GetNanos())
		}
	}
	words := fmt.Sprintf("%v %s: %s", failed.Code(), reason, failed.Message())
	if wait > 0 {
		words += fmt.Sprintf(" (try again in: %v)", wait)
	}
	return words
}

// callVault is the status of a call of the vault's API.
func callVault(token *pb.Token) (int, error) {
	request, err := http.NewRequest(http.MethodGet, os.Getenv("VAULT_URL")+"/v1/customer", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token.GetAccessToken())
	reply, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return 0, err
	}
	return reply.StatusCode, reply.Body.Close()
}

func run(of user) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	broker := pb.NewTokenBrokerServiceClient(connection)
	token, err := getToken(broker, of)
	if err != nil {
		return errors.New(inWords(err))
	}
	answered, err := callVault(token)
	complained := map[string]bool{}
	// The vault knows this token no more, and maybe none of those that other replicas hold. One that comes back all the same is its
	// last word.
	for err == nil && answered == http.StatusUnauthorized && !complained[token.GetTokenId()] && len(complained) < rejectedMax {
		complained[token.GetTokenId()] = true
		reject(of, token)
		if token, err = getToken(broker, of); err != nil {
			return errors.New(inWords(err))
		}
		answered, err = callVault(token)
	}
	if err == nil {
		fmt.Println(answered, "with token", token.GetTokenId())
	}
	return err
}

func main() {
	if err := run(user{os.Args[1], os.Args[2]}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
