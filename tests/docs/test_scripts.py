"""examples/: each script runs, and finds what it says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedgru.agnostic import protection

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_train_and_compare(tmp_path, capsys):
    table = load("train_and_compare").main(tmp_path)
    assert len(table) == 3 and (table["acc@1"]["mean"] > 0).all()
    assert "round 1: validation loss " in capsys.readouterr().out


def test_own_algorithm(tmp_path, capsys):
    script = load("own_algorithm")
    own, plain = script.main(tmp_path)
    assert "local steps by XLA" in own.facts["computes_with"]  # the correction is not in C
    assert "local steps in C" in plain.facts["computes_with"]
    start = protection.init_weights(own.task)
    # three rounds, each of which moves the weights by a norm of MAX_NORM at most
    moved = {run: distance(run.weights("last"), start) for run in (own, plain)}
    assert moved[own] <= 3 * script.MAX_NORM + 1e-4 < moved[plain]


def distance(weights, others):
    return np.sqrt(sum(np.square(w - others[name]).sum() for name, w in weights.items()))


def test_predictions_as_a_table(tmp_path, capsys):
    by_hour = load("predictions_as_a_table").main(tmp_path)
    assert by_hour["mean"].between(0, 1).all() and by_hour["size"].sum() > 100


def test_every_script_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert scripts <= tested
