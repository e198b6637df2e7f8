"""Where what was compiled is kept for the next run of the program."""

import hashlib
import os
import platform
from pathlib import Path

SETTING = "FEDGRU_CACHE"


def compiled_folder():
    """Return the folder of compiled code for this kind of processor; None if nothing is to be kept.

    In the user's cache folder (XDG_CACHE_HOME, or ~/.cache); FEDGRU_CACHE names another, or is
    `off`. What lies there may be deleted at any time. Code for one kind of processor may not run
    on another, so each has a folder of its own.
    """
    setting = os.environ.get(SETTING, "")
    if setting == "off":
        return None
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedgru"
    return (Path(setting) if setting else user) / f"compiled-{processor()}"


def processor():
    """A short name of what machine code runs here: architecture and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    kind = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(kind)).encode()).hexdigest()[:12]}"
