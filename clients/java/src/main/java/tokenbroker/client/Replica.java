package tokenbroker.client;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ConnectivityStateInfo;
import io.grpc.EquivalentAddressGroup;
import io.grpc.LoadBalancer;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.SynchronizationContext;
import java.util.concurrent.TimeUnit;
import tokenbroker.client.wire.HealthCheckRequest;
import tokenbroker.client.wire.HealthCheckResponse;
import tokenbroker.client.wire.HealthCheckResponse.ServingStatus;
import tokenbroker.client.wire.HealthGrpc;

/**
 * One address: its connection, and whether what is there says that it serves (gRPC's health protocol, by {@code Watch}).
 *
 * <p>Must never be ready before it has said so: a process that is stopped has its connections accepted all the same.
 */
final class Replica {
    private static final String SERVICE = "tokenbroker.v1.TokenBrokerService";
    /** After a watch ended whose connection stands, the next comes so much later. */
    private static final long WATCH_AGAIN_SECONDS = 1;

    private final LoadBalancer.Helper helper;
    private final SynchronizationContext context;
    private final LoadBalancer.Subchannel subchannel;
    private final Runnable changed;
    /** Of the connection, as told … */
    private ConnectivityStateInfo connection = ConnectivityStateInfo.forNonError(ConnectivityState.IDLE);
    /** … and what it comes to, with what is there. */
    private ConnectivityStateInfo state = ConnectivityStateInfo.forNonError(ConnectivityState.CONNECTING);
    /** Connected, and it says that it does not serve. */
    private boolean isLeaving;
    private ClientCall<HealthCheckRequest, HealthCheckResponse> watch;
    private SynchronizationContext.ScheduledHandle again;

    Replica(LoadBalancer.Helper helper, EquivalentAddressGroup address, Runnable changed) {
        this.helper = helper;
        this.changed = changed;
        context = helper.getSynchronizationContext();
        subchannel = helper.createSubchannel(LoadBalancer.CreateSubchannelArgs.newBuilder().setAddresses(address).build());
    }

    void start() {
        subchannel.start(this::connectionIs);
        subchannel.requestConnection();
    }

    void shutdown() {
        connection = ConnectivityStateInfo.forNonError(ConnectivityState.SHUTDOWN);
        endWatch();
        subchannel.shutdown();
    }

    LoadBalancer.Subchannel subchannel() {
        return subchannel;
    }

    ConnectivityStateInfo state() {
        return state;
    }

    boolean isLeaving() {
        return isLeaving;
    }

    private void connectionIs(ConnectivityStateInfo now) {
        if (connection.getState() == ConnectivityState.SHUTDOWN || now.getState() == ConnectivityState.SHUTDOWN) {
            return;
        }
        connection = now;
        isLeaving = false;
        endWatch();
        switch (now.getState()) {
            case READY:
                become(ConnectivityStateInfo.forNonError(ConnectivityState.CONNECTING));
                startWatch();
                break;
            case IDLE:
                // The connection has ended: whoever came in the meantime is found by a look-up.
                helper.refreshNameResolution();
                subchannel.requestConnection();
                become(ConnectivityStateInfo.forNonError(ConnectivityState.CONNECTING));
                break;
            case TRANSIENT_FAILURE:
                helper.refreshNameResolution();
                become(now);
                break;
            default:
                // While it connects after a failure it still counts as failed: calls need not wait for it.
                if (state.getState() != ConnectivityState.TRANSIENT_FAILURE) {
                    become(now);
                }
        }
    }

    private void become(ConnectivityStateInfo now) {
        state = now;
        changed.run();
    }

    private void endWatch() {
        if (again != null) {
            again.cancel();
            again = null;
        }
        if (watch != null) {
            var ended = watch;
            watch = null;
            ended.cancel("the connection is not ready any more", null);
        }
    }

    private void startWatch() {
        again = null;
        var call = subchannel.asChannel().newCall(HealthGrpc.getWatchMethod(), CallOptions.DEFAULT);
        watch = call;
        call.start(new ClientCall.Listener<HealthCheckResponse>() {
            @Override
            public void onMessage(HealthCheckResponse answer) {
                call.request(1);
                context.execute(() -> told(call, answer.getStatus()));
            }

            @Override
            public void onClose(Status status, Metadata trailers) {
                context.execute(() -> ended(call, status));
            }
        }, new Metadata());
        call.sendMessage(HealthCheckRequest.newBuilder().setService(SERVICE).build());
        call.halfClose();
        call.request(1);
    }

    private void told(ClientCall<?, ?> by, ServingStatus status) {
        if (watch != by) {
            return;
        }
        isLeaving = status != ServingStatus.SERVING;
        if (isLeaving) {
            // Others may be there already.
            helper.refreshNameResolution();
        }
        become(isLeaving
            ? unfit("says that it does not serve (" + status + ")")
            : ConnectivityStateInfo.forNonError(ConnectivityState.READY));
    }

    private void ended(ClientCall<?, ?> by, Status status) {
        if (watch != by) {
            return;
        }
        watch = null;
        isLeaving = false;
        if (status.getCode() == Status.Code.UNIMPLEMENTED) {
            // It can't say: its connection has to do.
            become(ConnectivityStateInfo.forNonError(ConnectivityState.READY));
            return;
        }
        become(unfit("does not say whether it serves (" + status.getCode() + ": " + status.getDescription() + ")"));
        again = context.schedule(this::startWatch, WATCH_AGAIN_SECONDS, TimeUnit.SECONDS, helper.getScheduledExecutorService());
    }

    private ConnectivityStateInfo unfit(String why) {
        var text = "the broker at " + subchannel.getAddresses().getAddresses() + " " + why;
        return ConnectivityStateInfo.forTransientFailure(Status.UNAVAILABLE.withDescription(text));
    }
}
