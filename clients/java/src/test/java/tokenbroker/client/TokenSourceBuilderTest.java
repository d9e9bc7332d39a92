package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.junit.Test;

/** What a source can't be made of. */
public class TokenSourceBuilderTest {
    private static final Path FILE = Path.of("there-is-none");

    private static TokenSourceBuilder over(String... endpoints) {
        var builder = TokenSource.builder();
        List.of(endpoints).forEach(builder::endpoint);
        return builder;
    }

    private static void refuses(TokenSourceBuilder builder, String option) {
        var error = assertThrows(IllegalArgumentException.class, builder::build);
        assertTrue(error.getMessage(), error.getMessage().startsWith(option));
        assertTrue("names a remedy: " + error.getMessage(), error.getMessage().contains(": "));
    }

    @Test
    public void refusesWhatDoesNotGoTogether() {
        refuses(over(), "endpoint");
        for (var endpoint : List.of("", "a:1", "ftp://a:1", "http://", "http://a:0", "http://a:65536", "http://a:b",
            "http://a:1/path", "http://user@a:1", "http://[::1", "https://a b:1", "http://a:+1")) {
            refuses(over(endpoint), "endpoint");
        }
        refuses(over("http://a:1", "https://b:1").caFile(FILE), "endpoint");
        refuses(over("http://a:1").caFile(FILE), "caFile");
        refuses(over("http://a:1").tokenFile(FILE), "tokenFile");
        refuses(over("http://a:1").certificate(FILE, FILE), "certificate");
        refuses(over("https://a:1"), "caFile");
        refuses(over("https://a:1").caFile(FILE).certificate(FILE, null), "keyFile");
        refuses(over("https://a:1").caFile(FILE).certificate(null, FILE), "certificateFile");
        refuses(over("https://a:1").caFile(FILE).certificate(FILE, FILE).tokenFile(FILE), "tokenFile");
        refuses(over("http://a:1").timeout(Duration.ZERO), "timeout");
    }

    @Test
    public void takesWhatDoesAndAsksNobody() {
        for (var builder : List.of(over("http://a:1", "http://[::1]:2/"), over("HTTPS://a.example.org.").caFile(FILE),
            over("https://a:1").caFile(FILE).tokenFile(FILE), over("https://a_b:1").caFile(FILE).certificate(FILE, FILE))) {
            try (var source = builder.build()) {
                assertEquals(0, source.counts().calls());
            }
        }
    }

    @Test
    public void anEndpointIsReadBack() {
        for (var text : List.of("http://a:1", "https://a.b.:443", "http://[::1]:50051", "http://127.0.0.1:80")) {
            assertEquals(text, Endpoint.parse(text).toString());
        }
        assertEquals("a.b:443", Endpoint.parse("https://a.b.").authority());
        assertEquals("[::1]:80", Endpoint.parse("http://[::1]").authority());
        assertEquals("token-broker:///http://a:1,http://%5B::1%5D:2",
            EndpointsResolver.target(List.of(Endpoint.parse("http://a:1"), Endpoint.parse("http://[::1]:2"))));
    }

    @Test
    public void timeoutsHaveALongest() {
        assertEquals(Duration.ofMinutes(10), TokenSourceBuilder.checked(Duration.ofDays(1)));
        assertEquals(Duration.ofSeconds(30), TokenSourceBuilder.DEFAULT_TIMEOUT);
    }

    @Test
    public void nothingSecretIsShown() {
        var answer = FakeBroker.token("its-id", 9).build();
        var token = new Token(User.of("m", "+447871239999"), answer, new Rules.Life(9, 8), new FakeTime());
        assertEquals("secret-its-id", token.accessToken());
        assertEquals("Bearer secret-its-id", token.authorization());
        assertTrue(token.toString(), token.toString().contains("its-id") && token.toString().contains("…9999"));
        assertFalse(token.toString(), token.toString().contains("secret") || token.toString().contains("+44"));
        assertEquals("User[merchantId=m\\u000a, number=…]", User.of("m\n", "+12").toString());
    }
}
