"""C source -> a library of machine code for this processor, loaded."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache as once
from pathlib import Path

from fedgru import cache
from fedgru.storage import write_whole

FOLDER = Path(__file__).parent
SOURCE = "native.c"
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
FLAGS += ("-Werror=implicit-function-declaration",)
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += ("-mprefer-vector-width=512",)  # compilers shy away from the widest ones
COMPILERS = ("cc", "gcc", "clang")

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """There is no library on this machine; the text says why, in a few words."""


def load():
    """Return the library as a ctypes.CDLL, compiled now if it is not kept from an earlier run.

    Raises:
        Unavailable: if no C compiler is found, or it cannot compile the source.
    """
    library, problem = first_try()
    if problem is not None:
        raise Unavailable(problem)
    return library


@once
def first_try():
    """What `load` gives, or why it gives nothing: it is tried once in a process."""
    try:
        return load_from(FOLDER), None
    except Unavailable as error:
        return None, str(error)


def load_from(sources):
    """As `load`, of the sources in another folder; each call looks again."""
    compiler = find_compiler()
    digest = hashlib.sha256(repr((compiler, FLAGS)).encode())
    for file in sorted([sources / SOURCE, *sources.glob("*.h")]):
        digest.update(file.read_bytes())
    name = f"native-{digest.hexdigest()[:16]}.so"
    folder = cache.compiled_folder()
    if folder is not None and (folder / name).exists():
        try:
            return ctypes.CDLL(str(folder / name))
        except OSError as error:
            logger.warning("%s cannot be loaded and is made anew: %s", folder / name, error)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / name
            _compile(compiler, sources, made)
            if folder is not None:
                _keep(made, folder)
            return ctypes.CDLL(str(made))  # once loaded, its file is not needed any more
    except OSError as error:
        raise Unavailable(f"what {compiler[0]} made cannot be loaded: {error}") from error


def find_compiler():
    """Return the command of the C compiler, a tuple: that of the variable CC, or one on the path.

    Raises:
        Unavailable: if there is none.
    """
    if given := os.environ.get("CC"):
        return tuple(shlex.split(given))
    for name in COMPILERS:
        if found := shutil.which(name):
            return (found,)
    raise Unavailable("no C compiler was found")


def _compile(compiler, sources, target):
    command = [*compiler, *FLAGS, str(sources / SOURCE), "-o", str(target), "-lm"]
    try:
        plain = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, env=plain)
    except OSError as error:
        raise Unavailable(f"{compiler[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        logger.debug("%s\n%s", shlex.join(command), done.stderr)
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line]
        raise Unavailable(f"{compiler[0]} could not compile it: {said[0] if said else 'no reason'}")


def _keep(made, folder):
    """Put a library into a folder, whole or not at all; say so if it cannot be."""
    beside = folder / f"{made.stem}-{os.getpid()}.so"  # another process may be at the same
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(beside, lambda stream: stream.write(made.read_bytes()))
        beside.replace(folder / made.name)
    except OSError as error:
        logger.warning("the compiled local steps are not kept: %s", error)
