package tokenbroker.client;

import java.io.IOException;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;
import java.util.function.Function;
import java.util.function.Predicate;

/**
 * Tokens from this process's own memory, renewed behind it. Make one for the process; all threads may use it.
 *
 * <p>Must never hand out a token that has ended, have two calls under way for one user, or ask in a loop, whatever the broker
 * answers; nor wait without an end; nor keep the process alive.
 */
public final class TokenSource implements AutoCloseable {
    /** Most calls of {@link #warm} at once: it may be called with all users there are. */
    private static final int WARM_AT_ONCE = 32;
    /**
     * How often a caller begins again whose token had ended before the caller came to see it, or whose user was forgotten just
     * now.
     */
    private static final int TRIES = 3;
    private static final int UNAUTHORIZED = 401;

    private final Shared shared;
    private final UserMap users;
    private final Duration timeout;
    /** Where what others do once a token is there runs: never on a thread that the source needs. */
    private final Executor tells;

    TokenSource(Asker asker, Time time, DoubleSupplier jitter, Duration timeout, Executor tells) {
        this.shared = new Shared(asker, time, jitter);
        this.users = new UserMap(shared);
        this.timeout = timeout;
        this.tells = tells;
    }

    TokenSource(Asker asker, Time time, Duration timeout) {
        this(asker, time, () -> ThreadLocalRandom.current().nextDouble(), timeout,
            new CompletableFuture<Token>().defaultExecutor());
    }

    /** A source that is told its brokers and how they know us. */
    public static TokenSourceBuilder builder() {
        return new TokenSourceBuilder();
    }

    /**
     * This user's token: the one in memory, or the one that the broker has. Waits for as long as the source's timeout at most.
     * Whoever stops waiting changes nothing for the others.
     *
     * @throws TokenBrokerException why there is none. For a while after a failure it is repeated, and the broker is not asked.
     */
    public Token token(String merchantId, String number) {
        return token(merchantId, number, timeout);
    }

    /** The same, waiting for so long at most; the call to the broker goes on after that, for whoever asks next. */
    public Token token(String merchantId, String number, Duration timeout) {
        // Nothing of others runs when it is there, so that it may be told right where the answer comes in.
        var asked = ask(User.of(merchantId, number), timeout, Runnable::run);
        try {
            return asked.get();
        } catch (ExecutionException failed) {
            throw Slot.asOurs(failed.getCause()).again();
        } catch (InterruptedException interrupted) {
            asked.cancel(false);
            Thread.currentThread().interrupt();
            throw TokenBrokerException.ofCode("CANCELLED", "the thread was interrupted while it waited for a token");
        }
    }

    /** As {@link #token(String, String)}, without waiting: it fails with a {@link TokenBrokerException}. */
    public CompletableFuture<Token> tokenAsync(String merchantId, String number) {
        return tokenAsync(merchantId, number, timeout);
    }

    /** As {@link #token(String, String, Duration)}, without waiting. */
    public CompletableFuture<Token> tokenAsync(String merchantId, String number, Duration timeout) {
        return ask(User.of(merchantId, number), timeout, tells);
    }

    private CompletableFuture<Token> ask(User user, Duration timeout, Executor tells) {
        long began = shared.time.now();
        var hit = cachedAt(user, began);
        if (hit != null) {
            return CompletableFuture.completedFuture(hit);
        }
        var asked = new CompletableFuture<Token>();
        var within = TokenSourceBuilder.checked(timeout);
        var late = shared.time.at(began + within.toNanos(), () -> tells.execute(() -> asked.completeExceptionally(
            TokenBrokerException.ofCode("DEADLINE_EXCEEDED", "no token within " + within.toNanos() / 1e9 + " s"))));
        asked.whenComplete((token, error) -> late.cancel());
        attempt(user, asked, tells, TRIES);
        return asked;
    }

    private void attempt(User user, CompletableFuture<Token> asked, Executor tells, int left) {
        var slot = users.getOrAdd(user);
        if (slot == null) {
            asked.completeExceptionally(closed());
            return;
        }
        slot.noteAsked(shared.time.now());
        var next = slot.next();
        if (next == null) {
            again(user, asked, tells, left);
            return;
        }
        next.whenComplete((token, error) -> {
            if (error != null) {
                tells.execute(() -> asked.completeExceptionally(error));
            } else if (token.isGoodAt(shared.time.now())) {
                tells.execute(() -> asked.complete(token));
            } else {
                // It was good when the call ended; this has not run since.
                again(user, asked, tells, left);
            }
        });
    }

    private void again(User user, CompletableFuture<Token> asked, Executor tells, int left) {
        if (left > 0) {
            attempt(user, asked, tells, left - 1);
            return;
        }
        tells.execute(() -> asked.completeExceptionally(TokenBrokerException.ofCode("UNAVAILABLE",
            "tokens end, or users are forgotten, before they are handed out: see how long the vault's tokens live")));
    }

    /** This user's token if it is in memory and good; never waits. A token that is due is renewed behind it. */
    public Optional<Token> cached(String merchantId, String number) {
        return Optional.ofNullable(cachedAt(User.of(merchantId, number), shared.time.now()));
    }

    private Token cachedAt(User user, long now) {
        var slot = users.get(user);
        var token = slot == null ? null : slot.hit(now);
        if (token != null) {
            slot.noteAsked(now);
            if (token.life().renew <= now) {
                slot.nudge(now);
            }
        }
        return token;
    }

    /**
     * Takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether that is
     * news: of a token that was complained of before, or that was replaced in the meantime, a complaint does nothing.
     */
    public boolean rejected(Token token) {
        var slot = users.get(token.user());
        boolean isNews = slot != null && slot.rejected(token);
        if (isNews) {
            shared.complaints.increment();
        }
        return isNews;
    }

    /** Has the tokens of these users in memory, for a start, a few calls at a time. Those who have none, and why. */
    public Map<User, TokenBrokerException> warm(Collection<User> those) {
        var atOnce = new Semaphore(WARM_AT_ONCE);
        var asked = new LinkedHashMap<User, CompletableFuture<Token>>();
        for (var user : List.copyOf(those)) {
            // Each ends within the timeout, so this does.
            atOnce.acquireUninterruptibly();
            var one = ask(user, timeout, Runnable::run);
            one.whenComplete((token, error) -> atOnce.release());
            asked.put(user, one);
        }
        var failed = new LinkedHashMap<User, TokenBrokerException>();
        asked.forEach((user, one) -> {
            try {
                one.join();
            } catch (CompletionException error) {
                failed.put(user, Slot.asOurs(error));
            }
        });
        return failed;
    }

    /** What {@link #withToken} runs: one request with this token. */
    @FunctionalInterface
    public interface Send<T, E extends Exception> {
        /** Sends it, and gives the response. */
        T send(Token token) throws E;
    }

    /** The same with {@link java.net.http.HttpClient#send}. */
    @FunctionalInterface
    public interface SendHttp<B> {
        /** Sends it, and gives the response. */
        HttpResponse<B> send(Token token) throws IOException, InterruptedException;
    }

    /**
     * Runs a request with this user's token. Where its response is a 401, it is closed, the token is complained of, and the
     * request is run once more with the next.
     *
     * @throws TokenRejectedException where that is a 401 too, or there is no other token
     * @throws TokenBrokerException where there is no token
     */
    public <B> HttpResponse<B> withToken(String merchantId, String number, SendHttp<B> send)
        throws IOException, InterruptedException {
        var first = token(merchantId, number);
        var response = send.send(first);
        if (response.statusCode() != UNAUTHORIZED) {
            return response;
        }
        drop(response);
        rejected(first);
        var next = other(first, token(merchantId, number));
        return accepted(send.send(next), next, answer -> answer.statusCode() == UNAUTHORIZED);
    }

    /** The same with any other HTTP client: {@code isRejected} says which responses are a 401. */
    public <T, E extends Exception> T withToken(
        String merchantId, String number, Send<T, E> send, Predicate<? super T> isRejected) throws E {
        var first = token(merchantId, number);
        var response = send.send(first);
        if (!isRejected.test(response)) {
            return response;
        }
        drop(response);
        rejected(first);
        var next = other(first, token(merchantId, number));
        return accepted(send.send(next), next, isRejected);
    }

    /** The same without waiting, with {@link java.net.http.HttpClient#sendAsync} or any other client. */
    public <T> CompletableFuture<T> withTokenAsync(
        String merchantId, String number, Function<Token, ? extends CompletionStage<T>> send, Predicate<? super T> isRejected) {
        return tokenAsync(merchantId, number).thenCompose(first -> send.apply(first).thenCompose(response -> {
            if (!isRejected.test(response)) {
                return CompletableFuture.completedFuture(response);
            }
            drop(response);
            rejected(first);
            return tokenAsync(merchantId, number)
                .thenCompose(next -> send.apply(other(first, next)).thenApply(again -> accepted(again, next, isRejected)));
        }));
    }

    /** Closes a response that nobody sees, or what is its body: its connection is held until then. */
    private static void drop(Object response) {
        var held = response instanceof HttpResponse ? ((HttpResponse<?>) response).body() : response;
        if (held instanceof AutoCloseable) {
            try {
                ((AutoCloseable) held).close();
            } catch (Exception broken) {
                // It is not needed any more, whatever is wrong with it.
            }
        }
    }

    private static Token other(Token first, Token next) {
        if (next.tokenId().equals(first.tokenId())) {
            throw new TokenRejectedException(first);
        }
        return next;
    }

    private static <T> T accepted(T response, Token token, Predicate<? super T> isRejected) {
        if (isRejected.test(response)) {
            drop(response);
            throw new TokenRejectedException(token);
        }
        return response;
    }

    /** What it has done so far. */
    public Counts counts() {
        return new Counts(users.size(), shared.calls.sum(), shared.failures.sum(), shared.complaints.sum());
    }

    /** Ends all that is under way: whoever waits gets an error, and so does whoever asks from now on. */
    @Override
    public void close() {
        users.close(closed());
        shared.asker.close();
        shared.time.close();
    }

    private static TokenBrokerException closed() {
        return TokenBrokerException.ofOurs(
            "this source of tokens is closed: make one for the process, and close it at its end", null);
    }

    /** Without tokens and users. */
    @Override
    public String toString() {
        return "TokenSource[" + Objects.toString(counts()) + "]";
    }
}
