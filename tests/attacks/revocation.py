"""Connections that are to end, and whose clients don't want that."""

import threading
import time

import frames
from stage import DRAIN_SECONDS, request_body

# A connection that is to end has ended by then, whatever its client does.
HARD_END_SECONDS = 5.0
# The configuration is read within this of a SIGHUP.
RELOAD_SECONDS = 5.0
# The shortest that can be configured; a tenth is drawn.
AGE_SECONDS = 1.0


def revoked_ca(stage):
    """A client whose CA is removed keeps its connection by a Watch and an unanswered PING, and calls on."""
    stage.begin()
    with stage.attacked():
        evader = evade(stage, "old")
        stage.expect(evader.ask(request_body()) == frames.OK, "no token before the reload")
        stage.trust("ca")
        stage.reload()
        revoked = stage.wait_until(lambda: not stage.gets_token(0, "old"), RELOAD_SECONDS)
        stage.expect(revoked, "the reload did not take place: new connections are still served")
        since = time.monotonic()
        seen = evader.go_on(request_body(), HARD_END_SECONDS)
        tokens = sum(status == frames.OK for _, status in seen)
        others = {status for _, status in seen} - {frames.OK, frames.UNAUTHENTICATED, None}
        stage.expect(not tokens, f"{tokens} of {len(seen)} calls got a token after the reload")
        stage.expect(not others, f"answers after the reload were neither UNAUTHENTICATED nor an end: {others}")
        ended(stage, evader, since)


def too_old(stage):
    """The same against the greatest age of a connection."""
    stage.begin(grpc_keys=f'max_connection_age = "{AGE_SECONDS:.0f}s"\n')
    with stage.attacked():
        evader = evade(stage, "other")
        since = time.monotonic() + 1.1 * AGE_SECONDS
        seen = evader.go_on(request_body(), 1.1 * AGE_SECONDS + HARD_END_SECONDS)
        stage.expect(seen[0][1] == frames.OK, "no token in the beginning")
        ended(stage, evader, since)


def drain(stage):
    """The same against SIGTERM."""
    stage.begin()
    with stage.attacked():
        evader = evade(stage, "other")
        stage.expect(evader.ask(request_body()) == frames.OK, "no token in the beginning")
    stage.end_good()
    calling = threading.Thread(target=evader.go_on, args=(request_body(), DRAIN_SECONDS + 1))
    calling.start()
    began = time.monotonic()
    gone = stage.end_broker(DRAIN_SECONDS + 1)
    took = time.monotonic() - began
    calling.join()
    stage.figures["ended after s"] = round(took, 1)
    stage.expect(gone, f"the process went on for {took:.1f} s after SIGTERM, with a drain of {DRAIN_SECONDS} s")
    stage.expect(stage.broker_program.process.poll() in (0, None), f"it ended with {stage.broker_program.process.poll()}")


def evade(stage, certificate):
    """A client that does what it can so that its connection never ends: it holds a Watch, always has a call under way, and minds
    neither PING nor GOAWAY."""
    peer = stage.peer(certificate, never_idle=True)
    peer.send(frames.HEALTH_WATCH, frames.EMPTY_MESSAGE)
    return peer


def ended(stage, evader, since):
    took = time.monotonic() - since
    stage.figures["closed after s"] = round(took, 1) if evader.closed else "never"
    stage.expect(evader.closed, f"the connection was still open {took:.1f} s after its end was due")
