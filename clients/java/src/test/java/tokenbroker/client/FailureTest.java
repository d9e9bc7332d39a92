package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.DoubleSupplier;
import java.util.function.Supplier;
import org.junit.Test;

/** What follows a failure, in fake time and with the widest pauses. */
public class FailureTest {
    private final Sources on = new Sources();

    private TokenBrokerException failsWith(TokenBrokerException error) {
        var asked = on.asks();
        on.broker.last().fails(error);
        return Sources.error(asked);
    }

    /** Seconds from now until who asks begins a call. */
    private double pause() {
        int before = on.broker.calls.size();
        double passed = 0;
        while (on.broker.calls.size() == before) {
            on.asks();
            if (on.broker.calls.size() > before) {
                break;
            }
            on.time.passSeconds(0.05);
            passed += 0.05;
        }
        return Math.round(passed * 100) / 100.0;
    }

    @Test
    public void theSameErrorIsRepeatedWithoutACall() {
        var first = failsWith(Sources.refused());
        for (int n = 0; n < 99; n++) {
            on.time.passSeconds(0.1);
            assertSame(first, on.error());
        }
        assertEquals(1, on.broker.calls.size());
        assertEquals(1, on.source.counts().failures());
        on.time.passSeconds(0.1);
        Sources.waits(on.asks());
        assertEquals(2, on.broker.calls.size());
    }

    @Test
    public void pausesDoubleWhileThereIsNoToken() {
        for (double wanted : new double[] {0.2, 0.4, 0.8, 1.6, 2.0, 2.0}) {
            failsWith(Sources.unavailable());
            assertEquals(wanted, pause(), 0.001);
        }
        on.broker.last().brings("a", 100, 80);
        on.time.passSeconds(100);
        failsWith(Sources.unavailable());
        assertEquals("an answer begins them anew", 0.2, pause(), 0.001);
    }

    @Test
    public void theBrokersWaitIsKept() {
        failsWith(Sources.wait("UNAVAILABLE", Duration.ofSeconds(7)));
        assertEquals(7.7, pause(), 0.001);
        failsWith(Sources.wait("RESOURCE_EXHAUSTED", Duration.ofDays(1)));
        assertEquals(660, pause(), 0.001);
    }

    @Test
    public void aGoodTokenIsHandedOutWhileEveryBrokerIsDown() {
        on.first("a", 100, 50);
        int[] before = {0};
        for (int second = 0; second < 99; second++) {
            on.time.passSeconds(1);
            assertEquals("a", on.token().tokenId());
            if (on.broker.calls.size() > before[0] && !on.broker.last().answer.isDone()) {
                on.broker.last().fails(Sources.unavailable());
            }
        }
        assertTrue("1, 2, 4, 8, 16 s: " + on.broker.calls.size(), on.broker.calls.size() <= 8);
        on.time.passSeconds(1);
        var asked = on.asks();
        Sources.waits(asked);
        on.broker.last().brings("b", 100, 50);
        assertEquals("b", Sources.told(asked).tokenId());
    }

    /** Three who ask, a minute apart: each is told this, and each has made a call. */
    private static void eachIsTold(String why, DoubleSupplier jitter, Supplier<CompletableFuture<tokenbroker.v1.Token>> answers) {
        var calls = new int[1];
        Asker broken = new Asker() {
            @Override
            public CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected) {
                calls[0]++;
                return answers.get();
            }

            @Override
            public void close() {}
        };
        var time = new FakeTime();
        var source = new TokenSource(broken, time, jitter, Sources.TIMEOUT, Runnable::run);
        for (int n = 1; n <= 3; n++) {
            var error = Sources.error(source.tokenAsync("m", "+447871239999"));
            assertTrue(error.getMessage(), error.getMessage().contains(why));
            assertEquals(n, calls[0]);
            time.passSeconds(60);
        }
        assertEquals(3, source.counts().failures());
    }

    @Test
    public void aCallThatThrowsStandsInNobodysWay() {
        eachIsTold("broken", () -> 1.0, () -> {
            throw new IllegalStateException("broken");
        });
        eachIsTold("no native thread", () -> 1.0, () -> {
            throw new OutOfMemoryError("no native thread");
        });
    }

    @Test
    public void anAnswerThatCannotBeTakenStandsInNobodysWay() {
        eachIsTold("ull", /* as each JDK says it */ () -> 1.0, () -> CompletableFuture.completedFuture(null));
    }

    @Test
    public void aThreadThatCannotBeStartedStandsInNobodysWay() {
        // Neither to have a token renewed …
        on.time.refuses = when -> when == on.time.now() + Duration.ofSeconds(50).toNanos();
        on.first("a", 100, 50);
        on.time.passSeconds(51);
        assertEquals("a", on.token().tokenId());
        assertEquals("who asks has it renewed", 2, on.broker.calls.size());
        var half = com.google.protobuf.Duration.newBuilder().setNanos(500_000_000);
        on.broker.last().answer.complete(FakeBroker.token("b", 0).setExpiresIn(half).build());
        // … nor to have a call wait until the last is a second ago.
        on.time.passSeconds(0.6);
        on.time.refuses = when -> when <= on.time.now() + Rules.REST;
        assertTrue(on.error().getMessage(), on.error().getMessage().contains("native thread"));
        on.time.refuses = when -> false;
        on.time.passSeconds(60);
        on.first("c", 100, 50);
    }
}
