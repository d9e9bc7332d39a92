"""The clients that drive a server: h2load, and the programs `press` and `load` of echo/src/bin.

Each checks that every call was answered with a token: what fails fast must never count as fast.
"""

import json
import re
import subprocess

from harness import MERCHANT, number, pairs

# A turn of a client that takes longer than this beyond its time has stalled.
TURN_SECONDS = 300
# gRPC's frame before each message: a byte of flags and four of length.
FRAME_BYTES = 5
# No reply with a token is shorter: some fields take a byte or two less at times. The mean of a turn is above this, unless two
# calls in a hundred were answered with an error, which is status 200 without data, and a success to h2load.
SMALLEST_REPLY_BYTES = 290


def request_body(user=0, more=b""):
    """One framed GetTokenRequest for a user: both fields are short strings, so each length is one byte. `more` comes behind."""
    message = b""
    for tag, value in ((0x0A, MERCHANT), (0x12, number(user))):
        message += bytes((tag, len(value))) + value.encode()
    message += more
    return b"\0" + len(message).to_bytes(4, "big") + message


def h2load_command(bench, server, connections, streams, end):
    body = bench.directory / "request.bin"
    if not body.exists():
        body.write_bytes(request_body())
    command = ["h2load", *end, "-c", str(connections), "-m", str(streams), "-t", "1", "-d", body]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return [*command, f"http://{server.address}/tokenbroker.v1.TokenBrokerService/GetToken"]


def h2load_result(output, calls=None):
    """The calls that were made, and their rate a second. An answer without a token is a failure."""
    succeeded = int(re.search(r"(\d+) succeeded", output)[1])
    rate = float(re.search(r"([\d.]+) req/s", output)[1])
    data = int(re.search(r"headers \(space savings [^)]*\), \S+ \((\d+)\) data", output)[1])
    wrong = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output).groups() != ("0", "0", "0")
    if wrong or calls not in (None, succeeded) or data / succeeded - FRAME_BYTES < SMALLEST_REPLY_BYTES:
        raise RuntimeError(f"not every call was answered with a token:\n{output}")
    return succeeded, rate


def h2load(bench, server, connections, streams, calls):
    """Makes so many calls for the first user; returns their rate a second."""
    command = h2load_command(bench, server, connections, streams, ["-n", str(calls)])
    output = subprocess.run(command, capture_output=True, check=True, text=True, timeout=TURN_SECONDS).stdout
    return h2load_result(output, calls)[1]


def press(programs, server, tls=False, **options):
    """Makes calls as press.rs says; returns their rate a second."""
    url = f"{'https' if tls else 'http'}://{server.address}"
    command = [programs["press"], url, MERCHANT, *pairs(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=TURN_SECONDS)
    result = json.loads(done.stdout)
    return result["calls"] / result["seconds"]


def fill(programs, server, users):
    """Asks once for each of the first `users` users' tokens; returns the seconds that took."""
    # No more at once than are admitted at the vault by default, so that none has to be turned away.
    return users / press(programs, server, calls=users, users=users, connections=4, streams=min(8, users))


def load(programs, server, **options):
    """Starts steady calls as load.rs says; `seen` waits for their end."""
    command = [programs["load"], f"http://{server.address}", MERCHANT, *pairs(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def seen(loading):
    """What the calls were answered with, and when."""
    output = loading.communicate(timeout=TURN_SECONDS)[0]
    if loading.returncode:
        raise RuntimeError(f"the load ended with {loading.returncode}")
    return json.loads(output)


def all_answered(result):
    if set(result["ends"]) != {"OK"}:
        raise RuntimeError(f"not every call was answered with a token: {result['ends']}")
    return result
