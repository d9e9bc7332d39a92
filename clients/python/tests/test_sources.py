"""Both sources over real connections: what the library does for them, and what they do with it."""

import asyncio
import gc
import threading
import urllib.error

import grpc
import pytest

from broker import MERCHANT, NUMBER, Broker, Tasks, Threads, aborts, play
from token_broker_client import TokenBrokerError, TokenRejected, TokenSource, WarmUpFailed
from token_broker_client import aio as asyncio_side
from token_broker_client._proto import token_broker_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
pytestmark = pytest.mark.parametrize("make", [Threads, Tasks], ids=lambda make: make.name)


@pytest.fixture
def broker():
    with Broker() as broker:
        yield broker


def test_one_call_serves_all_who_wait(make, broker):
    async def scenario(source):
        broker.go.clear()
        asking = [asyncio.create_task(source.token()) for _ in range(20)]
        await broker.has_come()
        assert source.source.cached(MERCHANT, NUMBER) is None
        broker.go.set()
        tokens = await asyncio.gather(*asking)
        assert {token.token_id for token in tokens} == {"token-0"} and tokens[0].access_token == "secret of token-0"
        assert source.source.cached(MERCHANT, NUMBER) is tokens[0] and 99 < tokens[0].expires_in <= 100
        assert source.source.counts() == (1, 1, 0, 0) and len(broker.requests) == 1

    play(scenario, make, broker.url)


def test_a_caller_that_goes_away_takes_no_call_along(make, broker):
    async def scenario(source):
        broker.go.clear()
        with pytest.raises(TokenBrokerError, match=r"DEADLINE_EXCEEDED: no token within 0.05 s") as late:
            await source.token(timeout=0.05)
        assert late.value.is_temporary
        gone = asyncio.create_task(source.token())
        await broker.has_come()
        gone.cancel()
        broker.go.set()
        assert (await source.token()).token_id == "token-0" and len(broker.requests) == 1

    play(scenario, make, broker.url)


def test_what_passes_is_repeated_by_the_library(make, broker):
    async def scenario(source):
        broker.script += [aborts(UNAVAILABLE), aborts(UNAVAILABLE, grpc_retry_pushback_ms="20")]
        assert (await source.token()).token_id == "token-2"
        assert source.source.counts().calls == 1

    play(scenario, make, broker.url)


def test_a_pushback_that_says_no_is_obeyed(make, broker):
    async def scenario(source):
        broker.script += [aborts(UNAVAILABLE, "for long", grpc_retry_pushback_ms="-1")]
        for _ in range(3):
            with pytest.raises(TokenBrokerError, match="UNAVAILABLE: for long"):
                await source.token()
        assert len(broker.requests) == 1 and source.source.counts().failures == 1

    play(scenario, make, broker.url)


def test_a_call_ends_with_the_sources_time(make, broker):
    async def scenario(source):
        broker.go.clear()
        with pytest.raises(TokenBrokerError, match=r"DEADLINE_EXCEEDED: no answer within 0.27 s"):
            await source.token(timeout=600.0)

    play(scenario, make, broker.url, timeout=0.3)


class Response:
    def __init__(self, status):
        self.status_code = status
        self.is_closed = False

    def close(self):
        self.is_closed = True


class Streamed(Response):
    """Of a client for asyncio, which refuses to be closed at once."""

    close = None

    async def aclose(self):
        self.is_closed = True
        raise OSError("the connection was lost already")


def test_a_401_has_the_next_token_sent_once(make, broker):
    async def scenario(source):
        sent, statuses = [], [401, 200]

        def send(token):
            sent.append(token.token_id)
            return Response(statuses.pop(0))

        assert (await source.with_token(send)).status_code == 200 and sent == ["token-0", "token-1"]
        assert list(broker.requests[1].rejected_token_ids) == ["token-0"]
        statuses += [401, 401, 200]
        with pytest.raises(TokenRejected, match="the vault's API answers 401 to a new token as well: "):
            await source.with_token(send)
        assert len(sent) == 4 and source.source.counts().complaints == 2

    play(scenario, make, broker.url)


def test_a_response_that_nobody_gets_is_closed(make, broker):
    kind = Response if make is Threads else Streamed

    class Refused(Exception):
        def __init__(self):
            self.response = kind(401)

    async def scenario(source):
        raised = Refused()
        responses = [kind(401), kind(200), kind(401), kind(401), raised, kind(200)]
        left = list(responses)

        def send(token):
            if left[0] is raised:
                raise left.pop(0)
            return left.pop(0)

        await source.with_token(send)
        with pytest.raises(TokenRejected):
            await source.with_token(send)
        await source.with_token(send)
        responses[4] = raised.response
        assert [response.is_closed for response in responses] == [True, False, True, True, True, False]

    play(scenario, make, broker.url)


def test_an_answer_without_a_token_is_no_token(make, broker):
    async def scenario(source):
        with pytest.raises(TokenBrokerError, match="holds no token") as none:
            await source.token()
        assert (none.value.code, none.value.is_permanent) == ("INTERNAL", True) and len(broker.requests) == 1

    broker.answers = pb.GetTokenResponse
    play(scenario, make, broker.url)


def test_a_401_may_be_raised_and_other_faults_pass(make, broker):
    async def scenario(source):
        sent = []

        def raises(token):
            sent.append(token)
            if len(sent) == 1:
                raise urllib.error.HTTPError("http://a", 401, "no", {}, None)
            raise OSError("the network")

        with pytest.raises(OSError, match="the network"):
            await source.with_token(raises)
        assert len(sent) == 2
        assert await source.with_token(lambda token: "told", is_unauthorized=lambda answer: False) == "told"

    play(scenario, make, broker.url)


def test_warm_tells_who_has_no_token(make, broker):
    async def scenario(source):
        await source.warm([])
        await source.warm([("m", str(number)) for number in range(50)])
        assert source.source.counts().users == 50 and len(broker.requests) == 50
        broker.script += [aborts(grpc.StatusCode.NOT_FOUND)] * 2
        with pytest.raises(WarmUpFailed, match="1 other users") as failed:
            await source.warm([("m", "1"), ("m", "+447871230001"), ("m", "+447871230002")])
        assert [user.number for user, _ in failed.value.failures] == ["+447871230001", "+447871230002"]

    play(scenario, make, broker.url)


def test_an_endpoint_that_is_away_costs_no_call(make, broker):
    with Broker() as gone:
        pass

    async def scenario(source):
        for number in range(4):
            await source.token("m", str(number))
        assert len(broker.requests) == 4 and source.source.counts().failures == 0

    play(scenario, make, gone.url, broker.url)


def test_a_broker_that_is_not_well_is_not_asked(make):
    async def scenario(source):
        with pytest.raises(TokenBrokerError, match="UNAVAILABLE"):
            await source.token()

    with Broker(is_well=False) as ill:
        play(scenario, make, ill.url)
        assert ill.requests == []


def test_several_endpoints_are_asked_in_turn(make, broker):
    async def scenario(source):
        for number in range(10):
            await source.token("m", str(number))
        assert len(broker.requests) == 5

    with Broker() as other:
        play(scenario, make, broker.url, other.url)
        assert len(other.requests) == 5


def test_a_broker_that_ends_and_one_that_comes(make, broker):
    async def scenario(source):
        assert (await source.token()).token_id == "token-0"
        broker.stop()
        assert (await source.token()).token_id == "token-0"
        with pytest.raises(TokenBrokerError) as away:
            await source.token("m", "another")
        assert (away.value.code, away.value.reason, away.value.is_temporary) == ("UNAVAILABLE", None, True)

    play(scenario, make, broker.url)


def test_proxies_of_the_environment_are_used_only_if_asked(make, broker, monkeypatch):
    with Broker() as gone:
        pass
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, gone.url)

    async def scenario(source):
        await source.token()

    play(scenario, make, broker.url)
    with pytest.raises(TokenBrokerError, match="UNAVAILABLE"):
        play(scenario, make, broker.url, use_proxy=True)


def test_closing_ends_calls_and_waits(make, broker):
    async def scenario(source):
        broker.go.clear()
        asking = asyncio.create_task(source.token())
        await broker.has_come()
        await source.close()
        for waiting in (asking, source.token()):
            with pytest.raises(TokenBrokerError, match="is closed") as closed:
                await waiting
            assert closed.value.is_permanent
        assert source.source.cached(MERCHANT, NUMBER) is None
        assert "token-broker-client" not in [thread.name for thread in threading.enumerate()]

    play(scenario, make, broker.url)


def test_a_source_that_is_forgotten_ends(make, broker):
    async def scenario(source):
        await source.token()
        engine = source.source._engine
        del source.source
        gc.collect()
        if make is Threads:
            await asyncio.to_thread(engine._thread.join, 10)
            assert not engine._thread.is_alive()
        else:
            await asyncio.sleep(0)
            assert engine.machine.next_at() is None and engine._timer is None
        source.source = TokenSource("http://a:1") if make is Threads else asyncio_side.TokenSource("http://a:1")

    play(scenario, make, broker.url)
