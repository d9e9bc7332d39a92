package tokenbroker.client;

import java.time.Duration;
import java.util.Comparator;
import java.util.PriorityQueue;
import java.util.function.LongPredicate;

/** Time that passes when a test says so, and does what falls due on the test's thread. */
final class FakeTime implements Time {
    private static final class Due {
        final long when;
        final long order;
        final Runnable what;

        Due(long when, long order, Runnable what) {
            this.when = when;
            this.order = order;
            this.what = what;
        }
    }

    private final PriorityQueue<Due> due =
        new PriorityQueue<>(Comparator.<Due>comparingLong(one -> one.when).thenComparingLong(one -> one.order));
    /** Whether nothing can be put off until then, as where the system starts no thread. */
    LongPredicate refuses = when -> false;
    private long now = Duration.ofHours(1).toNanos();
    private long order;

    @Override
    public long now() {
        return now;
    }

    @Override
    public Timer at(long when, Runnable what) {
        if (refuses.test(when)) {
            throw new OutOfMemoryError("unable to create native thread");
        }
        var one = new Due(Math.max(when, now), order++, what);
        due.add(one);
        return () -> due.remove(one);
    }

    @Override
    public void close() {
        due.clear();
    }

    int waiting() {
        return due.size();
    }

    void pass(Duration duration) {
        long end = now + duration.toNanos();
        while (!due.isEmpty() && due.peek().when <= end) {
            var one = due.remove();
            now = Math.max(now, one.when);
            one.what.run();
        }
        now = Math.max(now, end); // what ran may have taken time
    }

    void passSeconds(double seconds) {
        pass(Duration.ofNanos(Math.round(seconds * 1e9)));
    }
}
