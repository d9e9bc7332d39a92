package tokenbroker.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.Serializable;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.time.format.DateTimeParseException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.StringJoiner;
import tokenbroker.client.TokenBrokerException.FieldViolation;
import tokenbroker.client.wire.BadRequest;
import tokenbroker.client.wire.ErrorInfo;
import tokenbroker.client.wire.RequestInfo;
import tokenbroker.client.wire.RetryInfo;

/**
 * What an error says: gRPC's status and the details that the broker adds.
 *
 * <p>Must never throw over what a peer sends, nor take for the broker's what is another's.
 */
final class Said implements Serializable {
    private static final long serialVersionUID = 1;
    /** Of every error of the broker. */
    private static final String DOMAIN = "token-broker";
    /** So far the causes of an error are looked through: they could lead in a circle. */
    private static final int CAUSES_MAX = 10;

    final String code;
    final String text;
    String reason = "";
    Duration retryAfter;
    String requestId;
    List<FieldViolation> fieldViolations = List.of();
    Map<String, String> metadata = Map.of();

    /** Without details; code may be null. */
    Said(String code, String text) {
        this.code = code;
        this.text = text;
    }

    /** What this failure of a call says. */
    static TokenBrokerException of(Throwable failure) {
        var status = Status.fromThrowable(failure);
        var code = isLostConnection(failure) ? Status.Code.UNAVAILABLE : status.getCode();
        var said = new Said(code.name(), text(status));
        for (Any detail : details(failure)) {
            said.take(detail);
        }
        return new TokenBrokerException(said, failure);
    }

    /**
     * Whether a connection was lost that gRPC says nothing else of: some of its versions call one that was closed as a call was
     * to be sent UNKNOWN, with Netty's exception behind it, and don't repeat the call.
     */
    static boolean isLostConnection(Throwable failure) {
        var status = Status.fromThrowable(failure);
        return status.getCode() == Status.Code.UNKNOWN && status.getCause() instanceof IOException && details(failure).isEmpty();
    }

    /** The head of what gRPC says and, as that is often "io exception" alone, what it came from in the end. */
    private static String text(Status status) {
        var words = new StringJoiner(": ");
        if (status.getDescription() != null) {
            words.add(status.getDescription().lines().findFirst().orElse(""));
        }
        var cause = status.getCause();
        for (int depth = 0; cause != null && cause.getCause() != null && depth < CAUSES_MAX; depth++) {
            cause = cause.getCause();
        }
        if (cause != null) {
            words.add(cause.getMessage() == null ? cause.getClass().getSimpleName() : cause.getMessage());
        }
        return words.length() == 0 ? "the call failed" : words.toString();
    }

    private static List<Any> details(Throwable failure) {
        try {
            var status = StatusProto.fromThrowable(failure);
            return status == null ? List.of() : status.getDetailsList();
        } catch (RuntimeException unreadable) {
            return List.of();
        }
    }

    private void take(Any detail) {
        try {
            if (detail.is(ErrorInfo.class)) {
                var info = detail.unpack(ErrorInfo.class);
                if (info.getDomain().equals(DOMAIN)) {
                    reason = info.getReason();
                    metadata = Map.copyOf(info.getMetadataMap());
                }
            } else if (detail.is(RetryInfo.class)) {
                var wait = Durations.of(detail.unpack(RetryInfo.class).getRetryDelay());
                retryAfter = wait.isNegative() ? Duration.ZERO : wait;
            } else if (detail.is(RequestInfo.class)) {
                var id = detail.unpack(RequestInfo.class).getRequestId();
                requestId = id.isEmpty() ? null : id;
            } else if (detail.is(BadRequest.class)) {
                var violations = new ArrayList<FieldViolation>();
                for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
                    violations.add(new FieldViolation(violation.getField(), violation.getDescription()));
                }
                fieldViolations = List.copyOf(violations);
            }
        } catch (InvalidProtocolBufferException unreadable) {
            // The status itself says enough.
        }
    }

    Optional<Instant> heldUntil() {
        try {
            return Optional.ofNullable(metadata.get("held_until")).filter(text -> !text.isEmpty()).map(Instant::parse);
        } catch (DateTimeParseException unreadable) {
            return Optional.empty();
        }
    }

    /** Reason, text, fields at fault, wait and request id on one line, for a person. */
    String inWords() {
        var words = new StringJoiner("; ");
        var head = !reason.isEmpty() ? reason : code != null ? "no answer of the broker (" + code + ")" : "";
        words.add(head.isEmpty() ? text : head + ": " + text);
        for (var violation : fieldViolations) {
            if (!text.contains(violation.description())) {
                words.add(violation.toString());
            }
        }
        heldUntil().ifPresent(until -> words.add("held until " + until));
        if (retryAfter != null) {
            words.add(retryAfter.isZero() ? "try again at once" : "try again in " + rounded(retryAfter));
        }
        if (requestId != null) {
            words.add("request id " + requestId);
        }
        return Plain.onOneLine(words.toString());
    }

    /** Whole seconds, but milliseconds below one; rounded up, so that no wait looks like none. */
    private static String rounded(Duration wait) {
        if (wait.compareTo(Duration.ofSeconds(1)) < 0) {
            return wait.plusNanos(999_999).toMillis() + " ms";
        }
        return wait.plusNanos(999_999_999).getSeconds() + " s";
    }
}
