"""Reads files in threads of the package's own: a read that hangs, as on a disk of the network, holds nothing but its thread.

Must never have more than one thread read the same files, keep a process alive for one, or say what went wrong in words that may
hold what a file does.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Callable, Generic, TypeVar

from ._errors import ConfigurationError

# Files that take longer to read are not waited for.
READ_TIMEOUT = 2.0

Contents = TypeVar("Contents")


class Reader(Generic[Contents]):
    """One kind of files: the option that names them, and what reads them."""

    def __init__(self, option: str, read: Callable[..., Contents]) -> None:
        self._option = option
        self._read = read
        self._lock = threading.Lock()
        # The last one, and whether somebody has waited for it in vain.
        self._reading: Future[Contents | ConfigurationError] | None = None
        self._hangs = False

    def begin(self, *given: Any) -> Future[Contents | ConfigurationError]:
        """What is being read, or is from now on: what the files hold, or why they can't be used. Of files that hang the latter is
        there at once.
        """
        with self._lock:
            if self._reading is None or self._reading.done():
                reading: Future[Contents | ConfigurationError] = Future()
                # From now on nobody who stops waiting cancels it for the others.
                reading.set_running_or_notify_cancel()
                threading.Thread(target=self._run, args=(reading, given), name="token-broker-files", daemon=True).start()
                self._reading, self._hangs = reading, False
            if not self._hangs:
                return self._reading
        hanging: Future[Contents | ConfigurationError] = Future()
        hanging.set_result(self._late())
        return hanging

    def give_up(self, reading: Future[Contents | ConfigurationError]) -> ConfigurationError:
        """Nobody waits for this one any more: it took too long."""
        with self._lock:
            self._hangs = self._hangs or self._reading is reading
        return self._late()

    def _late(self) -> ConfigurationError:
        return ConfigurationError(f"{self._option}: can't be read in time: see that the disk answers")

    def _run(self, reading: Future[Contents | ConfigurationError], given: tuple[Any, ...]) -> None:
        try:
            reading.set_result(self._read(*given))
        except ConfigurationError as error:
            reading.set_result(error)
        except Exception as fault:
            # Whatever it is, the files can't be used; its text may hold what they do.
            remedy = "see that it is what this option takes"
            reading.set_result(ConfigurationError(f"{self._option}: can't be used: {type(fault).__name__}: {remedy}"))
