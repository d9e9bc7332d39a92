package tokenbroker.client;

import java.time.Duration;

/**
 * Durations of the wire.
 *
 * <p>Must never throw, whatever a peer says.
 */
final class Durations {
    private Durations() {}

    /** Of any that protobuf can say, its nanoseconds as they are. */
    static Duration of(com.google.protobuf.Duration said) {
        long most = Long.MAX_VALUE / 4;
        return Duration.ofSeconds(Math.max(-most, Math.min(most, said.getSeconds())), said.getNanos());
    }
}
