package tokenbroker.client;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** A broker that a test answers for. */
final class FakeBroker implements Asker {
    static final class Call {
        final User user;
        final List<String> rejected;
        final CompletableFuture<tokenbroker.v1.Token> answer = new CompletableFuture<>();

        Call(User user, List<String> rejected) {
            this.user = user;
            this.rejected = rejected;
        }

        void brings(String id, long livesSeconds, long renewSeconds) {
            answer.complete(token(id, livesSeconds).setRenewIn(seconds(renewSeconds)).build());
        }

        void fails(TokenBrokerException error) {
            answer.completeExceptionally(error);
        }
    }

    final List<Call> calls = new ArrayList<>();

    static tokenbroker.v1.Token.Builder token(String id, long livesSeconds) {
        return tokenbroker.v1.Token.newBuilder()
            .setAccessToken("secret-" + id).setTokenId(id).setScope("read").setExpiresIn(seconds(livesSeconds));
    }

    static com.google.protobuf.Duration seconds(long seconds) {
        return com.google.protobuf.Duration.newBuilder().setSeconds(seconds).build();
    }

    @Override
    public CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected) {
        var call = new Call(user, rejected);
        calls.add(call);
        return call.answer;
    }

    @Override
    public void close() {}

    Call last() {
        return calls.get(calls.size() - 1);
    }
}
