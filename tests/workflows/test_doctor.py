"""fedgru/workflows/doctor.py: what is found, and what is said where something is missing."""

import json

import pytest

from fedgru.core import cache, jax_setup, machine
from fedgru.core.errors import ConfigError
from fedgru.engines.jax import loop_speed
from fedgru.engines.jax.native import compiler
from fedgru.workflows import doctor
from tests.cli.test_main import invoke


def found(tmp_path):
    findings = doctor.examine(tmp_path / "data", tmp_path / "log")
    return {finding.name: finding for finding in findings}


def test_what_there_is(tmp_path):
    (tmp_path / "log").mkdir()
    findings = found(tmp_path)
    assert machine.instruction_set() in findings["processor"].found
    assert "jax " in findings["packages"].found
    assert findings["data folder"].found.startswith(f"{tmp_path}/data, not made yet, ")
    assert findings["log folder"].found.startswith(f"{tmp_path}/log, ")
    assert "not made yet" not in findings["log folder"].found
    assert not (tmp_path / "data").exists()


def test_what_is_missing(tmp_path, monkeypatch):
    def no_device(name):
        raise ConfigError("nothing here.")

    monkeypatch.setattr(compiler, "first_try", lambda: (None, "no C compiler was found"))
    monkeypatch.setattr(jax_setup, "pick_device", no_device)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv(cache.SETTING, "off")
    findings = found(tmp_path)
    assert findings["C compiler"].found == "none that can be used: no C compiler was found"
    assert "by XLA, with the same numbers" in findings["C compiler"].advice
    assert findings["local steps"].found.startswith("not timed yet")
    assert findings["device"].found == "JAX finds none: nothing here."
    assert findings["browser"].found.startswith("none found")
    assert findings["cache"].found.startswith("off (FEDGRU_CACHE)")


def test_measured_speeds(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.SETTING, str(tmp_path))
    library, _ = compiler.first_try()
    if library is None:
        pytest.skip("needs a C compiler")
    # C takes a second where XLA takes 2, 3 and half of one: 2, 3 and 0.5 times XLA's speed
    for name, xla_s in (("a", 2.0), ("b", 3.0), ("c", 0.5)):
        loop_speed.keep(library.digest, name, loop_speed.LoopSpeeds(1.0, xla_s))
    loop_speed.keep("another", "d", loop_speed.LoopSpeeds(1.0, 9.0))
    assert found(tmp_path)["local steps"].found == (
        "C is faster than XLA for 2 of 3 settings that were timed, 0.5 to 3.0 times XLA's speed"
    )


def test_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = invoke("doctor").stdout
    assert text.splitlines()[0].startswith("fedgru ")
    assert set(json.loads(invoke("doctor", "--json").stdout)) == {*found(tmp_path)}
