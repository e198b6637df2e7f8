"""A client's program ends when the server stops waiting for it."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE_S = 5.0
EXIT_CODE = 1

logger = logging.getLogger(__name__)


class OutOfTime(BaseException):
    """The server has stopped waiting. It is no Exception: no `except Exception` catches it."""


@contextmanager
def limited(seconds: float, grace_s: float = GRACE_S) -> Iterator[None]:
    """A context with a time limit, in the main thread of a process.

    Python code is interrupted by OutOfTime, so that a reply can still be sent. Other code, such as
    a library call that never returns, is ended with the process, some seconds later. A suspended
    process is interrupted when it continues.

    Args:
        seconds: time limit of the context.
        grace_s: time after that at which the process ends itself.

    Raises:
        OutOfTime: when the time is over.
    """

    def interrupt(*_: object) -> NoReturn:
        raise OutOfTime(f"not done in the {seconds:g} s that the server waits for a reply")

    def end() -> None:
        logger.error(
            "not done in %g s, nor %g s after it was interrupted: this process ends itself",
            seconds,
            grace_s,
        )
        os._exit(EXIT_CODE)

    before = signal.signal(signal.SIGALRM, interrupt)
    last = threading.Timer(seconds + grace_s, end)
    last.daemon = True
    last.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        last.cancel()
