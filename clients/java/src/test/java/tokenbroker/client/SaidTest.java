package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.Test;
import tokenbroker.client.wire.BadRequest;
import tokenbroker.client.wire.ErrorInfo;
import tokenbroker.client.wire.RequestInfo;
import tokenbroker.client.wire.RetryInfo;
import tokenbroker.v1.ErrorReason;

/** What errors say. */
public class SaidTest {
    private static TokenBrokerException error(Status.Code code, String text, Message... details) {
        var status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage(text);
        Stream.of(details).forEach(detail -> status.addDetails(Any.pack(detail)));
        return Said.of(StatusProto.toStatusRuntimeException(status.build()));
    }

    private static ErrorInfo info(String reason) {
        return ErrorInfo.newBuilder().setDomain("token-broker").setReason(reason).build();
    }

    @Test
    public void allThatTheBrokerSaysIsThere() {
        var held = "2027-01-15T08:00:00Z";
        var error = error(Status.Code.FAILED_PRECONDITION, "the vault refuses the password",
            info("CREDENTIALS_REJECTED").toBuilder().putMetadata("held_until", held).putMetadata("vault_error", "x").build(),
            RetryInfo.newBuilder().setRetryDelay(FakeBroker.seconds(7)).build(),
            RequestInfo.newBuilder().setRequestId("an-id").build(),
            BadRequest.newBuilder().addFieldViolations(
                BadRequest.FieldViolation.newBuilder().setField("number").setDescription("is none")).build());
        assertEquals("FAILED_PRECONDITION", error.code().orElseThrow());
        assertEquals(Reason.CREDENTIALS_REJECTED, error.reason().orElseThrow());
        assertEquals(Duration.ofSeconds(7), error.retryAfter().orElseThrow());
        assertEquals(Instant.parse(held), error.heldUntil().orElseThrow());
        assertEquals("an-id", error.requestId().orElseThrow());
        assertEquals("number: is none", error.fieldViolations().get(0).toString());
        assertEquals(Map.of("held_until", held, "vault_error", "x"), error.metadata());
        assertTrue(error.isPermanent());
        assertEquals("CREDENTIALS_REJECTED: the vault refuses the password; number: is none; held until " + held
            + "; try again in 7 s; request id an-id", error.getMessage());
    }

    @Test
    public void anothersDetailsAreNotTheBrokers() {
        var error = error(Status.Code.UNAVAILABLE, "no", info("CREDENTIALS_REJECTED").toBuilder().setDomain("other").build());
        assertFalse(error.reason().isPresent());
        assertTrue(error.isTemporary() && error.metadata().isEmpty());
    }

    @Test
    public void whatCannotBeReadIsLeftOut() {
        var broken = Any.newBuilder()
            .setTypeUrl("type.googleapis.com/google.rpc.ErrorInfo").setValue(ByteString.copyFromUtf8("\u0001"));
        var status = com.google.rpc.Status.newBuilder().setCode(14).addDetails(broken).build();
        assertFalse(Said.of(StatusProto.toStatusRuntimeException(status)).reason().isPresent());
        var trailers = new Metadata();
        trailers.put(Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {1, 2, 3});
        assertEquals("UNAVAILABLE", Said.of(Status.UNAVAILABLE.asRuntimeException(trailers)).code().orElseThrow());
        var held = error(Status.Code.NOT_FOUND, "no", info("INTERNAL").toBuilder().putMetadata("held_until", "soon").build());
        assertFalse(held.heldUntil().isPresent());
        assertEquals(Duration.ZERO, error(Status.Code.UNAVAILABLE, "no",
            RetryInfo.newBuilder().setRetryDelay(FakeBroker.seconds(Long.MIN_VALUE)).build()).retryAfter().orElseThrow());
    }

    @Test
    public void aNewerBrokersReasonGoesByItsCode() {
        assertTrue(error(Status.Code.UNAVAILABLE, "no", info("OF_A_NEWER_BROKER")).isTemporary());
        assertTrue(error(Status.Code.FAILED_PRECONDITION, "no", info("OF_A_NEWER_BROKER")).isPermanent());
        // Too much metadata: RESOURCE_EXHAUSTED, and no repeat helps.
        assertTrue(error(Status.Code.RESOURCE_EXHAUSTED, "no", info("INVALID_REQUEST")).isPermanent());
    }

    @Test
    public void reasonsAreTheContracts() {
        var contract = Stream.of(ErrorReason.values()).map(Enum::name).collect(Collectors.toSet());
        contract.removeAll(java.util.Set.of("UNRECOGNIZED", "ERROR_REASON_UNSPECIFIED"));
        assertEquals(contract, Stream.of(Reason.values()).map(Enum::name).collect(Collectors.toSet()));
        var temporary = Stream.of(Reason.values()).filter(Reason::isTemporary).map(Enum::name).collect(Collectors.toSet());
        assertEquals(java.util.Set.of("IDENTITY_UNAVAILABLE", "VAULT_THROTTLED", "VAULT_UNAVAILABLE", "VAULT_RESPONSE_INVALID",
            "SIGN_IN_TOO_SOON", "DEADLINE_EXCEEDED", "BROKER_OVERLOADED", "BROKER_SHUTTING_DOWN"), temporary);
    }

    @Test
    public void aMessageIsOneLineAndSaysWhatItCameFrom() {
        var error = error(Status.Code.UNAVAILABLE, "a\u001b[2J\nb");
        assertEquals("no answer of the broker (UNAVAILABLE): a\\u001b[2J", error.getMessage());
        var cause = new java.io.IOException("lost", new java.net.ConnectException("Connection refused"));
        assertEquals("no answer of the broker (UNAVAILABLE): io exception: Connection refused",
            Said.of(Status.UNAVAILABLE.withDescription("io exception").withCause(cause).asRuntimeException()).getMessage());
    }
}
