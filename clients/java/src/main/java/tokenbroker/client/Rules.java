package tokenbroker.client;

import java.time.Duration;

/**
 * Pure: when a token ends and is renewed, and how long to pause after a failure. Times are in nanoseconds.
 *
 * <p>Must never have a token live longer than the broker said, nor name an instant that lets a call follow the last one at once.
 */
final class Rules {
    /** No token lives longer: the contract's. */
    static final Duration LIFETIME_MAX = Duration.ofDays(7);
    /** Of its life so much passes before a token is renewed, where the broker does not say when … */
    private static final double SHARE_LEAST = 0.75;
    /** … and up to so much more, by chance, so that callers who began together do not come at once. */
    private static final double SHARE_SPREAD = 0.1;
    /** After an answer, the next call for the same user comes no sooner, unless the token was complained of. */
    static final long REST = Duration.ofSeconds(1).toNanos();
    /** After a failure while there is no token: soon, since somebody waits. */
    private static final Backoff WITHOUT_TOKEN = new Backoff(Duration.ofMillis(200), Duration.ofSeconds(2));
    /** After a failed renewal: the token at hand is good, and all callers lost the same broker. */
    private static final Backoff WITH_TOKEN = new Backoff(Duration.ofSeconds(1), Duration.ofSeconds(30));
    /** After an answer that no repeat helps against: somebody may have mended its cause, which nobody tells. */
    static final long REFUSED = Duration.ofSeconds(10).toNanos();
    /** A wait that the broker names is kept, but it is asked again after this long: its cause may have been mended. */
    static final Duration PUSHBACK_MAX = Duration.ofMinutes(10);
    /** Such a part of it is added by chance. */
    private static final double PUSHBACK_SPREAD = 0.1;

    private Rules() {}

    /** The two instants of a token's life that count. */
    static final class Life {
        /** From here on it is not handed out. */
        final long ends;
        /** From here on it is renewed: not later than its end. */
        final long renew;

        Life(long ends, long renew) {
            this.ends = ends;
            this.renew = renew;
        }
    }

    /**
     * The life of a token that a call brought which began at {@code sent}: counted from there, since nobody knows how long the
     * answer was on its way. {@code jitter} is 0 to 1.
     */
    static Life life(long sent, tokenbroker.v1.Token token, double jitter) {
        long lives = token.hasExpiresIn() ? lifetime(token.getExpiresIn()) : 0;
        double share = SHARE_LEAST + SHARE_SPREAD * unit(jitter);
        long renew = token.hasRenewIn() ? Math.min(lifetime(token.getRenewIn()), lives) : (long) (lives * share);
        return new Life(sent + lives, sent + renew);
    }

    private static long lifetime(com.google.protobuf.Duration said) {
        return within(Durations.of(said), LIFETIME_MAX);
    }

    private static long within(Duration duration, Duration longest) {
        return duration.isNegative() ? 0 : (duration.compareTo(longest) > 0 ? longest : duration).toNanos();
    }

    /** How long the source asks nothing for a user after this failure, the first of {@code before} + 1 in a row. */
    static long pause(TokenBrokerException error, int before, boolean hasToken, double jitter) {
        long ours = error.isPermanent() ? REFUSED : (hasToken ? WITH_TOKEN : WITHOUT_TOKEN).pause(before, jitter);
        double spread = 1 + PUSHBACK_SPREAD * unit(jitter);
        long named = error.retryAfter().map(wait -> (long) (within(wait, PUSHBACK_MAX) * spread)).orElse(0L);
        return Math.max(named, ours);
    }

    private static double unit(double jitter) {
        return Math.max(0, Math.min(1, jitter));
    }

    /** A pause that doubles with each failure in a row. */
    static final class Backoff {
        /** Least part of a pause that jitter leaves: full jitter may say nothing at all, which is no pause. */
        private static final double JITTER_LEAST = 0.05;
        /** Doubled more often, any pause is the longest. */
        private static final int DOUBLINGS_MAX = 30;

        private final long first;
        private final long longest;

        Backoff(Duration first, Duration longest) {
            this.first = first.toNanos();
            this.longest = longest.toNanos();
        }

        /** The pause after so many failures before this one, with full jitter. */
        long pause(int failures, double jitter) {
            double widest = Math.min(first * Math.pow(2, Math.min(failures, DOUBLINGS_MAX)), longest);
            return (long) (widest * Math.max(JITTER_LEAST, unit(jitter)));
        }
    }
}
