package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// realBroker answers over gRPC, on a free port of loopback.
type realBroker struct {
	pb.UnimplementedTokenBrokerServiceServer
	address string
	server  *grpc.Server
	health  *health.Server

	mu       sync.Mutex
	calls    int
	failures []error
	pushback []string
	// Whether it answers without a token.
	isEmpty bool
	// Of the last call.
	authorization, certificate string
}

func (b *realBroker) GetToken(ctx context.Context, request *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	sent, _ := metadata.FromIncomingContext(ctx)
	b.authorization = strings.Join(sent.Get("authorization"), ",")
	if from, is := peer.FromContext(ctx); is {
		if secured, is := from.AuthInfo.(credentials.TLSInfo); is && len(secured.State.PeerCertificates) > 0 {
			b.certificate = secured.State.PeerCertificates[0].Subject.CommonName
		}
	}
	if len(b.failures) > 0 {
		failure := b.failures[0]
		b.failures = b.failures[1:]
		if len(b.pushback) > 0 {
			grpc.SetTrailer(ctx, metadata.Pairs(pushbackKey, b.pushback[0]))
			b.pushback = b.pushback[1:]
		}
		return nil, failure
	}
	if b.isEmpty {
		return &pb.GetTokenResponse{}, nil
	}
	return &pb.GetTokenResponse{Token: answered(fmt.Sprintf("%s %d", b.address, b.calls), time.Hour, 0)}, nil
}

const service = "tokenbroker.v1.TokenBrokerService"

func (b *realBroker) called() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func serve(t *testing.T, options ...grpc.ServerOption) *realBroker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &realBroker{address: listener.Addr().String(), server: grpc.NewServer(options...), health: health.NewServer()}
	pb.RegisterTokenBrokerServiceServer(b.server, b)
	b.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(b.server, b.health)
	go b.server.Serve(listener)
	t.Cleanup(b.server.Stop)
	return b
}

func brokersOf(t *testing.T, options Options) *brokers {
	t.Helper()
	endpoints, err := options.checked()
	if err != nil {
		t.Fatal(err)
	}
	made := newBrokers(options, endpoints, 10*time.Second, func() float64 { return 0.5 })
	t.Cleanup(made.close)
	return made
}

func TestCallsGoToAllEndpointsInTurn(t *testing.T) {
	one, two := serve(t), serve(t)
	made := brokersOf(t, Options{Endpoints: []string{"http://" + one.address, "http://" + two.address}})
	// Which of them is connected first is chance: calls go to both once both are.
	call := func() {
		if _, err := made.call(someUser, nil); err != nil {
			t.Fatal(err)
		}
	}
	for one.called() == 0 || two.called() == 0 {
		call()
	}
	one.server.Stop()
	for n := 0; n < 10; n++ {
		call()
	}
}

func TestAReplicaThatSaysItIsNotWellGetsNoCalls(t *testing.T) {
	well, ill := serve(t), serve(t)
	ill.health.SetServingStatus(service, healthpb.HealthCheckResponse_NOT_SERVING)
	made := brokersOf(t, Options{Endpoints: []string{"http://" + well.address, "http://" + ill.address}})
	call := func() {
		if _, err := made.call(someUser, nil); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < 20; n++ {
		call()
	}
	equal(t, ill.called(), 0)
	ill.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	for ill.called() == 0 {
		call()
	}
}

func TestTheBrokersPushbackIsObeyed(t *testing.T) {
	b := serve(t)
	made := brokersOf(t, Options{Endpoints: []string{"http://" + b.address}})
	busy, gone := status.Error(codes.ResourceExhausted, "busy"), status.Error(codes.Unavailable, "gone")
	for _, c := range []struct {
		failures []error
		pushback []string
		calls    int
		want     codes.Code
	}{
		{[]error{busy, gone, gone}, []string{"0", "1", "2"}, 4, codes.OK},
		{[]error{busy, gone, gone, gone}, []string{"0", "0", "0", "0"}, 4, codes.Unavailable},
		{[]error{busy}, []string{"-1"}, 1, codes.ResourceExhausted},
		{[]error{gone}, []string{"soon"}, 1, codes.Unavailable},
		// The wait outlasts the call: its own reason tells more than that the time is over.
		{[]error{gone}, []string{"60000"}, 1, codes.Unavailable},
		{[]error{gone}, nil, 2, codes.OK},
		{[]error{status.Error(codes.NotFound, "no")}, nil, 1, codes.NotFound},
		{[]error{status.Error(codes.Internal, "no")}, []string{"0"}, 1, codes.Internal},
	} {
		b.calls, b.failures, b.pushback = 0, c.failures, c.pushback
		began := time.Now()
		_, err := made.call(someUser, nil)
		if time.Since(began) > made.time/2 {
			t.Fatal("it waited for nothing")
		}
		equal(t, status.Code(err), c.want)
		equal(t, b.calls, c.calls)
	}
}

func TestAnAnswerWithoutATokenIsTheBrokersFault(t *testing.T) {
	b := serve(t)
	b.isEmpty = true
	made := brokersOf(t, Options{Endpoints: []string{"http://" + b.address}})
	_, err := made.call(someUser, nil)
	equal(t, status.Code(err), codes.Internal)
	equal(t, errorOf(err).IsPermanent(), true)
}

func TestAFirstCallThatCloseOvertakesLeavesNothingBehind(t *testing.T) {
	looksNothingUp := func() {
		t.Helper()
		stacks := make([]byte, 1<<20)
		for late := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
			if !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*looking).run(") {
				return
			}
			equal(t, time.Now().Before(late), true)
		}
	}
	looksNothingUp() // no channel of another test's, either
	made := brokersOf(t, Options{Endpoints: []string{"http://127.0.0.1:1"}})
	made.close()
	_, err := made.take(context.Background())
	equal(t, status.Code(err), codes.Canceled)
	equal(t, made.channel == nil, true)
	looksNothingUp()
}

func TestRepeatsAreSpreadByTheSourcesOwnJitter(t *testing.T) {
	b := serve(t)
	b.failures = []error{status.Error(codes.Unavailable, "gone"), status.Error(codes.Unavailable, "gone")}
	made := brokersOf(t, Options{Endpoints: []string{"http://" + b.address}})
	draws := 0
	made.jitter = func() float64 { draws++; return 0 }
	_, err := made.call(someUser, nil)
	equal(t, err == nil, true)
	equal(t, draws, 2)
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheTokenFileIsReadForEachCall(t *testing.T) {
	ca, folder := newAuthority(t), t.TempDir()
	caFile, tokenFile := filepath.Join(folder, "ca"), filepath.Join(folder, "token")
	b := ca.serveSecure(t)
	write(t, caFile, ca.pem)
	made := brokersOf(t, Options{Endpoints: []string{"https://" + b.address}, CAFile: caFile, TokenFile: tokenFile})
	_, err := made.call(someUser, nil)
	var failure *Error
	if !errors.As(err, &failure) || !strings.Contains(failure.Error(), "option TokenFile: the file can't be read") {
		t.Fatal(err)
	}
	for _, token := range []string{"one", "two"} {
		write(t, tokenFile, []byte(token+"\n"))
		if _, err := made.call(someUser, nil); err != nil {
			t.Fatal(err)
		}
		equal(t, b.authorization, "Bearer "+token)
	}
	for _, none := range []string{"", "\n", "s3cret\nb", "s3cret b", "s3cret\tb", "s3cret\x7f", "s3cr\u00e9t"} {
		write(t, tokenFile, []byte(none))
		_, err := made.call(someUser, nil)
		if !errors.As(err, &failure) || failure.Kind != KindConfiguration || strings.Contains(failure.Error(), "s3cr") {
			t.Fatalf("%q: %v", none, err)
		}
	}
}

func TestReplacedFilesMakeANewChannelAndBrokenOnesNone(t *testing.T) {
	ca, folder := newAuthority(t), t.TempDir()
	path := func(name string) string { return filepath.Join(folder, name) }
	b := ca.serveSecure(t)
	made := brokersOf(t, Options{
		Endpoints: []string{"https://" + b.address}, CAFile: path("ca"), CertificateFile: path("crt"), KeyFile: path("key"),
	})
	look := func() (*channel, error) {
		made.looked = time.Time{}
		_, err := made.call(someUser, nil)
		return made.channel, err
	}
	var failure *Error
	if _, err := look(); !errors.As(err, &failure) || failure.Kind != KindConfiguration {
		t.Fatal(err)
	}
	cert, key := ca.client(t, "one")
	write(t, path("ca"), ca.pem)
	write(t, path("crt"), cert)
	write(t, path("key"), key)
	first, err := look()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, b.certificate, "one")
	// A call that is under way when the files are replaced keeps its channel.
	held := made.atHand(true)
	cert, key = ca.client(t, "two")
	for _, half := range []func(){
		func() { write(t, path("crt"), cert) },
		func() { write(t, path("ca"), []byte("none")) },
		func() { os.Remove(path("key")) },
	} {
		half()
		same, err := look()
		equal(t, same, first)
		equal(t, err == nil, true)
		equal(t, b.certificate, "one")
	}
	write(t, path("ca"), ca.pem)
	write(t, path("key"), key)
	second, err := look()
	equal(t, err == nil, true)
	equal(t, second != first, true)
	equal(t, b.certificate, "two")
	if _, err := held.stub.GetToken(context.Background(), &pb.GetTokenRequest{}); err != nil {
		t.Fatal("its channel was closed under it: ", err)
	}
	made.giveBack(held)
	if _, err := held.stub.GetToken(context.Background(), &pb.GetTokenRequest{}); err == nil {
		t.Fatal("the old channel is still open")
	}
	// Between two looks nothing is read.
	os.Remove(path("ca"))
	made.looked = time.Now()
	if _, err := made.call(someUser, nil); err != nil {
		t.Fatal(err)
	}
}

func TestABrokerOfAnotherCAIsNotTrusted(t *testing.T) {
	ca, folder := newAuthority(t), t.TempDir()
	b := ca.serveSecure(t)
	caFile := filepath.Join(folder, "ca")
	write(t, caFile, newAuthority(t).pem)
	made := brokersOf(t, Options{Endpoints: []string{"https://" + b.address}, CAFile: caFile})
	_, err := made.call(someUser, nil)
	equal(t, status.Code(err), codes.Unavailable)
	equal(t, b.calls, 0)
}

func TestFilesThatHangHoldNoCallBeyondItsTime(t *testing.T) {
	ca, folder := newAuthority(t), t.TempDir()
	caFile := filepath.Join(folder, "ca")
	b := ca.serveSecure(t)
	write(t, caFile, ca.pem)
	made := brokersOf(t, Options{Endpoints: []string{"https://" + b.address}, CAFile: caFile})
	made.renewing <- struct{}{} // somebody's read does not end
	made.time = 10 * time.Millisecond
	_, err := made.call(someUser, nil)
	equal(t, status.Code(err), codes.DeadlineExceeded)
	<-made.renewing
	made.time = 10 * time.Second
	if _, err := made.call(someUser, nil); err != nil {
		t.Fatal(err)
	}
	// While there is a channel, nobody waits for a read.
	made.renewing <- struct{}{}
	made.looked = time.Time{}
	if _, err := made.call(someUser, nil); err != nil {
		t.Fatal(err)
	}
}
