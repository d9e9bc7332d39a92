package tokenbroker.client;

import com.google.common.util.concurrent.FutureCallback;
import com.google.common.util.concurrent.Futures;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;
import tokenbroker.v1.GetTokenRequest;
import tokenbroker.v1.GetTokenResponse;
import tokenbroker.v1.TokenBrokerServiceGrpc;

/**
 * The channel that a source's calls go over, made anew as the files behind it are replaced.
 *
 * <p>Must never give a channel that works up for files that can't be used: they may be half of a pair that is being replaced;
 * nor wait for files on a thread that others need.
 */
final class Brokers implements Asker {
    /** The files are looked at by whichever call comes, but no more often than this. */
    private static final long FILES_EVERY = TimeUnit.SECONDS.toNanos(1);
    /** A source waits this much longer than its calls take, so that it is the call that says what took so long … */
    private static final Duration AHEAD = Duration.ofMillis(100);
    /** … and a call that gRPC does not end in time is given up this much later. */
    private static final long LATE = TimeUnit.MILLISECONDS.toNanos(50);
    /** Whoever has just been given the channel before makes a call over it yet. */
    private static final long PARTING = TimeUnit.SECONDS.toNanos(1);
    /** Threads that read files: one that hangs holds up one call. */
    private static final int READERS = 4;
    private static final long READER_IDLE_SECONDS = 10;
    /** A connection whose other end is gone without a word is noticed. */
    private static final long KEEPALIVE_SECONDS = 30;
    private static final long KEEPALIVE_TIMEOUT_SECONDS = 10;
    private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    /** Numbers are doubles here. Asking twice does no harm; how long to wait between is what the broker's pushback says. */
    private static final Map<String, ?> SERVICE_CONFIG = Map.of(
        "loadBalancingConfig", List.of(Map.of(HealthyRoundRobin.POLICY, Map.of())),
        "methodConfig", List.of(Map.of(
            "name", List.of(Map.of("service", TokenBrokerServiceGrpc.SERVICE_NAME)),
            "retryPolicy", Map.of(
                "maxAttempts", 4.0,
                "initialBackoff", "0.1s",
                "maxBackoff", "1s",
                "backoffMultiplier", 2.0,
                "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))));

    private final List<Endpoint> endpoints;
    private final TlsFiles files;
    private final Path tokenFile;
    private final boolean useProxy;
    /** Of one call, all included. */
    private final long callTime;
    private final Time time;
    private final ThreadPoolExecutor readers;
    /** Held while the files are read. */
    private final ReentrantLock renewing = new ReentrantLock();
    private volatile Made made;
    private volatile boolean isClosed;

    /** A channel. */
    private static final class Made {
        final ManagedChannel channel;
        /** Of what it was made of. */
        final byte[] digest;
        /** When the files were last read. */
        volatile long looked;

        Made(ManagedChannel channel, byte[] digest, long looked) {
            this.channel = channel;
            this.digest = digest;
            this.looked = looked;
        }
    }

    Brokers(List<Endpoint> endpoints, TlsFiles files, Path tokenFile, boolean useProxy, Duration timeout, Time time) {
        this.endpoints = List.copyOf(endpoints);
        this.files = files;
        this.tokenFile = tokenFile;
        this.useProxy = useProxy;
        this.callTime = timeout.toNanos() - Math.min(AHEAD.toNanos(), timeout.toNanos() / 10);
        this.time = time;
        HealthyRoundRobin.register();
        readers = new ThreadPoolExecutor(READERS, READERS, READER_IDLE_SECONDS, TimeUnit.SECONDS, new LinkedBlockingQueue<>(),
            Threads.daemons("token-broker-call"));
        readers.allowCoreThreadTimeOut(true);
    }

    @Override
    public CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected) {
        long by = time.now() + callTime;
        var answer = new CompletableFuture<tokenbroker.v1.Token>();
        var late = time.at(by + LATE, () -> answer.completeExceptionally(
            TokenBrokerException.ofCode("DEADLINE_EXCEEDED", "no answer within " + callTime / 1e9 + " s")));
        answer.whenComplete((token, error) -> late.cancel());
        readers.execute(() -> {
            try {
                send(user, rejected, by, answer);
            } catch (RuntimeException | LinkageError error) {
                // Of a class path that lacks something, too: whoever waits is to know.
                answer.completeExceptionally(Slot.asOurs(error));
            }
        });
        return answer;
    }

    private void send(User user, List<String> rejected, long by, CompletableFuture<tokenbroker.v1.Token> answer) {
        var stub = TokenBrokerServiceGrpc.newFutureStub(channel());
        if (tokenFile != null) {
            var headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + callersToken());
            stub = stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        var request = GetTokenRequest.newBuilder()
            .setMerchantId(user.merchantId()).setNumber(user.number()).addAllRejectedTokenIds(rejected).build();
        var call = stub.withDeadlineAfter(Math.max(1, by - time.now()), TimeUnit.NANOSECONDS).getToken(request);
        Futures.addCallback(call, new FutureCallback<GetTokenResponse>() {
            @Override
            public void onSuccess(GetTokenResponse response) {
                answer.complete(response.getToken());
            }

            @Override
            public void onFailure(Throwable failure) {
                answer.completeExceptionally(Said.of(failure));
            }
        }, Runnable::run);
    }

    /** Read for each call: kubelet replaces the file. */
    private String callersToken() {
        String token;
        try {
            token = Files.readString(tokenFile).strip();
        } catch (IOException error) {
            var why = error instanceof NoSuchFileException ? "it is not there" : String.valueOf(error.getMessage());
            throw TokenBrokerException.ofOurs(
                "the service account's token can't be read from " + tokenFile + ": " + why + ": see where it is projected",
                error);
        }
        if (token.isEmpty() || !token.chars().allMatch(one -> one > ' ' && one <= '~')) {
            throw TokenBrokerException.ofOurs(
                "there is no token in " + tokenFile + ", but " + (token.isEmpty() ? "nothing" : "what no header can hold")
                    + ": see what is projected there", null);
        }
        return token;
    }

    /**
     * The channel of the files as they are or, where they can't be used, as they were. While they are read, the others go on
     * with the one that there is.
     */
    private ManagedChannel channel() {
        var before = made;
        boolean isFresh = before != null && time.now() < before.looked + FILES_EVERY;
        if (before == null) {
            renewing.lock();
        } else if (isFresh || !files.isTls() || !renewing.tryLock()) {
            return before.channel;
        }
        try {
            if (before == made) {
                renew(before);
            }
            return made.channel;
        } finally {
            renewing.unlock();
        }
    }

    private void renew(Made before) {
        try {
            var contents = files.read();
            var digest = contents.digest();
            if (before == null || !Arrays.equals(digest, before.digest)) {
                replace(before, new Made(connect(contents), digest, time.now()));
                return;
            }
        } catch (TokenBrokerException unusable) {
            if (before == null) {
                throw unusable;
            }
        }
        before.looked = time.now();
    }

    private void replace(Made before, Made fresh) {
        made = fresh;
        if (isClosed) {
            fresh.channel.shutdownNow();
        }
        if (before != null) {
            // Calls that are under way go on to their end.
            time.at(time.now() + PARTING, before.channel::shutdown);
        }
    }

    private ManagedChannel connect(TlsFiles.Contents contents) {
        try {
            var channel = Grpc.newChannelBuilder(EndpointsResolver.target(endpoints), contents.credentials())
                .defaultServiceConfig(SERVICE_CONFIG)
                .enableRetry()
                .keepAliveTime(KEEPALIVE_SECONDS, TimeUnit.SECONDS)
                .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS);
            if (!useProxy) {
                channel.proxyDetector(address -> null);
            }
            return channel.build();
        } catch (TokenBrokerException unusable) {
            throw unusable;
        } catch (RuntimeException unusable) {
            throw TokenBrokerException.ofOurs("gRPC can't connect like this: " + unusable.getMessage()
                + ": give it grpc-netty-shaded or, on Debian, netty-tcnative's library (README.md, Debian)", unusable);
        }
    }

    @Override
    public void close() {
        isClosed = true;
        var last = made;
        if (last != null) {
            last.channel.shutdownNow();
        }
        readers.shutdown();
    }
}
