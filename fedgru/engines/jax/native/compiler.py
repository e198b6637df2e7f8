"""C source -> a library of machine code for this processor, loaded."""

import ctypes
import hashlib
import logging
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import tempfile
from functools import cache as once
from pathlib import Path
from typing import TypeAlias

from fedgru.core import cache
from fedgru.storage.files import write_whole

FOLDER = Path(__file__).parent
SOURCE = "native.c"
X86 = platform.machine() in ("x86_64", "AMD64")
Command: TypeAlias = tuple[str, ...]  # a program and its arguments
FLAGS: Command = ("-std=gnu11", "-O3", "-march=native" if X86 else "-mcpu=native")
FLAGS += ("-shared", "-fPIC", "-pthread")
FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
FLAGS += ("-Werror=implicit-function-declaration",)
if X86:
    FLAGS += ("-mprefer-vector-width=512",)  # without it compilers avoid the widest vectors
COMPILERS = ("cc", "gcc", "clang")
SUM = ".sha256"  # added to a library's name: the file of its SHA-256, as `sha256sum` writes it

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """There is no library on this machine. The text is the reason, in a few words."""


class Library(ctypes.CDLL):
    """The compiled code.

    Attributes:
        digest: a text that is different for other sources, another compiler or other flags.
    """

    digest: str


def load() -> Library:
    """Return the Library, compiled now if it is not kept from an earlier run.

    Raises:
        Unavailable: if no C compiler is found, or it cannot compile the source.
    """
    library, problem = first_try()
    if library is None:
        raise Unavailable(problem)
    return library


@once
def first_try() -> tuple[Library | None, str | None]:
    """Return (what `load` gives, None) or (None, the reason); it is tried once in a process."""
    try:
        return load_from(FOLDER), None
    except Unavailable as error:
        return None, str(error)


def load_from(sources: Path) -> Library:
    """As `load`, of the sources in another folder; each call tries again."""
    compiler = find_compiler()
    sha256 = hashlib.sha256(repr((compiler, _which_one(compiler[0]), FLAGS)).encode())
    for file in sorted([sources / SOURCE, *sources.glob("*.h")]):
        sha256.update(file.read_bytes())
    digest = sha256.hexdigest()[:16]
    name = f"native-{digest}.so"
    folder = cache.compiled_folder()
    try:
        with tempfile.TemporaryDirectory(prefix="fedgru-") as scratch:
            made = Path(scratch) / name  # the file is not needed after it is loaded
            library = None if folder is None else _load_kept(folder / name, made)
            if library is None:
                _compile(compiler, sources, made)
                library = _load_made(compiler, made)
                if folder is not None:
                    _keep(made, folder)
            library.digest = digest
            return library
    except OSError as error:
        raise Unavailable(f"there is no room to compile it: {error}") from error


def find_compiler() -> Command:
    """Return the command of the C compiler, a tuple: that of the variable CC, or one on the path.

    Raises:
        Unavailable: if there is none, or CC cannot be read.
    """
    given = os.environ.get("CC", "")
    try:
        if words := shlex.split(given):
            return tuple(words)
    except ValueError as error:
        raise Unavailable(f"CC={given} cannot be read: {error}") from error
    for name in COMPILERS:
        if found := shutil.which(name):
            return (found,)
    raise Unavailable("no C compiler was found")


def _which_one(command: str) -> tuple[int, int] | None:
    """Return the size and time of a compiler's program, which change when it is upgraded."""
    found = shutil.which(command)
    if found is None:
        return None
    facts = os.stat(found)
    return facts.st_size, facts.st_mtime_ns


def _compile(compiler: Command, sources: Path, target: Path) -> None:
    command = [*compiler, *FLAGS, str(sources / SOURCE), "-o", str(target), "-lm"]
    try:
        plain = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=plain)
    except OSError as error:
        raise Unavailable(f"{compiler[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        logger.debug("%s\n%s", shlex.join(command), done.stderr)
        raise Unavailable(f"{compiler[0]} could not compile it: {_why(done)}")


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first line with an error; if there is none, how the compiler ended."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if errors := [line for line in lines if "error" in line]:
        return errors[0]
    status = done.returncode
    how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    return f"it {how}: {lines[-1]}" if lines else f"it {how} and said nothing"


def _load_made(compiler: Command, made: Path) -> Library:
    try:
        return Library(str(made))
    except OSError as error:
        raise Unavailable(f"what {compiler[0]} made cannot be loaded: {error}") from error


def _load_kept(kept: Path, scratch: Path) -> Library | None:
    """Load a library from an earlier run; None if there is none, or none that can be trusted.

    The checked bytes are written to another file, which is loaded: somebody can change or cut off
    the kept file later, which would end a program that has loaded it (SIGBUS).

    Args:
        kept: path of the library.
        scratch: path to load it from.
    """
    if not os.path.lexists(kept):
        return None
    try:
        content, sums = kept.read_bytes(), _sum_file(kept)
        if sums.read_bytes() != _sum_line(content, kept.name):
            raise ValueError(f"its SHA-256 is not the one in {sums.name}")
        scratch.write_bytes(content)
        return Library(str(scratch))
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be used and is made anew: %s", kept, error)
        return None


def _keep(made: Path, folder: Path) -> None:
    """Write a library and its sum to a folder, each whole or not at all; log a failure."""
    target = folder / made.name
    try:
        content = made.read_bytes()
        # the library last, so that there is never one without its sum
        _put(_sum_file(target), _sum_line(content, target.name))
        _put(target, content)
    except OSError as error:
        logger.warning("the compiled local steps are not kept: %s", error)


def _put(file: Path, content: bytes) -> None:
    # another process can be writing the same file
    beside = file.with_name(f"{file.name}-{secrets.token_hex(4)}")
    try:
        write_whole(beside, lambda stream: stream.write(content))
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _sum_file(library: Path) -> Path:
    return library.with_name(library.name + SUM)


def _sum_line(content: bytes, name: str) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
