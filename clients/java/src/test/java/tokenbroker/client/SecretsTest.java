package tokenbroker.client;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import org.junit.Test;

/** What of a token and a user is shown, to people and to what looks into objects by itself. */
public class SecretsTest {
    private static final User USER = User.of("m", "+447871239999");

    private static Token token() {
        var time = new FakeTime();
        var answer = FakeBroker.token("its-id", 100).build();
        return new Token(USER, answer, Rules.life(time.now(), answer, 0), time);
    }

    /** All texts that a library such as Gson writes of this: those of its fields but transient ones, and of theirs. */
    private static String written(Object of) throws IllegalAccessException {
        if (of instanceof String) {
            return of + "\n";
        }
        var texts = new StringBuilder();
        for (Field field : of.getClass().getDeclaredFields()) {
            field.setAccessible(true);
            boolean isOurs = field.getType() == String.class || field.getType().getPackageName().equals("tokenbroker.client");
            if (isOurs && (field.getModifiers() & (Modifier.TRANSIENT | Modifier.STATIC)) == 0) {
                texts.append(field.getType().isInterface() ? "" : written(field.get(of)));
            }
        }
        return texts.toString();
    }

    @Test
    public void nothingShowsTheSecretOrTheNumber() throws IllegalAccessException {
        for (var shown : new String[] {token().toString(), USER.toString(), written(token()), written(USER)}) {
            assertFalse(shown, shown.contains("secret") || shown.contains("787123"));
        }
        assertTrue(written(token()).contains("its-id"));
        assertTrue(token().toString(), token().toString().contains("…9999"));
    }
}
