package tokenbroker

import (
	"sort"
	"sync"
	"time"
)

// The users that a source knows.
//
// Must never keep more than usersMax, but for those that a call is under way for; nor forget one of these, whose next caller
// would begin a second.

const (
	// Most users of one source: their tokens take about 3 KiB each. Beyond that those are forgotten who were not asked for for
	// longest.
	usersMax = 10_000
	// Such a part of the users is forgotten at once, since to find out who was not asked for takes a look at all.
	forgotten = usersMax / 16
)

type userMap struct {
	mu       sync.RWMutex
	slots    map[names]*slot
	isClosed bool
}

func (m *userMap) get(user names) *slot {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.slots[user]
}

// getOrAdd is this user's slot; none once all is closed.
func (m *userMap) getOrAdd(user names, shared *shared) *slot {
	if found := m.get(user); found != nil {
		return found
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.slots[user]; found != nil || m.isClosed {
		return found
	}
	if len(m.slots) >= usersMax {
		m.makeRoom()
	}
	added := newSlot(user.user(), shared)
	added.asked = shared.clock.Now()
	m.slots[user] = added
	return added
}

func (m *userMap) len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.slots)
}

// makeRoom forgets who was not asked for for longest. A slot that is gone tells whoever has found it before.
func (m *userMap) makeRoom() {
	type idle struct {
		slot  *slot
		asked time.Time
	}
	idles := make([]idle, 0, len(m.slots))
	for _, slot := range m.slots {
		if asked, isIdle := slot.isIdle(); isIdle {
			idles = append(idles, idle{slot, asked})
		}
	}
	sort.Slice(idles, func(a, b int) bool { return idles[a].asked.Before(idles[b].asked) })
	for at := 0; at < len(idles) && at < forgotten; at++ {
		if idles[at].slot.leave(nil, false) {
			delete(m.slots, idles[at].slot.user.named())
		}
	}
}

// close forgets all of them: whoever waits gets this error.
func (m *userMap) close(why *Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.isClosed = true
	for user, slot := range m.slots {
		slot.leave(why, true)
		delete(m.slots, user)
	}
}
