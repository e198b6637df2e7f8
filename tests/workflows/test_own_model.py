"""A package of one's own brings a Keras model; a run with it goes through every command."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import fedgru
from fedgru.cli.main import main
from fedgru.core.errors import Interrupted
from tests.workflows.test_resume import results

MODEL = """
import keras


def build(inputs):
    tensors = inputs.tensors()
    table = keras.layers.Embedding(inputs.num_rows + 1, 8, name="rows")
    x = keras.ops.sum(table(inputs.table_rows(tensors)), axis=2)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.GRU(6, return_sequences=True, stateful=True)(x)
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(x))
"""
RUN = {
    "model": "far_model:build",
    "engine": "reference",
    "users": 4,
    "rounds": 2,
    "features": "category,venue",
    "prior": "backoff",
    "batch_size": 8,
    "client_lr": 0.01,
    "local_epochs": 1,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module that brings a model; it is not on the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far_model.py").write_text(MODEL)
    yield tmp_path
    sys.modules.pop("far_model", None)


def invoke(*words, code=0):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def options(settings):
    return [word for n, v in settings.items() for word in (fedgru.config.option(n), v)]


@pytest.mark.slow
def test_a_run_from_first_to_last(here):
    printed = invoke("train", *options(RUN))
    assert "Model: far_model:build of 6 units, 12 classes of category" in printed.stderr
    assert "for a local step, so " in printed.stderr
    run = fedgru.open_run()
    report = json.loads((run.path / "test.json").read_text("utf-8"))
    assert report["engine"] == "reference" and report["leakage"]["client"]["readings"]
    assert run.facts["model"]["representation"] == "the input of the layer that gives the scores"
    assert run.weights("best")["rows"].shape[1] == 8
    again = json.loads(invoke("eval", run.path, "--json").stdout)
    assert again["test/loss/micro"] == report["test/loss/micro"]
    refused = invoke("eval", run.path, "--engine", "jax", code=1)
    assert refused.stderr.endswith(
        "Error: --engine jax does not know --model far_model:build, which the run was trained "
        "with. Leave --engine out.\n"
    )
    assert "12 checks: 11 ok, 1 not applicable." in invoke("check", run.path).stdout
    audited = run.audit(["weekend"], probes=["logistic"])
    views = {reading["view"] for reading in audited["concepts"]["weekend"]["readings"]}
    assert {"representation", "logits"} <= views
    page = here / "report.html"
    invoke("report", run.path, "--output", page)
    assert "far_model:build" in page.read_text("utf-8")
    client = run.task.clients.client_ids[0]
    found = json.loads(invoke("predict", run.path, "--client", client, "--json").stdout)
    assert len(found["top"]) == 5
    before = json.loads(
        invoke("predict", run.path, "--client", client, "--until", 300, "--json").stdout
    )
    table = run.folder.predictions()
    _check_exports(here, run, client)
    row = int(run.task.clients.rows[run.task.clients.starts[0] + 300])
    (at,) = np.flatnonzero(table["row"] == row)
    assert np.log(before["came"]["probability"]) == pytest.approx(table["log_prob"][at], abs=1e-5)


def _check_exports(here, run, client):
    """The exported models give the run's predictions."""
    import keras

    from fedgru.predict.export import load_weights, open_export
    from fedgru.predict.past import client_past
    from fedgru.predict.predictor import Predictor, Stream

    for kind in ("keras", "savedmodel", "weights"):
        invoke("export", run.path, "--to", kind, "--output", here / kind)
    past = client_past(run.task, client).check_ins[:30]
    schema = open_export(here / "weights")
    weights = load_weights(here / "weights")
    expected = np.exp(Predictor.start(schema, weights).extend(past).log_probs())
    model, stream = keras.models.load_model(here / "keras/model.keras"), Stream.start(schema)
    for check_in in past:
        stream = stream.push(check_in)
        found = model(stream.inputs())
    np.testing.assert_allclose(np.array(found)[0, 0], expected, atol=1e-5)
    # and where neither the module nor fedgru is at hand
    served = subprocess.run(
        [sys.executable, "-c", SERVE, here / "savedmodel/saved_model", here / "fed.npz"],
        input=json.dumps(_all_inputs(schema, past)),
        capture_output=True,
        text=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert served.returncode == 0, served.stderr
    np.testing.assert_allclose(json.loads(served.stdout), expected, atol=1e-5)


SERVE = """
import json, sys
import tensorflow as tf
model, steps = tf.saved_model.load(sys.argv[1]), json.load(sys.stdin)
model.reset_state()
for step in steps:
    kinds = {n: tf.float32 if n == "log_prior" else tf.int32 for n in step}
    given = {n: tf.constant(v, kinds[n]) for n, v in step.items()}
    found = model.serve(given)
print(json.dumps(found.numpy()[0, 0].tolist()))
"""


def _all_inputs(schema, past):
    from fedgru.predict.predictor import Stream

    stream, found = Stream.start(schema), []
    for check_in in past:
        stream = stream.push(check_in)
        found.append({name: array.tolist() for name, array in stream.inputs().items()})
    return found


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_in_the_same_bytes(here):
    settings = fedgru.make_settings(**RUN | {"rounds": 3})
    whole = fedgru.train(settings, log_dir="whole", evaluate=False)

    def stop(round_num, row):
        if round_num == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedgru.train(settings, log_dir="stopped", evaluate=False, on_round=stop)
    stopped = fedgru.open_run(log_dir="stopped")
    # in a process that has built nothing: layers have other numbers there
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fedgru", "train", "--resume", str(stopped.path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(stopped.rounds) == 4
    assert results(stopped) == results(whole)


@pytest.mark.slow
def test_a_model_that_has_changed_is_refused(here):
    run = fedgru.train(fedgru.make_settings(**RUN | {"rounds": 1}), evaluate=False)
    (here / "far_model.py").write_text(MODEL.replace("axis=2)", "axis=2) * 2"))
    sys.modules.pop("far_model")
    refused = invoke("eval", run.path, code=1)
    assert refused.stderr.endswith(
        f"Error: {run.path} was trained with another version of --model far_model:build: what it "
        "computes has changed. Restore that version, or train again.\n"
    )
    (here / "far_model.py").unlink()
    sys.modules.pop("far_model")
    refused = invoke("eval", run.path, code=1)
    assert refused.stderr.endswith(
        f"Error: --model is far_model:build, but there is no module far_model, neither in the "
        f"folder {here} nor installed.\n"
    )


def test_what_is_missing_is_said_before_the_data_is_read(here):
    given = options(RUN | {"model": "far_modle:build", "data": "nowhere"})
    assert invoke("train", *given, code=1).stderr == (
        "Error: --model is far_modle:build, but there is no module far_modle, neither in the "
        f"folder {here} nor installed. Did you mean far_model?\n"
    )
    assert not (here / "log").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("central", "a baseline trained on pooled data"), ("local", "a baseline of local models")],
)
def test_baselines_train_the_built_in_model(here, kind, words):
    refused = invoke("baseline", kind, "--model", "far_model:build", code=1).stderr
    assert refused.startswith("Error: --model is far_model:build, but ")
    assert refused.endswith(" trains only the built-in model: leave it out.\n")
