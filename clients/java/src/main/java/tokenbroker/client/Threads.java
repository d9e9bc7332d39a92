package tokenbroker.client;

import java.util.concurrent.ThreadFactory;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * The client's threads.
 *
 * <p>Must never keep the process alive: they are daemons.
 */
final class Threads {
    private Threads() {}

    static ThreadFactory daemons(String name) {
        var count = new AtomicInteger();
        return what -> {
            var thread = new Thread(what, name + "-" + count.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        };
    }
}
