package tokenbroker.client;

/**
 * The monotonic clock and what is to happen later, given to all that counts time, so that tests can have their own.
 *
 * <p>Must never go by a clock that can be set.
 */
interface Time extends AutoCloseable {
    /** Nanoseconds since some instant before the source was made: never negative. */
    long now();

    /** Has this done then, or at once if that is over; never on the thread that asks for it. Short, and never waits. */
    Timer at(long when, Runnable what);

    /** Nothing happens any more. */
    @Override
    void close();

    /** What is to happen. */
    interface Timer {
        /** It is not to happen any more. */
        void cancel();
    }
}
