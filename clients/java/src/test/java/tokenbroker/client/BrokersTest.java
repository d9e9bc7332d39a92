package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.grpc.Status;
import io.grpc.TlsServerCredentials;
import java.io.IOException;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.SocketAddress;
import java.net.URI;
import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.ClassRule;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.junit.rules.Timeout;
import tokenbroker.client.wire.HealthCheckResponse.ServingStatus;

/** Calls over real connections to replicas on loopback. Nothing here sleeps: what is waited for is an answer. */
public class BrokersTest {
    private static final User USER = User.of("m", "+447871239999");

    @ClassRule
    public static final Keys KEYS = new Keys();

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    @Rule
    public final Timeout timeout = new Timeout(30, TimeUnit.SECONDS);

    private static TokenSourceBuilder over(FakeReplica... replicas) {
        var builder = TokenSource.builder().timeout(Duration.ofSeconds(10));
        List.of(replicas).forEach(replica -> builder.endpoint(replica.endpoint()));
        return builder;
    }

    private static String asks(TokenSource source, int user) {
        return source.token("m", "+44" + user).tokenId();
    }

    @Test
    public void callsGoToAllInTurnByOneConnectionEach() throws Exception {
        try (var one = new FakeReplica("1"); var two = new FakeReplica("2"); var source = over(one, two).build()) {
            asks(source, 0);
            // Whichever was first, both answer soon.
            for (int user = 1; one.calls.get() < 10 || two.calls.get() < 10; user++) {
                asks(source, user);
            }
            assertEquals(1, one.connections.get());
            assertEquals(1, two.connections.get());
            assertTrue(Math.abs(one.calls.get() - two.calls.get()) <= 10 + one.calls.get() / 2);
        }
    }

    @Test
    public void whoDoesNotServeGetsNoCallsWhileAnotherDoes() throws Exception {
        try (var one = new FakeReplica("1"); var silent = new FakeReplica("silent")) {
            silent.health = ServingStatus.UNKNOWN; // says nothing at all
            try (var source = over(one, silent).build()) {
                for (int user = 0; user < 20; user++) {
                    assertEquals("1", asks(source, user));
                }
                silent.becomes(ServingStatus.SERVING);
                int user = 20;
                while (asks(source, user).equals("1")) {
                    user++;
                }
                one.becomes(ServingStatus.NOT_SERVING);
                // It is told; until that has come over, calls go to it.
                for (int last = one.calls.get() - 1; last != one.calls.get();) {
                    last = one.calls.get();
                    asks(source, ++user);
                    asks(source, ++user);
                }
                for (int after = 0; after < 10; after++) {
                    assertEquals("silent", asks(source, ++user));
                }
            }
        }
    }

    @Test
    public void whereNoneServesThoseThatSaySoAreAsked() throws Exception {
        try (var one = new FakeReplica("1")) {
            one.health = ServingStatus.NOT_SERVING;
            try (var source = over(one).build()) {
                assertEquals("1", asks(source, 0));
            }
        }
    }

    @Test
    public void aBrokerWithoutHealthIsAskedAllTheSame() throws Exception {
        try (var one = new FakeReplica("1")) {
            one.health = ServingStatus.UNRECOGNIZED;
            try (var source = over(one).build()) {
                assertEquals("1", asks(source, 0));
            }
        }
    }

    @Test
    public void isRepeatedAsTheBrokerSays() throws Exception {
        try (var one = new FakeReplica("1"); var source = over(one).build()) {
            one.failures.addAll(List.of(Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE));
            one.pushback = "1";
            assertEquals("1", asks(source, 0));
            assertEquals(4, one.calls.get());
            assertEquals(1, source.counts().calls());
            one.failures.addAll(List.of(Status.UNAVAILABLE, Status.UNAVAILABLE));
            one.pushback = "-1";
            assertThrows(TokenBrokerException.class, () -> asks(source, 1));
            assertEquals("not repeated", 5, one.calls.get());
            one.failures.clear();
            one.failures.add(Status.PERMISSION_DENIED);
            one.pushback = null;
            assertThrows(TokenBrokerException.class, () -> asks(source, 2));
            assertEquals("not repeated either", 6, one.calls.get());
        }
    }

    @Test
    public void anAnswerWithoutATokenIsTheBrokersFault() throws Exception {
        try (var one = new FakeReplica("1"); var source = over(one).build()) {
            one.isEmpty = true;
            var error = assertThrows(TokenBrokerException.class, () -> asks(source, 0));
            assertEquals("INTERNAL", error.code().orElseThrow());
            assertTrue(error.getMessage(), error.isPermanent() && error.getMessage().contains("holds no token"));
        }
    }

    @Test
    public void whereNobodyListensIsToldSoon() throws Exception {
        int port;
        try (var gone = new FakeReplica("gone")) {
            port = gone.port();
        }
        try (var source = TokenSource.builder().endpoint("http://127.0.0.1:" + port).build()) {
            var error = assertThrows(TokenBrokerException.class, () -> asks(source, 0));
            assertEquals("UNAVAILABLE", error.code().orElseThrow());
            assertTrue(error.getMessage(), error.getMessage().contains("Connection refused"));
        }
    }

    @Test
    public void aNameThatIsNoneIsTold() {
        // No label is so long, which is found without asking anybody.
        var none = "a".repeat(64) + ".invalid";
        try (var source = TokenSource.builder().endpoint("http://" + none + ":1").timeout(Duration.ofSeconds(10)).build()) {
            var error = assertThrows(TokenBrokerException.class, () -> asks(source, 0));
            assertTrue(error.getMessage(), error.getMessage().contains(none + " is not known"));
        }
    }

    @Test
    public void theJvmsProxyIsUsedWhereAskedFor() throws Exception {
        var before = ProxySelector.getDefault();
        var asked = new AtomicInteger();
        ProxySelector.setDefault(new ProxySelector() {
            @Override
            public List<Proxy> select(URI uri) {
                asked.incrementAndGet();
                return List.of(Proxy.NO_PROXY);
            }

            @Override
            public void connectFailed(URI uri, SocketAddress address, IOException error) {}
        });
        try (var one = new FakeReplica("1")) {
            try (var source = over(one).build()) {
                asks(source, 0);
            }
            assertEquals(0, asked.get());
            try (var source = over(one).useProxy(true).build()) {
                asks(source, 0);
            }
            assertTrue(asked.get() > 0);
        } finally {
            ProxySelector.setDefault(before);
        }
    }

    private TokenSourceBuilder overTls(FakeReplica replica) throws IOException {
        var ca = Files.write(folder.getRoot().toPath().resolve("ca.pem"), KEYS.read("ec.pem"));
        return TokenSource.builder().endpoint("https://localhost:" + replica.port()).caFile(ca).timeout(Duration.ofSeconds(10));
    }

    private static FakeReplica tls(String name) throws IOException {
        var credentials = TlsServerCredentials.create(KEYS.path("ec.pem").toFile(), KEYS.path("ec-pkcs8.pem").toFile());
        return new FakeReplica(name, credentials);
    }

    @Test
    public void theTokenFileIsReadForEachCall() throws Exception {
        var file = folder.getRoot().toPath().resolve("token");
        try (var one = tls("1"); var source = overTls(one).tokenFile(file).build()) {
            var error = assertThrows(TokenBrokerException.class, () -> asks(source, 0));
            assertTrue(error.getMessage(), error.getMessage().contains("not there"));
            Files.writeString(file, " first\n");
            asks(source, 1);
            assertEquals("Bearer first", one.authorization);
            Files.writeString(file, "second\n");
            asks(source, 2);
            assertEquals("Bearer second", one.authorization);
            Files.writeString(file, "sec\nret");
            var broken = assertThrows(TokenBrokerException.class, () -> asks(source, 3));
            assertFalse(broken.getMessage(), broken.getMessage().contains("ret:") || broken.getMessage().contains("sec\\u"));
        }
    }

    @Test
    public void aTokenFileWhoseReadHangsIsToldAndReadAgainOnceItDoesNot() throws Exception {
        var file = folder.getRoot().toPath().resolve("token");
        // A read of a pipe ends when somebody has written to it.
        assertEquals(0, new ProcessBuilder("mkfifo", file.toString()).start().waitFor());
        var ca = Files.write(folder.getRoot().toPath().resolve("ca.pem"), KEYS.read("ec.pem"));
        var waits = Duration.ofMillis(50);
        try (var time = new SystemTime(); var one = tls("1");
            var brokers = new Brokers(List.of(Endpoint.parse("https://localhost:" + one.port())), new TlsFiles(ca, null, null),
                new TokenFile(file, waits), false, Duration.ofSeconds(10), time)) {
            var calls = new ArrayList<CompletableFuture<tokenbroker.v1.Token>>();
            for (int n = 0; n < 100; n++) {
                calls.add(brokers.ask(USER, List.of()));
            }
            for (var call : calls) {
                var error = Slot.asOurs(assertThrows(ExecutionException.class, call::get).getCause());
                assertFalse("the fault is on this side: " + error, error.code().isPresent());
                assertTrue(error.getMessage(), error.getMessage().contains(file + ": a read of it does not end"));
            }
            assertEquals(1, Thread.getAllStackTraces().values().stream().flatMap(Stream::of)
                .filter(at -> at.getClassName().equals(TokenFile.class.getName()) && at.getMethodName().equals("read")).count());
            var pipe = Files.move(file, folder.getRoot().toPath().resolve("pipe"));
            Files.writeString(file, "second");
            Files.writeString(pipe, "first");
            while (brokers.ask(USER, List.of()).handle((token, error) -> error != null).get()) {
                Thread.yield(); // the read that hung has not ended yet
            }
            brokers.ask(USER, List.of()).get();
            assertEquals("Bearer second", one.authorization);
        }
    }

    @Test
    public void callsThatWaitForFilesAreBounded() throws Exception {
        var ca = folder.getRoot().toPath().resolve("ca.pem");
        assertEquals(0, new ProcessBuilder("mkfifo", ca.toString()).start().waitFor());
        try (var time = new SystemTime(); var brokers = new Brokers(List.of(Endpoint.parse("https://localhost:1")),
            new TlsFiles(ca, null, null), null, false, Duration.ofSeconds(60), time)) {
            var calls = new ArrayList<CompletableFuture<tokenbroker.v1.Token>>();
            for (int n = 0; n < UserMap.USERS_MAX + 5; n++) {
                calls.add(brokers.ask(USER, List.of()));
            }
            assertEquals(UserMap.USERS_MAX + 4, calls.stream().filter(call -> !call.isDone()).count());
            var refused = calls.stream().filter(CompletableFuture::isDone).findFirst().orElseThrow();
            var error = Slot.asOurs(assertThrows(ExecutionException.class, refused::get).getCause());
            assertTrue(error.getMessage(), error.isTemporary() && error.getMessage().contains("wait for files"));
            var pipe = Files.move(ca, folder.getRoot().toPath().resolve("pipe"));
            Files.writeString(ca, "none");
            Files.writeString(pipe, "none");
        }
    }

    @Test
    public void aChannelIsMadeAnewOnlyOfFilesThatCanBeUsed() throws Exception {
        var ca = folder.getRoot().toPath().resolve("ca.pem");
        Files.write(ca, KEYS.read("ec.pem"));
        var time = new SteppedTime();
        try (var one = tls("1"); var brokers = new Brokers(List.of(Endpoint.parse("https://localhost:" + one.port())),
            new TlsFiles(ca, null, null), null, false, Duration.ofSeconds(10), time)) {
            brokers.ask(USER, List.of()).get();
            Files.write(ca, new byte[0]);
            time.step(Duration.ofSeconds(2));
            brokers.ask(USER, List.of()).get();
            Files.delete(ca);
            time.step(Duration.ofSeconds(2));
            brokers.ask(USER, List.of()).get();
            assertEquals("the old channel goes on", 1, one.connections.get());
            Files.write(ca, (new String(KEYS.read("ec.pem")) + new String(KEYS.read("rsa.pem"))).getBytes());
            brokers.ask(USER, List.of()).get();
            assertEquals("looked at once a second", 1, one.connections.get());
            time.step(Duration.ofSeconds(2));
            brokers.ask(USER, List.of()).get();
            assertEquals("a new channel", 2, one.connections.get());
        }
    }

    @Test
    public void aChannelThatWasReplacedJustNowIsEndedByCloseToo() throws Exception {
        var ca = folder.getRoot().toPath().resolve("ca.pem");
        Files.write(ca, KEYS.read("ec.pem"));
        try (var time = new SteppedTime(); var one = tls("1")) {
            try (var brokers = new Brokers(List.of(Endpoint.parse("https://localhost:" + one.port())),
                new TlsFiles(ca, null, null), null, false, Duration.ofSeconds(10), time)) {
                brokers.ask(USER, List.of()).get();
                Files.write(ca, (new String(KEYS.read("ec.pem")) + new String(KEYS.read("rsa.pem"))).getBytes());
                time.step(Duration.ofSeconds(2));
                brokers.ask(USER, List.of()).get();
            }
            time.close();
            assertTrue("two connections end", one.ended.tryAcquire(2, 10, TimeUnit.SECONDS));
        }
    }

    /** The system's time, with steps. */
    private static final class SteppedTime implements Time {
        private final SystemTime system = new SystemTime();
        private volatile long ahead;

        void step(Duration step) {
            ahead += step.toNanos();
        }

        @Override
        public long now() {
            return system.now() + ahead;
        }

        @Override
        public Timer at(long when, Runnable what) {
            return system.at(when - ahead, what);
        }

        @Override
        public void close() {
            system.close();
        }
    }
}
