package tokenbroker.client.testing;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ConnectException;
import java.net.InetAddress;
import java.net.Socket;
import java.net.SocketException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.junit.rules.Timeout;
import tokenbroker.client.Reason;
import tokenbroker.client.Token;
import tokenbroker.client.TokenBrokerException;
import tokenbroker.client.TokenSource;

/** What the client has for the suites of those who use it: without the two programs as far as that goes, and with them. */
public class TestBrokerTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    @Rule
    public final Timeout timeout = new Timeout(30, TimeUnit.SECONDS);

    private final HttpClient http = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();

    /** A suite that is killed, in a process of its own. */
    public static final class ASuite {
        public static void main(String[] arguments) throws IOException {
            var broker = TestBroker.start();
            System.out.println(broker.endpoint() + " " + broker.vaultUrl());
            System.in.read();
        }
    }

    /** An environment with this script in the place of the sandbox. */
    private Map<String, String> standIn(String script) throws IOException {
        var program = folder.getRoot().toPath().resolve("sandbox");
        Files.writeString(program, "#!/bin/sh\n" + script + "\n");
        assertTrue(program.toFile().setExecutable(true));
        return Map.of(TestBroker.SANDBOX, program.toString(), TestBroker.BROKER, "/bin/sh");
    }

    private static String refusal(Map<String, String> environment, String... arguments) {
        return assertThrows(IllegalStateException.class, () -> TestBroker.start(environment::get, arguments)).getMessage();
    }

    private static void has(String text, String part) {
        assertTrue(text + " has no " + part, text.contains(part));
    }

    private static TestBroker withThePrograms(String... arguments) {
        for (var variable : List.of(TestBroker.SANDBOX, TestBroker.BROKER)) {
            assumeTrue("without the real programs: " + variable + " is not set", System.getenv(variable) != null);
        }
        return TestBroker.start(arguments);
    }

    private static TokenSource sourceOf(TestBroker broker) {
        return TokenSource.builder().endpoint(broker.endpoint()).build();
    }

    private HttpResponse<String> customer(TestBroker broker, Token token) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(broker.vaultUrl() + "/v1/customer"));
        return http.send(request.header("Authorization", token.authorization()).build(), BodyHandlers.ofString());
    }

    /** Returns once nothing listens there any more: a connection that is still taken is over when the program is. */
    private static void awaitEnd(String... urls) throws IOException {
        for (var url : urls) {
            // The test's timeout ends it otherwise.
            for (boolean isThere = true; isThere; ) {
                try (var connection = new Socket(InetAddress.getLoopbackAddress(), URI.create(url).getPort())) {
                    connection.getInputStream().readAllBytes();
                } catch (ConnectException refused) {
                    isThere = false;
                } catch (SocketException reset) {
                    // It is about to end.
                }
            }
        }
    }

    @Test
    public void programsThatAreNotThereAreNamed() {
        var environment = new HashMap<>(Map.of("PATH", folder.getRoot().toString()));
        has(refusal(environment), "no token-broker-sandbox in PATH, and no TOKEN_BROKER_SANDBOX_PROGRAM: have");
        environment.put(TestBroker.SANDBOX, "/bin/sh");
        environment.put(TestBroker.BROKER, "/gone/broker");
        has(refusal(environment), "TOKEN_BROKER_PROGRAM names /gone/broker, which is no program: have TOKEN_BROKER_PROGRAM name");
        environment.put("PATH", "/nowhere:/bin");
        environment.put(TestBroker.BROKER, "sh");
        has(refusal(environment), "did not start: ");
    }

    @Test
    public void whatDoesNotStartSaysWhy() throws IOException {
        has(refusal(standIn("echo 'the port is taken' >&2; exit 1")), "did not start: the port is taken");
        has(refusal(standIn("exit 3")), "did not start: it ended with 3, without a word");
        has(refusal(standIn("echo hello; exec cat")), "says 'hello': have TOKEN_BROKER_SANDBOX_PROGRAM name");
    }

    @Test
    public void usersAreNewUntilThereAreNone() throws IOException {
        var line = "{\"endpoint\":\"http://127.0.0.1:1\",\"merchant_id\":\"m\",\"numbers\":[\"+1\",\"+2\"],"
            + "\"vault_url\":\"http://127.0.0.1:1\"}";
        try (var broker = TestBroker.start(standIn("echo '" + line + "'; exec cat")::get)) {
            assertEquals("+1", broker.newUser().number());
            var user = broker.newUser();
            assertEquals(List.of("m", "+2"), List.of(user.merchantId(), user.number()));
            var none = assertThrows(IllegalStateException.class, broker::newUser);
            assertEquals("all 2 users have been handed out: start another TestBroker", none.getMessage());
            var away = assertThrows(IllegalStateException.class, () -> broker.control("stats"));
            has(away.getMessage(), "the sandbox does not answer: ");
        }
    }

    @Test
    public void itsArgumentsAreTheSandboxes() throws IOException {
        var told = folder.getRoot().toPath().resolve("arguments");
        has(refusal(standIn("echo \"$@\" > " + told + "; exit 1"), "--lifetime", "20s"), "without a word");
        assertEquals("--listen 127.0.0.1:0 --broker /bin/sh --lifetime 20s\n", Files.readString(told));
    }

    @Test
    public void aTokenIsLiveUntilItIsRevoked() throws Exception {
        try (var broker = withThePrograms(); var source = sourceOf(broker)) {
            var user = broker.newUser();
            var first = source.token(user.merchantId(), user.number());
            assertEquals(200, source.withToken(user.merchantId(), user.number(), token -> customer(broker, token)).statusCode());
            assertEquals("{\"revoked\":1}", broker.control("revoke", "{\"access_token\": \"" + first.accessToken() + "\"}"));
            assertEquals(401, customer(broker, first).statusCode());
            assertEquals(200, source.withToken(user.merchantId(), user.number(), token -> customer(broker, token)).statusCode());
            assertNotEquals(first.tokenId(), source.token(user.merchantId(), user.number()).tokenId());
        }
    }

    @Test
    public void theVaultFailsForOneUser() {
        try (var broker = withThePrograms(); var source = sourceOf(broker)) {
            var user = broker.newUser();
            var faults = "[{\"kind\": \"refusal\", \"error_id\": 11, \"error\": \"WRONG_LOGIN_OR_PASSWORD_EXCEPTION\","
                + " \"message\": \"no\", \"times\": 2, \"number\": \"" + user.number() + "\"}]";
            assertEquals("{\"unused_faults\":2}", broker.control("faults", faults));
            var refused = assertThrows(TokenBrokerException.class, () -> source.token(user.merchantId(), user.number()));
            assertEquals(Reason.CREDENTIALS_REJECTED, refused.reason().orElseThrow());
            var other = broker.newUser();
            assertFalse(source.token(other.merchantId(), other.number()).tokenId().isEmpty());
            has(broker.control("stats"), "\"unused_faults\":1");
            broker.dropFaults();
            has(broker.control("stats"), "\"unused_faults\":0");
            var wrong = assertThrows(IllegalArgumentException.class, () -> broker.control("faults", "{}"));
            has(wrong.getMessage(), "the sandbox refuses POST faults: ");
        }
    }

    @Test
    public void theArgumentsReachTheSandboxAndClosingEndsBothPrograms() throws IOException {
        var broker = withThePrograms("--lifetime", "20s");
        try (broker; var source = sourceOf(broker)) {
            var user = broker.newUser();
            var left = source.token(user.merchantId(), user.number()).expiresIn().toMillis();
            assertTrue("a life of " + left + " ms", left > 15_000 && left <= 20_000);
        }
        awaitEnd(broker.endpoint(), broker.vaultUrl());
        broker.close();
        var ended = assertThrows(IllegalStateException.class, () -> broker.control("stats"));
        has(ended.getMessage(), "the sandbox has ended: it ended with ");
    }

    @Test
    public void aSuiteThatIsKilledLeavesNothing() throws Exception {
        withThePrograms().close();
        var java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        var suite = new ProcessBuilder(java, "-cp", System.getProperty("java.class.path"), ASuite.class.getName())
            .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            var urls = new BufferedReader(new InputStreamReader(suite.getInputStream())).readLine().split(" ");
            suite.destroyForcibly().waitFor();
            awaitEnd(urls);
        } finally {
            suite.destroyForcibly();
        }
    }
}
