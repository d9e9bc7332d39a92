package tokenbroker.client;

import java.io.Serializable;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Why there is no token, for programs and in words.
 *
 * <p>Must never hold a token, nor tell less than the broker said.
 */
public class TokenBrokerException extends RuntimeException {
    private static final long serialVersionUID = 1;
    /** Without a reason, these may pass without anybody's help. */
    private static final Set<String> TEMPORARY =
        Set.of("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED");

    /** What a field of a request has wrong. */
    public static final class FieldViolation implements Serializable {
        private static final long serialVersionUID = 1;

        private final String field;
        private final String description;

        FieldViolation(String field, String description) {
            this.field = field;
            this.description = description;
        }

        /** The field. */
        public String field() {
            return field;
        }

        /** What is wrong with it, and what it should be. */
        public String description() {
            return description;
        }

        @Override
        public String toString() {
            return field + ": " + description;
        }
    }

    /** All that was said. */
    private final Said said;

    TokenBrokerException(Said said, Throwable cause) {
        super(said.inWords(), cause);
        this.said = said;
    }

    /** Of a fault on this side, before any broker was asked. */
    static TokenBrokerException ofOurs(String text, Throwable cause) {
        return new TokenBrokerException(new Said(null, text), cause);
    }

    /** Of a call that no broker answered. */
    static TokenBrokerException ofCode(String code, String text) {
        return new TokenBrokerException(new Said(code, text), null);
    }

    /** The same, for another caller, with that one's stack. */
    TokenBrokerException again() {
        return new TokenBrokerException(said, this);
    }

    Said said() {
        return said;
    }

    /**
     * The name of gRPC's code, such as {@code UNAVAILABLE}; none where the fault is on this side, such as a file that can't be
     * read.
     */
    public Optional<String> code() {
        return Optional.ofNullable(said.code);
    }

    /** The broker's reason; none where no broker answered, or a newer one with a reason that this client does not know. */
    public Optional<Reason> reason() {
        return Reason.named(said.reason);
    }

    /** How long to wait before trying again, where the broker says so. */
    public Optional<Duration> retryAfter() {
        return Optional.ofNullable(said.retryAfter);
    }

    /** Until when the broker does not try again by itself, where it says so. */
    public Optional<Instant> heldUntil() {
        return said.heldUntil();
    }

    /** What the broker calls this call in its log. */
    public Optional<String> requestId() {
        return Optional.ofNullable(said.requestId);
    }

    /** The fields of the request that are at fault. */
    public List<FieldViolation> fieldViolations() {
        return said.fieldViolations;
    }

    /** What the broker says beside the reason, such as {@code held_until}. */
    public Map<String, String> metadata() {
        return said.metadata;
    }

    /** Whether a later call may fare better without anybody's help. */
    public boolean isTemporary() {
        return reason().map(Reason::isTemporary).orElse(said.code != null && TEMPORARY.contains(said.code));
    }

    /** Whether no later call fares better until somebody has mended something: here, at the broker or at the vault. */
    public boolean isPermanent() {
        return !isTemporary();
    }
}
