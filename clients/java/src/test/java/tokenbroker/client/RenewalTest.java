package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotSame;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.concurrent.CompletableFuture;
import org.junit.Test;

/** Calls and renewals, in fake time. */
public class RenewalTest {
    private final Sources on = new Sources();

    @Test
    public void allWhoAskShareOneCall() {
        var asked = new ArrayList<CompletableFuture<Token>>();
        for (int n = 0; n < 100; n++) {
            asked.add(on.asks());
        }
        assertEquals(1, on.broker.calls.size());
        on.broker.last().brings("a", 100, 80);
        asked.forEach(one -> assertEquals("a", Sources.told(one).tokenId()));
        assertEquals("a", on.token().tokenId());
        assertEquals(1, on.source.counts().calls());
    }

    @Test
    public void whoStopsWaitingChangesNothingForTheOthers() {
        var cancelled = on.asks();
        var late = on.source.tokenAsync(Sources.MERCHANT, Sources.NUMBER, Duration.ofSeconds(1));
        var patient = on.asks();
        cancelled.cancel(true);
        on.time.passSeconds(2);
        assertEquals("DEADLINE_EXCEEDED", Sources.error(late).code().orElseThrow());
        assertFalse(patient.isDone());
        on.broker.last().brings("a", 100, 80);
        assertEquals("a", Sources.told(patient).tokenId());
        assertEquals(1, on.broker.calls.size());
    }

    @Test
    public void isRenewedBehindThoseWhoAsk() {
        on.first("a", 100, 80);
        on.time.passSeconds(79);
        assertEquals(1, on.broker.calls.size());
        on.time.passSeconds(2);
        assertEquals("the timer renews it", 2, on.broker.calls.size());
        assertEquals("a", on.token().tokenId());
        on.broker.last().brings("b", 100, 80);
        assertEquals("b", on.token().tokenId());
    }

    @Test
    public void whoIsNotAskedForIsNotRenewedUntilAskedAgain() {
        on.first("a", 3_600, 1_000);
        on.time.passSeconds(1_500);
        assertEquals("nobody asked for 10 minutes", 1, on.broker.calls.size());
        assertEquals("the old one meanwhile", "a", on.token().tokenId());
        assertEquals("and a call behind it", 2, on.broker.calls.size());
        on.token();
        assertEquals("one", 2, on.broker.calls.size());
        on.broker.last().brings("b", 3_600, 1_000);
        assertEquals("b", on.token().tokenId());
    }

    @Test
    public void anEndedTokenIsNotHandedOut() {
        var token = on.first("a", 100, 100);
        on.time.passSeconds(99.9);
        assertEquals(Duration.ofMillis(100), token.expiresIn());
        assertTrue(on.source.cached(Sources.MERCHANT, Sources.NUMBER).isPresent());
        on.time.passSeconds(0.1);
        assertEquals(Duration.ZERO, token.expiresIn());
        assertFalse(on.source.cached(Sources.MERCHANT, Sources.NUMBER).isPresent());
        var asked = on.asks();
        Sources.waits(asked);
        on.broker.last().brings("b", 100, 80);
        assertEquals("b", Sources.told(asked).tokenId());
    }

    @Test
    public void lifeIsCountedFromWhenTheCallWasSent() {
        var asked = on.asks();
        on.time.passSeconds(10);
        on.broker.last().brings("a", 100, 80);
        assertEquals(Duration.ofSeconds(90), Sources.told(asked).expiresIn());
    }

    @Test
    public void isNotAskedInALoopWhateverTheLivesAre() {
        on.first("a", 1, 0);
        for (int n = 0; n < 100; n++) {
            on.time.passSeconds(0.1);
            on.asks();
            if (!on.broker.last().answer.isDone()) {
                on.broker.last().brings("a" + n, 1, 0);
            }
        }
        assertTrue("in 10 s: " + on.broker.calls.size(), on.broker.calls.size() <= 12);
    }

    @Test
    public void anAnswerThatHasEndedIsAnError() {
        var asked = on.asks();
        on.broker.last().brings("a", 0, 0);
        assertEquals("UNAVAILABLE", Sources.error(asked).code().orElseThrow());
        assertEquals(1, on.broker.calls.size());
        // One that ended on its way is asked for once more.
        on.time.passSeconds(10);
        var slow = on.asks();
        on.time.passSeconds(5);
        on.broker.last().brings("b", 4, 3);
        assertEquals(3, on.broker.calls.size());
        on.broker.last().brings("c", 4, 3);
        assertEquals("c", Sources.told(slow).tokenId());
    }

    @Test
    public void aTokenThatEndsBeforeItIsToldIsNotHandedOut() {
        var time = new FakeTime();
        var broker = new FakeBroker();
        // Each look at the clock takes 0.6 s: good when the call ends, and over by the time that it could be told.
        Time slow = new Time() {
            @Override
            public long now() {
                time.passSeconds(0.6);
                return time.now();
            }

            @Override
            public Timer at(long when, Runnable what) {
                return time.at(when, what);
            }

            @Override
            public void close() {}
        };
        var source = new TokenSource(broker, slow, () -> 1.0, Sources.TIMEOUT, Runnable::run);
        var asked = source.tokenAsync("m", "+447871239999");
        for (int call = 0; !asked.isDone(); call++) {
            broker.calls.get(call).answer.complete(FakeBroker.token("t" + call, 1).build());
        }
        assertEquals("UNAVAILABLE", Sources.error(asked).code().orElseThrow());
    }

    @Test
    public void closingEndsAllThatWaits() {
        var waits = on.asks();
        on.source.tokenAsync("other", "user");
        on.source.close();
        assertTrue(Sources.error(waits).getMessage().contains("closed"));
        assertTrue(on.error().isPermanent());
        assertFalse(on.source.cached(Sources.MERCHANT, Sources.NUMBER).isPresent());
        assertEquals(0, on.time.waiting());
        on.broker.calls.get(0).brings("a", 100, 80);
        assertEquals("a late answer begins nothing", 0, on.time.waiting());
        assertEquals(0, on.source.counts().users());
    }

    @Test
    public void theBlockingCallThrowsWithItsOwnStack() {
        var first = on.asks();
        on.broker.last().fails(Sources.refused());
        var shared = Sources.error(first);
        var own = org.junit.Assert.assertThrows(TokenBrokerException.class,
            () -> on.source.token(Sources.MERCHANT, Sources.NUMBER));
        assertNotSame(shared, own);
        assertSame(shared, own.getCause());
        assertEquals(shared.getMessage(), own.getMessage());
    }
}
