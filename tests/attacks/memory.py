"""What connections can make the broker hold, without any identity where there is none to have."""

import frames
from floods import Living, addresses
from stage import USERS, number, request_body

CONNECTIONS = 100
# As many as the broker lets a client have, and a little less than it takes for one that doesn't wait for its SETTINGS.
STREAMS = 2_040
WATCHES = frames.hello() + frames.calls(STREAMS, frames.block(frames.HEALTH_WATCH), frames.EMPTY_MESSAGE)
# Addresses enough that none has more than a share of the places.
SOURCES = addresses(20)
# Characters: a large one, of the 16,384 that are taken.
LARGE_TOKEN = 4_096
IDLE = {"plaintext": 4_000, "tls": 1_000}


def health_watches(stage):
    """Connections full of health Watches, on the port for probes."""
    stage.begin()
    with stage.attacked(Living(stage.addresses["health"], CONNECTIONS, WATCHES, sources=SOURCES)):
        pass


def stranger_watches(stage):
    """The same on the callers' port, without a certificate."""
    stage.begin()
    with stage.attacked(Living(stage.addresses["grpc"], CONNECTIONS, WATCHES, sources=SOURCES, tls=stage.context())):
        pass


def unread_answers(stage):
    """Tokens that are asked for, and for which the client never opens the window."""
    leave_unread(stage, 0)


def crumbs_of_answers(stage):
    """The same with a window of one byte, so that all but that is left to be sent."""
    leave_unread(stage, 1)


def leave_unread(stage, window):
    stage.begin()
    user = USERS - 1
    granted = {"access_token": "a" * LARGE_TOKEN, "token_type": "bearer", "expires_in": 3_600}
    stage.tell_vault("faults", [{"kind": "reply", "number": number(user), "status": 200, "json": granted}])
    stage.expect(stage.gets_token(user), "no large token in the beginning")
    hello = frames.hello({frames.INITIAL_WINDOW_SIZE: window})
    opening = hello + frames.calls(STREAMS, frames.block(frames.GET_TOKEN), request_body(user))
    with stage.attacked(Living(stage.addresses["grpc"], CONNECTIONS, opening, sources=SOURCES, tls=stage.context("other"))):
        pass


def idle_connections(stage):
    """Clients that got a token and then say nothing: what each of them costs."""
    stage.begin()
    opening = frames.hello() + frames.calls(1, frames.block(frames.GET_TOKEN), request_body())
    count, tls = IDLE[stage.result.transport], stage.context("other")
    before = stage.broker_program.memory()[0]
    with stage.attacked(Living(stage.addresses["grpc"], count, opening, sources=SOURCES, tls=tls)):
        held = stage.broker_program.memory()[0] - before
    stage.figures["KiB per idle connection"] = round(held / max(1, stage.figures["connections open"]), 1)
