"""Baselines as runs: central and local training against a second route, counting, fine-tuning."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedgru import config
from fedgru.agnostic import protection
from fedgru.config import LayoutSettings
from fedgru.config.feature_names import parse_features
from fedgru.core.errors import ConfigError, RunError
from fedgru.data import datasets
from fedgru.engines.jax.central import pool_streams
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.runs.kinds import BASELINES, CENTRAL
from fedgru.task.clients import Clients
from fedgru.testing import largest_gap
from fedgru.training import fine_tuning, local_models
from fedgru.training.central import CentralTraining
from fedgru.training.rounds import run_round
from fedgru.workflows import baseline as baseline_workflow
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow
from tests.conftest import slow_but, start


def test_streams_are_pooled_as_the_docstring_says():
    starts = np.array([0, 4, 6, 9])
    clients = Clients(("a", "b", "c"), np.arange(9), starts, starts[1:], starts[1:])
    layout = LayoutSettings(batch_size=2, seq_len=2)
    positions, resets = pool_streams(clients, np.arange(3), layout, np.arange(3))
    assert positions.tolist() == [[[0, 1], [4, -1]], [[2, -1], [6, 7]]]
    assert resets.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 2, 0, 1, 4, 3]])
def test_every_train_pair_is_pooled_once(make_task, order):
    task = make_task()
    positions, _ = pool_streams(task.clients, np.arange(6), task.settings.layout, order)
    targets = np.sort(positions[positions >= 0] + 1)
    assert targets.tolist() == task.clients.target_positions("train").tolist()


def of_one(task, client=0):
    """The task of one client, in one stream, so that pooled and own steps are the same."""
    return local_models.alone(task, client)


CANDIDATES = {"head": "candidates", "head_dropout": 0.0, "client_optimizer": "sgd"}
CANDIDATES |= {"local_epochs": 4, "server_optimizer": "sgd"}


@pytest.mark.parametrize(
    "given", [{"client_optimizer": "adam"}, {"client_optimizer": "sgd"}, CANDIDATES]
)
def test_central_on_one_client_is_federated_averaging_of_one(make_task, given):
    task = of_one(make_task(batch_size=1, client_lr=0.01, **given))
    algorithm, state = start(task)
    federated = run_round(JaxEngine(task), algorithm, state, task.training_clients)
    training = CentralTraining(task)
    central = training.run_round(training.init(), task.training_clients)
    assert largest_gap(central.state.weights, federated.state.weights) < 1
    assert central.metrics == pytest.approx(federated.metrics, rel=1e-5)
    assert central.num_examples == federated.num_examples
    steps = 4 * -(-(int(task.clients.train_ends[0]) - 1) // 5)
    assert central.state.optimizer["step"] == steps
    # a second round goes on with the same optimizer: Adam's step count has grown
    again = training.run_round(central.state, task.training_clients)
    assert again.state.optimizer["step"] == 2 * steps


@pytest.mark.parametrize("head", ["dense", "candidates"])
def test_the_state_does_not_flow_from_one_client_into_the_next(make_task, head):
    # clients laid into one row; with the state carried over, the second's loss would differ
    given = {"batch_size": 1, "local_epochs": 1, "client_optimizer": "sgd", "client_lr": 1e-12}
    given |= {"head_dropout": 0.0} if head == "candidates" else {}
    task, some = make_task(**given, head=head), np.array([0, 1, 2])
    if head == "candidates":  # the three differ in how many they have
        counts = {task.local_data(c).beside.candidates.kinds.shape[-1] for c in some}
        assert len(counts) > 1
    training = CentralTraining(task)
    begin = training.init()
    draw = np.random.default_rng(0)
    for name, weight in begin.weights.items():  # some are zero at the start, and hide much
        begin.weights[name] = weight + draw.normal(0, 0.1, weight.shape).astype("f4")
    pooled = training.run_round(begin, some)
    algorithm, state = start(task)
    apart = run_round(JaxEngine(task), algorithm, replace(state, weights=begin.weights), some)
    assert pooled.metrics["loss"] == pytest.approx(apart.metrics["loss"], rel=1e-6)
    assert pooled.num_examples == apart.num_examples


def test_alone_a_client_knows_its_own_values_only(make_task):
    task = make_task()
    own = local_models.alone(task, 2)
    start_position, end = task.clients.starts[2:4]
    train = slice(start_position, task.clients.train_ends[2])
    for column, name in enumerate(task.inputs.id_names):
        codes = getattr(task.check_ins, name).codes[task.clients.rows]
        values = getattr(task.check_ins, name).values
        known = {values[code] for code in codes[train] if code >= 0}
        vocabulary = own.inputs.vocabularies[name]
        assert set(vocabulary.values) == known
        for position in range(start_position, end):
            row = own.inputs.rows[position - start_position, column]
            before = sum(len(own.inputs.vocabularies[n]) for n in task.inputs.id_names[:column])
            value = values[codes[position]]
            assert (row >= 0) == (value in known)
            if row >= 0:
                assert vocabulary.values[row - before] == value
                assert vocabulary.encode(codes[position]) == row - before + 1
    np.testing.assert_array_equal(own.classes, task.classes[start_position:end])
    counts = np.bincount(task.classes[train], minlength=task.num_classes) + 1
    np.testing.assert_allclose(own.shared, counts / counts.sum())


@pytest.mark.parametrize("given", [{}, {"head": "candidates", "server_optimizer": "sgd"}])
def test_local_training_of_one_client_is_a_federation_of_one(make_task, given):
    task = of_one(make_task(rounds=3, patience=0, mean="clients", client_lr=0.01, **given))
    (model,), rows = local_models.train_local(task)
    algorithm, state = start(task)
    engine, losses = JaxEngine(task), []
    best = state
    for _ in range(3):
        losses.append(evaluate.evaluate(engine, state.weights, "val").summary())
        best = state if losses[-1] == min(losses, key=lambda r: r["val/loss/micro"]) else best
        state = run_round(engine, algorithm, state, task.training_clients).state
    losses.append(evaluate.evaluate(engine, state.weights, "val").summary())
    found = [row["val/loss/micro"] for row in rows]
    assert found == pytest.approx([row["val/loss/micro"] for row in losses], rel=1e-5)
    assert model.best_round == int(np.argmin(found)) > 0
    assert rows[0]["train/loss/micro"] is None and rows[1]["train/loss/micro"] > 0


def test_local_models_come_back_as_they_were(make_task):
    task = make_task(rounds=2, prior="kernel")
    models, _ = local_models.train_local(task)
    assert len({model.kernel for model in models}) == len(models)  # each learnt its own
    again = local_models.from_arrays(local_models.to_arrays(models), len(task.clients))
    first, second = (local_models.evaluate_local(task, m, "test") for m in (models, again))
    assert first.summary() == second.summary()
    assert first.positions.tolist() == task.clients.target_positions("test").tolist()
    with pytest.raises(RunError) as error:
        local_models.from_arrays(local_models.to_arrays(models), 5)
    assert str(error.value) == "the weights are of other clients: '5/rows' in a run of 5."


def test_fine_tuning_adds_each_clients_own_update_to_its_own_copy(make_task):
    task = make_task(client_lr=0.01)
    weights = protection.init_weights(task)
    found = fine_tuning.evaluate_fine_tuned(task, weights, epochs=2, round_num=3)
    client = task.settings.client.model_copy(update={"local_epochs": 2})
    two_epochs = replace(task, settings=task.settings.model_copy(update={"client": client}))
    engine = JaxEngine(two_epochs)
    for update in engine.local_updates(weights, [4], 4):
        own = {n: weights[n] + u for n, u in update.dense.items()} | {"rows": weights["rows"] + 0}
        own["rows"][update.row_ids] += update.row_update
    expected = evaluate.evaluate(engine, own, "test")
    its = expected.client_index == 4
    np.testing.assert_allclose(
        found.scores.values["loss"][found.client_index == 4], expected.scores.values["loss"][its]
    )
    before = evaluate.evaluate(engine, weights, "test")
    assert not np.allclose(before.scores.values["loss"][its], expected.scores.values["loss"][its])
    assert found.positions.tolist() == before.positions.tolist()


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    """Make and evaluate a baseline on a tiny city."""
    from fedgru.data import datasets, synthetic

    city = synthetic.make_city(synthetic.CityConfig(num_users=6, checkins_per_user=40, seed=1))
    data_set = datasets.DataSet("tiny", city.check_ins, {"fingerprint": "t"}, city.best_prob)
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: data_set)
    small = {"hidden_dim": 8, "batch_size": 2, "seq_len": 5, "rounds": 2, "prior": "backoff"}

    def make(kind, **overrides):
        kind = BASELINES[kind]
        settings = baseline_workflow.settings_of(kind, overrides)
        if kind.trains:
            settings = baseline_workflow.settings_of(kind, small | overrides)
        task, facts = open_workflow.open_task(settings, tmp_path)
        run, task = baseline_workflow.make_baseline(kind, task, facts, tmp_path / "log")
        return (
            run,
            task,
            score_workflow.evaluate_run(run, reopen_workflow.reopen_task(run, tmp_path)),
        )

    return make


COUNTING = {name: kind.counting for name, kind in BASELINES.items() if not kind.trains}


@pytest.mark.parametrize(("kind", "name"), COUNTING.items())
def test_a_counting_run_scores_what_the_report_of_every_run_says(baseline, kind, name):
    venues = {"target": "venue"} if kind == "popular-nearby" else {}
    run, _, report = baseline(kind, **venues)
    row = report["baselines"][name]
    assert {key: report[key] for key in row if key.startswith("test/")} | {
        "val/acc@1/micro": row["val/acc@1/micro"]
    } == row
    assert (report["kind"], run.kind.name, report["round"]) == (kind, kind, 0)
    assert report["gains"][name]["test/acc@1/micro"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert ("cold" in report, "leakage" in report) == (False, False)
    assert run.settings().loop.name == kind
    with pytest.raises(ConfigError) as error:
        score_workflow.evaluate_run(run, None, engine="jax")
    assert str(error.value) == (
        f"`engine` has no effect on {run.path}, which is the baseline {kind}: leave it out."
    )


@pytest.mark.parametrize("kind", ["running-by-hour", "running-backoff", "kernel", "local"])
def test_what_knows_the_time_stands_beside_the_same_alone(baseline, kind):
    given = {} if kind == "running-by-hour" else {"asked_at": True}
    _, task, report = baseline(kind, **given)
    counted = ["running_by_hour", "running_backoff"] + ["running_kernel"] * (kind == "kernel")
    assert list(report["baselines"]) == counted
    assert report["task"] == "next check-in, its time known"
    blind = evaluate.evaluate_running(
        replace(task, settings=config.change(task.settings, {"asked_at": False})), "backoff", "test"
    )
    backoff = report["baselines"]["running_backoff"]["test/loss/micro"]
    assert backoff != pytest.approx(blind.summary()["test/loss/micro"], abs=1e-3)


def test_popular_nearby_counts_venues(baseline, tmp_path):
    with pytest.raises(ConfigError) as error:
        baseline("popular-nearby")
    assert str(error.value) == (
        "the baseline popular-nearby cannot be counted: it needs `target` venue."
    )
    assert not (tmp_path / "log").exists()


def check_before_and_after_fine_tuning(run, task, before):
    report = score_workflow.evaluate_run(run, task, fine_tune=3)
    fine_tuned = report["fine_tuned"]
    assert fine_tuned["epochs"] == 3
    gain = fine_tuned["gains"]["test/loss/micro"]["difference"]
    assert gain == pytest.approx(fine_tuned["test/loss/micro"] - before["test/loss/micro"])
    assert gain != 0
    assert (run.path / "clients-fine-tuned.csv").exists()


@pytest.mark.parametrize("kind", slow_but(("central", "local"), "local"))
def test_a_trained_baseline_is_a_run(baseline, kind):
    run, task, report = baseline(kind)
    assert report == json.loads((run.path / "test.json").read_text())
    assert (run.kind.name, run.facts()["status"], run.facts()["rounds"]) == (kind, "done", 2)
    rounds = (run.path / "metrics.csv").read_text().splitlines()
    assert len(rounds) == 4  # the header, before training, two rounds
    assert report["test/targets"] == len(task.clients.target_positions("test"))
    if kind == "central":
        check_before_and_after_fine_tuning(run, task, report)
    assert score_workflow.evaluate_run(run, task) == report
    assert not (run.path / "clients-fine-tuned.csv").exists()


def test_what_has_no_effect_on_a_baseline_is_refused(baseline, tmp_path):
    for kind, given, message in (
        ("markov", {"hidden_dim": 8}, "`hidden_dim` has no effect on the baseline markov."),
        ("local", {"mean": "owners"}, "`mean` has no effect on the baseline local."),
        ("markov", {"asked_at": True}, "`asked_at` has no effect on the baseline markov."),
    ):
        with pytest.raises(ConfigError) as error:
            baseline_workflow.settings_of(BASELINES[kind], given)
        assert str(error.value) == message
    # of a config file, what counts without the time takes the rest
    file = tmp_path / "asked.toml"
    file.write_text(config.dump(config.load({"asked_at": True})))
    for kind, asked_at in (("markov", False), ("running-backoff", True), ("central", True)):
        found = baseline_workflow.settings_of(BASELINES[kind], {}, file)
        assert found.inputs.asked_at is asked_at
    file = tmp_path / "agnostic.toml"
    file.write_text(config.dump(config.load({"agnostic_to": "zone", "hidden_dim": 9})))
    with pytest.raises(ConfigError) as error:
        baseline_workflow.settings_of(CENTRAL, {}, file)
    assert str(error.value) == (
        "`agnostic_to` is zone, which has no effect on the baseline central: leave [agnostic] out "
        "of the config file."
    )


def test_what_cannot_be_fine_tuned_or_audited(baseline):
    run, task, _ = baseline("last")
    with pytest.raises(ConfigError) as error:
        score_workflow.evaluate_run(run, task, fine_tune=1)
    assert str(error.value) == (
        f"{run.path} is the baseline last: it has no shared model to fine-tune."
    )
    with pytest.raises(ConfigError) as error:
        score_workflow.audit_run(run, task, ["client"], ["knn"], 1)
    assert str(error.value) == (
        f"{run.path} is the baseline last: its clients share no representation, so there is "
        "nothing to audit."
    )


def test_counting_needs_no_column_that_it_does_not_count(tmp_path):
    rows = [f"u{u},v{i * (u + 2) % 5},{1333476009 + 7000 * i}" for i in range(40) for u in range(3)]
    file = tmp_path / "v.csv"
    file.write_text("\n".join(["user,venue,time", *rows]))
    columns = {name: name for name in ("user", "venue", "time")}
    datasets.import_file("csv", file, "bare", tmp_path / "data", columns=columns)

    def settings(kind, **given):
        found = baseline_workflow.settings_of(BASELINES[kind], {"data": "bare", **given})
        return baseline_workflow.without_missing_features(BASELINES[kind], found, tmp_path / "data")

    found = settings("running-backoff", target="venue")
    # of big: no category, raw_category, latitude and longitude in the file
    left = set(parse_features("big")) - {"category", "raw_category", "latitude", "longitude"}
    assert set(found.inputs.features.split(",")) == left
    task, _ = open_workflow.open_task(found, tmp_path / "data")
    counted = baseline_workflow.evaluate_counting(task, BASELINES["running-backoff"])
    # each person's places repeat with period 5, so counting is right about nearly all 24 targets
    assert (counted.scores.rank == 1).mean() > 0.8
    assert settings("central", target="venue").inputs.features == "big"
    with pytest.raises(ConfigError, match="data set bare has no category, which"):
        open_workflow.open_task(settings("markov"), tmp_path / "data")
