#!/usr/bin/env python3
"""Steady calls as a Python service makes them: steady.py RATE USERS MERCHANT, until standard input ends; then one line of JSON.

With the channel and the call that examples/callers/python shows. It must never slow down when the broker does: a call begins when
it is due, and its time counts from then.
"""

import collections
import concurrent.futures
import json
import sys
import threading
import time

import grpc

import caller

# Calls under way at once: all of a rate of 100 for the longest that a call may take.
THREADS = 256


class Seen:
    def __init__(self):
        self.calls, self.slowest, self.failed = 0, 0.0, collections.Counter()
        self._lock = threading.Lock()

    def note(self, took, failure):
        with self._lock:
            self.calls += 1
            self.slowest = max(self.slowest, took)
            if failure:
                self.failed[failure] += 1


def call(channel, merchant, number, due, seen):
    failure, asked = None, time.time()
    try:
        token = caller.get_token(channel, merchant, number)
        if token.expires_at.ToNanoseconds() / 1e9 <= asked:
            failure = "an expired token"
    except grpc.RpcError as error:
        failure = f"{error.code().name} {caller.reason_and_wait(error)[0]}: {error.details()}"
    seen.note(time.monotonic() - due, failure)


def main():
    rate, users, merchant = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    seen, turn = Seen(), 0
    with caller.connect() as channel, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            pool.submit(call, channel, merchant, f"+44700{turn % users:08}", time.monotonic(), seen)
            turn += 1
            due += 1 / rate
        pool.shutdown()
    print(json.dumps({"calls": seen.calls, "slowest_ms": round(seen.slowest * 1e3, 1), "failed": seen.failed}))


if __name__ == "__main__":
    main()
