"""The folder that keeps compiled code for the next run of the program.

The program runs the machine code in this folder. So nobody else may write to it or replace it. If
code cannot be kept, the program compiles again; it never stops for that.
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
    """A folder must not be used; the text gives the reason."""


def compiled_folder() -> Path | None:
    """Return the folder of compiled code for this kind of processor; None if nothing is kept.

    It lies in the user's cache folder (XDG_CACHE_HOME, or ~/.cache). FEDGRU_CACHE names another
    folder, or `off` keeps nothing. Users may delete the folder at any time. Code for one kind of
    processor can fail on another, so each kind has its own folder.

    If the folder cannot be written, or somebody else could change it, one warning is logged. This
    process then uses a scratch folder, removed at its end; None if even that cannot be made.
    """
    setting = os.environ.get(SETTING, "")
    if setting == "off":
        return None
    try:
        folder = Path(setting) if setting else _of_the_user()
        # no links in the path: somebody could change a link after it is checked
        folder = Path(os.path.realpath(folder / f"compiled-{processor()}"))
        _make(folder)
        return folder
    except _Refused as error:
        why = str(error)
    except OSError as error:
        why = f"cannot use {folder}: {error.strerror}"
    _warn(
        f"compiled code is not kept: {why}. This run compiles again. FEDGRU_CACHE=FOLDER names "
        "another folder."
    )
    return scratch_folder()


def processor() -> str:
    """Return a short name of this kind of processor: architecture and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    kind = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(kind)).encode()).hexdigest()[:12]}"


def _of_the_user() -> Path:
    try:
        folder = platformdirs.user_cache_path("fedgru", appauthor=False)
    except RuntimeError:  # older versions return "~/.cache" unexpanded
        folder = Path("~")
    if not folder.is_absolute():
        raise _Refused("the user has no home folder")
    return folder


def _make(folder: Path) -> None:
    """Make a folder and its missing parents, for this user alone, and try to write there.

    Raises:
        _Refused: if somebody else could change its content, or it is a file.
        OSError: if it cannot be made, read or written to.
    """
    for place in (*reversed(folder.parents), folder):
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise _Refused(f"{place} is not a folder") from None
        if hasattr(os, "geteuid"):  # Windows protects a user's folder from other users
            _check_owner(place, place == folder)
    os.scandir(folder).close()
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(b"a full disk is seen here")


def _check_owner(place: Path, is_last: bool) -> None:
    found, user = place.stat(), os.geteuid()
    # the owner of / can replace everything below it: root, in some containers another id
    above = (ROOT, Path(place.anchor).stat().st_uid)
    if found.st_uid != user and (is_last or found.st_uid not in above):
        raise _Refused(f"{place} belongs to another user")
    # the sticky bit, as on /tmp: others can add files, but replace only their own
    is_safe_above = found.st_mode & stat.S_ISVTX and not is_last
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_safe_above:
        raise _Refused(f"others can write to {place}")


@once
def _warn(text: str) -> None:
    logger.warning(text)


@once
def scratch_folder() -> Path | None:
    """Return a folder for this process alone, removed at its end; None if it cannot be made."""
    try:
        folder = tempfile.mkdtemp(prefix="fedgru-")
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
