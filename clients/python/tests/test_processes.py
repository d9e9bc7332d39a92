"""What a source is to the process that it is in: nothing that keeps it alive, and no child's."""

import os
import sys
from pathlib import Path

import pytest

from broker import Broker, spawn

SOURCES = Path(__file__).parents[1] / "src"
THREADS = """
from token_broker_client import TokenSource
print(TokenSource({url!r}).token('m', '+1').token_id)
"""
TASKS = """
import asyncio
from token_broker_client.aio import TokenSource
async def main():
    print((await TokenSource({url!r}).token('m', '+1')).token_id)
    source = TokenSource({url!r})
    print((await source.token('m', '+1')).token_id)
asyncio.run(main())
"""
# Nobody ever writes to the pipe.
HANGS = """
import asyncio, os, tempfile
from token_broker_client import TokenBrokerError, TokenSource, _reader, aio
_reader.READ_TIMEOUT = 0.1
async def main(pipe):
    for source in TokenSource({url!r}, ca_file=pipe), aio.TokenSource({url!r}, ca_file=pipe):
        try:
            token = source.token('m', '+1')
            await token
        except TokenBrokerError as error:
            print(str(error).partition(' see')[0], flush=True)
with tempfile.TemporaryDirectory() as directory:
    pipe = os.path.join(directory, 'pipe')
    os.mkfifo(pipe)
    asyncio.run(main(pipe))
"""
FORKS = """
import os
from token_broker_client import TokenSource
source, unused = TokenSource({url!r}), TokenSource({url!r})
source.token('m', '+1')
if os.fork() == 0:
    try:
        source.cached('m', '+1')
    except RuntimeError as error:
        print(error, flush=True)
    source.close()
    os._exit(0)
os.wait()
"""
BEFORE_THE_FORK = """
import os
from token_broker_client import TokenSource
source = TokenSource({url!r})
if os.fork() == 0:
    print(source.token('m', '+1').token_id, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (THREADS, "token-0\n"),
        (TASKS, "token-0\ntoken-1\n"),
        (HANGS, "ca_file, certificate_file, key_file: can't be read in time:\n" * 2),
        (FORKS, "this process was forked after its source of tokens had begun: make the source after the fork\n"),
        (BEFORE_THE_FORK, "token-0\n"),
    ],
    ids=["threads", "tasks", "hangs", "forks", "before the fork"],
)
def test_a_process_that_does_not_close_its_source_ends(program, told):
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"}
    with Broker() as broker:
        url = broker.url.replace("http:", "https:") if program is HANGS else broker.url
        ended = spawn(sys.executable, "-W", "error", "-c", program.format(url=url), env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, told, "")
