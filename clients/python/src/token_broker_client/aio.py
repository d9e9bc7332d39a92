"""The source of tokens for asyncio: the same rules, on the loop that uses it.

Must never tie a call to the task that asked for it, nor keep a loop busy on its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
import weakref
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Callable, TypeVar

import grpc
import grpc.aio

from . import _channel, _files, _options, _reader
from ._errors import ConfigurationError, TokenBrokerError, WarmUpFailed
from ._slot import Call, Counts, Machine, Outcome
from ._source import WARM_AT_ONCE
from ._token import Answer, Token, User, user_named
from ._unauthorized import Attempts, discard_awaited, is_unauthorized

Response = TypeVar("Response")
Contents = TypeVar("Contents")

__all__ = ["TokenSource"]


class _Engine:
    """All that runs on the loop: it holds nothing of the source itself, which ends it by being forgotten."""

    def __init__(self, options: _options.Options) -> None:
        self.options = options
        self.machine = Machine(time.monotonic, random.random, self._new_flight, self._arm)
        self._links: _channel.Links[Any] = _channel.Links(options, self._make, self._close_channel)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._materials = _reader.Reader("ca_file, certificate_file, key_file", functools.partial(_files.read, options))
        self._metadata = _reader.Reader("token_file", functools.partial(_files.call_metadata, options))
        # Held while the files of channels are looked at.
        self._looking: asyncio.Lock | None = None
        # Calls under way, and channels being closed: the loop itself holds tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self) -> None:
        """Called first by whoever comes: the first one's loop is the source's."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._looking = loop, asyncio.Lock()
        elif self._loop is not loop:
            raise RuntimeError("this source of tokens belongs to another event loop: make one in each")

    def _running(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "enter comes first"  # noqa: S101
        return self._loop

    def _new_flight(self) -> asyncio.Future[Outcome]:
        return self._running().create_future()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self.machine.next_at()
        self._timer = None if at is None else self._running().call_later(max(at - time.monotonic(), 0.0), self._pump)

    def _pump(self) -> None:
        for call in self.machine.due():
            self._spawn(self._make_call(call))
        self._arm()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._running().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ask(self, user: User, timeout: float) -> Token:
        self.enter()
        asking = self.machine.asking(user, timeout)
        outcome: Outcome | None = None
        while True:
            try:
                flight, seconds = asking.send(outcome)
            except StopIteration as done:
                found: Token = done.value
                return found
            waited: Any = flight
            # Neither its time nor a cancellation touches what is waited for.
            done_now, _ = await asyncio.wait({waited}, timeout=seconds)
            outcome = waited.result() if done_now else None

    async def _make_call(self, call: Call) -> None:
        answer: Answer | TokenBrokerError = TokenBrokerError("the call was cancelled: its event loop ends", code="CANCELLED")
        link: _channel.Link[Any] | None = None
        try:
            if self._links.is_due(time.monotonic()):
                await self._look_at_files()
            metadata: Any = await self._read(self._metadata) if self.options.token_file else ()
            if isinstance(metadata, TokenBrokerError):
                raise metadata.again()
            link = self._links.begin()
            answer = await self._travel(call, link, metadata)
        except TokenBrokerError as error:
            answer = error
        except Exception as fault:
            answer = _channel.broken(fault)
        finally:
            if link is not None:
                self._links.end(link, answer if isinstance(answer, TokenBrokerError) else None, time.monotonic())
            self.machine.answered(call, answer)

    async def _travel(self, call: Call, link: _channel.Link[Any], metadata: Any) -> Answer | TokenBrokerError:
        """From endpoint to endpoint until a broker takes it."""
        by = call.sent + self.options.call_time
        answer: Answer | TokenBrokerError = _channel.broken(IndexError())
        for index in link.order(time.monotonic()):
            method = link.channels[index].unary_unary(_channel.METHOD, _channel.serialize, _channel.parse)
            try:
                seconds = max(by - time.monotonic(), 0.0)
                answer = await method(_channel.request(call), timeout=seconds, metadata=metadata)
            except grpc.aio.AioRpcError as status:
                answer = _channel.failure(self.options, status)
            error = answer if isinstance(answer, TokenBrokerError) else None
            link.note(index, error, time.monotonic())
            if error is None or not _channel.is_unreached(error):
                break
        return answer

    async def _look_at_files(self) -> None:
        looking = self._looking
        assert looking is not None, "enter comes first"  # noqa: S101
        if looking.locked() and self._links.materials is not None:
            # Somebody does; meanwhile there is a channel that works.
            return
        async with looking:
            if not self._links.is_due(time.monotonic()):
                return
            if self.options.is_tls:
                read = await self._read(self._materials, self._links.materials)
            else:
                read = _files.Materials()
            self._links.take(read, time.monotonic())

    async def _read(self, reader: _reader.Reader[Contents], *given: Any) -> Contents | ConfigurationError:
        reading = reader.begin(*given)
        waited = asyncio.wrap_future(reading)
        try:
            done, _ = await asyncio.wait([waited], timeout=_reader.READ_TIMEOUT)
            return waited.result() if done else reader.give_up(reading)
        finally:
            # It may be read to its end after the loop's.
            waited.cancel()

    def _make(self, materials: _files.Materials) -> list[Any]:
        channels: list[Any] = []
        for endpoint in self.options.endpoints:
            options = _channel.channel_options(self.options, endpoint)
            if self.options.is_tls:
                channels.append(grpc.aio.secure_channel(endpoint.target, _channel.credentials(materials), options))
            else:
                channels.append(grpc.aio.insecure_channel(endpoint.target, options))
        return channels

    def _close_channel(self, channel: Any) -> None:
        if not self._running().is_closed():
            self._spawn(channel.close())

    def shut(self) -> None:
        """Ends what is there; what can only end later is among the tasks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = list(self._tasks)
        self.machine.close(_channel.closed())
        for task in calls:
            task.cancel()
        self._links.close()

    async def close(self) -> None:
        self.enter()
        self.shut()
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def abandon(self) -> None:
        """The source is forgotten, wherever the collector noticed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # a loop that has ended
                self._loop.call_soon_threadsafe(self.shut)


class TokenSource:
    """Tokens of users, from this process's memory as far as they are there. Make one for the event loop; its tasks share it.

    It does as `token_broker_client.TokenSource` does. Not for use from several threads or loops.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        ca_file: _options.Path | None = None,
        token_file: _options.Path | None = None,
        certificate_file: _options.Path | None = None,
        key_file: _options.Path | None = None,
        timeout: float = _options.DEFAULT_TIMEOUT,
        use_proxy: bool = False,
    ) -> None:
        """The options of `token_broker_client.TokenSource`. May be made before the loop runs.

        Raises ConfigurationError, which names the option, its fault and the remedy.
        """
        options = _options.check(
            endpoints,
            ca_file=ca_file,
            token_file=token_file,
            certificate_file=certificate_file,
            key_file=key_file,
            timeout=timeout,
            use_proxy=use_proxy,
        )
        self._engine = _Engine(options)
        self._finalizer = weakref.finalize(self, self._engine.abandon)
        # A process that ends needs no help.
        self._finalizer.atexit = False

    async def token(self, merchant_id: str, number: str, timeout: float | None = None) -> Token:
        """This user's token: the one in memory, or the one that the broker has. Waits for `timeout` seconds at most, by
        default the source's; to be cancelled changes nothing for others.

        Raises TokenBrokerError. For a while after a failure the same is raised again, and the broker is not asked.
        """
        return await self._engine.ask(user_named(merchant_id, number), self._engine.options.wait(timeout))

    def cached(self, merchant_id: str, number: str) -> Token | None:
        """This user's token if it is in memory and good; never waits. One that is due is renewed behind it."""
        self._engine.enter()
        return self._engine.machine.cached(user_named(merchant_id, number))

    def rejected(self, token: Token) -> bool:
        """Takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether
        that is news: of a token that was complained of before, or replaced in the meantime, a complaint does nothing.
        """
        self._engine.enter()
        return self._engine.machine.rejected(token)

    async def with_token(
        self,
        merchant_id: str,
        number: str,
        send: Callable[[Token], Awaitable[Response]],
        *,
        is_unauthorized: Callable[[Any], bool] = is_unauthorized,
        timeout: float | None = None,
    ) -> Response:
        """What `send` returns or raises for this user's token. Where that is a 401 it is closed, the token complained of, and
        `send` called once more with the next one. `is_unauthorized` says what a 401 is, of what `send` returned or raised.

        Raises TokenRejected where the API answers 401 again, or the vault insists on the token; TokenBrokerError where there
        is none.
        """
        attempts = Attempts(is_unauthorized)
        token = await self.token(merchant_id, number, timeout)
        while True:
            try:
                response = await send(token)
            except Exception as raised:
                if not attempts.are_refused(raised):
                    raise
                await discard_awaited(raised)
                attempts.note(token)
            else:
                if not attempts.are_refused(response):
                    return response
                await discard_awaited(response)
                attempts.note(token)
            self.rejected(token)
            token = attempts.other(await self.token(merchant_id, number, timeout))

    async def warm(self, users: Iterable[tuple[str, str]]) -> None:
        """Has the tokens of these users, pairs of merchant and number, in memory: for a start. Calls go out a few at a time.

        Raises WarmUpFailed, once all were asked for, where some have none.
        """
        at_once = asyncio.Semaphore(WARM_AT_ONCE)

        async def ask(user: User) -> tuple[User, TokenBrokerError] | None:
            async with at_once:
                try:
                    await self.token(user.merchant_id, user.number)
                except TokenBrokerError as error:
                    return user, error
                return None

        outcomes = await asyncio.gather(*(ask(user_named(*user)) for user in users))
        failures = [outcome for outcome in outcomes if outcome is not None]
        if failures:
            raise WarmUpFailed.of(failures)

    def counts(self) -> Counts:
        """What it has done so far."""
        return self._engine.machine.counts()

    async def close(self) -> None:
        """Ends everything: calls under way, and whoever waits for them. A closed source gives no token."""
        await self._engine.close()

    async def __aenter__(self) -> TokenSource:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"TokenSource({self._engine.options.named!r})"
