"""A client's program ends when the server waits for it no longer, whatever keeps it."""

import logging
import os
import signal
import threading
from contextlib import contextmanager

GRACE_S = 5.0
EXIT_CODE = 1

logger = logging.getLogger(__name__)


class OutOfTime(BaseException):
    """The server has gone on. No Exception, so that nothing on the way takes it for its own."""


@contextmanager
def limited(seconds, grace_s=GRACE_S):
    """A context that is left after some seconds, in the main thread of a process.

    What waits or computes in Python is interrupted by OutOfTime, so that a reply can still be made.
    What is not, such as a call of a library that does not come back, ends with the process some
    seconds later. A process that was stopped is late: it is told when it goes on.

    Args:
        seconds: how long the context may last.
        grace_s: how much later the process ends that has not heeded OutOfTime.

    Raises:
        OutOfTime: when the time is over.
    """

    def interrupt(*_):
        raise OutOfTime(f"not done in the {seconds:g} s that the server waits for a reply")

    def end():
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
