package tokenbroker.client;

import io.grpc.ConnectivityState;
import io.grpc.ConnectivityStateInfo;
import io.grpc.EquivalentAddressGroup;
import io.grpc.LoadBalancer;
import io.grpc.LoadBalancerProvider;
import io.grpc.LoadBalancerRegistry;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * gRPC's load balancing: calls go in turn to the addresses that are connected and say that they serve; where there is none, to
 * those that say that they do not, since a broker that is about to end answers yet, and any other says why it does not.
 *
 * <p>grpc-java has this in grpc-services alone, which Debian lacks and which goes by the interfaces of one release.
 *
 * <p>Must never give a call to an address that does not serve while another does, says nothing, or whose connection is lost.
 */
final class HealthyRoundRobin extends LoadBalancer {
    static final String POLICY = "token_broker_round_robin";

    static {
        LoadBalancerRegistry.getDefaultRegistry().register(new Provider());
    }

    private final Helper helper;
    private final Map<EquivalentAddressGroup, Replica> replicas = new LinkedHashMap<>();
    /** Goes on from one picker to the next, or the first address would get more. */
    private final AtomicInteger turn = new AtomicInteger((int) System.nanoTime());

    private HealthyRoundRobin(Helper helper) {
        this.helper = helper;
    }

    /** Has this class register itself. */
    static void register() {}

    @Override
    public void handleResolvedAddresses(ResolvedAddresses resolved) {
        var found = resolved.getAddresses();
        var gone = new ArrayList<>(replicas.keySet());
        gone.removeAll(found);
        gone.forEach(address -> replicas.remove(address).shutdown());
        for (var address : found) {
            if (!replicas.containsKey(address)) {
                var replica = new Replica(helper, address, this::update);
                replicas.put(address, replica);
                replica.start();
            }
        }
        update();
    }

    @Override
    public void handleNameResolutionError(Status error) {
        if (replicas.isEmpty()) {
            helper.updateBalancingState(ConnectivityState.TRANSIENT_FAILURE, new Failing(error));
        }
    }

    @Override
    public boolean canHandleEmptyAddressListFromNameResolution() {
        return false;
    }

    @Override
    public void shutdown() {
        replicas.values().forEach(Replica::shutdown);
        replicas.clear();
    }

    private void update() {
        var ready = new ArrayList<Subchannel>();
        var leaving = new ArrayList<Subchannel>();
        boolean isConnecting = false;
        ConnectivityStateInfo failed = null;
        for (var replica : replicas.values()) {
            var state = replica.state();
            if (state.getState() == ConnectivityState.READY) {
                ready.add(replica.subchannel());
            } else if (replica.isLeaving()) {
                leaving.add(replica.subchannel());
            } else if (state.getState() == ConnectivityState.TRANSIENT_FAILURE) {
                failed = state;
            } else {
                isConnecting = true;
            }
        }
        var asked = ready.isEmpty() ? leaving : ready;
        if (!asked.isEmpty()) {
            helper.updateBalancingState(ConnectivityState.READY, new InTurn(List.copyOf(asked), turn));
        } else if (isConnecting || failed == null) {
            helper.updateBalancingState(ConnectivityState.CONNECTING, new Waiting());
        } else {
            helper.updateBalancingState(ConnectivityState.TRANSIENT_FAILURE, new Failing(failed.getStatus()));
        }
    }

    private static final class InTurn extends SubchannelPicker {
        private final List<Subchannel> ready;
        private final AtomicInteger turn;

        InTurn(List<Subchannel> ready, AtomicInteger turn) {
            this.ready = ready;
            this.turn = turn;
        }

        @Override
        public PickResult pickSubchannel(PickSubchannelArgs call) {
            return PickResult.withSubchannel(ready.get(Math.floorMod(turn.getAndIncrement(), ready.size())));
        }
    }

    private static final class Waiting extends SubchannelPicker {
        @Override
        public PickResult pickSubchannel(PickSubchannelArgs call) {
            return PickResult.withNoResult();
        }
    }

    private static final class Failing extends SubchannelPicker {
        private final Status why;

        Failing(Status why) {
            this.why = why;
        }

        @Override
        public PickResult pickSubchannel(PickSubchannelArgs call) {
            return PickResult.withError(why);
        }
    }

    /** How gRPC finds this. */
    private static final class Provider extends LoadBalancerProvider {
        @Override
        public boolean isAvailable() {
            return true;
        }

        @Override
        public int getPriority() {
            return 5; // the usual one; nobody else has this policy
        }

        @Override
        public String getPolicyName() {
            return POLICY;
        }

        @Override
        public LoadBalancer newLoadBalancer(Helper helper) {
            return new HealthyRoundRobin(helper);
        }
    }
}
