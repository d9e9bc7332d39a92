package tokenbroker.client;

import java.util.Arrays;
import java.util.Optional;

/**
 * Why there is no token, for programs: the values of the contract's {@code ErrorReason}. What to do with each stands in
 * docs/callers.md.
 *
 * <p>Must never lose or rename one: programs branch on them.
 */
public enum Reason {
    /** The request is malformed: the error's field violations name each field. */
    INVALID_REQUEST(false),
    /** Who is calling is unknown. */
    CALLER_UNAUTHENTICATED(false),
    /** Who is calling can't be found out now. */
    IDENTITY_UNAVAILABLE(true),
    /** The caller may not have this user's tokens. */
    CALLER_NOT_ALLOWED(false),
    /** The broker's configuration knows no such user. */
    USER_NOT_CONFIGURED(false),
    /** The vault refuses the password or the account. */
    CREDENTIALS_REJECTED(false),
    /** The vault wants a second factor, which a person has to give. */
    SECOND_FACTOR_REQUIRED(false),
    /** The vault refuses the broker's request. */
    VAULT_REQUEST_REJECTED(false),
    /** The vault asks to wait. */
    VAULT_THROTTLED(true),
    /** The vault is out of reach, slow or failing. */
    VAULT_UNAVAILABLE(true),
    /** The vault's answer makes no sense. */
    VAULT_RESPONSE_INVALID(true),
    /** The broker leaves some time between two sign-ins, and it ends after the call's deadline. */
    SIGN_IN_TOO_SOON(true),
    /** No token lives as long as asked. */
    MIN_REMAINING_UNATTAINABLE(false),
    /** The deadline passed; the sign-in goes on. */
    DEADLINE_EXCEEDED(true),
    /** Too many calls wait. */
    BROKER_OVERLOADED(true),
    /** The replica is shutting down. */
    BROKER_SHUTTING_DOWN(true),
    /** The broker is at fault: report the request id. */
    INTERNAL(false);

    private final boolean isTemporary;

    Reason(boolean isTemporary) {
        this.isTemporary = isTemporary;
    }

    /** Whether the same call may fare better later without anybody's help. */
    public boolean isTemporary() {
        return isTemporary;
    }

    /** The reason of this name; none where a newer broker has more of them. */
    static Optional<Reason> named(String name) {
        return Arrays.stream(values()).filter(reason -> reason.name().equals(name)).findFirst();
    }
}
