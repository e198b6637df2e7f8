"""Says that the clients' priors and candidates are being computed, where that takes long."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedgru.task.preparation import Preparation

EVERY_S = 4.0  # what ends sooner is not reported

logger = logging.getLogger(__name__)


@contextmanager
def reporting(
    preparation: Preparation, show: Callable[[str], object], every_s: float | None = None
) -> Iterator[Callable[[], None]]:
    """A context that logs, and shows, every few seconds how many clients are prepared.

    It is silent while nothing of a client is computed.

    Args:
        preparation: Preparation, of a Task.
        show: called with a short text, from another thread, and with "" at the end.
        every_s: seconds; None takes `EVERY_S`.

    Yields:
        A function that ends the reports; leaving the context does so too.
    """
    ended, period_s, started = threading.Event(), every_s or EVERY_S, time.monotonic()

    def report() -> None:
        before, is_shown = 0, False
        while not ended.wait(period_s):
            is_busy, number, done = preparation.state()
            if is_busy or number > before:
                counts = ", ".join(f"{what} of {n:,}" for what, n in done.items()) or "none yet"
                logger.info(
                    "preparing clients: %s, %.0f s so far", counts, time.monotonic() - started
                )
                show(f"preparing clients: {counts}")
            elif is_shown:
                show("")
            before, is_shown = number, is_busy or number > before
        if is_shown:
            show("")

    thread = threading.Thread(target=report, name="preparing clients", daemon=True)

    def end() -> None:
        if not ended.is_set():
            ended.set()
            thread.join()

    thread.start()
    try:
        yield end
    finally:
        end()
