package tokenbroker.client;

import java.time.Duration;

/**
 * A token of one user, and its end by the monotonic clock.
 *
 * <p>Must never show the secret.
 */
public final class Token {
    /** How every token is presented (RFC 6750). */
    private static final String BEARER = "Bearer ";

    private final User user;
    /** Left out by what looks into objects by itself, such as Gson. */
    private final transient String authorization;
    private final String tokenId;
    private final String scope;
    private final Rules.Life life;
    private final Time time;

    Token(User user, tokenbroker.v1.Token answer, Rules.Life life, Time time) {
        this.user = user;
        this.authorization = BEARER + answer.getAccessToken();
        this.tokenId = answer.getTokenId();
        this.scope = answer.getScope();
        this.life = life;
        this.time = time;
    }

    /** The access token itself: the secret. */
    public String accessToken() {
        return authorization.substring(BEARER.length());
    }

    /** The value of the header {@code Authorization}: {@code Bearer} and the secret. */
    public String authorization() {
        return authorization;
    }

    /** Its name, which is safe to log and the same everywhere. */
    public String tokenId() {
        return tokenId;
    }

    /** What it allows, as the vault says; may be empty. */
    public String scope() {
        return scope;
    }

    /** Whose it is. */
    public User user() {
        return user;
    }

    /** The merchant whose it is. */
    public String merchantId() {
        return user.merchantId();
    }

    /** The number whose it is: not for logs. */
    public String number() {
        return user.number();
    }

    /** How long it still lives, by the monotonic clock; zero once it has ended. */
    public Duration expiresIn() {
        return Duration.ofNanos(Math.max(0, life.ends - time.now()));
    }

    Rules.Life life() {
        return life;
    }

    boolean isGoodAt(long now) {
        return now < life.ends;
    }

    /** Without the secret. */
    @Override
    public String toString() {
        return "Token[user=" + user + ", tokenId=" + Plain.onOneLine(tokenId) + ", expiresIn=" + expiresIn().toSeconds() + " s]";
    }
}
