package tokenbroker.client;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The users that a source knows, found without a lock.
 *
 * <p>Must never keep more than {@link #USERS_MAX}, but for those that a call is under way for; nor forget one of these, whose
 * next caller would make a second.
 */
final class UserMap {
    /** Most users of one source. Beyond that those are forgotten who were not asked for for longest. */
    static final int USERS_MAX = 10_000;
    /** Such a part is forgotten at once, since to find out who was not asked for takes a look at all. */
    static final int FORGOTTEN = USERS_MAX / 16;

    private final Map<User, Slot> slots = new ConcurrentHashMap<>();
    private final Shared shared;
    private boolean isClosed;

    UserMap(Shared shared) {
        this.shared = shared;
    }

    /** This user's slot, or null. */
    Slot get(User user) {
        return slots.get(user);
    }

    /** This user's slot; null once all is closed. */
    Slot getOrAdd(User user) {
        var found = slots.get(user);
        return found != null ? found : add(user);
    }

    private synchronized Slot add(User user) {
        if (isClosed) {
            return null;
        }
        var found = slots.get(user);
        if (found != null) {
            return found;
        }
        if (slots.size() >= USERS_MAX) {
            makeRoom();
        }
        var slot = new Slot(user, shared);
        slots.put(user, slot);
        return slot;
    }

    int size() {
        return slots.size();
    }

    /** Forgets who was not asked for for longest, and has no call under way. */
    private void makeRoom() {
        // As they were now: what others note meanwhile must not change the order while it is made.
        var asked = new ArrayList<Map.Entry<Long, User>>(slots.size());
        slots.forEach((user, slot) -> asked.add(Map.entry(slot.askedAt(), user)));
        asked.sort(Comparator.comparingLong(Map.Entry::getKey));
        int left = FORGOTTEN;
        for (var one : asked) {
            if (left == 0) {
                return;
            }
            if (slots.get(one.getValue()).forget()) {
                slots.remove(one.getValue());
                left--;
            }
        }
    }

    /** Whoever waits gets this, and nobody is added any more. */
    synchronized void close(TokenBrokerException why) {
        isClosed = true;
        slots.values().forEach(slot -> slot.close(why));
        slots.clear();
    }
}
