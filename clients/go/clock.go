package tokenbroker

import (
	"math/rand"
	"sync"
	"time"
)

// clock is the time that everything in this package goes by: real, or a test's. Must never be the wall clock's alone: instants of
// time.Now carry the monotonic clock, and only differences count.
type clock interface {
	Now() time.Time
	// AfterFunc calls f, never before it has returned itself.
	AfterFunc(d time.Duration, f func()) timer
}

// timer is what can be called off.
type timer interface{ Stop() bool }

type realClock struct{}

func (realClock) Now() time.Time                            { return time.Now() }
func (realClock) AfterFunc(d time.Duration, f func()) timer { return time.AfterFunc(d, f) }

// jitter draws from 0 to 1, others in each process.
func jitter() func() float64 {
	var mu sync.Mutex
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64()
	}
}
