"""What fedgru needs of Ray outside its public API; setup.cfg limits Ray's version for it.

`tests/engines/ray/test_private.py` checks that these names exist and do what is written here.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def read_environment_again() -> None:
    """Let Ray read its configuration from the environment again."""
    import ray

    ray._raylet.Config.initialize("")


def print_into(write: Callable[[str], object]) -> None:
    """Pass each line that Ray prints to `write`; it would go to stdout, where results are."""
    from ray._private import worker

    def print_to_stdstream(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            write(line)

    worker.print_to_stdstream = print_to_stdstream


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A context in which Ray takes 127.0.0.1 for this machine's address, and listens there alone.

    Ray does so by itself only on systems where it has no clusters; it listens on all interfaces
    elsewhere.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
