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

// So often a token is complained of: no more replicas hold a dead one, and the contract takes 16 ids.
const replicasMax = 16

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

func getToken(broker pb.TokenBrokerServiceClient, merchant, number string, rejected []string) (*pb.Token, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	request := &pb.GetTokenRequest{MerchantId: merchant, Number: number, RejectedTokenIds: rejected}
	reply, err := broker.GetToken(ctx, request)
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
	return fmt.Sprintf("%v %s: %s (try again in: %v)", failed.Code(), reason, failed.Message(), wait)
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

func run(merchant, number string) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	broker := pb.NewTokenBrokerServiceClient(connection)
	token, err := getToken(broker, merchant, number, nil)
	if err != nil {
		return errors.New(inWords(err))
	}
	answered, err := callVault(token)
	var rejected []string
	for err == nil && answered == http.StatusUnauthorized && len(rejected) < replicasMax {
		// The vault knows this token no more: ask for the next. Each replica has its own, so all ids go along.
		rejected = append(rejected, token.GetTokenId())
		if token, err = getToken(broker, merchant, number, rejected); err != nil {
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
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
