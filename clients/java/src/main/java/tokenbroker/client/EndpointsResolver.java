package tokenbroker.client;

import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import io.grpc.SynchronizationContext;
import java.net.InetAddress;
import java.net.URI;
import java.net.URISyntaxException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * Looks up the names of all endpoints, again and again, for one channel over all their addresses.
 *
 * <p>Must never have two look-ups of a channel under way, look up in a loop, or take addresses away because a look-up failed.
 */
final class EndpointsResolver extends NameResolver {
    private static final String SCHEME = "token-broker";
    /**
     * So often names are looked up, as long as the channel is in use. The JVM may answer from memory: networkaddress.cache.ttl.
     */
    private static final long LOOK_UP_EVERY = TimeUnit.SECONDS.toNanos(5);
    /** After a connection is lost, and after a look-up that failed, the next comes no sooner than this. */
    private static final long LOOK_UP_LEAST = TimeUnit.SECONDS.toNanos(1);
    /** Look-ups at once, of all channels of the process: one that hangs holds up one thread. */
    private static final int LOOK_UPS_AT_ONCE = 4;
    private static final Executor LOOK_UPS = lookUps();

    static {
        NameResolverRegistry.getDefaultRegistry().register(new Provider());
    }

    private final List<Endpoint> endpoints;
    private final Addresses addresses;
    private final SynchronizationContext context;
    private final ScheduledExecutorService timers;

    // All of these belong to the context.
    private Listener2 listener;
    private SynchronizationContext.ScheduledHandle next;
    private boolean isLooking;
    private boolean isShutDown;
    private long looked = System.nanoTime() - LOOK_UP_LEAST;

    private EndpointsResolver(List<Endpoint> endpoints, Args args) {
        this.endpoints = endpoints;
        addresses = new Addresses(endpoints, args.getProxyDetector(), InetAddress::getAllByName);
        context = args.getSynchronizationContext();
        timers = args.getScheduledExecutorService();
    }

    /** A channel's target that stands for these endpoints. */
    static String target(List<Endpoint> endpoints) {
        var path = new StringBuilder();
        endpoints.forEach(endpoint -> path.append(path.length() == 0 ? "/" : ",").append(endpoint));
        try {
            return new URI(SCHEME, "", path.toString(), null).toString();
        } catch (URISyntaxException impossible) {
            throw new IllegalArgumentException(impossible);
        }
    }

    private static Executor lookUps() {
        var threads = new ThreadPoolExecutor(LOOK_UPS_AT_ONCE, LOOK_UPS_AT_ONCE, LOOK_UP_EVERY * 2, TimeUnit.NANOSECONDS,
            new LinkedBlockingQueue<>(), Threads.daemons("token-broker-look-up"));
        threads.allowCoreThreadTimeOut(true);
        return threads;
    }

    @Override
    public String getServiceAuthority() {
        return endpoints.get(0).authority();
    }

    @Override
    public void start(Listener2 listener) {
        this.listener = listener;
        lookUpIn(0);
    }

    /** A connection was lost, or its name could not be looked up. */
    @Override
    public void refresh() {
        if (!isLooking) {
            lookUpIn(Math.max(0, looked + LOOK_UP_LEAST - System.nanoTime()));
        }
    }

    @Override
    public void shutdown() {
        isShutDown = true;
        cancel();
    }

    private void cancel() {
        if (next != null) {
            next.cancel();
            next = null;
        }
    }

    private void lookUpIn(long delay) {
        cancel();
        if (!isShutDown) {
            next = context.schedule(this::lookUp, delay, TimeUnit.NANOSECONDS, timers);
        }
    }

    private void lookUp() {
        next = null;
        isLooking = true;
        try {
            LOOK_UPS.execute(() -> {
                var failed = new ArrayList<String>();
                var found = addresses.lookUp(failed);
                context.execute(() -> tell(found, failed));
            });
        } catch (RuntimeException | Error noThread) {
            tell(List.of(), List.of("no look-up can be begun: " + noThread.getMessage()));
        }
    }

    private void tell(List<EquivalentAddressGroup> found, List<String> failed) {
        isLooking = false;
        looked = System.nanoTime();
        if (isShutDown) {
            return;
        }
        if (found.isEmpty()) {
            listener.onError(Status.UNAVAILABLE.withDescription(String.join("; ", failed)));
        } else {
            listener.onResult(ResolutionResult.newBuilder().setAddresses(found).build());
        }
        lookUpIn(found.isEmpty() ? LOOK_UP_LEAST : LOOK_UP_EVERY);
    }

    /** How gRPC finds this. */
    private static final class Provider extends NameResolverProvider {
        @Override
        protected boolean isAvailable() {
            return true;
        }

        @Override
        protected int priority() {
            return 5; // the usual one; nobody else has this scheme
        }

        @Override
        public String getDefaultScheme() {
            return SCHEME;
        }

        @Override
        public NameResolver newNameResolver(URI target, Args args) {
            if (!SCHEME.equals(target.getScheme())) {
                return null;
            }
            var endpoints = new ArrayList<Endpoint>();
            for (var endpoint : target.getPath().substring(1).split(",")) {
                endpoints.add(Endpoint.parse(endpoint));
            }
            return new EndpointsResolver(endpoints, args);
        }
    }
}
