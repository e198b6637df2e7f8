"""fedgru/predict/export.py: a model that left its run predicts as the run's evaluation does."""

import json
import re

import numpy as np
import pytest

from fedgru.core.errors import RunError
from fedgru.predict import export as model_export
from fedgru.predict.predictor import Predictor, Stream, check_ins_of, evaluation_noise
from fedgru.runs import folder as run_folder
from tests.conftest import slow_but
from tests.predict.test_predictor import drawn, evaluated

CASES = {
    "gru, no prior": {"prior": "none"},
    "lstm, counts": {"cell": "lstm", "prior": "backoff"},
    "gru, kernel": {"prior": "kernel", "features": "category,latitude,clock"},
    "erased": {"agnostic_to": "zone", "method": "leace", "zones": 3, "rounds": 2},
    "noise": {
        "agnostic_to": "client",
        "alpha_schedule": "constant",
        "rounds": 2,
        "method": "leace+noise",
        "cell": "lstm",
    },
    "candidates": {"head": "candidates", "prior": "kernel", "head_dim": 7},
    "candidates, venues": {"head": "candidates", "prior": "backoff", "target": "venue"},
    "asked, candidates": {"asked_at": True, "head": "candidates", "prior": "kernel", "head_dim": 7},
}
CLIENT = 4


@pytest.fixture
def make_run(make_task, tmp_path):
    """Draw weights; return the run's folder, its task, and a client's evaluated predictions."""

    def make(**overrides):
        task = make_task(**overrides)
        engine, weights = drawn(task)
        run = run_folder.RunFolder.create(
            tmp_path / "log", task.settings, {"data": "tiny", "fingerprint": "tiny"}
        )
        run.save_weights("best", weights, 1)
        return run, task, np.exp(evaluated(engine, weights, CLIENT))

    return make


def walk(task, stream, predict):
    """Predictions of the client's check-ins but the first, float32 [n - 1, num_classes]."""
    begin, end = task.clients.starts[CLIENT : CLIENT + 2]
    found = []
    check_ins = check_ins_of(task.check_ins, task.clients.rows[begin:end])
    pairs = zip(check_ins[:-1], check_ins[1:], strict=True)
    for position, (check_in, following) in enumerate(pairs, start=begin + 1):
        stream = stream.push(check_in)
        if task.settings.inputs.asked_at:
            stream = stream.asked(following.time_s, following.offset_min)
        found.append(predict(stream, evaluation_noise(task, position)))
    return np.array(found)


def equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert expected.std(axis=0).max() > 0.001


@pytest.mark.parametrize("case", slow_but(CASES, "gru, kernel", "noise", "asked, candidates"))
def test_the_exported_keras_model_predicts_as_the_evaluation_does(make_run, tmp_path, case):
    import keras

    run, task, expected = make_run(**CASES[case])
    model_export.export_run(run, task, "keras", tmp_path / "out", names=True)
    model = keras.saving.load_model(tmp_path / "out/model.keras")
    stream = Stream.start(model_export.open_export(tmp_path / "out"))
    equal(walk(task, stream, lambda s, noise: model(s.inputs(noise)).numpy()[0, 0]), expected)


@pytest.mark.parametrize("case", slow_but(("lstm, counts", "noise", "candidates"), "noise"))
def test_the_saved_model_predicts_as_the_evaluation_does(make_run, tmp_path, case):
    import tensorflow as tf

    run, task, expected = make_run(**CASES[case])
    model_export.export_run(run, task, "savedmodel", tmp_path / "out", names=True)
    model = tf.saved_model.load(str(tmp_path / "out/saved_model"))
    stream = Stream.start(model_export.open_export(tmp_path / "out"))
    for _ in range(2):
        found = walk(task, stream, lambda s, noise: model.serve(s.inputs(noise)).numpy()[0, 0])
        equal(found, expected)
        model.reset_state()


@pytest.mark.parametrize("case", ["gru, kernel", "noise", "candidates", "asked, candidates"])
def test_exported_weights_predict_as_the_evaluation_does(make_run, tmp_path, case):
    run, task, expected = make_run(**CASES[case])
    described = model_export.export_run(run, task, "weights", tmp_path / "out", names=True)
    assert described == json.loads((tmp_path / "out/model.json").read_text())
    weights = model_export.load_weights(tmp_path / "out")
    assert not any(name.startswith("protected") for name in weights)
    predictor = Predictor.start(model_export.open_export(tmp_path / "out"), weights)
    equal(walk(task, predictor, lambda p, noise: np.exp(p.log_probs(noise))), expected)


def test_an_export_is_not_overwritten_unasked(make_run, tmp_path):
    run, task, _ = make_run(prior="none", features="category")
    out = tmp_path / "out"
    model_export.export_run(run, task, "weights", out)
    message = f"{out} is there already: choose another `output`, or add `overwrite`."
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        model_export.export_run(run, task, "weights", out)
    (out / "old").touch()
    model_export.export_run(run, task, "weights", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "weights.npz"]
    (tmp_path / "mine").mkdir()
    message = f"{tmp_path / 'mine'} is there already: choose another `output`, it is no export."
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        model_export.export_run(run, task, "weights", tmp_path / "mine", overwrite=True)
    assert not list(tmp_path.glob(".out-*"))


def test_what_is_no_export_is_said_to_be_none(make_run, tmp_path):
    message = f"{tmp_path} is no export: it has no model.json."
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        model_export.open_export(tmp_path)
    message = f"{tmp_path} has no weights.npz. Make one with: fedgru export RUN --to weights"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        model_export.load_weights(tmp_path)


def test_a_keras_model_on_another_backend_is_refused(make_task, monkeypatch):
    import keras

    from fedgru.agnostic import protection
    from fedgru.core.errors import ConfigError
    from fedgru.predict.schema import Schema

    task = make_task(prior="none")
    weights = protection.init_weights(task)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = (
        "`kind` keras and `kind` savedmodel need Keras on TensorFlow, but KERAS_BACKEND is jax. "
        "Unset KERAS_BACKEND, or use `kind` weights."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        model_export.build_model(Schema.of(task, weights), weights)
