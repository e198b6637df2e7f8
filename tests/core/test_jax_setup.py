"""What is compiled is kept where the user wants it; as many threads as are asked."""

import json
import subprocess
import sys

import pytest

from fedgru.core import cache

# counts what JAX compiles and what it takes from the kept ones, in a process of its own
SCRIPT = """
import json, logging
from fedgru.core import jax_setup
jax = jax_setup.import_jax()
counts = {"hits": 0, "misses": 0}
def count(event, **_):
    for name in counts:
        counts[name] += event == f"/jax/compilation_cache/cache_{name}"
jax.monitoring.register_event_listener(count)
with jax_setup.kept_between_runs():
    value = float(jax.jit(lambda x: (x * 3 + 1).sum())(jax.numpy.arange(4.0)))
print(json.dumps(counts | {"value": value}))
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    def start(setting):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
        monkeypatch.setenv("FEDGRU_CACHE", setting)
        printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
        return json.loads(printed.stdout)

    return start


def test_a_second_run_takes_what_the_first_compiled(run, tmp_path):
    first, second = run(""), run("")
    assert first["misses"] > 0 == first["hits"]
    assert second["hits"] == first["misses"] and second["misses"] == 0
    assert first["value"] == second["value"] == 22.0  # 1 + 4 + 7 + 10
    (folder,) = (tmp_path / "user" / "fedgru").iterdir()
    assert folder.name == f"compiled-{cache.processor()}"


def test_it_can_be_turned_off_or_put_elsewhere(run, tmp_path):
    assert run("off")["hits"] == run("off")["hits"] == 0
    assert not (tmp_path / "user").exists()
    run(str(tmp_path / "mine"))
    assert not (tmp_path / "user").exists() and any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(("count", "given", "expected"), [(1, None, 1), (3, None, 3), (3, "2", 2)])
def test_xla_has_the_threads_that_it_is_let(monkeypatch, count, given, expected):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    if given:
        monkeypatch.setenv("PJRT_NPROC", given)
    script = f"""
from pathlib import Path
from fedgru.core import jax_setup
jax_setup.limit_threads({count})
jax_setup.import_jax().numpy.ones(4).sum()
print([file.read_text() for file in Path("/proc/self/task").glob("*/comm")].count("tf_XLAEigen\\n"))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(printed.stdout) == expected
