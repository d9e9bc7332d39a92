package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;

import org.junit.Test;

/** How many users a source keeps. */
public class UserMapTest {
    private final Sources on = new Sources();

    private void asks(int user) {
        on.source.tokenAsync("m", "+44" + user);
    }

    @Test
    public void isBoundedAndForgetsWhoWasNotAskedFor() {
        for (int user = 0; user <= UserMap.USERS_MAX; user++) {
            asks(user);
            if (user != 3) {
                on.broker.last().brings("t", 604_800, 604_000);
            }
            on.time.passSeconds(1);
        }
        assertEquals(UserMap.USERS_MAX + 1 - UserMap.FORGOTTEN, on.source.counts().users());
        int before = on.broker.calls.size();
        asks(3);
        assertEquals("a call is under way: it is not forgotten", before, on.broker.calls.size());
        asks(UserMap.FORGOTTEN + 1);
        assertEquals("the next is there", before, on.broker.calls.size());
        asks(0);
        assertEquals("the first was forgotten", before + 1, on.broker.calls.size());
    }

    @Test
    public void whoeverHasAForgottenSlotInHandAsksForAnother() {
        var users = new UserMap(new Shared(on.broker, on.time, () -> 1.0));
        var slot = users.getOrAdd(User.of("m", "+441"));
        assertNotNull(slot.next());
        on.broker.last().brings("a", 100, 80);
        slot.forget();
        assertNull(slot.next());
        assertEquals("and nothing is renewed", 0, on.time.waiting());
    }
}
