"""What machine this is: processor, instruction set, memory. Speeds mean nothing without it."""

import platform
from pathlib import Path

from fedgru.core.cpus import usable_cpus

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
WIDEST_FIRST = (
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
    ("avx", "AVX"),
    ("sse2", "SSE2"),
    ("sve2", "SVE2"),
    ("sve", "SVE"),
    ("asimd", "NEON"),
)


def describe_machine() -> str:
    """Return processor, instruction set and the number of cores that this process may use."""
    cores = usable_cpus()
    return f"{processor_name()} with {instruction_set()}, {cores} core{'' if cores == 1 else 's'}"


def processor_name() -> str:
    """Return the processor's name, as far as the system tells."""
    return processor_fact("model name") or platform.machine()


def instruction_set() -> str:
    """Return the name of the processor's widest vector instructions for float32.

    /proc/cpuinfo lists them: as "flags" on x86-64, as "Features" on aarch64.
    """
    flags = (processor_fact("flags") or processor_fact("Features")).split()
    return next((name for flag, name in WIDEST_FIRST if flag in flags), "unknown instructions")


def processor_fact(name: str) -> str:
    """Return what /proc/cpuinfo says of the first processor under a name; empty if nothing."""
    return _fact(CPUINFO, name)


def memory_bytes() -> int | None:
    """Return the size of the memory, in bytes; None where the system does not tell."""
    found = _fact(MEMINFO, "MemTotal").split()
    return int(found[0]) * 1024 if found else None


def _fact(file: Path, name: str) -> str:
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.split(":")[0].strip() == name:
            return line.split(":", 1)[1].strip()
    return ""
