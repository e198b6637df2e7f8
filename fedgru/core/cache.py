"""Where what was compiled is kept for the next run of the program.

Machine code that lies there is run. So nobody else may write to the folder, or put another one in
its place; and what cannot be kept is a reason to compile once more, never one to stop.
"""

import atexit
import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
from functools import cache as once
from pathlib import Path

import platformdirs

SETTING = "FEDGRU_CACHE"
ROOT = 0  # user id

logger = logging.getLogger(__name__)


class _Refused(Exception):
    """A folder is not to be used; the text says why."""


def compiled_folder():
    """Return the folder of compiled code for this kind of processor; None if nothing is to be kept.

    In the user's cache folder (XDG_CACHE_HOME, or ~/.cache); FEDGRU_CACHE names another, or is
    `off`. What lies there may be deleted at any time. Code for one kind of processor may not run
    on another, so each has a folder of its own.

    A folder that cannot be written, or that somebody else could change, gives one warning, and
    this process is given a scratch folder instead, which goes with it; None if there is no room
    even for that.
    """
    setting = os.environ.get(SETTING, "")
    if setting == "off":
        return None
    try:
        folder = Path(setting) if setting else _of_the_user()
        # without links, which could be set anew after they are looked at
        folder = Path(os.path.realpath(folder / f"compiled-{processor()}"))
        _make(folder)
        return folder
    except _Refused as error:
        why = str(error)
    except OSError as error:
        why = f"cannot use {folder}: {error.strerror}"
    _warn(
        f"compiled code is not kept: {why}. This run compiles anew. FEDGRU_CACHE=FOLDER names "
        "another folder."
    )
    return scratch_folder()


def processor():
    """A short name of what machine code runs here: architecture and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    kind = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(kind)).encode()).hexdigest()[:12]}"


def _of_the_user():
    try:
        folder = platformdirs.user_cache_path("fedgru", appauthor=False)
    except RuntimeError:  # older versions return ~/.cache as it stands
        folder = Path("~")
    if not folder.is_absolute():
        raise _Refused("the user has no home folder")
    return folder


def _make(folder):
    """Make a folder and those above it, for this user alone, where they are missing; try it.

    Raises:
        _Refused: if somebody else could change what lies there, or it is a file.
        OSError: if it cannot be made, read or written to.
    """
    for place in (*reversed(folder.parents), folder):
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise _Refused(f"{place} is not a folder") from None
        if hasattr(os, "geteuid"):  # Windows keeps what is in a user's folder from others
            _check_owner(place, place == folder)
    os.scandir(folder).close()
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(b"a full disk is seen here")


def _check_owner(place, is_last):
    found, user = place.stat(), os.geteuid()
    # whoever owns / can replace all below: root, or in some containers another number
    above = (ROOT, Path(place.anchor).stat().st_uid)
    if found.st_uid != user and (is_last or found.st_uid not in above):
        raise _Refused(f"{place} belongs to another user")
    # the sticky bit, as of /tmp: others may add to a folder, and replace only what is theirs
    is_safe_above = found.st_mode & stat.S_ISVTX and not is_last
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_safe_above:
        raise _Refused(f"others may write to {place}")


@once
def _warn(text):
    logger.warning(text)


@once
def scratch_folder():
    """Return a folder for this process alone, removed at its end; None if it cannot be made."""
    try:
        folder = tempfile.mkdtemp(prefix="fedgru-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
