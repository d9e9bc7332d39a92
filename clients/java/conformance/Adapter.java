import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import tokenbroker.client.Token;
import tokenbroker.client.TokenBrokerException;
import tokenbroker.client.TokenRejectedException;
import tokenbroker.client.TokenSource;
import tokenbroker.client.User;

/**
 * The conformance adapter: commands as JSON lines on standard input, answers on standard output, each when it is done.
 *
 * <p>Must never use anything but the client's public interface.
 */
public final class Adapter {
    private static final Gson JSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
    private static final Duration HTTP_TIMEOUT = Duration.ofSeconds(10);

    private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    /** Tokens that were handed out, by their ids. */
    private final Map<String, Token> tokens = new ConcurrentHashMap<>();
    private final HttpClient http = HttpClient.newHttpClient();
    private volatile TokenSource source;

    public static void main(String[] arguments) throws IOException {
        var adapter = new Adapter();
        ExecutorService threads = Executors.newCachedThreadPool(what -> {
            var thread = new Thread(what);
            thread.setDaemon(true);
            return thread;
        });
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (var line = lines.readLine(); line != null; line = lines.readLine()) {
            var command = JsonParser.parseString(line).getAsJsonObject();
            switch (text(command, "do")) {
                case "open":
                case "close":
                    adapter.run(command); // in their order
                    break;
                default:
                    threads.execute(() -> adapter.run(command));
            }
        }
    }

    private void run(JsonObject command) {
        var answer = new JsonObject();
        answer.add("id", command.get("id"));
        try {
            answer.add("ok", done(command));
        } catch (Exception failure) {
            answer.add("error", error(failure));
        }
        synchronized (out) {
            out.println(JSON.toJson(answer));
            out.flush();
        }
    }

    private JsonObject done(JsonObject command) throws Exception {
        var ok = new JsonObject();
        switch (text(command, "do")) {
            case "open":
                open(command);
                break;
            case "token":
                token(command, ok);
                break;
            case "cached":
                var cached = source.cached(text(command, "merchant_id"), text(command, "number"));
                ok.addProperty("token_id", cached.map(this::kept).map(Token::tokenId).orElse(null));
                break;
            case "rejected":
                ok.addProperty("is_news", source.rejected(tokens.get(text(command, "token_id"))));
                break;
            case "use":
                use(command, ok);
                break;
            case "warm":
                warm(command.getAsJsonArray("users"));
                break;
            case "counts":
                var counts = source.counts();
                ok.addProperty("users", counts.users());
                ok.addProperty("calls", counts.calls());
                ok.addProperty("failures", counts.failures());
                ok.addProperty("complaints", counts.complaints());
                break;
            case "close":
                source.close();
                break;
            default:
                throw new IllegalArgumentException("do: there is no command " + text(command, "do"));
        }
        return ok;
    }

    private void open(JsonObject command) {
        var builder = TokenSource.builder();
        command.getAsJsonArray("endpoints").forEach(endpoint -> builder.endpoint(endpoint.getAsString()));
        if (has(command, "ca_file")) {
            builder.caFile(path(command, "ca_file"));
        }
        if (has(command, "token_file")) {
            builder.tokenFile(path(command, "token_file"));
        }
        if (has(command, "certificate_file") || has(command, "key_file")) {
            builder.certificate(path(command, "certificate_file"), path(command, "key_file"));
        }
        if (has(command, "timeout_seconds")) {
            builder.timeout(seconds(command.get("timeout_seconds")));
        }
        if (has(command, "use_proxy")) {
            builder.useProxy(command.get("use_proxy").getAsBoolean());
        }
        var opened = builder.build();
        var before = source;
        source = opened;
        if (before != null) {
            before.close();
        }
    }

    private void token(JsonObject command, JsonObject ok) {
        var merchantId = text(command, "merchant_id");
        var number = text(command, "number");
        var token = has(command, "timeout_seconds")
            ? source.token(merchantId, number, seconds(command.get("timeout_seconds")))
            : source.token(merchantId, number);
        kept(token);
        ok.addProperty("token_id", token.tokenId());
        ok.addProperty("access_token", token.accessToken());
        ok.addProperty("expires_in_seconds", token.expiresIn().toNanos() / 1e9);
        ok.addProperty("scope", token.scope());
        ok.addProperty("shown", token.toString());
    }

    private Token kept(Token token) {
        tokens.put(token.tokenId(), token);
        return token;
    }

    private void use(JsonObject command, JsonObject ok) throws IOException, InterruptedException {
        var requests = new AtomicInteger();
        var last = new Token[1];
        var response = source.withToken(text(command, "merchant_id"), text(command, "number"), token -> {
            requests.incrementAndGet();
            last[0] = kept(token);
            var request = HttpRequest.newBuilder(URI.create(text(command, "url")))
                .header("Authorization", token.authorization()).timeout(HTTP_TIMEOUT).build();
            return http.send(request, HttpResponse.BodyHandlers.discarding());
        });
        ok.addProperty("status", response.statusCode());
        ok.addProperty("token_id", last[0].tokenId());
        ok.addProperty("requests", requests.get());
    }

    private void warm(JsonArray users) {
        var those = new ArrayList<User>();
        for (var user : users) {
            var names = user.getAsJsonArray();
            those.add(User.of(names.get(0).getAsString(), names.get(1).getAsString()));
        }
        for (var failed : source.warm(those).values()) {
            throw failed;
        }
    }

    private static JsonObject error(Exception failure) {
        var error = new JsonObject();
        var fields = new JsonArray();
        error.addProperty("text", failure instanceof IllegalArgumentException ? failure.getMessage() : failure.toString());
        error.add("fields", fields);
        if (!(failure instanceof TokenBrokerException)) {
            error.addProperty("kind", failure instanceof IllegalArgumentException ? "configuration" : "adapter");
            error.addProperty("is_temporary", false);
            return error;
        }
        var broker = (TokenBrokerException) failure;
        error.addProperty("kind", failure instanceof TokenRejectedException ? "rejected" : "broker");
        error.addProperty("code", broker.code().orElse(null));
        error.addProperty("reason", broker.reason().map(Enum::name).orElse(null));
        error.addProperty("retry_after_seconds", broker.retryAfter().map(wait -> wait.toNanos() / 1e9).orElse(null));
        error.addProperty("held_until", broker.heldUntil().map(Object::toString).orElse(null));
        error.addProperty("request_id", broker.requestId().orElse(null));
        error.addProperty("is_temporary", broker.isTemporary());
        for (var violation : broker.fieldViolations()) {
            var field = new JsonObject();
            field.addProperty("field", violation.field());
            field.addProperty("description", violation.description());
            fields.add(field);
        }
        return error;
    }

    private static boolean has(JsonObject command, String name) {
        return command.has(name) && !command.get(name).isJsonNull();
    }

    private static String text(JsonObject command, String name) {
        return command.get(name).getAsString();
    }

    private static Path path(JsonObject command, String name) {
        return has(command, name) ? Path.of(text(command, name)) : null;
    }

    private static Duration seconds(JsonElement seconds) {
        return Duration.ofNanos((long) (seconds.getAsDouble() * 1e9));
    }
}
