package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import java.time.Duration;
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

    @Test
    public void aCallThatThrowsStandsInNobodysWay() {
        var calls = new int[1];
        Asker broken = new Asker() {
            @Override
            public java.util.concurrent.CompletableFuture<tokenbroker.v1.Token> ask(User user, java.util.List<String> rejected) {
                calls[0]++;
                throw new IllegalStateException("broken");
            }

            @Override
            public void close() {}
        };
        var time = new FakeTime();
        var source = new TokenSource(broken, time, () -> 1.0, Sources.TIMEOUT, Runnable::run);
        for (int n = 1; n <= 3; n++) {
            var error = Sources.error(source.tokenAsync("m", "+447871239999"));
            assertTrue(error.getMessage(), error.getMessage().contains("broken"));
            assertEquals(n, calls[0]);
            time.passSeconds(60);
        }
    }
}
