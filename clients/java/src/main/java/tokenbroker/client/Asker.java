package tokenbroker.client;

import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * What asks a broker.
 *
 * <p>Must never leave an answer open for good.
 */
interface Asker extends AutoCloseable {
    /** A token of this user's that is none of those that the vault's API rejected; or a {@link TokenBrokerException}. */
    CompletableFuture<tokenbroker.v1.Token> ask(User user, List<String> rejected);

    /** All that is under way ends. */
    @Override
    void close();
}
