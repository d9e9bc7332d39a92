package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.Test;

/** Complaints, and requests with tokens, in fake time. */
public class ComplaintTest {
    private final Sources on = new Sources();

    @Test
    public void theNextCallNamesIt() {
        var token = on.first("a", 100, 80);
        assertTrue(on.source.rejected(token));
        assertEquals("at once", List.of("a"), on.broker.last().rejected);
        assertFalse("it was named before", on.source.rejected(token));
        var asked = on.asks();
        Sources.waits(asked);
        on.broker.last().brings("b", 100, 80);
        assertEquals("b", Sources.told(asked).tokenId());
        assertFalse("it is not held", on.source.rejected(token));
        assertEquals(1, on.source.counts().complaints());
        assertEquals(2, on.broker.calls.size());
    }

    @Test
    public void isNamedUntilItWouldHaveEnded() {
        on.source.rejected(on.first("a", 100, 80));
        on.broker.last().brings("b", 50, 30);
        on.time.passSeconds(35);
        assertEquals("renewed", List.of("a"), on.broker.last().rejected);
        on.broker.last().brings("c", 100, 90);
        on.time.passSeconds(70);
        on.source.rejected(on.token());
        assertEquals(List.of("c"), on.broker.last().rejected);
    }

    @Test
    public void theNewestSixteenAreNamedFirst() {
        on.first("0", 1_000, 900);
        for (int n = 1; n <= 20; n++) {
            on.source.rejected(on.token());
            on.broker.last().brings(String.valueOf(n), 1_000, 900);
        }
        on.source.rejected(on.token());
        var newest = IntStream.rangeClosed(5, 20).mapToObj(n -> String.valueOf(25 - n)).collect(Collectors.toList());
        assertEquals(newest, on.broker.last().rejected);
    }

    @Test
    public void aTokenThatWasNamedAndComesAllTheSameIsBelieved() {
        var token = on.first("a", 100, 80);
        on.source.rejected(token);
        on.broker.last().brings("a", 100, 80);
        assertEquals("a", on.token().tokenId());
        assertFalse(on.source.rejected(on.token()));
        on.time.passSeconds(81);
        assertEquals("named no more", List.of(), on.broker.last().rejected);
        assertEquals(3, on.broker.calls.size());
    }

    @Test
    public void anAnswerComplainedOfBeforeItsCallCouldNameItMakesASecondCall() {
        var token = on.first("a", 100, 10);
        on.time.passSeconds(11);
        assertEquals("a renewal is under way", 2, on.broker.calls.size());
        assertTrue(on.source.rejected(token));
        assertEquals(2, on.broker.calls.size());
        var asked = on.asks();
        on.broker.last().brings("a", 100, 80);
        assertEquals(3, on.broker.calls.size());
        assertEquals(List.of("a"), on.broker.last().rejected);
        Sources.waits(asked);
        on.broker.last().brings("b", 100, 80);
        assertEquals("b", Sources.told(asked).tokenId());
    }

    @Test
    public void aComplaintDoesNotCutTheBrokersWaitShort() {
        var token = on.first("a", 1_000, 10);
        on.time.passSeconds(10);
        on.broker.last().fails(Sources.wait("UNAVAILABLE", java.time.Duration.ofSeconds(60)));
        on.source.rejected(token);
        assertEquals(2, on.broker.calls.size());
        assertTrue(on.error().retryAfter().isPresent());
        on.time.passSeconds(67);
        on.asks();
        assertEquals(3, on.broker.calls.size());
    }

    @Test
    public void aRequestIsRepeatedOnceWithTheNextToken() {
        on.first("a", 100, 80);
        var used = new java.util.ArrayList<String>();
        var done = on.source.withTokenAsync(Sources.MERCHANT, Sources.NUMBER, token -> {
            used.add(token.authorization());
            return CompletableFuture.completedFuture(used.size() == 1 ? 401 : 200);
        }, status -> status == 401);
        Sources.waits(done);
        on.broker.last().brings("b", 100, 80);
        assertEquals(200, (int) Sources.told(done));
        assertEquals(List.of("Bearer secret-a", "Bearer secret-b"), used);
    }

    @Test
    public void aSecondRefusalIsAnErrorAndNoThirdRequest() {
        on.first("a", 100, 80);
        var requests = new int[1];
        var done = on.source.withTokenAsync(Sources.MERCHANT, Sources.NUMBER, token -> {
            requests[0]++;
            return CompletableFuture.completedFuture(401);
        }, status -> status == 401);
        on.broker.last().brings("b", 100, 80);
        var error = Sources.error(done);
        assertTrue(String.valueOf(error), error instanceof TokenRejectedException);
        assertFalse(error.toString(), error.toString().contains("secret") || error.toString().contains("+447871239999"));
        assertEquals(2, requests[0]);
    }

    @Test
    public void noOtherTokenIsAnErrorWithoutAnotherRequest() {
        on.first("a", 100, 80);
        var requests = new int[1];
        var done = on.source.withTokenAsync(Sources.MERCHANT, Sources.NUMBER, token -> {
            requests[0]++;
            return CompletableFuture.completedFuture(401);
        }, status -> status == 401);
        on.broker.last().brings("a", 100, 80);
        assertTrue(Sources.error(done) instanceof TokenRejectedException);
        assertEquals(1, requests[0]);
    }

    @Test
    public void theBlockingOneRunsAnyClient() {
        on.first("a", 100, 80);
        int status = on.source.withToken(Sources.MERCHANT, Sources.NUMBER, token -> 200, answer -> answer == 401);
        assertEquals(200, status);
    }
}
