"""fedgru/api: the same runs as the command line makes, from Python."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import fedgru
from fedgru.cli.main import main
from fedgru.core.errors import ConfigError, DataError, FedgruError, RunError, TrainingError
from tests.conftest import slow_but

SMALL = {"users": 6, "rounds": 2, "hidden_dim": 8, "prior": "markov", "threads": 1}
SAME = ("config.toml", "metrics.csv", "best.npz", "last.npz", "clients.csv", "predictions.parquet")


def options(settings):
    return [w for name, v in settings.items() for w in ("--" + name.replace("_", "-"), str(v))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fedgru.train(**SMALL, log_dir=tmp_path_factory.mktemp("log"))


def test_the_same_bytes_as_the_command_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", *options(SMALL)], catch_exceptions=False)
    assert result.exit_code == 0
    there = fedgru.open_run()
    for name in SAME:
        assert (there.path / name).read_bytes() == (run.path / name).read_bytes(), name
    ours, theirs = run.facts, there.facts
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["started", "salt"]
    assert {k: v for k, v in there.test.items() if k != "run"} == {
        k: v for k, v in run.test.items() if k != "run"
    }


@pytest.mark.parametrize("kind", slow_but(["running-markov", "central"], "running-markov"))
def test_baselines_too(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    given = {"users": 6} if kind != "central" else {k: v for k, v in SMALL.items()}
    here = fedgru.baseline(kind, **given, log_dir=tmp_path / "here")
    CliRunner().invoke(main, ["baseline", kind, *options(given)], catch_exceptions=False)
    there = fedgru.open_run()
    assert there.kind == here.kind == kind
    assert (there.path / "predictions.parquet").read_bytes() == (
        here.path / "predictions.parquet"
    ).read_bytes()


def test_tables(run):
    rounds = run.rounds
    assert list(rounds.index) == [0, 1, 2] and np.isnan(rounds.loc[0, "train/loss/micro"])
    assert rounds.loc[2, "val/loss/micro"] > 0 and "val_s" in rounds
    clients, predictions = run.clients, run.predictions
    assert clients.index.name == "client_id" and len(clients) == 6
    # acc@1 over all targets, a second route: the share of targets of rank 1
    assert (predictions["rank"] == 1).mean() == pytest.approx(run.test["test/acc@1/micro"])
    assert clients["targets"].sum() == len(predictions)
    weighted = (clients["acc@1"] * clients["targets"]).sum() / clients["targets"].sum()
    assert weighted == pytest.approx(run.test["test/acc@1/micro"])


def test_what_a_run_says_of_itself(run):
    assert repr(run) == (
        f"<federated run {run.path}, done, best round {run.facts['best_round']} of 2, test acc@1 "
        f"{run.test['test/acc@1/micro']:.4f}>"
    )
    assert (run.kind, run.status, run.settings.loop.rounds) == ("federated", "done", 2)
    assert set(run.weights()) == set(run.weights("last"))


def test_on_round_sees_each_round_and_stops(tmp_path):
    seen = []

    def stop(round_num, row):
        seen.append((round_num, row["val/acc@1/micro"]))
        return "enough" if round_num == 1 else None

    run = fedgru.train(**SMALL, on_round=stop, evaluate=False, log_dir=tmp_path)
    assert [number for number, _ in seen] == [0, 1]
    assert run.facts["why"] == "enough" and run.rounds["val/acc@1/micro"].tolist() == [
        value for _, value in seen
    ]
    assert not run.is_evaluated
    report = run.evaluate()
    assert run.is_evaluated and run.test == report


def test_a_task_in_place_of_settings(run, tmp_path):
    task = fedgru.build_task(**SMALL)
    again = fedgru.train(task, log_dir=tmp_path, evaluate=False)
    assert (again.path / "metrics.csv").read_bytes() == (run.path / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError) as error:
        fedgru.train(task, rounds=5, log_dir=tmp_path)
    assert str(error.value) == (
        "`rounds` has no effect beside a task, which has its settings: give it to build_task."
    )


class Halved(fedgru.FedAvg):
    """Half of the mean update: as a server learning rate of 0.5."""

    name = "halved"

    def mean_update(self, total):
        return {name: np.float32(0.5) * u for name, u in super().mean_update(total).items()}


def own_algorithm():
    from fedgru.algorithms.server_optimizers import SGD

    return Halved(SGD(1.0))


def test_an_algorithm_of_ones_own_and_how_it_is_resumed(tmp_path):
    given = SMALL | {"mean": "clients", "dropout": 0.0}
    own = fedgru.train(**given, algorithm=own_algorithm(), evaluate=False, log_dir=tmp_path)
    half = fedgru.train(**given, server_lr=0.5, evaluate=False, log_dir=tmp_path)
    for name, weight in half.weights("last").items():
        np.testing.assert_allclose(own.weights("last")[name], weight, atol=1e-6, err_msg=name)
    assert own.facts["algorithm"] == f"{__name__}:Halved"

    def interrupt(round_num, row):
        if round_num == 1:
            raise KeyboardInterrupt

    with pytest.raises(FedgruError, match="stopped by Ctrl-C"):
        fedgru.train(
            **given,
            algorithm=own_algorithm(),
            evaluate=False,
            log_dir=tmp_path / "stopped",
            on_round=interrupt,
        )
    stopped = fedgru.open_run(log_dir=tmp_path / "stopped")
    with pytest.raises(RunError) as error:
        fedgru.resume(stopped)
    assert str(error.value) == (
        f"{stopped.path} was begun with the algorithm {__name__}:Halved, which its settings do not "
        "name. Resume it from Python: fedgru.resume(run, algorithm=...)."
    )
    done = fedgru.resume(stopped, algorithm=own_algorithm())
    assert (done.path / "last.npz").read_bytes() == (own.path / "last.npz").read_bytes()
    assert fedgru.train(**given, evaluate=False, log_dir=tmp_path).facts.get("algorithm") is None


def test_compare(run, tmp_path):
    other = fedgru.baseline("commonest", users=6, log_dir=tmp_path)
    table = fedgru.compare([other, run], metrics=["acc@1"])
    gain = run.test["test/acc@1/micro"] - other.test["test/acc@1/micro"]
    assert table["acc@1"]["difference"].iloc[1] == pytest.approx(gain)
    assert table["acc@1"]["low"].iloc[1] <= gain <= table["acc@1"]["high"].iloc[1]
    assert pd.isna(table["acc@1"]["difference"].iloc[0])


def test_predict_and_export(run, tmp_path):
    found = run.predict(run.clients.index[0], top=2)
    assert len(found["top"]) == 2 and 0 < found["top"][0]["probability"] <= 1
    described = run.export("weights", tmp_path / "exported")
    assert described["run"] == run.path.name and (tmp_path / "exported/model.json").is_file()


def test_runs_are_listed(run):
    assert [one.path for one in fedgru.list_runs(run.path.parent)] == [run.path]


def test_data(tmp_path):
    made = fedgru.make_city("town", data_dir=tmp_path, num_users=3, checkins_per_user=20)
    assert fedgru.list_data(tmp_path) == ["town"]
    described = fedgru.describe_data(fedgru.open_data("town", tmp_path))
    assert described["counts"]["check_ins"] == len(made.check_ins)


ERRORS = {  # what a person in a notebook does wrong -> the class, and the whole sentence
    "a setting that is not one": (
        lambda run, tmp: fedgru.train(clientlr=0.1),
        ConfigError,
        "there is no setting 'clientlr'. Did you mean `client_lr`?",
    ),
    "a value of the wrong type": (
        lambda run, tmp: fedgru.train(rounds="ten"),
        ConfigError,
        "`rounds` is ten, expected a whole number.",
    ),
    "a value out of range": (
        lambda run, tmp: fedgru.make_settings(client_lr=-1.0),
        ConfigError,
        "`client_lr` is -1.0, expected a number above 0.",
    ),
    "settings of another kind": (
        lambda run, tmp: fedgru.train({"rounds": 3}),
        ConfigError,
        "settings are dict, expected what make_settings returns, or a task of build_task.",
    ),
    "a data set that is not there": (
        lambda run, tmp: fedgru.open_data("paris", tmp),
        DataError,
        None,
    ),
    "a run that is not there": (
        lambda run, tmp: fedgru.open_run("nyc", log_dir=tmp),
        RunError,
        None,
    ),
    "a baseline that is none": (
        lambda run, tmp: fedgru.baseline("guess"),
        ConfigError,
        None,
    ),
    "weights that are not kept": (
        lambda run, tmp: run.weights("middle"),
        RunError,
        "weights are of the best or the last round, not of 'middle'.",
    ),
    "an unknown metric": (
        lambda run, tmp: fedgru.compare([run, run], metrics=["f1"]),
        ConfigError,
        "unknown metric 'f1'. Accepted: acc@1, acc@5, acc@10, mrr, ndcg, loss.",
    ),
    "a client that is not there": (
        lambda run, tmp: run.predict("nobody"),
        DataError,
        None,
    ),
    "a format that is none": (
        lambda run, tmp: fedgru.import_data("x.csv", "excel", "mine", data_dir=tmp),
        ConfigError,
        None,
    ),
    "an option of a format that is none": (
        lambda run, tmp: fedgru.import_data("x.csv", "csv", "mine", data_dir=tmp, sep=";"),
        ConfigError,
        None,
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_are_one_sentence_in_the_words_of_python(run, tmp_path, what):
    act, kind, expected = ERRORS[what]
    with pytest.raises(kind) as error:
        act(run, tmp_path)
    message = str(error.value)
    assert "--" not in message and "\n" not in message and len(message) < 300
    if expected is not None:
        assert message == expected


def test_training_that_diverges_names_settings(tmp_path):
    with pytest.raises(TrainingError) as error:
        fedgru.train(**SMALL, client_optimizer="sgd", client_lr=1e38, log_dir=tmp_path)
    assert "`client_lr`" in str(error.value) and "--client-lr" not in str(error.value)


def test_import_costs_nothing():
    code = "import sys, fedgru; dir(fedgru); print(len(sys.modules), 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, has_numpy = found.stdout.split()
    assert has_numpy == "False" and int(modules) < 150


def test_every_name_is_there_and_no_other():
    for name in fedgru.__all__:
        assert getattr(fedgru, name) is not None
    assert set(fedgru.__all__) <= set(dir(fedgru))
    with pytest.raises(AttributeError, match="module 'fedgru' has no attribute 'tarin'"):
        fedgru.tarin  # noqa: B018
