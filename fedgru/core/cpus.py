"""How many processors this process may use."""

import os


def usable_cpus() -> int:
    """Return the number of processors that this process may run on.

    On Linux this respects taskset and the CPU set of a container. On other systems it is the
    number of processors of the machine.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
