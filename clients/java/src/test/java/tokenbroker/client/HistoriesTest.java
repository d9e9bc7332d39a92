package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import org.junit.Test;

/** Histories made by chance, each from a seed that a failure names: whatever happens, what must never be is not. */
public class HistoriesTest {
    private static final int HISTORIES = 150;
    private static final int STEPS = 400;
    private static final int USERS = 3;

    private final class History {
        final Random chance;
        final FakeTime time = new FakeTime();
        final FakeBroker broker = new FakeBroker();
        final TokenSource source;
        final List<CompletableFuture<Token>> asked = new ArrayList<>();
        final List<Token> seen = new ArrayList<>();
        boolean isEndedHandedOut;
        int looked;
        int tokens;

        History(long seed) {
            chance = new Random(seed);
            source = new TokenSource(broker, time, chance::nextDouble, Sources.TIMEOUT, Runnable::run);
        }

        String number() {
            return "+4470000000" + chance.nextInt(USERS);
        }

        void step() {
            switch (chance.nextInt(8)) {
                case 0:
                case 1:
                    asked.add(source.tokenAsync("m", number()).whenComplete((token, error) -> handedOut(token)));
                    break;
                case 2:
                    source.cached("m", number()).ifPresent(this::handedOut);
                    break;
                case 3:
                    if (!seen.isEmpty()) {
                        var token = seen.get(chance.nextInt(seen.size()));
                        source.rejected(token);
                    }
                    break;
                case 4:
                    answer();
                    break;
                case 5:
                    if (!asked.isEmpty()) {
                        asked.get(chance.nextInt(asked.size())).cancel(true);
                    }
                    break;
                default:
                    pass();
            }
            check();
        }

        void pass() {
            // In small steps, so that each call is seen when it is sent.
            boolean isLong = chance.nextInt(10) == 0;
            double seconds = isLong ? 700 : chance.nextDouble() * 3;
            double step = isLong ? 5 : 0.05;
            for (double passed = 0; passed < seconds; passed += step) {
                time.passSeconds(step);
                check();
                if (chance.nextInt(40) == 0) {
                    answer();
                    check();
                }
            }
        }

        void answer() {
            // Answers begin other calls.
            for (var call : List.copyOf(broker.calls)) {
                if (!call.answer.isDone() && chance.nextBoolean()) {
                    if (chance.nextInt(3) == 0) {
                        call.fails(chance.nextBoolean() ? Sources.unavailable() : Sources.refused());
                    } else {
                        // Now and then one that was there before.
                        call.brings("t" + (chance.nextInt(4) == 0 ? tokens : ++tokens), chance.nextInt(60), chance.nextInt(60));
                    }
                }
            }
        }

        void handedOut(Token token) {
            if (token != null) {
                // Told by the next check: here it would be lost.
                isEndedHandedOut |= token.life().ends <= time.now();
                seen.add(token);
            }
        }

        void check() {
            assertFalse("an ended token was handed out", isEndedHandedOut);
            var open = new HashMap<User, Integer>();
            for (var call : broker.calls) {
                if (!call.answer.isDone()) {
                    open.merge(call.user, 1, Integer::sum);
                }
            }
            open.forEach((user, count) -> assertEquals("calls under way for one user", 1, (int) count));
            for (; looked < broker.calls.size(); looked++) {
                var call = broker.calls.get(looked);
                assertTrue("ids named", call.rejected.size() <= Complaints.MAX);
                assertEquals("named once each", call.rejected.size(), call.rejected.stream().distinct().count());
            }
        }
    }

    @Test
    public void whatMustNeverBeIsNot() {
        for (long seed = 0; seed < HISTORIES; seed++) {
            try {
                var history = new History(seed);
                for (int step = 0; step < STEPS; step++) {
                    history.step();
                }
                history.time.passSeconds(60);
                for (int at = 0; at < history.broker.calls.size(); at++) {
                    if (!history.broker.calls.get(at).answer.isDone()) {
                        history.broker.calls.get(at).brings("last", 100, 80);
                    }
                }
                history.check();
                history.asked.forEach(one -> assertTrue("somebody waits for good", one.isDone()));
                history.source.close();
                assertEquals("timers are left", 0, history.time.waiting());
            } catch (AssertionError | RuntimeException failed) {
                throw new AssertionError("history of seed " + seed + ": " + failed.getMessage(), failed);
            }
        }
    }
}
