package tokenbroker.client;

import java.util.Objects;

/**
 * Whose token: a user of the vault at one merchant.
 *
 * <p>Must never print a number in full.
 */
public final class User {
    /** Digits of a number that are shown, at its end: as in the broker's log. */
    private static final int SHOWN = 4;

    private final String merchantId;
    /** Left out by what looks into objects by itself, such as Gson. */
    private final transient String number;

    private User(String merchantId, String number) {
        this.merchantId = Objects.requireNonNull(merchantId, "merchantId is null: give the merchant's id, as the vault has it");
        this.number = Objects.requireNonNull(number, "number is null: give the user's phone number, such as +447871239999");
    }

    /**
     * The user with this number, such as {@code +447871239999}, at this merchant. Whether there is such a user, the broker
     * says.
     */
    public static User of(String merchantId, String number) {
        return new User(merchantId, number);
    }

    /** The merchant. */
    public String merchantId() {
        return merchantId;
    }

    /** The number: not for logs. */
    public String number() {
        return number;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof User && ((User) other).number.equals(number) && ((User) other).merchantId.equals(merchantId);
    }

    @Override
    public int hashCode() {
        return 31 * merchantId.hashCode() + number.hashCode();
    }

    /** With the number masked. */
    @Override
    public String toString() {
        return "User[merchantId=" + Plain.onOneLine(merchantId) + ", number=" + masked(number) + "]";
    }

    private static String masked(String number) {
        return number.length() <= SHOWN ? "…" : "…" + Plain.onOneLine(number.substring(number.length() - SHOWN));
    }
}
