package tokenbroker.client;

/**
 * The vault's API refuses a new token as well, or there is no other than the one that it refused.
 *
 * <p>Must never hold a token.
 */
public final class TokenRejectedException extends TokenBrokerException {
    private static final long serialVersionUID = 1;

    TokenRejectedException(Token last) {
        super(new Said(null, "the vault's API answers 401 to a new token as well: it is not the token; see that " + last.user()
            + " may do this, and that the API is the vault's (token " + last.tokenId() + ")"), null);
    }
}
