package tokenbroker.client;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;

/**
 * The tokens of one user that were complained of: which of them calls name. Guarded by its slot.
 *
 * <p>Must never name a token for longer than it would have lived, nor one whose id the broker refuses.
 */
final class Complaints {
    /** Most that are remembered, and most ids of one call: the contract's. */
    static final int MAX = 16;
    /** Longest of these ids, in characters: the contract's. With another in it the broker refuses the whole call. */
    private static final int ID_MAX = 64;

    private static final class Complaint {
        final String id;
        /** When it would have ended. */
        final long ends;
        /** Whether calls name it: until the broker has answered with it all the same. */
        boolean named;

        Complaint(Token token) {
            id = token.tokenId();
            ends = token.life().ends;
            named = !id.isEmpty() && id.codePointCount(0, id.length()) <= ID_MAX;
        }
    }

    /** The newest last. */
    private final Deque<Complaint> complaints = new ArrayDeque<>();

    /** Notes one; whether it was not there. */
    boolean isNews(Token token, long now) {
        forgetEnded(now);
        if (complaints.stream().anyMatch(one -> one.id.equals(token.tokenId()))) {
            return false;
        }
        if (complaints.size() == MAX) {
            complaints.removeFirst();
        }
        complaints.addLast(new Complaint(token));
        return true;
    }

    /** The ids that a call names, the newest first. */
    List<String> named(long now) {
        forgetEnded(now);
        var ids = new ArrayList<String>();
        complaints.descendingIterator().forEachRemaining(one -> {
            if (one.named) {
                ids.add(one.id);
            }
        });
        return List.copyOf(ids);
    }

    /**
     * Whether this answer to a call was complained of before the call could name it. Where it was named, the vault insists on
     * the token: it is believed from now on, or each call would cost a sign-in.
     */
    boolean isStale(String id, List<String> named) {
        for (var complaint : complaints) {
            if (complaint.named && complaint.id.equals(id)) {
                complaint.named = !named.contains(id);
                return complaint.named;
            }
        }
        return false;
    }

    private void forgetEnded(long now) {
        complaints.removeIf(one -> one.ends <= now);
    }
}
