"""How many processors this process may use."""

import os


def usable_cpus():
    """Return the number of processors that this process may run on.

    Linux tells which of them it is held to, as by taskset or a container; other systems tell how
    many the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
