"""How JAX is set up in this process. Import JAX through `import_jax`, before any other import."""

import glob
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from fedgru.core import cache
from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import ConfigError

TROUBLE = re.compile("Error (reading|writing) persistent compilation cache entry for '(.*?)'")

logger = logging.getLogger(__name__)


def import_jax() -> ModuleType:
    """Return the jax module, set up for Python threads over clients.

    Each compiled call uses one thread and runs in the caller's thread. Two such calls in parallel
    take less time than two calls one after the other with all cores. XLA reads its flags once,
    when JAX first runs something; later the setting has no effect.
    """
    flag = "--xla_cpu_multi_thread_eigen=false"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax


def limit_threads(count: int) -> None:
    """Give XLA this many threads in this process, instead of one for each core of the machine.

    For one of several processes. Call it before JAX first runs something. XLA moves parts of a
    program between threads, and its threads poll while they wait: one busy Python thread then
    occupies a second core to save a seventh of the time (docs/speed.md). PJRT_NPROC takes
    precedence if it is set. One thread can round differently from several.
    """
    os.environ.setdefault("PJRT_NPROC", str(count))


@contextmanager
def compiled_in(folder: Path | str) -> Iterator[None]:
    """Within this context, keep JAX's compiled programs in a folder and reuse those in it.

    For many trainings of the same shapes: compiling takes seconds, longer than a small training.
    A folder in the environment variable JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    jax = import_jax()
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads these settings only once
    try:
        with _log_first_trouble(folder):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextmanager
def _log_first_trouble(folder: Path | str) -> Iterator[None]:
    """Log the first cache entry that cannot be read or written, instead of a warning for each.

    Such an entry is an incomplete file, for example after the disk was full. JAX compiles again
    but keeps the broken entry, and would warn in every run. So this removes it.
    """
    show, is_logged = warnings.showwarning, False

    def show_once(message: Warning | str, *others: Any, **more: Any) -> None:
        nonlocal is_logged
        found = TROUBLE.match(str(message))
        if found is None:
            return show(message, *others, **more)
        with suppress(OSError):
            for entry in Path(folder).glob(f"{glob.escape(found[2])}-*"):
                entry.unlink()
        if not is_logged:
            is_logged = True
            logger.warning("JAX cannot keep all compiled code in %s: %s", folder, message)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show


def kept_between_runs() -> AbstractContextManager[None]:
    """Return a context in which JAX's compiled code is kept for the next run of the program.

    The code is stored in `cache.compiled_folder()`. JAX finds an entry by the program, JAX's
    version and its settings.
    """
    folder = cache.compiled_folder()
    return nullcontext() if folder is None else compiled_in(folder)


def num_threads(threads: int | None = None) -> int:
    """Return the number of clients trained at the same time: one per core if `threads` is None."""
    return threads or usable_cpus()


def pick_device(name: str) -> Any:
    """Return the jax.Device to compute on.

    Args:
        name: "cpu", "gpu", or "auto": the first device that JAX finds, a GPU if there is one.

    Raises:
        ConfigError: if JAX finds none of that kind.
    """
    jax = import_jax()
    if name == "auto":
        return jax.devices()[0]
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        found = sorted({device.platform for device in jax.devices()})
        raise ConfigError(
            f"`device` is {name}, but JAX finds only {', '.join(found)} here. For an NVIDIA GPU "
            'install its JAX (pip install "jax[cuda12]"), or set `device` to cpu.'
        ) from error


@contextmanager
def on_device(device: Any) -> Iterator[None]:
    """Run this thread's JAX calls on a jax.Device, in full float32.

    By default a GPU computes float32 products at lower precision (TF32).
    """
    import jax

    precision = (
        nullcontext() if device.platform == "cpu" else jax.default_matmul_precision("highest")
    )
    with jax.default_device(device), precision:
        yield
