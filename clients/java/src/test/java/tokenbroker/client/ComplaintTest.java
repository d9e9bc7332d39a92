package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpHeaders;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayDeque;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.net.ssl.SSLSession;
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
    public void anIdThatTheContractDoesNotTakeIsNamedInNoCall() {
        for (var id : List.of("", "é".repeat(64), "x".repeat(65))) {
            var on = new Sources();
            var token = on.first(id, 100, 80);
            assertTrue(on.source.rejected(token));
            assertEquals(id.startsWith("é") ? List.of(id) : List.of(), on.broker.last().rejected);
            // The broker can't be told: its answer is believed, or each call would be made twice.
            on.broker.last().brings(id, 100, 80);
            assertEquals(id, on.token().tokenId());
            assertEquals(2, on.broker.calls.size());
            assertFalse(on.source.rejected(on.token()));
        }
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

    /** A response of the JDK's client with a stream as its body, which must be closed for its connection to be used again. */
    private static final class Streamed implements HttpResponse<InputStream> {
        final int status;
        boolean isClosed;

        Streamed(int status) {
            this.status = status;
        }

        @Override
        public int statusCode() {
            return status;
        }

        @Override
        public InputStream body() {
            return new InputStream() {
                @Override
                public int read() {
                    return -1;
                }

                @Override
                public void close() throws IOException {
                    isClosed = true;
                    throw new IOException("the connection is gone");
                }
            };
        }

        @Override
        public HttpRequest request() {
            return null;
        }

        @Override
        public Optional<HttpResponse<InputStream>> previousResponse() {
            return Optional.empty();
        }

        @Override
        public HttpHeaders headers() {
            return HttpHeaders.of(Map.of(), (name, value) -> true);
        }

        @Override
        public Optional<SSLSession> sslSession() {
            return Optional.empty();
        }

        @Override
        public URI uri() {
            return URI.create("http://127.0.0.1");
        }

        @Override
        public HttpClient.Version version() {
            return HttpClient.Version.HTTP_1_1;
        }
    }

    /** Runs a request whose responses are these, with a broker that answers at once. */
    private static HttpResponse<InputStream> with(int way, Streamed... responses) throws Exception {
        var tokens = new int[1];
        Asker obliging = new Asker() {
            @Override
            public CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected) {
                return CompletableFuture.completedFuture(FakeBroker.token(String.valueOf(tokens[0]++), 100).build());
            }

            @Override
            public void close() {}
        };
        var left = new ArrayDeque<>(List.of(responses));
        try (var source = new TokenSource(obliging, new FakeTime(), () -> 1.0, Sources.TIMEOUT, Runnable::run)) {
            switch (way) {
                case 0:
                    return source.withToken("m", "+1", (TokenSource.SendHttp<InputStream>) token -> left.remove());
                case 1:
                    return source.<HttpResponse<InputStream>, Exception>withToken("m", "+1", token -> left.remove(),
                        response -> response.statusCode() == 401);
                default:
                    return source.<HttpResponse<InputStream>>withTokenAsync("m", "+1",
                        token -> CompletableFuture.completedFuture(left.remove()),
                        response -> response.statusCode() == 401).join();
            }
        }
    }

    @Test
    public void theBodyOfA401IsClosedAndNoOther() throws Exception {
        for (int way = 0; way < 3; way++) {
            var first = new Streamed(401);
            var next = new Streamed(200);
            assertSame(next, with(way, first, next));
            assertTrue(first.isClosed);
            assertFalse(next.isClosed);
            var last = new Streamed(401);
            var refused = new Streamed(401);
            int same = way;
            var error = assertThrows(RuntimeException.class, () -> with(same, refused, last));
            assertTrue(String.valueOf(error), Slot.asOurs(error) instanceof TokenRejectedException);
            assertTrue(refused.isClosed && last.isClosed);
        }
    }

    @Test
    public void theBlockingOneRunsAnyClient() {
        on.first("a", 100, 80);
        int status = on.source.withToken(Sources.MERCHANT, Sources.NUMBER, token -> 200, answer -> answer == 401);
        assertEquals(200, status);
    }
}
