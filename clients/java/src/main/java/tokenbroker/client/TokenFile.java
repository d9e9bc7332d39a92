package tokenbroker.client;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * The file with the token by which the broker knows us. Read for each call, since kubelet replaces it; calls that come while it
 * is read share what that brings.
 *
 * <p>Must never have more than one read under way, however long it takes, nor have a call wait for one that hangs; nor show what
 * the file holds.
 */
final class TokenFile implements AutoCloseable {
    /** A read that takes longer is not waited for: its disk is gone. */
    static final Duration READ_TIMEOUT = Duration.ofSeconds(2);
    private static final long IDLE_SECONDS = 10;

    private final Path path;
    private final Duration within;
    /** A thread for what may hang. Nothing waits in its queue but for the moment in which it ends the read before. */
    private final ThreadPoolExecutor reader = new ThreadPoolExecutor(
        1, 1, IDLE_SECONDS, TimeUnit.SECONDS, new LinkedBlockingQueue<>(1), Threads.daemons("token-broker-file"));
    /** The last one. */
    private Read last;

    /** A read, by when it is waited for. */
    private static final class Read {
        final CompletableFuture<String> outcome = new CompletableFuture<>();
        final long by;

        Read(long by) {
            this.by = by;
        }
    }

    TokenFile(Path path, Duration within) {
        this.path = path;
        this.within = within;
        reader.allowCoreThreadTimeOut(true);
    }

    /** The token that is in it, waiting for so long at most. */
    String token() {
        var read = begun();
        try {
            return checked(read.outcome.get(Math.max(0, read.by - System.nanoTime()), TimeUnit.NANOSECONDS).strip());
        } catch (ExecutionException failed) {
            var error = failed.getCause();
            var why = error instanceof NoSuchFileException ? "it is not there" : String.valueOf(error.getMessage());
            throw unreadable(why, error);
        } catch (TimeoutException hangs) {
            throw unreadable("a read of it does not end", hangs);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw unreadable("the thread was interrupted", interrupted);
        }
    }

    /** The read that is under way, or a new one. */
    private synchronized Read begun() {
        if (last == null || last.outcome.isDone()) {
            var read = new Read(System.nanoTime() + within.toNanos());
            reader.execute(() -> read(read.outcome));
            last = read;
        }
        return last;
    }

    private void read(CompletableFuture<String> outcome) {
        try {
            outcome.complete(Files.readString(path));
        } catch (IOException | RuntimeException | Error error) {
            outcome.completeExceptionally(error);
        }
    }

    private String checked(String token) {
        if (token.isEmpty() || !token.chars().allMatch(one -> one > ' ' && one <= '~')) {
            throw TokenBrokerException.ofOurs(
                "there is no token in " + path + ", but " + (token.isEmpty() ? "nothing" : "what no header can hold")
                    + ": see what is projected there", null);
        }
        return token;
    }

    private TokenBrokerException unreadable(String why, Throwable cause) {
        return TokenBrokerException.ofOurs(
            "the service account's token can't be read from " + path + ": " + why + ": see where it is projected", cause);
    }

    @Override
    public void close() {
        reader.shutdown();
    }
}
