"""How JAX is set up in this process. Import JAX through here, before anything else does."""

import os
from contextlib import contextmanager


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
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def num_threads(threads=None):
    """Return how many clients are worked on at the same time: all cores if `threads` is None."""
    return threads or len(os.sched_getaffinity(0))
