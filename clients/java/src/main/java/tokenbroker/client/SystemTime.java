package tokenbroker.client;

import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * The time of the JVM, with a thread of its own for what is to happen.
 *
 * <p>Must never keep the process alive: the thread is a daemon.
 */
final class SystemTime implements Time {
    private static final Timer NEVER = () -> {};

    private final long origin = System.nanoTime();
    private final ScheduledThreadPoolExecutor timers;

    SystemTime() {
        timers = new ScheduledThreadPoolExecutor(1, Threads.daemons("token-broker-timer"));
        timers.setRemoveOnCancelPolicy(true);
        timers.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
        // Once closed, whatever is asked for is forgotten.
        timers.setRejectedExecutionHandler((what, closed) -> {});
    }

    @Override
    public long now() {
        return System.nanoTime() - origin;
    }

    @Override
    public Timer at(long when, Runnable what) {
        if (timers.isShutdown()) {
            return NEVER;
        }
        var scheduled = timers.schedule(what, Math.max(0, when - now()), TimeUnit.NANOSECONDS);
        return () -> scheduled.cancel(false);
    }

    @Override
    public void close() {
        timers.shutdownNow();
    }
}
