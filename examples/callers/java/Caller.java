import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.File;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import tokenbroker.v1.GetTokenRequest;
import tokenbroker.v1.Token;
import tokenbroker.v1.TokenBrokerServiceGrpc;
import tokenbroker.v1.TokenBrokerServiceGrpc.TokenBrokerServiceBlockingStub;

/**
 * Asks the broker for a user's token, and uses it: java Caller MERCHANT NUMBER
 *
 * <p>The environment says where the broker is (TOKEN_BROKER_TARGET), how it is known (TOKEN_BROKER_CA), who we are
 * (TOKEN_BROKER_TOKEN_FILE, or TOKEN_BROKER_CERTIFICATE and TOKEN_BROKER_KEY), and where the vault's API is (VAULT_URL).
 */
public final class Caller {
    /** A call's whole time, repeats included: a sign-in takes up to ten seconds. */
    private static final long CALL_SECONDS = 15;
    /** So often a token is complained of: no more replicas hold a dead one, and the contract takes 16 ids. */
    private static final int REPLICAS_MAX = 16;

    /** Most ids that one call can name: more than there are replicas. */
    private static final int REJECTED_MAX = 16;

    /** Numbers are doubles here. */
    private static final Map<String, ?> SERVICE_CONFIG = Map.of(
        "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
        "methodConfig", List.of(Map.of(
            "name", List.of(Map.of("service", "tokenbroker.v1.TokenBrokerService")),
            // Asking twice does no harm. How long to wait between is what the broker's pushback says; these are for errors
            // without one: a broker that goes away, or none there.
            "retryPolicy", Map.of(
                "maxAttempts", 4.0,
                "initialBackoff", "0.1s",
                "maxBackoff", "1s",
                "backoffMultiplier", 2.0,
                "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))));

    /** The projected service-account token, read for each call: kubelet replaces it. */
    private static final class TokenFile extends CallCredentials {
        private final Path path;

        TokenFile(String path) {
            this.path = Path.of(path);
        }

        @Override
        public void applyRequestMetadata(RequestInfo request, Executor executor, MetadataApplier applier) {
            executor.execute(() -> {
                try {
                    var metadata = new Metadata();
                    var authorization = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
                    metadata.put(authorization, "Bearer " + Files.readString(path).strip());
                    applier.apply(metadata);
                } catch (IOException error) {
                    applier.fail(Status.UNAUTHENTICATED.withDescription("can't read " + path).withCause(error));
                }
            });
        }

        @Override
        public void thisUsesUnstableApi() {}
    }

    /** One channel for the whole process. */
    private static ManagedChannel connect() throws IOException {
        var credentials = InsecureChannelCredentials.create();
        var ca = System.getenv("TOKEN_BROKER_CA");
        if (ca != null) {
            var tls = TlsChannelCredentials.newBuilder().trustManager(new File(ca));
            var certificate = System.getenv("TOKEN_BROKER_CERTIFICATE");
            if (certificate != null) {
                tls.keyManager(new File(certificate), new File(System.getenv("TOKEN_BROKER_KEY"))); // the key as PKCS #8
            }
            credentials = tls.build();
        }
        return Grpc.newChannelBuilder(System.getenv("TOKEN_BROKER_TARGET"), credentials)
            .defaultServiceConfig(SERVICE_CONFIG)
            .enableRetry()
            // A connection whose other end is gone without a word is noticed.
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    }

    /** The tokens that the vault's API answered with 401, while they would have lived. One for the whole process. */
    private static final class Rejected {
        private final Map<List<String>, LinkedHashMap<String, Long>> ends = new HashMap<>();

        synchronized void add(String merchant, String number, Token token) {
            var now = System.nanoTime();
            ends.values().forEach(ids -> ids.values().removeIf(end -> end - now <= 0));
            ends.values().removeIf(Map::isEmpty);
            var ids = ends.computeIfAbsent(List.of(merchant, number), user -> new LinkedHashMap<>());
            ids.put(token.getTokenId(), now + TimeUnit.SECONDS.toNanos(token.getExpiresIn().getSeconds()));
            if (ids.size() > REJECTED_MAX) {
                ids.remove(ids.keySet().iterator().next());
            }
        }

        synchronized void forget(String merchant, String number, String tokenId) {
            ends.getOrDefault(List.of(merchant, number), new LinkedHashMap<>()).remove(tokenId);
        }

        synchronized List<String> ids(String merchant, String number) {
            var now = System.nanoTime();
            return ends.getOrDefault(List.of(merchant, number), new LinkedHashMap<>()).entrySet().stream()
                .filter(id -> id.getValue() - now > 0).map(Map.Entry::getKey).toList();
        }
    }

    private static final Rejected REJECTED = new Rejected();

    private static Token getToken(TokenBrokerServiceBlockingStub broker, String merchant, String number) {
        // Named with each call: replicas hold tokens of their own, and any of them may answer.
        var named = REJECTED.ids(merchant, number);
        var request = GetTokenRequest.newBuilder().setMerchantId(merchant).setNumber(number).addAllRejectedTokenIds(named);
        var token = broker.withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS).getToken(request.build()).getToken();
        if (named.contains(token.getTokenId())) {
            // The vault insists on it: named again, it would only cost a sign-in with each call.
            REJECTED.forget(merchant, number, token.getTokenId());
        }
        return token;
    }

    /** The code, the broker's reason and the wait, where it says so. */
    private static String inWords(StatusRuntimeException error) throws InvalidProtocolBufferException {
        var reason = "no answer of a broker";
        var wait = Duration.ZERO;
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                reason = detail.unpack(ErrorInfo.class).getReason();
            } else if (detail.is(RetryInfo.class)) {
                var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                wait = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
            }
        }
        var status = error.getStatus();
        var later = wait.isZero() ? "" : " (try again in: " + wait.toMillis() / 1e3 + " s)";
        return status.getCode() + " " + reason + ": " + status.getDescription() + later;
    }

    /** The status of a call of the vault's API. */
    private static int callVault(Token token) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(System.getenv("VAULT_URL") + "/v1/customer"))
            .header("Authorization", "Bearer " + token.getAccessToken())
            .timeout(Duration.ofSeconds(10));
        return HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.discarding()).statusCode();
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        var channel = connect();
        var broker = TokenBrokerServiceGrpc.newBlockingStub(channel);
        var tokenFile = System.getenv("TOKEN_BROKER_TOKEN_FILE");
        if (tokenFile != null) {
            broker = broker.withCallCredentials(new TokenFile(tokenFile));
        }
        try {
            var token = getToken(broker, arguments[0], arguments[1]);
            var status = callVault(token);
            // The vault knows this token no more, and maybe none of those that other replicas hold. One that comes back all the
            // same is its last word.
            var complained = new HashSet<String>();
            while (status == 401 && complained.size() < REJECTED_MAX && complained.add(token.getTokenId())) {
                REJECTED.add(arguments[0], arguments[1], token);
                token = getToken(broker, arguments[0], arguments[1]);
                status = callVault(token);
            }
            System.out.println(status + " with token " + token.getTokenId());
        } catch (StatusRuntimeException error) {
            System.err.println(inWords(error));
            System.exit(1);
        } finally {
            channel.shutdownNow();
        }
    }
}
