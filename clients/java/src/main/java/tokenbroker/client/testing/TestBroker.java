package tokenbroker.client.testing;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import java.util.regex.Pattern;
import tokenbroker.client.User;

/**
 * A real broker and a vault that fails on demand, both of them programs of this machine, for test suites. The programs are found
 * by {@code TOKEN_BROKER_SANDBOX_PROGRAM} and {@code TOKEN_BROKER_PROGRAM}, or else in {@code PATH}.
 *
 * <p>Must never leave a program behind: the two end once their standard input does, however this process ends.
 */
public final class TestBroker implements AutoCloseable {
    /** The variables that name the two programs, and what they are called where the variables are not set. */
    static final String SANDBOX = "TOKEN_BROKER_SANDBOX_PROGRAM";
    static final String BROKER = "TOKEN_BROKER_PROGRAM";
    private static final Map<String, String> NAMES = Map.of(SANDBOX, "token-broker-sandbox", BROKER, "token-broker");
    /** The sandbox itself gives its broker 30 s and says so: this is for a program that is no sandbox. */
    private static final Duration START = Duration.ofSeconds(60);
    /** It ends at once. Killed, it could not end its broker. */
    private static final Duration END = Duration.ofSeconds(10);
    /** The control answers from memory. */
    private static final Duration CONTROL = Duration.ofSeconds(10);
    /** So much is shown of a line that isn't a sandbox's. */
    private static final int SHOWN_MAX = 100;

    /** A number of the list that the sandbox prints; nothing else in its line begins so. */
    private static final Pattern NUMBER = Pattern.compile("\"(\\+[0-9]+)\"");

    private final Process process;
    private final CompletableFuture<String> said;
    private final String endpoint;
    private final String vaultUrl;
    private final String merchantId;
    private final ArrayDeque<String> numbers = new ArrayDeque<>();
    private final int known;
    /** Never by a proxy: it is on this machine. */
    private final HttpClient http = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY)
        .version(HttpClient.Version.HTTP_1_1).connectTimeout(CONTROL).build();

    /** Starts both programs. The arguments are the sandbox's own, such as {@code "--lifetime", "20s"}. */
    public static TestBroker start(String... sandboxArguments) {
        return start(System::getenv, sandboxArguments);
    }

    static TestBroker start(UnaryOperator<String> environment, String... sandboxArguments) {
        return new TestBroker(program(environment, SANDBOX), program(environment, BROKER), sandboxArguments);
    }

    private TestBroker(String sandbox, String broker, String... sandboxArguments) {
        var command = new ArrayList<>(List.of(sandbox, "--listen", "127.0.0.1:0", "--broker", broker));
        command.addAll(List.of(sandboxArguments));
        try {
            process = new ProcessBuilder(command).start();
        } catch (IOException why) {
            throw new IllegalStateException(sandbox + " can't be started: " + why.getMessage(), why);
        }
        said = CompletableFuture.supplyAsync(() -> all(process.getErrorStream()), TestBroker::daemon);
        try {
            var line = line(sandbox);
            endpoint = named(sandbox, line, "endpoint");
            vaultUrl = named(sandbox, line, "vault_url");
            merchantId = named(sandbox, line, "merchant_id");
            NUMBER.matcher(line).results().forEach(number -> numbers.add(number.group(1)));
            known = numbers.size();
        } catch (RuntimeException why) {
            close();
            throw why;
        }
    }

    /** Where the broker is, for a {@code TokenSource}: in plaintext. */
    public String endpoint() {
        return endpoint;
    }

    /** The vault, also for calls of its API: {@code GET /v1/customer} there is 200 with a live token, else 401. */
    public String vaultUrl() {
        return vaultUrl;
    }

    /** That of all users. */
    public String merchantId() {
        return merchantId;
    }

    /** A user whom no test has had so far. */
    public synchronized User newUser() {
        if (numbers.isEmpty()) {
            throw new IllegalStateException("all " + known + " users have been handed out: start another TestBroker");
        }
        return User.of(merchantId, numbers.remove());
    }

    /**
     * Tells the vault to fail, to revoke, or how to be: POSTs this JSON to its {@code /_sandbox/} + path, and returns the JSON
     * that it answers.
     *
     * <p>{@code control("faults", "[{\"kind\": \"html\", \"status\": 502, \"number\": \"" + user.number() + "\"}]")},
     * {@code control("settings", "{\"lifetime\": \"2s\"}")}, {@code control("revoke", "{\"all\": true}")}.
     */
    public String control(String path, String json) {
        return ask("POST", path, BodyPublishers.ofString(json));
    }

    /** Asks the vault, such as {@code control("stats")}: what was counted, as JSON. */
    public String control(String path) {
        return ask("GET", path, BodyPublishers.noBody());
    }

    /** Ends what the vault was told to do wrong and has not done yet, everybody's, and an outage. */
    public void dropFaults() {
        ask("DELETE", "faults", BodyPublishers.noBody());
    }

    /** Ends both programs. */
    @Override
    public void close() {
        try {
            process.getOutputStream().close();
        } catch (IOException gone) {
            // It has ended.
        }
        process.destroy();
        if (!hasEnded(END)) {
            process.destroyForcibly();
        }
    }

    private String line(String sandbox) {
        var output = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        var late = CompletableFuture.delayedExecutor(START.toMillis(), TimeUnit.MILLISECONDS, TestBroker::daemon);
        var line = new CompletableFuture<String>();
        late.execute(() -> {
            if (!line.isDone()) {
                process.destroyForcibly();
            }
        });
        try {
            line.complete(output.readLine());
        } catch (IOException why) {
            line.complete(null);
        }
        if (line.join() == null) {
            hasEnded(END);
            throw new IllegalStateException(sandbox + " did not start: " + why());
        }
        return line.join();
    }

    /** The text of this name in the sandbox's line: none of them has a quote in it. */
    private static String named(String sandbox, String line, String name) {
        var found = Pattern.compile('"' + name + "\":\"([^\"]+)\"").matcher(line);
        if (!found.find()) {
            var shown = line.substring(0, Math.min(line.length(), SHOWN_MAX));
            throw new IllegalStateException(sandbox + " says '" + shown + "': have " + SANDBOX + " name " + NAMES.get(SANDBOX));
        }
        return found.group(1);
    }

    private String ask(String method, String path, HttpRequest.BodyPublisher body) {
        var uri = URI.create(vaultUrl + "/_sandbox/" + path);
        HttpResponse<String> response;
        try {
            var request = HttpRequest.newBuilder(uri).timeout(CONTROL).method(method, body).build();
            response = http.send(request, BodyHandlers.ofString());
        } catch (IOException why) {
            var what = process.isAlive() ? "does not answer: " + why : "has ended: " + why();
            throw new IllegalStateException("the sandbox " + what, why);
        } catch (InterruptedException why) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("interrupted while the sandbox was asked", why);
        }
        if (response.statusCode() != 200) {
            throw new IllegalArgumentException("the sandbox refuses " + method + " " + path + ": " + response.body());
        }
        return response.body();
    }

    private boolean hasEnded(Duration within) {
        try {
            return process.waitFor(within.toMillis(), TimeUnit.MILLISECONDS);
        } catch (InterruptedException why) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    /** Why it has ended. */
    private String why() {
        var text = said.completeOnTimeout("", END.toMillis(), TimeUnit.MILLISECONDS).join().strip();
        return text.isEmpty() ? "it ended with " + process.exitValue() + ", without a word" : text;
    }

    private static String all(InputStream stream) {
        try (stream) {
            return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException why) {
            throw new UncheckedIOException(why);
        }
    }

    /** Keeps no process alive. */
    private static void daemon(Runnable what) {
        var thread = new Thread(what, "token-broker-testing");
        thread.setDaemon(true);
        thread.start();
    }

    /** Where a program is. */
    private static String program(UnaryOperator<String> environment, String variable) {
        var name = NAMES.get(variable);
        var named = environment.apply(variable);
        boolean isNamed = named != null && !named.isEmpty();
        var looked = isNamed ? named : name;
        var places = looked.contains(File.separator) ? "" : String.valueOf(environment.apply("PATH"));
        for (var directory : places.split(File.pathSeparator)) {
            var file = Path.of(directory, looked);
            if (Files.isRegularFile(file) && Files.isExecutable(file)) {
                return file.toString();
            }
        }
        throw new IllegalStateException((isNamed ? variable + " names " + named + ", which is no program"
            : "there is no " + name + " in PATH, and no " + variable)
            + ": have " + variable + " name the " + name + " of the release's archive, token-broker-VERSION-ARCH.tar.gz");
    }
}
