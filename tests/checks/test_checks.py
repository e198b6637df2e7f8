"""A clean run passes, each planted fault is found by the check meant for it."""

import json
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from fedgru import config
from fedgru.agnostic import concepts
from fedgru.checks import checks, counterfactuals
from fedgru.console.checks import describe_checks
from fedgru.data import datasets
from fedgru.runs import folder as run_folder
from fedgru.runs.kinds import FEDERATED, KINDS
from fedgru.storage import tables
from fedgru.storage.client_store import ClientStore, dump
from fedgru.task import clients, features, priors, task, vocabulary
from fedgru.workflows import baseline as baseline_workflow
from fedgru.workflows import open as open_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import make_check_ins, slow_but

SMALL = {
    "hidden_dim": 8,
    "batch_size": 2,
    "seq_len": 5,
    "rounds": 3,
    "prior": "backoff",
    "threads": 1,
    "client_lr": 0.01,
}


def make_run(data_set, log_dir, kind="federated", **overrides):
    kind = KINDS[kind]
    if kind.trains:
        settings = config.load(SMALL | overrides)
    else:
        settings = baseline_workflow.settings_of(kind, overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "open_data_set", lambda *_: data_set)
        built, facts = open_workflow.open_task(settings, "data")
        if kind is FEDERATED:
            run, built, _ = train_workflow.train(built, facts, log_dir)
        else:
            run, built = baseline_workflow.make_baseline(kind, built, facts, log_dir)
        score_workflow.evaluate_run(run, built)
    return run


@pytest.fixture(scope="module")
def trained(tiny_data_set, tmp_path_factory):
    """A run of three rounds, trained once; `run` gives each test a copy."""
    return make_run(tiny_data_set, tmp_path_factory.mktemp("log"))


@pytest.fixture
def data(tiny_data_set, monkeypatch):
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)
    return tiny_data_set


@pytest.fixture
def run(trained, data, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    return run_folder.RunFolder(tmp_path / "run")


def problems(run):
    """{name of the check: what it says} of those that found a problem."""
    return {f.name: f.why for f in checks.check_run(run, "data") if f.status == checks.PROBLEM}


def statuses(run):
    return {f.name: f.status for f in checks.check_run(run, "data")}


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_predictions(run, edit):
    table = run.predictions()
    tables.write_parquet(run.path / "predictions.parquet", edit(table))


def test_a_clean_run_has_no_problem(run):
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert set(statuses(run).values()) == {"ok"}
    assert before == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def agnostic(tiny_data_set, tmp_path_factory):
    """A run of one round that is agnostic to the zone."""
    overrides = {"agnostic_to": "zone", "zones": 3, "method": "noise", "rounds": 1}
    return make_run(tiny_data_set, tmp_path_factory.mktemp("log"), **overrides)


@pytest.mark.slow
def test_an_agnostic_run_has_no_problem(data, agnostic):
    assert problems(agnostic) == {}


@pytest.mark.parametrize(
    "overrides",
    [
        {"prior": "kernel", "features": "venue,gap", "target": "venue", "users": 2, "rounds": 1},
        {"layout": "chunks", "local_epochs": 1, "stop_metric": "val/acc@1/macro", "patience": 1},
        {"asked_at": True, "head": "candidates", "rounds": 1},
        {"session_gap": "48h", "head": "candidates", "rounds": 1},
        {"asked_at": True, "prior": "none", "rounds": 1},
    ],
)
def test_other_clean_runs_have_no_problem(data, tmp_path, overrides):
    # a few seconds each: another model is compiled, and the kernel learnt in 80 rounds
    assert problems(make_run(data, tmp_path, **overrides)) == {}


PERSONAL = {
    "fed-per": {"algorithm": "fed-per", "personal_weights": "head_bias,rows"},
    "ditto": {"algorithm": "ditto"},
    "ifca": {"algorithm": "ifca"},
}


@pytest.mark.parametrize("case", slow_but(PERSONAL, "fed-per"))
def test_clients_with_models_of_their_own_have_no_problem(data, tmp_path, case):
    run = make_run(data, tmp_path, clients_per_round=3, prior="none", **PERSONAL[case])
    assert problems(run) == {}
    with closing(ClientStore(run.path / "clients.sqlite")) as store:
        best = run.facts()["best_round"]
        for client, arrays in list(dump(store, best)):  # as if another model had been scored
            names = [name for name, array in arrays.items() if array.dtype == np.float32]
            store.put(client, arrays | {name: arrays[name][..., ::-1] for name in names}, best)
        store.commit(everywhere=True)
    assert set(problems(run)) == (set() if case == "ifca" else {"reproduced"})  # it keeps a number


@pytest.mark.parametrize(
    "kind", ["commonest", "global-markov", "running-backoff", "running-by-hour"]
)
def test_a_counting_baseline_has_no_problem(data, tmp_path, kind):
    found = statuses(make_run(data, tmp_path, kind))
    not_applicable = {name for name, status in found.items() if status == checks.NOT_APPLICABLE}
    assert not_applicable == {"training targets", "stop metric", "best round"}
    assert checks.PROBLEM not in found.values()


@pytest.mark.parametrize(
    ("kind", "not_applicable"),
    [pytest.param("central", [], marks=pytest.mark.slow), ("local", ["best round"])],
)
def test_a_trained_baseline_has_no_problem(data, tmp_path, kind, not_applicable):
    found = statuses(make_run(data, tmp_path, kind, users=2, rounds=1, prior="markov"))
    assert [name for name, status in found.items() if status != "ok"] == not_applicable


def test_a_run_that_is_not_evaluated(run):
    (run.path / "test.json").unlink()
    found = statuses(run)
    assert {n for n, status in found.items() if status == checks.NOT_APPLICABLE} == {
        *("scored once", "test result", "reproduced")
    }


# what was fitted


def test_the_notebooks_vocabulary_is_found(data, tmp_path):
    overrides = {"vocabulary": "range", "features": "venue", "prior": "none", "rounds": 1}
    found = problems(make_run(data, tmp_path, **overrides))
    assert list(found) == ["vocabulary", "scored targets"]
    column, (chosen, _) = data.check_ins.venue, clients.choose_clients(data.check_ins)
    # made-up venues are not numbers: all of the city's have an id, those of train and the others
    beyond = len(column.values) - len(set(column.codes[chosen.rows[chosen.in_split("train")]]))
    assert found["vocabulary"] == (
        f"{beyond} of the {len(column.values)} ids of feature venue stand for values that are not "
        "in train (`vocabulary` is range)"
    )
    assert found["scored targets"] == "ids change with what comes later, see the check `vocabulary`"


def test_a_vocabulary_of_all_splits_is_found(run, monkeypatch):
    own = vocabulary.from_train
    monkeypatch.setattr(
        vocabulary, "from_train", lambda column, _: own(column, np.arange(len(column.codes)))
    )
    found = problems(run)
    assert "stand for values that are not in train" in found["vocabulary"]


def test_scaling_by_all_splits_is_found(run, monkeypatch):
    own = features.build_inputs

    def scaled(*args):
        inputs = own(*args)
        numbers = inputs.numbers - inputs.numbers.mean(axis=0)
        return replace(inputs, numbers=numbers / inputs.numbers.std(axis=0))

    monkeypatch.setattr(features, "build_inputs", scaled)
    found = problems(run)
    assert found["scaling"].startswith("latitude in train changes by up to ")
    assert found["scaling"].endswith(" with what comes after train")


@pytest.mark.slow
def test_a_concept_fitted_on_all_splits_is_found(data, agnostic, monkeypatch):
    zones, own = concepts.zone_labels, clients.Clients.in_split

    def on_all(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clients.Clients, "in_split", lambda self, split: own(self, split) | True)
            return zones(*args)

    monkeypatch.setattr(concepts, "zone_labels", on_all)
    found = problems(agnostic)
    assert found["scaling"].startswith(
        "the task cannot be built with another future: concept zone has "
    )


# splits and their order


def test_an_overlap_of_splits_is_found(run, monkeypatch):
    own = clients.Clients.bounds

    def overlapping(self, split):
        first, end = own(self, split)
        return (first - 1, end) if split == "val" else (first, end)

    monkeypatch.setattr(clients.Clients, "bounds", overlapping)
    assert problems(run)["splits"].startswith("6 check-ins in two splits, the first in row ")


@pytest.mark.filterwarnings("ignore:invalid value encountered in log1p")  # of gaps below zero
def test_splits_that_are_not_in_order_of_time_are_found(run, monkeypatch):
    own = task.choose_clients

    def shuffled(*args):
        chosen, coverage = own(*args)
        rows = chosen.rows.copy()
        start, end = chosen.starts[2:4]
        rows[start:end] = rows[start:end][::-1]
        return replace(chosen, rows=rows), coverage

    monkeypatch.setattr(task, "choose_clients", shuffled)
    assert "check-ins earlier than the one before them" in problems(run)["time order"]


# targets that were known


def see_the_next_category(monkeypatch):
    """Plant the fault that is easiest to make: inputs taken from the target's position."""
    own = features.build_inputs

    def leaking(check_ins, *args):
        inputs = own(check_ins, *args)
        ahead = np.minimum(np.arange(len(inputs.rows)) + 1, len(inputs.rows) - 1)
        rows = inputs.rows.copy()
        column = inputs.id_names.index("category")
        rows[:, column] = rows[ahead, column]
        return replace(inputs, rows=rows)

    monkeypatch.setattr(features, "build_inputs", leaking)


def test_an_input_that_holds_the_target_is_found(run, monkeypatch):
    see_the_next_category(monkeypatch)
    found = problems(run)
    assert found["training targets"].startswith(
        "an id changes with the target or with later check-ins, for "
    )
    assert found["scored targets"].startswith(
        "a prediction of val changes with the target or with later check-ins, for "
    )


def test_a_number_that_holds_the_target_is_found(run, monkeypatch):
    own = features.build_inputs

    def leaking(check_ins, of, *args):
        inputs = own(check_ins, of, *args)
        numbers = inputs.numbers.copy()
        numbers[:-1, 0] = numbers[1:, 0]  # the latitude of the place to be predicted
        return replace(inputs, numbers=numbers)

    monkeypatch.setattr(features, "build_inputs", leaking)
    assert problems(run)["training targets"].startswith("a number changes with the target")


def test_a_prior_that_has_counted_the_target_is_found(run, monkeypatch):
    own = priors.followers
    monkeypatch.setattr(priors, "followers", lambda key, one_hot: own(key, one_hot) + one_hot[1:])
    found = problems(run)
    assert found["training targets"].startswith("the prior changes with the target")
    assert found["scored targets"].startswith("a prediction of val changes with the target")


def test_more_than_the_moment_of_the_target_is_found(data, tmp_path, monkeypatch):
    run = make_run(data, tmp_path, asked_at=True, prior="none", rounds=1)
    own = features._following
    # the moment of the check-in after the target
    monkeypatch.setattr(features, "_following", lambda clients: own(clients)[own(clients)])
    found = problems(run)
    assert found["training targets"].startswith("a number changes with the target or with later")
    assert found["scored targets"].startswith("a prediction of val changes with the target or with")


def test_a_counting_baseline_that_has_counted_the_target_is_found(data, tmp_path, monkeypatch):
    run = make_run(data, tmp_path, "running-markov")
    own = priors.followers
    monkeypatch.setattr(priors, "followers", lambda key, one_hot: own(key, one_hot) + one_hot[1:])
    assert problems(run)["scored targets"].startswith(
        "a prediction of test changes with the target"
    )


def test_a_state_that_has_read_the_target_is_found(run, monkeypatch):
    # the state at the end of the client's check-ins in place of that before the target
    from fedgru.engines.jax.engine import JaxEngine

    own = JaxEngine.hidden_states

    def one_ahead(self, weights, first, end, wanted):
        return own(self, weights, first, end, np.minimum(wanted + 1, len(self.task.classes) - 1))

    monkeypatch.setattr(JaxEngine, "hidden_states", one_ahead)
    own_bounds = clients.Clients.bounds  # so that the position ahead is walked to at all
    monkeypatch.setattr(
        clients.Clients,
        "bounds",
        lambda self, split: (
            (own_bounds(self, split)[0], self.starts[1:])
            if split == "val"
            else own_bounds(self, split)
        ),
    )
    assert "changes with the target" in problems(run)["scored targets"]


def test_a_state_carried_from_later_check_ins_is_found(data, tmp_path):
    run = make_run(data, tmp_path, layout="chunks", local_epochs=2, prior="none", rounds=1)
    found = problems(run)
    assert list(found) == ["training targets"]
    assert found["training targets"].endswith(
        "are predicted from a state that has read later check-ins: `layout` chunks does not reset "
        "the state in 2 local epochs"
    )


# what was written down


def test_another_data_set_is_found_and_the_rest_is_checked(run):
    edit_json(run.path / "run.json", fingerprint="0123456789abcdef")
    found = checks.check_run(run, "data")
    by_status = {}
    for finding in found:
        by_status.setdefault(finding.status, []).append(finding.name)
    assert by_status == {
        "problem": ["data"],
        "ok": ["stop metric", "test result"],
        "not applicable": [
            *("splits", "time order", "vocabulary", "scaling", "training targets"),
            *("scored targets", "best round", "scored once", "reproduced"),
        ],
    }
    assert found[0].why == (
        "data set tiny has fingerprint tiny, the run was made from 0123456789ab"
    )


def test_a_user_who_disappeared_is_found(run):
    coverage = run.facts()["coverage"]
    coverage[0]["clients"] += 1
    edit_json(run.path / "run.json", coverage=coverage)
    assert problems(run) == {
        "data": "the users and check-ins in run.json are not those the data set gives now"
    }


def test_a_check_in_scored_twice_is_found(run):
    row = int(run.predictions()["row"][3])
    edit_predictions(run, lambda t: {n: np.append(v, v[3:4]) for n, v in t.items()})
    assert problems(run)["scored once"] == (
        f"1 check-ins are scored more than once, the first in row {row} of the data set"
    )


def test_a_check_in_never_scored_is_found(run):
    total, row = len(run.predictions()["row"]), int(run.predictions()["row"][3])
    edit_predictions(run, lambda t: {n: np.delete(v, 3) for n, v in t.items()})
    found = problems(run)
    assert found["scored once"] == (
        f"1 of {total} test targets are never scored, the first in row {row} of the data set"
    )
    assert found["test result"] == (
        f"test.json says test/targets {total}, but predictions.parquet gives {total - 1}"
    )


def test_a_check_in_of_train_that_is_scored_is_found(run, make_task):
    of = make_task().clients
    row = of.rows[of.train_ends[0] - 1]

    def edit(table):
        return table | {"row": np.append(row, table["row"][1:])}

    edit_predictions(run, edit)
    assert problems(run)["scored once"] == (
        f"1 check-ins are scored that are no test targets (1 of train), the first in row {row} of "
        "the data set"
    )


def test_a_target_that_was_rewritten_is_found(run):
    def edit(table):
        return table | {"target": np.append(np.array(["Nowhere"], object), table["target"][1:])}

    edit_predictions(run, edit)
    assert problems(run)["scored once"].startswith(
        "1 predictions have another target than the data set, the first in row "
    )


@pytest.mark.parametrize("key", ["test/acc@1/micro", "test/loss/macro", "test/acc@1/macro"])
def test_a_result_that_was_polished_is_found(run, key):
    value = run.test()[key] + 0.001
    edit_json(run.path / "test.json", **{key: value})
    found = problems(run)
    assert found["test result"].startswith(
        f"test.json says {key} {value}, but predictions.parquet gives {value - 0.001:.6g}"
    )


def test_a_client_that_was_polished_is_found(run):
    lines = (run.path / "clients.csv").read_text().splitlines()
    column = lines[0].split(",").index("acc@1")
    cells = lines[1].split(",")
    cells[column] = "0.9876"
    (run.path / "clients.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    assert problems(run)["test result"].startswith(
        f"clients.csv says acc@1 0.9876 for client {cells[0]}, but predictions.parquet gives "
    )


def test_results_of_other_weights_are_found(run):
    weights, round_num = run.load_weights("best")
    run.save_weights("best", weights | {"bias": weights["bias"] + 0.5}, round_num)
    found = problems(run)
    assert list(found) == ["reproduced"]
    assert " is not what the run's weights give, the first in row " in found["reproduced"]


def test_choosing_by_test_is_found(run):
    file = run.path / "config.toml"
    file.write_text(file.read_text().replace("val/loss/micro", "test/loss/micro"))
    found = problems(run)
    assert found["stop metric"] == (
        "the best round is chosen by test/loss/micro, not on validation"
    )


def test_another_round_than_the_best_is_found(run):
    weights, best = run.load_weights("best")
    run.save_weights("best", weights, best - 1)
    assert problems(run) == {
        "best round": f"best.npz says round {best - 1}, but by val/loss/micro round {best} is "
        "the best"
    }


def test_metrics_in_which_another_round_is_the_best_are_found(run):
    best = run.facts()["best_round"]
    lines = (run.path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/loss/micro")
    other = 1 if best != 1 else 2
    cells = lines[1 + other].split(",")
    cells[column] = "0.01"
    lines[1 + other] = ",".join(cells)
    (run.path / "metrics.csv").write_text("\n".join(lines))
    assert problems(run)["best round"] == (
        f"run.json says round {best}, but by val/loss/micro round {other} is the best"
    )


@pytest.mark.parametrize("name", ["metrics.csv", "clients.csv", "predictions.parquet", "best.npz"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'round,client_id\n"1', b"x" * 200_000])
def test_a_damaged_file_is_a_problem_not_a_traceback(run, name, content):
    (run.path / name).write_bytes(content)
    assert name in " ".join(problems(run).values())


def test_predictions_with_another_type_are_refused(run):
    edit_predictions(run, lambda t: t | {"rank": t["rank"].astype(np.int64)})
    file = run.path / "predictions.parquet"
    assert problems(run)["scored once"] == (
        f"{file} is damaged. Make it again with: fedgru eval {run.path}"
    )


# the other futures themselves


def test_a_rewritten_future_leaves_the_past(data):
    chosen, _ = clients.choose_clients(data.check_ins)
    kept = np.minimum([1, 5, 30, 39, 1000, 7], chosen.lengths)
    first = chosen.starts[:-1] + kept
    other = counterfactuals.rewritten(data.check_ins, chosen, first, np.random.default_rng(0))
    again, _ = clients.choose_clients(other)
    assert again.client_ids == chosen.client_ids
    past = np.arange(len(chosen.rows)) < first[chosen.client_of]
    assert past.sum() == kept.sum()
    assert (np.diff(other.time_s) >= 0).all()
    for name in ("venue", "category", "raw_category"):
        one, two = (
            getattr(c, name).codes[of.rows] for c, of in ((data.check_ins, chosen), (other, again))
        )
        np.testing.assert_array_equal(one[past], two[past])
        assert (one[~past] != two[~past]).all()
    for name in ("time_s", "lat_deg", "lon_deg", "offset_min"):
        one, two = (
            getattr(c, name)[of.rows] for c, of in ((data.check_ins, chosen), (other, again))
        )
        np.testing.assert_array_equal(one[past], two[past])
        assert (one[~past] != two[~past]).all()


def test_a_stretch_runs_backwards():
    # ann's check-ins 1 to 3 are turned round: gaps 1, 2, 4 h become 4, 2, 1 h
    check_ins = make_check_ins(
        ["ann"] * 5, ["a", "b", "c", "d", "e"], time_s=[0, 3600, 10800, 25200, 36000]
    )
    chosen, _ = clients.choose_clients(check_ins)
    other = counterfactuals.run_backwards(check_ins, chosen, np.array([1]), np.array([4]))
    assert [other.category.values[code] for code in other.category.codes] == [
        "a",
        "d",
        "c",
        "b",
        "e",
    ]
    assert other.time_s.tolist() == [0, 14400, 21600, 25200, 36000]


def test_what_people_read(run):
    edit_json(run.path / "run.json", fingerprint="0")
    text = describe_checks(checks.to_dict(run, checks.check_run(run, "data")))
    lines = text.splitlines()
    assert lines[0] == (
        "problem         data              data set tiny has fingerprint tiny, the run was made "
        "from 0"
    )
    assert lines[-1] == "12 checks: 2 ok, 1 problem, 9 not applicable."
