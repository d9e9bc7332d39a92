package tokenbroker.client;

import static org.junit.Assert.assertEquals;

import java.time.Duration;
import org.junit.Test;

/** Lives and pauses. */
public class RulesTest {
    private static void lives(Long expiresIn, Long renewIn, double jitter, long ends, long renew) {
        var token = tokenbroker.v1.Token.newBuilder();
        if (expiresIn != null) {
            token.setExpiresIn(FakeBroker.seconds(expiresIn));
        }
        if (renewIn != null) {
            token.setRenewIn(FakeBroker.seconds(renewIn));
        }
        var life = Rules.life(0, token.build(), jitter);
        assertEquals(Duration.ofSeconds(ends), Duration.ofNanos(life.ends));
        assertEquals(Duration.ofSeconds(renew), Duration.ofNanos(life.renew));
    }

    @Test
    public void aLifeIsWhatTheBrokerSaysAndAtMostSevenDays() {
        lives(1_000L, null, 0, 1_000, 750);
        lives(1_000L, null, 1, 1_000, 850);
        lives(1_000L, null, 99, 1_000, 850);
        lives(-1L, null, 1, 0, 0);
        lives(null, null, 1, 0, 0);
        lives(Long.MAX_VALUE, 5L, 1, 7 * 24 * 3_600, 5);
        lives(1_000L, 900L, 0, 1_000, 900);
        lives(1_000L, 2_000L, 0, 1_000, 1_000);
        lives(1_000L, Long.MIN_VALUE, 0, 1_000, 0);
    }

    private static void pauses(TokenBrokerException error, int before, boolean hasToken, double jitter, double wanted) {
        assertEquals(wanted, Rules.pause(error, before, hasToken, jitter) / 1e9, 1e-6);
    }

    @Test
    public void aPauseIsTheBrokersOrDoublesAndIsNeverNone() {
        pauses(Sources.unavailable(), 0, false, 1, 0.2);
        pauses(Sources.unavailable(), 30, false, 1, 2);
        pauses(Sources.unavailable(), 0, false, 0, 0.01);
        pauses(Sources.unavailable(), 0, true, 1, 1);
        pauses(TokenBrokerException.ofCode("DEADLINE_EXCEEDED", "no"), Integer.MAX_VALUE, true, 1, 30);
        pauses(Sources.refused(), 0, false, 0, 10);
        pauses(Sources.wait("UNAVAILABLE", Duration.ofSeconds(7)), 0, false, 0, 7);
        pauses(Sources.wait("UNAVAILABLE", Duration.ofSeconds(7)), 0, true, 1, 7.7);
        pauses(Sources.wait("UNAVAILABLE", Duration.ZERO), 0, false, 0, 0.01);
        pauses(Sources.wait("RESOURCE_EXHAUSTED", Duration.ofDays(1)), 0, true, 0, 600);
    }
}
