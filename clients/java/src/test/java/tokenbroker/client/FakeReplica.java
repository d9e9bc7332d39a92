package tokenbroker.client;

import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import tokenbroker.client.wire.HealthCheckRequest;
import tokenbroker.client.wire.HealthCheckResponse;
import tokenbroker.client.wire.HealthCheckResponse.ServingStatus;
import tokenbroker.client.wire.HealthGrpc;
import tokenbroker.v1.GetTokenRequest;
import tokenbroker.v1.GetTokenResponse;
import tokenbroker.v1.TokenBrokerServiceGrpc;

/** A replica on a free port of loopback, which answers as a test says. */
final class FakeReplica implements AutoCloseable {
    private static final Metadata.Key<String> PUSHBACK = key("grpc-retry-pushback-ms");
    private static final Metadata.Key<String> AUTHORIZATION = key("authorization");

    final AtomicInteger calls = new AtomicInteger();
    final AtomicInteger connections = new AtomicInteger();
    /** Of connections that have ended. */
    final Semaphore ended = new Semaphore(0);
    /** Whether answers have no token in them. */
    volatile boolean isEmpty;
    /** What the next calls end with, before they are answered. */
    final Queue<Status> failures = new ArrayDeque<>();
    /** Who watches. */
    final BlockingQueue<StreamObserver<HealthCheckResponse>> watches = new LinkedBlockingQueue<>();
    volatile ServingStatus health = ServingStatus.SERVING;
    volatile String authorization;
    volatile String pushback;
    private final String name;
    private final Server server;

    private static Metadata.Key<String> key(String name) {
        return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
    }

    FakeReplica(String name) throws IOException {
        this(name, InsecureServerCredentials.create());
    }

    FakeReplica(String name, ServerCredentials credentials) throws IOException {
        this.name = name;
        server = Grpc.newServerBuilderForPort(0, credentials)
            .addService(new Tokens()).addService(new Health()).intercept(new Headers())
            .addTransportFilter(new io.grpc.ServerTransportFilter() {
                @Override
                public io.grpc.Attributes transportReady(io.grpc.Attributes attributes) {
                    connections.incrementAndGet();
                    return attributes;
                }

                @Override
                public void transportTerminated(io.grpc.Attributes attributes) {
                    ended.release();
                }
            }).build().start();
    }

    int port() {
        return server.getPort();
    }

    String endpoint() {
        return "http://127.0.0.1:" + port();
    }

    /** Tells those who watch, of whom there must be one. */
    void becomes(ServingStatus status) throws InterruptedException {
        health = status;
        watches.poll(10, TimeUnit.SECONDS).onNext(HealthCheckResponse.newBuilder().setStatus(status).build());
    }

    @Override
    public void close() throws InterruptedException {
        server.shutdownNow().awaitTermination();
    }

    private final class Tokens extends TokenBrokerServiceGrpc.TokenBrokerServiceImplBase {
        @Override
        public void getToken(GetTokenRequest request, StreamObserver<GetTokenResponse> answer) {
            calls.incrementAndGet();
            Status failure;
            synchronized (failures) {
                failure = failures.poll();
            }
            if (failure != null) {
                answer.onError(failure.asRuntimeException());
                return;
            }
            var said = GetTokenResponse.newBuilder();
            answer.onNext(isEmpty ? said.build() : said.setToken(FakeBroker.token(name, 100)).build());
            answer.onCompleted();
        }
    }

    private final class Health extends HealthGrpc.HealthImplBase {
        @Override
        public void watch(HealthCheckRequest request, StreamObserver<HealthCheckResponse> answer) {
            if (health == ServingStatus.UNRECOGNIZED) {
                answer.onError(Status.UNIMPLEMENTED.asRuntimeException());
            } else if (health != ServingStatus.UNKNOWN) {
                answer.onNext(HealthCheckResponse.newBuilder().setStatus(health).build());
            }
            watches.add(answer);
        }
    }

    /** Notes who calls, and puts the pushback on what fails. */
    private final class Headers implements ServerInterceptor {
        @Override
        public <Q, A> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
            if (headers.containsKey(AUTHORIZATION)) {
                authorization = headers.get(AUTHORIZATION);
            }
            return next.startCall(new SimpleForwardingServerCall<Q, A>(call) {
                @Override
                public void close(Status status, Metadata trailers) {
                    if (!status.isOk() && pushback != null) {
                        trailers.put(PUSHBACK, pushback);
                    }
                    super.close(status, trailers);
                }
            }, headers);
        }
    }
}
