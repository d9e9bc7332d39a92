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
        (FORKS, "this process was forked after its source of tokens had begun: make the source after the fork\n"),
        (BEFORE_THE_FORK, "token-0\n"),
    ],
    ids=["threads", "tasks", "forks", "before the fork"],
)
def test_a_process_that_does_not_close_its_source_ends(program, told):
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"}
    with Broker() as broker:
        ended = spawn(sys.executable, "-W", "error", "-c", program.format(url=broker.url), env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, told, "")
