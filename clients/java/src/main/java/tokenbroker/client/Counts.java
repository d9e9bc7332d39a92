package tokenbroker.client;

/** What a source has done so far. */
public final class Counts {
    private final int users;
    private final long calls;
    private final long failures;
    private final long complaints;

    Counts(int users, long calls, long failures, long complaints) {
        this.users = users;
        this.calls = calls;
        this.failures = failures;
        this.complaints = complaints;
    }

    /** Users that it knows. */
    public int users() {
        return users;
    }

    /** Calls to the broker. */
    public long calls() {
        return calls;
    }

    /** Those, with their repeats, that brought no token. */
    public long failures() {
        return failures;
    }

    /** Tokens that were complained of. */
    public long complaints() {
        return complaints;
    }

    @Override
    public String toString() {
        return "Counts[users=" + users + ", calls=" + calls + ", failures=" + failures + ", complaints=" + complaints + "]";
    }
}
