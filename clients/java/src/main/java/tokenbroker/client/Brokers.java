package tokenbroker.client;

import com.google.common.util.concurrent.FutureCallback;
import com.google.common.util.concurrent.Futures;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
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
    /** Most calls that wait for such a thread: one for each user that there may be. */
    private static final int WAITING_MAX = UserMap.USERS_MAX;
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

    /** Where gRPC itself does not repeat a call that a connection was lost over: as often as its policy would … */
    private static final int ATTEMPTS_MAX = 4;
    /** … after this much for each try before: the next goes to another replica. */
    private static final long LOST_PAUSE = TimeUnit.MILLISECONDS.toNanos(100);

    private final List<Endpoint> endpoints;
    private final TlsFiles files;
    /** May be null. */
    private final TokenFile tokenFile;
    private final boolean useProxy;
    /** Of one call, all included. */
    private final long callTime;
    private final Time time;
    private final ThreadPoolExecutor readers;
    /** Held while the files are read. */
    private final ReentrantLock renewing = new ReentrantLock();
    private volatile Made made;
    /** Channels that were replaced, and may have calls yet. */
    private final Set<ManagedChannel> retired = ConcurrentHashMap.newKeySet();
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

    /** What is asked for, and whom it is for. */
    private static final class Call {
        final User user;
        final List<String> rejected;
        /** Over at this time, with all repeats. */
        final long by;
        final CompletableFuture<tokenbroker.v1.Token> answer;

        Call(User user, List<String> rejected, long by, CompletableFuture<tokenbroker.v1.Token> answer) {
            this.user = user;
            this.rejected = rejected;
            this.by = by;
            this.answer = answer;
        }
    }

    Brokers(List<Endpoint> endpoints, TlsFiles files, TokenFile tokenFile, boolean useProxy, Duration timeout, Time time) {
        this.endpoints = List.copyOf(endpoints);
        this.files = files;
        this.tokenFile = tokenFile;
        this.useProxy = useProxy;
        this.callTime = timeout.toNanos() - Math.min(AHEAD.toNanos(), timeout.toNanos() / 10);
        this.time = time;
        HealthyRoundRobin.register();
        readers = new ThreadPoolExecutor(READERS, READERS, READER_IDLE_SECONDS, TimeUnit.SECONDS,
            new LinkedBlockingQueue<>(WAITING_MAX), Threads.daemons("token-broker-call"));
        readers.allowCoreThreadTimeOut(true);
    }

    @Override
    public CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected) {
        long by = time.now() + callTime;
        var answer = new CompletableFuture<tokenbroker.v1.Token>();
        var late = time.at(by + LATE, () -> answer.completeExceptionally(
            TokenBrokerException.ofCode("DEADLINE_EXCEEDED", "no answer within " + callTime / 1e9 + " s")));
        answer.whenComplete((token, error) -> late.cancel());
        begin(new Call(user, rejected, by, answer), 1);
        return answer;
    }

    private void begin(Call call, int attempt) {
        try {
            readers.execute(() -> {
                try {
                    send(call, attempt);
                } catch (RuntimeException | Error error) {
                    // Of a class path that lacks something, too: whoever waits is to know.
                    call.answer.completeExceptionally(Slot.asOurs(error));
                }
            });
        } catch (RejectedExecutionException full) {
            call.answer.completeExceptionally(TokenBrokerException.ofCode("UNAVAILABLE",
                "too many calls wait for files to be read: see that the disk of CA, certificate and token answers"));
        } catch (RuntimeException | Error noThread) {
            call.answer.completeExceptionally(Slot.asOurs(noThread));
        }
    }

    private void send(Call asked, int attempt) {
        if (asked.answer.isDone()) {
            return; // it was too late while it waited for a thread
        }
        var stub = TokenBrokerServiceGrpc.newFutureStub(channel());
        if (tokenFile != null) {
            var headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + tokenFile.token());
            stub = stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        var request = GetTokenRequest.newBuilder()
            .setMerchantId(asked.user.merchantId()).setNumber(asked.user.number())
            .addAllRejectedTokenIds(asked.rejected).build();
        var call = stub.withDeadlineAfter(Math.max(1, asked.by - time.now()), TimeUnit.NANOSECONDS).getToken(request);
        Futures.addCallback(call, new FutureCallback<GetTokenResponse>() {
            @Override
            public void onSuccess(GetTokenResponse response) {
                if (response.hasToken()) {
                    asked.answer.complete(response.getToken());
                } else {
                    asked.answer.completeExceptionally(
                        TokenBrokerException.ofCode("INTERNAL", "the broker's answer holds no token"));
                }
            }

            @Override
            public void onFailure(Throwable failure) {
                if (attempt < ATTEMPTS_MAX && Said.isLostConnection(failure)) {
                    time.at(time.now() + LOST_PAUSE * attempt, () -> begin(asked, attempt + 1));
                } else {
                    asked.answer.completeExceptionally(Said.of(failure));
                }
            }
        }, Runnable::run);
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
        if (before != null) {
            retired.removeIf(ManagedChannel::isTerminated);
            retired.add(before.channel);
            // Calls that are under way go on to their end.
            time.at(time.now() + PARTING, before.channel::shutdown);
        }
        if (isClosed) {
            endChannels();
        }
    }

    private void endChannels() {
        var last = made;
        if (last != null) {
            last.channel.shutdownNow();
        }
        retired.forEach(ManagedChannel::shutdownNow);
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
        endChannels();
        readers.shutdown();
        if (tokenFile != null) {
            tokenFile.close();
        }
    }
}
