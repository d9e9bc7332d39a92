package tokenbroker

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "example.org/token-broker/clients/go/tokenbrokerv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The channel that calls go over, made anew as the files behind it are replaced.
//
// Must never give up a channel that works for files that can't be used: they may be half of a pair that is being replaced; nor
// end one under its calls; nor have more than one call wait for files while there is a channel.

// The files are looked at by whichever call comes, but no more often than this: there are few calls, and three small files.
const filesEvery = time.Second

// brokers is the asker that asks brokers.
type brokers struct {
	options   Options
	endpoints []endpoint
	// Of one call, all included.
	time time.Duration
	// Draws from 0 to 1.
	jitter func() float64
	// Ended by close, and every call with it.
	life context.Context
	end  context.CancelFunc

	// Full while the files are read.
	renewing chan struct{}

	mu      sync.Mutex
	channel *channel
	looked  time.Time
}

// channel is one of gRPC's, with what it was made of.
type channel struct {
	pems
	connection *grpc.ClientConn
	stub       pb.TokenBrokerServiceClient
	calls      int
	isOld      bool
}

func newBrokers(options Options, endpoints []endpoint, callTime time.Duration, jitter func() float64) *brokers {
	life, end := context.WithCancel(context.Background())
	return &brokers{
		options: options, endpoints: endpoints, time: callTime, jitter: jitter, life: life, end: end,
		renewing: make(chan struct{}, 1),
	}
}

func (b *brokers) ask(user User, rejected []string, done func(*pb.Token, error)) {
	go func() { done(b.call(user, rejected)) }()
}

func (b *brokers) call(user User, rejected []string) (*pb.Token, error) {
	ctx, cancel := context.WithTimeout(b.life, b.time)
	defer cancel()
	channel, err := b.take(ctx)
	if err != nil {
		return nil, err
	}
	defer b.giveBack(channel)
	if path := b.options.TokenFile; path != "" {
		// Read for each call: kubelet replaces it.
		token, fault := readToken(ctx, path)
		if fault != nil {
			return nil, fault
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", bearer+token)
	}
	request := &pb.GetTokenRequest{MerchantId: user.MerchantID(), Number: user.Number(), RejectedTokenIds: rejected}
	reply, err := getToken(ctx, channel.stub, request, b.jitter)
	if err != nil {
		said := errorOf(err)
		if said.Code == codes.DeadlineExceeded && said.Reason == "" {
			said.Message = fmt.Sprintf("nothing within %v: is one there, and can its name be looked up?", b.time)
		}
		return nil, said
	}
	if reply.GetToken() == nil {
		return nil, brokersFault("the broker's answer holds no token")
	}
	return reply.GetToken(), nil
}

// take is the channel of the files as they are or, where they can't be used, as they were, until it is given back. While they are
// read, the others go on with the one that there is.
func (b *brokers) take(ctx context.Context) (*channel, error) {
	if taken := b.atHand(false); taken != nil {
		return taken, nil
	}
	select {
	case b.renewing <- struct{}{}:
	default:
		if taken := b.atHand(true); taken != nil {
			return taken, nil
		}
		select {
		case b.renewing <- struct{}{}:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	defer func() { <-b.renewing }()
	// Whoever was first may have made it in the meantime.
	if taken := b.atHand(false); taken != nil {
		return taken, nil
	}
	fresh, fault := b.fresh(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life.Err() != nil {
		// Closed meanwhile: nobody would end it any more.
		b.retire(fresh)
		return nil, closed()
	}
	if fault != nil && b.channel == nil {
		return nil, fault
	}
	b.looked = time.Now()
	if fresh != nil {
		b.retire(b.channel)
		b.channel = fresh
	}
	b.channel.calls++
	return b.channel, nil
}

// atHand is the channel that there is, unless its files are to be looked at.
func (b *brokers) atHand(whateverItsFiles bool) *channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.channel == nil || !whateverItsFiles && b.options.CAFile != "" && time.Since(b.looked) >= filesEvery {
		return nil
	}
	b.channel.calls++
	return b.channel
}

// fresh is a channel of the files as they are; none where they are the same as before.
func (b *brokers) fresh(ctx context.Context) (*channel, error) {
	read, fault := readPems(ctx, &b.options)
	if fault != nil {
		return nil, fault
	}
	b.mu.Lock()
	isSame := b.channel != nil && b.channel.pems == read
	b.mu.Unlock()
	if isSame {
		return nil, nil
	}
	tls, fault := read.tls(&b.options)
	if fault != nil {
		return nil, fault
	}
	connection, err := connect(b.endpoints, tls, b.options.UseProxy)
	if err != nil {
		return nil, configurationError("Endpoints", fmt.Sprintf("gRPC can't use them: %v", err), "look at what they are")
	}
	return &channel{pems: read, connection: connection, stub: pb.NewTokenBrokerServiceClient(connection)}, nil
}

func (b *brokers) giveBack(taken *channel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken.calls--
	if taken.isOld {
		b.retire(taken)
	}
}

// retire ends a channel as soon as its calls are over. The lock is held.
func (b *brokers) retire(old *channel) {
	if old == nil {
		return
	}
	old.isOld = true
	if old.calls == 0 {
		old.connection.Close()
	}
}

// close ends every call, and the channel after them.
func (b *brokers) close() {
	b.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retire(b.channel)
}
