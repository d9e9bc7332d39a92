"""Connections by the thousand, and few descriptors."""

import frames
from floods import Flood, Living, addresses
from stage import USERS, request_body

# More than the broker takes on any port.
CONNECTIONS = 9_000
# More than the admin port takes.
ADMIN_CONNECTIONS = 200
# Ten of these from each, so that it is not one address that is kept out.
SOURCES = addresses(20)
HALF_REQUEST = b"GET /livez HTTP/1.1\r\nhost: broker\r\n"
REQUESTS = b"".join(
    b"GET %s HTTP/1.1\r\nhost: broker\r\n\r\n" % path for path in (b"/metrics", b"/status", b"/status?format=html")
)
# More answers than the kernel keeps for a client that reads none.
PIPELINED = 400
# The kernel makes it a little more.
TINY_BUFFER = 1
IDLE_CLIENTS, SOFT_LIMIT, HARD_LIMIT = 1_100, 1_024, 20_000
RELOAD_SECONDS = 5.0


def crowd_of_callers(stage):
    """One address opens more connections than there are places, says hello on each, and asks for nothing."""
    stage.begin()
    with stage.attacked(Living(stage.addresses["grpc"], CONNECTIONS, frames.hello(), tls=stage.context())):
        pass


def crowd_of_probes(stage):
    """The same on the port for health probes."""
    stage.begin()
    with stage.attacked(Living(stage.addresses["health"], CONNECTIONS, frames.hello())):
        pass


def half_requests(stage):
    """The admin port gets requests that never end."""
    stage.begin()
    with stage.attacked(Flood(stage.addresses["admin"], ADMIN_CONNECTIONS, HALF_REQUEST, sources=SOURCES)):
        pass


def unread_pages(stage):
    """The admin port's pages are asked for and never read."""
    stage.begin()
    how = {"sources": SOURCES, "reads": False, "receive_buffer": TINY_BUFFER}
    flood = Flood(stage.addresses["admin"], ADMIN_CONNECTIONS, REQUESTS * PIPELINED, **how)
    with stage.attacked(flood):
        pass


def few_descriptors(stage):
    """A soft limit of 1,024 descriptors, and more idle clients than that."""
    with_limits(stage, HARD_LIMIT)


def fewest_descriptors(stage):
    """The same with a hard limit of 1,024."""
    with_limits(stage, SOFT_LIMIT)


def with_limits(stage, hard):
    stage.begin(under=("prlimit", f"--nofile={SOFT_LIMIT}:{hard}"))
    opening = frames.hello() + frames.calls(1, frames.block(frames.GET_TOKEN), request_body())
    flood = Living(stage.addresses["grpc"], IDLE_CLIENTS, opening, sources=addresses(11), tls=stage.context("other"))
    with stage.attacked(flood):
        newcomer = USERS
        stage.write_users(USERS + 1, name="broker-users.toml")
        stage.reload()
        taken = stage.wait_until(lambda: stage.gets_token(newcomer), RELOAD_SECONDS)
        stage.expect(taken, "a user who came with a reload got no token")
