package tokenbroker.client;

import java.util.concurrent.atomic.LongAdder;
import java.util.function.DoubleSupplier;

/** What all users of one source share. */
final class Shared {
    final Asker asker;
    final Time time;
    /** Draws from 0 to 1. */
    final DoubleSupplier jitter;
    final LongAdder calls = new LongAdder();
    final LongAdder failures = new LongAdder();
    final LongAdder complaints = new LongAdder();

    Shared(Asker asker, Time time, DoubleSupplier jitter) {
        this.asker = asker;
        this.time = time;
        this.jitter = jitter;
    }
}
