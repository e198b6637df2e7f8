"""How far the clients' priors and candidates are, for whoever waits for them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Preparation:
    """Whose priors and candidates have been computed. Written from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, set[int]] = {}
        self._num_computed = self._num_begun = 0

    def __reduce__(self) -> "tuple[type[Preparation], tuple[()]]":
        return Preparation, ()  # another process counts for itself

    @contextmanager
    def computing(self, what: str, client: int) -> Iterator[None]:
        """A context in which something of a client is computed.

        Args:
            what: "priors" or "candidates".
            client: its index.
        """
        with self._lock:
            self._num_begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_computed += 1
                self._done.setdefault(what, set()).add(client)

    def state(self) -> tuple[bool, int, dict[str, int]]:
        """Return whether something is being computed, how often something was, and of how many."""
        with self._lock:
            done = {what: len(clients) for what, clients in self._done.items()}
            return self._num_begun > self._num_computed, self._num_computed, done
