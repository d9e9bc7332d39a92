package tokenbroker.client;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/** A source over a fake broker in fake time, and what tests do with it. */
final class Sources {
    static final String MERCHANT = "m";
    static final String NUMBER = "+447871239999";
    static final Duration TIMEOUT = Duration.ofSeconds(30);

    final FakeTime time = new FakeTime();
    final FakeBroker broker = new FakeBroker();
    /** The widest pauses, and the latest renewals. */
    final TokenSource source = new TokenSource(broker, time, () -> 1.0, TIMEOUT, Runnable::run);

    CompletableFuture<Token> asks() {
        return source.tokenAsync(MERCHANT, NUMBER);
    }

    /** The token that is at hand. */
    Token token() {
        return told(asks());
    }

    /** A first token. */
    Token first(String id, long lives, long renew) {
        var asked = asks();
        broker.last().brings(id, lives, renew);
        return told(asked);
    }

    /** What came of it: a test that waits instead would wait for good. */
    static <T> T told(CompletableFuture<T> asked) {
        assertTrue("it waits for a call", asked.isDone());
        return asked.join();
    }

    TokenBrokerException error() {
        return error(asks());
    }

    static TokenBrokerException error(CompletableFuture<?> asked) {
        assertTrue("it waits for a call", asked.isDone());
        return (TokenBrokerException) assertThrows(CompletionException.class, asked::join).getCause();
    }

    static void waits(CompletableFuture<?> asked) {
        assertFalse("it does not wait", asked.isDone());
    }

    static TokenBrokerException unavailable() {
        return TokenBrokerException.ofCode("UNAVAILABLE", "no");
    }

    static TokenBrokerException refused() {
        return TokenBrokerException.ofCode("NOT_FOUND", "no");
    }

    static TokenBrokerException wait(String code, Duration wait) {
        var said = new Said(code, "no");
        said.retryAfter = wait;
        return new TokenBrokerException(said, null);
    }
}
