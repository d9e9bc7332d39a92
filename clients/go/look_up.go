package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

// Which addresses the endpoints have: each name is looked up again and again. gRPC's own look-up takes one name, and keeps half a
// minute between two: a rollout may be faster.
//
// Must never drop addresses because a name can't be looked up now, nor look up in a loop.

const (
	scheme = "token-broker"
	// New replicas get calls soon …
	lookUpEvery = 5 * time.Second
	// … and sooner where a connection was lost, but not in a loop.
	lookUpRest = time.Second
	// The system's resolver has its own times; this is where it has none.
	lookUpTimeout = 10 * time.Second
)

// lookUp makes one for a channel.
type lookUp struct {
	endpoints []endpoint
	dialer    dialer
	// The system's, or a test's.
	hosts func(context.Context, string) ([]string, error)
}

func (*lookUp) Scheme() string { return scheme }

func (l *lookUp) Build(_ resolver.Target, channel resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	life, end := context.WithCancel(context.Background())
	looking := &looking{
		lookUp: *l, channel: channel, end: end, now: make(chan struct{}, 1), found: make([][]resolver.Address, len(l.endpoints)),
	}
	looking.ended.Add(1)
	go looking.run(life)
	return looking, nil
}

// looking is a channel's.
type looking struct {
	lookUp
	channel resolver.ClientConn
	end     context.CancelFunc
	ended   sync.WaitGroup
	now     chan struct{}
	// What each endpoint has, and what the channel was told.
	found [][]resolver.Address
	told  string
}

func (l *looking) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case l.now <- struct{}{}:
	default:
	}
}

func (l *looking) Close() {
	l.end()
	l.ended.Wait()
}

func (l *looking) run(life context.Context) {
	defer l.ended.Done()
	for life.Err() == nil {
		l.tell(life)
		soonest := time.NewTimer(lookUpRest)
		latest := time.NewTimer(lookUpEvery)
		select {
		case <-life.Done():
		case <-latest.C:
		case <-l.now:
			select {
			case <-life.Done():
			case <-soonest.C:
			}
		}
		soonest.Stop()
		latest.Stop()
	}
}

// tell looks all names up, and tells the channel what has changed.
func (l *looking) tell(life context.Context) {
	ctx, cancel := context.WithTimeout(life, lookUpTimeout)
	defer cancel()
	addresses, err := l.lookAll(ctx)
	switch told := fmt.Sprint(addresses); {
	case life.Err() != nil:
	case err != nil:
		l.channel.ReportError(err)
	case told != l.told:
		l.told = told
		l.channel.UpdateState(resolver.State{Addresses: addresses})
	}
}

// lookAll is the addresses of all endpoints: of one that can't be looked up now, those that it had. An error where there are
// none.
func (l *looking) lookAll(ctx context.Context) (addresses []resolver.Address, err error) {
	faults := make([]error, len(l.endpoints))
	var all sync.WaitGroup
	for at := range l.endpoints {
		all.Add(1)
		go func(at int) {
			defer all.Done()
			found, err := l.look(ctx, l.endpoints[at])
			if faults[at] = err; err == nil {
				l.found[at] = found
			}
		}(at)
	}
	all.Wait()
	for _, found := range l.found {
		addresses = append(addresses, found...)
	}
	if len(addresses) > 0 {
		return addresses, nil
	}
	for _, fault := range faults {
		if fault != nil {
			return nil, fault
		}
	}
	return nil, errors.New("the names have no addresses")
}

func (l *looking) look(ctx context.Context, endpoint endpoint) ([]resolver.Address, error) {
	// Certificates have no dot at the end of their names.
	name := net.JoinHostPort(strings.TrimSuffix(endpoint.host, "."), endpoint.port)
	proxy, fault := l.dialer.proxy(endpoint.String())
	if fault != nil {
		return nil, fault
	}
	if proxy != nil {
		return []resolver.Address{{Addr: endpoint.String(), ServerName: name}}, nil
	}
	hosts, err := l.hosts(ctx, endpoint.host)
	if err != nil {
		return nil, fmt.Errorf("the name %s can't be looked up: %w", endpoint.host, err)
	}
	sort.Strings(hosts)
	addresses := make([]resolver.Address, 0, len(hosts))
	for _, host := range hosts {
		addresses = append(addresses, resolver.Address{Addr: net.JoinHostPort(host, endpoint.port), ServerName: name})
	}
	return addresses, nil
}
