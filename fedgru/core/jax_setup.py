"""How JAX is set up in this process. Import JAX through here, before anything else does."""

import glob
import logging
import os
import re
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from fedgru.core import cache
from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import ConfigError

TROUBLE = re.compile("Error (reading|writing) persistent compilation cache entry for '(.*?)'")

logger = logging.getLogger(__name__)


def import_jax():
    """Return the jax module, set up for Python threads over clients.

    One thread and no hand-over inside each compiled call: two such calls side by side take less
    time than one after the other with all cores. XLA reads its flags once, when JAX first runs
    something; later the setting has no effect.
    """
    flag = "--xla_cpu_multi_thread_eigen=false"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax


def limit_threads(count):
    """Let XLA have this many threads in this process, instead of one for each core of the machine.

    For a process that is one of several, before JAX first runs something. XLA hands parts of a
    program from thread to thread, and each waits for its next one by looking again and again: one
    Python thread at work then uses up a second core for a seventh less time (docs/speed.md).
    PJRT_NPROC, if it is set, goes before. One thread may round in another way than several do.
    """
    os.environ.setdefault("PJRT_NPROC", str(count))


@contextmanager
def compiled_in(folder):
    """Keep what JAX compiles in a folder meanwhile, and take it from there.

    For many trainings of the same shapes: compiling takes seconds, which a small one does not.
    A folder that the environment names (JAX_COMPILATION_CACHE_DIR) goes before this one.
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
    compilation_cache.reset_cache()  # which looks at its settings only once
    try:
        with _trouble_told_once(folder):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextmanager
def _trouble_told_once(folder):
    """Log the first entry of JAX's that cannot be read or written, instead of a warning for each.

    Such an entry is half a file, after a full disk for example. JAX compiles anew, but would leave
    the entry as it is, and stumble over it in every run: so it is removed.
    """
    show, told = warnings.showwarning, []

    def show_once(message, *others, **more):
        found = TROUBLE.match(str(message))
        if found is None:
            return show(message, *others, **more)
        with suppress(OSError):
            for entry in Path(folder).glob(f"{glob.escape(found[2])}-*"):
                entry.unlink()
        if not told:
            told.append(message)
            logger.warning("not all that JAX compiles is kept in %s: %s", folder, message)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show


def kept_between_runs():
    """Return a context in which what JAX compiles is kept for the next run of the program.

    In `cache.compiled_folder()`. JAX looks up an entry by the program, its own version and its
    settings.
    """
    folder = cache.compiled_folder()
    return nullcontext() if folder is None else compiled_in(folder)


def num_threads(threads=None):
    """Return how many clients are worked on at the same time: all cores if `threads` is None."""
    return threads or usable_cpus()


def pick_device(name):
    """Return the jax.Device to compute on.

    Args:
        name: "cpu", "gpu", or "auto": the first that JAX finds, a GPU if it has one.

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
            f"--device {name}: JAX finds only {', '.join(found)} here. For a GPU of NVIDIA's "
            'install JAX for it (pip install "jax[cuda12]"), or use --device cpu.'
        ) from error


@contextmanager
def on_device(device):
    """Let this thread's calls run on a jax.Device, in float32 throughout.

    A GPU would take shortcuts in its float32 products (TF32) if it were not told.
    """
    import jax

    precision = (
        nullcontext() if device.platform == "cpu" else jax.default_matmul_precision("highest")
    )
    with jax.default_device(device), precision:
        yield
