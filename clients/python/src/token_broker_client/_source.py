"""The source of tokens for threads.

One thread of its own waits for the next time at which something is to be done, and begins calls; gRPC's threads bring their ends.

Must never hold its lock while anything waits, nor be kept alive by its own thread.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Callable, TypeVar

import grpc

from . import _channel, _files, _options, _reader
from ._errors import ConfigurationError, TokenBrokerError, WarmUpFailed
from ._slot import Call, Counts, Machine, Outcome
from ._token import Answer, Token, User, user_named
from ._unauthorized import Attempts, discard, is_unauthorized

Response = TypeVar("Response")
Contents = TypeVar("Contents")

# Most calls of `warm` at once: it may be called with all users there are.
WARM_AT_ONCE = 32
# How long `close` waits for its thread, which has nothing to do that takes long.
CLOSE_SECONDS = 5.0
# A wait of a thread that nothing else bounds; it only looks around then.
LOOK_AROUND = 3_600.0


class _Engine:
    """All that the source's thread needs: it holds nothing of the source itself, which ends it by being forgotten."""

    def __init__(self, options: _options.Options) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.machine = Machine(time.monotonic, random.random, concurrent.futures.Future, self._wake)
        self._links: _channel.Links[grpc.Channel] = _channel.Links(options, self._make, lambda channel: self._inbox.put(channel))
        # What the thread is woken by: `None`, or a channel that it is to close. Putting is safe wherever this is called from.
        self._inbox: queue.SimpleQueue[grpc.Channel | None] = queue.SimpleQueue()
        self._materials = _reader.Reader("ca_file, certificate_file, key_file", functools.partial(_files.read, options))
        self._metadata = _reader.Reader("token_file", functools.partial(_files.call_metadata, options))
        # Done once the source is closed: the thread waits for files no longer.
        self._closing: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._is_ending = False

    def _wake(self) -> None:
        self._inbox.put(None)

    @property
    def _is_of_a_parent(self) -> bool:
        """Whether its thread is left behind in the process that forked this one, maybe with the lock in its hands."""
        return self._thread is not None and self._process != os.getpid()

    def see_process(self) -> None:
        """Called before the lock is taken."""
        if self._is_of_a_parent:
            raise RuntimeError("this process was forked after its source of tokens had begun: make the source after the fork")

    def enter(self) -> None:
        """The same, and sees that the thread runs."""
        self.see_process()
        if self._thread is None:
            with self.lock:
                if self._thread is None and not self._is_ending:
                    thread = threading.Thread(target=self._run, name="token-broker-client", daemon=True)
                    self._process = os.getpid()
                    thread.start()
                    self._thread = thread

    def ask(self, user: User, timeout: float) -> Token:
        self.enter()
        with self.lock:
            token = self.machine.cached(user)
        if token is not None:
            return token
        asking = self.machine.asking(user, timeout)
        outcome: Outcome | None = None
        while True:
            with self.lock:
                try:
                    flight, seconds = asking.send(outcome)
                except StopIteration as done:
                    found: Token = done.value
                    return found
            outcome = _result(flight, seconds)

    def abandon(self) -> None:
        """Has the thread end and close everything; takes no lock, since the collector may call it anywhere."""
        self._is_ending = True
        self._wake()

    def close(self) -> None:
        if self._is_of_a_parent:
            return
        self.abandon()
        with self.lock:
            self.machine.close(_channel.closed())
            thread = self._thread
            if not self._closing.done():
                self._closing.set_result(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._is_ending:
            with self.lock:
                calls = self.machine.due()
                at = self.machine.next_at()
            if calls:
                self._send(calls)
            seconds = LOOK_AROUND if at is None else min(at - time.monotonic(), LOOK_AROUND)
            if calls or seconds <= 0:
                # What has been begun may have put the next time forward.
                seconds = 0.0
            try:
                channel = self._inbox.get(timeout=max(seconds, 0.0))
            except queue.Empty:
                continue
            if channel is not None:
                channel.close()
        with self.lock:
            self.machine.close(_channel.closed())
            self._links.close()
        # Nobody else takes anything out.
        while not self._inbox.empty():
            channel = self._inbox.get()
            if channel is not None:
                channel.close()

    def _send(self, calls: list[Call]) -> None:
        """Has all of them go out with the files as they are now, which are read once."""
        try:
            self._look_at_files()
            metadata: Any = self._read(self._metadata) if self.options.token_file else ()
        except Exception as fault:
            metadata = _channel.broken(fault)
        for call in calls:
            if isinstance(metadata, TokenBrokerError):
                self._answered(call, metadata)
                continue
            try:
                with self.lock:
                    link = self._links.begin()
            except TokenBrokerError as error:
                self._answered(call, error)
            else:
                _Trip(self, call, link, metadata).go_on()

    def _look_at_files(self) -> None:
        with self.lock:
            is_due, known = self._links.is_due(time.monotonic()), self._links.materials
        if not is_due:
            return
        if self.options.is_tls:
            read = self._read(self._materials, known)
        else:
            read = _files.Materials()
        with self.lock:
            self._links.take(read, time.monotonic())

    def _read(self, reader: _reader.Reader[Contents], *given: Any) -> Contents | ConfigurationError:
        reading = reader.begin(*given)
        waited: list[concurrent.futures.Future[Any]] = [reading, self._closing]
        concurrent.futures.wait(waited, _reader.READ_TIMEOUT, return_when=concurrent.futures.FIRST_COMPLETED)
        return reading.result() if reading.done() else reader.give_up(reading)

    def _make(self, materials: _files.Materials) -> list[grpc.Channel]:
        channels = []
        for endpoint in self.options.endpoints:
            options = _channel.channel_options(self.options, endpoint)
            if self.options.is_tls:
                channels.append(grpc.secure_channel(endpoint.target, _channel.credentials(materials), options))
            else:
                channels.append(grpc.insecure_channel(endpoint.target, options))
        return channels

    def _answered(self, call: Call, answer: Answer | TokenBrokerError) -> None:
        with self.lock:
            self.machine.answered(call, answer)

    def landed(self, call: Call, link: _channel.Link[grpc.Channel], answer: Answer | TokenBrokerError) -> None:
        """A call has ended for good."""
        with self.lock:
            error = answer if isinstance(answer, TokenBrokerError) else None
            self._links.end(link, error, time.monotonic())
            self.machine.answered(call, answer)


class _Trip:
    """The way of one call, from endpoint to endpoint until a broker takes it."""

    def __init__(
        self, engine: _Engine, call: Call, link: _channel.Link[grpc.Channel], metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._engine = engine
        self._call = call
        self._link = link
        self._metadata = metadata
        self._left = link.order(time.monotonic())
        self._by = call.sent + engine.options.call_time

    def go_on(self) -> None:
        """Asks the next endpoint; nothing waits."""
        try:
            self._ask(self._left.pop(0))
        except Exception as fault:
            self._land(_channel.broken(fault))

    def _ask(self, index: int) -> None:
        method = self._link.channels[index].unary_unary(_channel.METHOD, _channel.serialize, _channel.parse)
        seconds = max(self._by - time.monotonic(), 0.0)
        rpc = method.future(_channel.request(self._call), timeout=seconds, metadata=self._metadata)
        rpc.add_done_callback(lambda ended: self._done(index, ended))

    def _done(self, index: int, rpc: Any) -> None:
        try:
            is_ok = rpc.code() is grpc.StatusCode.OK
            answer = rpc.result() if is_ok else _channel.failure(self._engine.options, rpc)
            error = answer if isinstance(answer, TokenBrokerError) else None
            self._link.note(index, error, time.monotonic())
        except Exception as fault:
            self._land(_channel.broken(fault))
            return
        if error is not None and _channel.is_unreached(error) and self._left:
            self.go_on()
        else:
            self._land(answer)

    def _land(self, answer: Answer | TokenBrokerError) -> None:
        self._engine.landed(self._call, self._link, answer)


def _result(flight: Any, seconds: float) -> Outcome | None:
    """What it brings, if that is in time."""
    done, _ = concurrent.futures.wait([flight], seconds)
    return flight.result() if done else None


class TokenSource:
    """Tokens of users, from this process's memory as far as they are there. Make one for the process; threads share it.

    Tokens of users who are asked for are renewed ahead of their end by a thread of the source's own, one call at a time for each
    user, which goes on whatever becomes of who asked. A token that is good is handed out while every broker is down.

    A process that forks makes its source after that, or does not use it before: nothing is begun until the first token is
    asked for.
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
        """`endpoints` are brokers such as `http://127.0.0.1:50051`, or names of several such as
        `https://token-broker-headless.cards.svc:50051`, which are looked up again and again.

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

    def token(self, merchant_id: str, number: str, timeout: float | None = None) -> Token:
        """This user's token: the one in memory, or the one that the broker has. Waits for `timeout` seconds at most, by
        default the source's.

        Raises TokenBrokerError. For a while after a failure the same is raised again, and the broker is not asked.
        """
        return self._engine.ask(user_named(merchant_id, number), self._engine.options.wait(timeout))

    def cached(self, merchant_id: str, number: str) -> Token | None:
        """This user's token if it is in memory and good; never waits. One that is due is renewed behind it."""
        self._engine.enter()
        with self._engine.lock:
            return self._engine.machine.cached(user_named(merchant_id, number))

    def rejected(self, token: Token) -> bool:
        """Takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether
        that is news: of a token that was complained of before, or replaced in the meantime, a complaint does nothing.
        """
        self._engine.enter()
        with self._engine.lock:
            return self._engine.machine.rejected(token)

    def with_token(
        self,
        merchant_id: str,
        number: str,
        send: Callable[[Token], Response],
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
        token = self.token(merchant_id, number, timeout)
        while True:
            try:
                response = send(token)
            except Exception as raised:
                if not attempts.are_refused(raised):
                    raise
                discard(raised)
                attempts.note(token)
            else:
                if not attempts.are_refused(response):
                    return response
                discard(response)
                attempts.note(token)
            self.rejected(token)
            token = attempts.other(self.token(merchant_id, number, timeout))

    def warm(self, users: Iterable[tuple[str, str]]) -> None:
        """Has the tokens of these users, pairs of merchant and number, in memory: for a start. Calls go out a few at a time.

        Raises WarmUpFailed, once all were asked for, where some have none.
        """
        wanted = [user_named(*user) for user in users]
        failures: list[tuple[User, TokenBrokerError]] = []

        def ask(user: User) -> TokenBrokerError | None:
            try:
                self.token(user.merchant_id, user.number)
            except TokenBrokerError as error:
                return error
            return None

        if not wanted:
            return
        with concurrent.futures.ThreadPoolExecutor(min(WARM_AT_ONCE, len(wanted)), "token-broker-warm") as pool:
            for user, error in zip(wanted, pool.map(ask, wanted)):
                if error is not None:
                    failures.append((user, error))
        if failures:
            raise WarmUpFailed.of(failures)

    def counts(self) -> Counts:
        """What it has done so far."""
        self._engine.see_process()
        with self._engine.lock:
            return self._engine.machine.counts()

    def close(self) -> None:
        """Ends everything: calls under way, and whoever waits for them. A closed source gives no token."""
        self._engine.close()

    def __enter__(self) -> TokenSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TokenSource({self._engine.options.named!r})"
