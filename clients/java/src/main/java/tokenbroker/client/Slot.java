package tokenbroker.client;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * One user's token and what keeps it good: at most one flight (a call to the broker, or two) or one timer that begins the next.
 *
 * <p>Must never have two calls under way, tie one to whoever asked for it, or let one that failed stand in the way of the next;
 * nor displace a good token by anything but its successor or a complaint; nor call anybody while its lock is held.
 */
final class Slot {
    /**
     * A user who was asked for within this time has the token renewed ahead of its end; others wait, or are renewed behind an
     * answer.
     */
    static final long IDLE_AFTER = TimeUnit.MINUTES.toNanos(10);
    /** How exactly it is known when somebody asked last: who asks all the time must not write all the time. */
    private static final long ASKED_GRAIN = TimeUnit.SECONDS.toNanos(1);
    /**
     * Most calls of one flight: the second, where the answer was complained of while it came or took longer than the token
     * lives.
     */
    private static final int CALLS_MAX = 2;

    /** A call that is under way, or two. */
    private static final class Flight {
        final CompletableFuture<Token> outcome = new CompletableFuture<>();
        int calls;
    }

    private final User user;
    private final Shared shared;
    /** Read without the lock. */
    private volatile Token held;
    private volatile long asked;
    private final AtomicLong nudged;

    // The rest is guarded by this slot's monitor.
    private Flight flight;
    private Time.Timer sleeper;
    /** Of the timer that counts. */
    private long serial;
    private final Complaints complaints = new Complaints();
    /** No call before this, and why. */
    private long stoppedUntil;
    private TokenBrokerException stopped;
    /** Failures in a row. */
    private int failures;
    /** After an answer, no call before this. */
    private long rested;
    /** Forgotten or closed: nothing begins any more. */
    private boolean isRetired;

    Slot(User user, Shared shared) {
        this.user = user;
        this.shared = shared;
        asked = shared.time.now();
        nudged = new AtomicLong(asked - ASKED_GRAIN);
    }

    /** The token, if it is good; without a lock. */
    Token hit(long now) {
        var token = held;
        return token != null && token.isGoodAt(now) ? token : null;
    }

    long askedAt() {
        return asked;
    }

    void noteAsked(long now) {
        if (now >= asked + ASKED_GRAIN) {
            asked = now;
        }
    }

    /** Begins a renewal that is due if nobody does it: nobody had asked when it fell due. Looked after once a second. */
    void nudge(long now) {
        long last = nudged.get();
        if (now < last + ASKED_GRAIN || !nudged.compareAndSet(last, now)) {
            return;
        }
        Flight begun;
        synchronized (this) {
            if (isRetired || flight != null || sleeper != null || isStopped(now)) {
                return;
            }
            begun = begin();
        }
        launch(begun);
    }

    /** The token, why there is none, or what to wait for; null if this slot was forgotten, and another is to be asked. */
    CompletableFuture<Token> next() {
        Flight begun;
        synchronized (this) {
            if (isRetired) {
                return null;
            }
            long now = shared.time.now();
            var token = hit(now);
            if (token != null) {
                return CompletableFuture.completedFuture(token);
            }
            if (flight != null) {
                return flight.outcome;
            }
            if (isStopped(now)) {
                return CompletableFuture.failedFuture(stopped);
            }
            begun = begin();
        }
        launch(begun);
        return begun.outcome;
    }

    /** Takes a complaint; whether it is news. Only the token that is held can be complained of: another has gone already. */
    boolean rejected(Token token) {
        Flight begun = null;
        synchronized (this) {
            long now = shared.time.now();
            boolean isHeld = held != null && held.tokenId().equals(token.tokenId());
            if (isRetired || !isHeld || !complaints.isNews(held, now)) {
                return false;
            }
            held = null;
            rested = now;
            if (stopped != null && isOurOwnPause(stopped)) {
                // Made up when there was a good token: now somebody waits.
                stopped = null;
            }
            if (flight == null && !isStopped(now)) {
                begun = begin();
            }
        }
        if (begun != null) {
            launch(begun);
        }
        return true;
    }

    synchronized boolean isCalling() {
        return flight != null;
    }

    /** Is forgotten, if no call is under way. */
    synchronized boolean forget() {
        if (flight != null) {
            return false;
        }
        retire();
        return true;
    }

    /** Ends for good: whoever waits gets this. */
    void close(TokenBrokerException why) {
        Flight broken;
        synchronized (this) {
            broken = flight;
            flight = null;
            held = null;
            retire();
        }
        if (broken != null) {
            broken.outcome.completeExceptionally(why);
        }
    }

    private void retire() {
        isRetired = true;
        serial++;
        cancelSleeper();
    }

    private void cancelSleeper() {
        if (sleeper != null) {
            sleeper.cancel();
            sleeper = null;
        }
    }

    private boolean isStopped(long now) {
        return stopped != null && stoppedUntil > now;
    }

    /**
     * Whether the pause after this failure is the back-off alone: neither did the broker name a wait, nor is no repeat of use.
     */
    private static boolean isOurOwnPause(TokenBrokerException error) {
        return error.retryAfter().isEmpty() && !error.isPermanent();
    }

    /** Under the lock; whoever begins launches it once the lock is free. */
    private Flight begin() {
        serial++;
        cancelSleeper();
        flight = new Flight();
        return flight;
    }

    private void launch(Flight begun) {
        guarded(begun, () -> {
            long from;
            synchronized (this) {
                from = rested;
            }
            if (from > shared.time.now()) {
                shared.time.at(from, () -> call(begun));
            } else {
                call(begun);
            }
        });
    }

    /**
     * Does a step of a flight. Whatever it throws ends the flight, be it an Error, such as that of a system that starts no more
     * threads: else whoever waits would wait for good, and so would all who come.
     */
    private void guarded(Flight begun, Runnable step) {
        try {
            step.run();
        } catch (RuntimeException | Error brokeOff) {
            var error = asOurs(brokeOff);
            synchronized (this) {
                if (flight == begun) {
                    flight = null;
                    sleepUntil(failed(error, shared.time.now()));
                }
            }
            begun.outcome.completeExceptionally(error);
        }
    }

    private void call(Flight begun) {
        guarded(begun, () -> ask(begun));
    }

    private void ask(Flight begun) {
        long sent = shared.time.now();
        List<String> named;
        synchronized (this) {
            if (flight != begun) {
                return; // closed in the meantime
            }
            named = complaints.named(sent);
            begun.calls++;
        }
        shared.calls.increment();
        shared.asker.ask(user, named)
            .whenComplete((token, error) -> guarded(begun, () -> settle(begun, sent, named, token, error)));
    }

    /** Notes what a call brought that began at {@code sent} and named these, or makes another where that does not count. */
    private void settle(Flight begun, long sent, List<String> named, tokenbroker.v1.Token answer, Throwable failure) {
        Token token = null;
        TokenBrokerException error = failure == null ? null : asOurs(failure);
        // All under one lock, so that no complaint falls in between.
        synchronized (this) {
            if (flight != begun) {
                return; // closed in the meantime
            }
            long now = shared.time.now();
            if (error == null) {
                var life = Rules.life(sent, answer, shared.jitter.getAsDouble());
                boolean hasEnded = life.ends <= now;
                boolean isStale = complaints.isStale(answer.getTokenId(), named);
                if (begun.calls < CALLS_MAX && (isStale || hasEnded && now >= sent + Rules.REST)) {
                    token = null;
                } else if (hasEnded) {
                    error = ended();
                } else {
                    token = new Token(user, answer, life, shared.time);
                }
            }
            if (token != null || error != null) {
                flight = null;
                sleepUntil(error == null ? succeeded(token, now) : failed(error, now));
            }
        }
        if (token != null) {
            begun.outcome.complete(token);
        } else if (error != null) {
            begun.outcome.completeExceptionally(error);
        } else {
            call(begun);
        }
    }

    /** Notes a token; when to renew it. */
    private Long succeeded(Token token, long now) {
        failures = 0;
        stopped = null;
        rested = now + Rules.REST;
        held = token;
        return Math.max(token.life().renew, rested);
    }

    /** Notes a failure; when to try again, if a token is there that is to be renewed: else the next who asks begins anew. */
    private Long failed(TokenBrokerException error, long now) {
        shared.failures.increment();
        var good = hit(now);
        long until = now + Rules.pause(error, failures, good != null, shared.jitter.getAsDouble());
        if (good != null && isOurOwnPause(error)) {
            // Once the token has ended somebody waits for the next.
            until = Math.min(until, good.life().ends);
        }
        failures = failures == Integer.MAX_VALUE ? failures : failures + 1;
        stoppedUntil = until;
        stopped = error;
        return good == null ? null : until;
    }

    private void sleepUntil(Long when) {
        cancelSleeper();
        if (when != null) {
            long counts = serial;
            try {
                sleeper = shared.time.at(when, () -> wake(counts));
            } catch (RuntimeException | Error noTimer) {
                // A hit looks after the renewal: see nudge.
                sleeper = null;
            }
        }
    }

    /** Renews, if this timer still counts and somebody asked lately. */
    private void wake(long counted) {
        Flight begun;
        synchronized (this) {
            if (isRetired || serial != counted || flight != null) {
                return;
            }
            sleeper = null;
            if (shared.time.now() - asked > IDLE_AFTER) {
                return;
            }
            begun = begin();
        }
        launch(begun);
    }

    private static TokenBrokerException ended() {
        return TokenBrokerException.ofCode("UNAVAILABLE",
            "the broker's answer holds a token that has ended: see that the vault's tokens live longer than a call takes");
    }

    static TokenBrokerException asOurs(Throwable failure) {
        var cause = failure instanceof CompletionException && failure.getCause() != null ? failure.getCause() : failure;
        return cause instanceof TokenBrokerException ? (TokenBrokerException) cause : Said.of(cause);
    }
}
