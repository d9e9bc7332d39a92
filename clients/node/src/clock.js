// Time as the package sees it: milliseconds that nobody can set, and timers that keep no process alive unless they are told to.
//
// Must never read the wall clock: tokens end by the monotonic one alone. Tests bring a clock of their own with the same methods.

export const systemClock = Object.freeze({
  // Milliseconds since some instant, monotonic.
  now: () => performance.now(),

  // Calls `run` once, after so many milliseconds, unless the function that it returns is called before. Where somebody waits for
  // that, it `holds` the process.
  after(ms, run, holds = false) {
    const timer = setTimeout(run, ms);
    if (!holds) timer.unref();
    return () => clearTimeout(timer);
  },
});

// Fulfilled after so many milliseconds.
export function sleep(clock, ms) {
  return new Promise((resolve) => clock.after(ms, resolve));
}

// What `within` gives where the time was over first.
export const LATE = Symbol('late');

// What the promise brings, or LATE after so many milliseconds. Whoever is late goes on; how it ends is nobody's concern then.
export function within(clock, promise, ms) {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(Math.max(0, ms), () => resolve(LATE));
    promise.then(
      (value) => (cancel(), resolve(value)),
      (error) => (cancel(), reject(error)),
    );
  });
}
