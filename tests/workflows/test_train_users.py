"""--train-users: more people train than are scored; the targets that are scored stay the same."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.checks import checks
from fedgru.cli.main import main
from fedgru.core.errors import ConfigError
from fedgru.data import datasets
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import audit, evaluate
from fedgru.report.build import make_report
from fedgru.runs import folder as run_folder
from fedgru.runs.kinds import KINDS
from fedgru.sweep.trials import describe_scored
from fedgru.task import stored
from fedgru.task.task import build_task
from fedgru.training import loop as round_loop
from fedgru.workflows import baseline as baseline_workflow
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import make_check_ins

SMALL = {"hidden_dim": 8, "batch_size": 2, "seq_len": 5, "rounds": 2, "local_epochs": 1}
SMALL |= {"prior": "backoff", "threads": 1, "patience": 0}
MORE = {"users": 2, "train_users": "all"}


@pytest.fixture
def make_run(tiny_data_set, tmp_path, monkeypatch):
    """Train and score in a new log folder: 6 people, of whom 2 are scored."""
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)

    def make(log_dir="log", kind="federated", **overrides):
        kind = KINDS[kind]
        given = MORE | overrides
        if kind.trains:
            settings = config.load(SMALL | given)
        else:
            settings = baseline_workflow.settings_of(kind, given)
        task, facts = open_workflow.open_task(settings, "data")
        if kind.is_baseline:
            run, task = baseline_workflow.make_baseline(kind, task, facts, tmp_path / log_dir)
        else:
            run, task, _ = train_workflow.train(task, facts, tmp_path / log_dir)
        score_workflow.evaluate_run(run, task)
        return run, task

    return make


def files_of(run, *names):
    return {name: (run.path / name).read_bytes() for name in names}


def hand():
    """b has 11 check-ins, a and c 10 each; c alone has an x in train, which b has in test."""
    users = [*("b" * 11), *("a" * 10), *("c" * 10)]
    categories = [*"pqpqpqpqpxq", *"pqpqpqpqpq", *"xqxqxqxqxq"]
    check_ins = make_check_ins(users, categories)
    return datasets.DataSet("hand", check_ins, {"fingerprint": "hand"})


def hand_task(**overrides):
    given = {"features": "category", "prior": "backoff", "hidden_dim": 8, "batch_size": 1}
    return build_task(hand(), config.load(given | overrides))


def test_who_trains_and_what_is_scored_by_hand():
    # b: 11 check-ins, test 3, val 2, train 6 -> 5 targets; a and c: 10, test 2, val 2, train 6
    alone = hand_task(users=1)
    assert alone.target_vocabulary.values == ("p", "q")
    assert alone.training_clients.tolist() == [0]
    assert alone.num_known == {"train": 5, "val": 2, "test": 2}  # x is not known
    two, three = hand_task(users=1, train_users=2), hand_task(users=1, train_users="all")
    assert (two.clients.client_ids, three.clients.client_ids) == (("b", "a"), ("b", "a", "c"))
    assert (two.training_clients.tolist(), three.training_clients.tolist()) == ([0, 1], [0, 1, 2])
    assert two.target_vocabulary.values == ("p", "q")
    assert sorted(three.target_vocabulary.values) == ["p", "q", "x"]
    assert two.num_known == {"train": 10, "val": 2, "test": 2}
    assert three.num_known == {"train": 15, "val": 2, "test": 3}
    assert two.known_through_others() == {"val": 0, "test": 0}
    assert three.known_through_others() == {"val": 0, "test": 1}
    for task in (two, three):
        lines = {line.step.strip(): (line.clients, line.checkins) for line in task.coverage}
        assert (lines["val targets"], lines["test targets"]) == ((1, 2), (1, 3))
        assert lines["used for training"] == (len(task.clients), 5 * len(task.clients))
    facts = open_workflow.facts_of(three)
    assert facts["users"] == {
        "trained": 3,
        "scored": 1,
        "known_through_others": {"val": 0, "test": 1},
    }
    assert "users" not in open_workflow.facts_of(alone)


def test_cohorts_are_drawn_from_all_who_train():
    task = hand_task(users=1, train_users="all", clients_per_round=1)
    drawn = {int(c) for n in range(1, 30) for c in round_loop.draw_cohort(task, n)}
    assert drawn == {0, 1, 2}
    with pytest.raises(ConfigError, match="^`clients_per_round` is 3, but the split has 2 clients"):
        hand_task(users=1, train_users=2, clients_per_round=3)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_same_targets_are_scored(make_task, split):
    alone, more = make_task(users=3), make_task(users=3, train_users=5)
    found = []
    for task in (alone, more):
        engine = JaxEngine(task)
        weights = task.spec.init_weights(np.random.default_rng(0))
        found += [evaluate.evaluate(engine, weights, split)]
        found += [evaluate.evaluate_running(task, "markov", split)]
    for other in found[1:]:
        np.testing.assert_array_equal(other.positions, found[0].positions)
        np.testing.assert_array_equal(other.client_index, found[0].client_index)
        assert other.num_clients == 3
    # a scored user's own past is its own, and so are its positions and rows
    np.testing.assert_array_equal(
        more.clients.rows[found[0].positions], alone.clients.rows[found[0].positions]
    )
    assert describe_scored(alone, {"data": "d", "fingerprint": "f"}) == (
        describe_scored(more, {"data": "d", "fingerprint": "f"})
    )


def test_validation_clients_are_drawn_from_the_scored(make_task):
    alone = make_task(users=3, eval_clients=2)
    more = make_task(users=3, train_users="all", eval_clients=2)
    np.testing.assert_array_equal(more.validation_clients, alone.validation_clients)
    lines = {line.step.strip(): line.clients for line in more.coverage}
    assert lines["scored in each round"] == 2
    with pytest.raises(ConfigError) as error:
        make_task(users=3, train_users="all", eval_clients=4)
    assert str(error.value) == (
        "`eval_clients` is 4, but there are 3 clients that are scored. Leave it out to validate on "
        "all."
    )


def test_the_model_and_its_inputs_come_from_all_who_train(make_task):
    few, more, all_ = make_task(users=2), make_task(**MORE), make_task()
    assert more.spec == all_.spec
    assert more.inputs.scales == all_.inputs.scales != few.inputs.scales
    np.testing.assert_array_equal(more.shared, all_.shared)
    kernels = [make_task(prior="kernel", **o).kernel for o in ({"users": 2}, MORE, {})]
    assert kernels[1] == kernels[2] != kernels[0]


def test_with_as_many_as_are_scored_the_bytes_are_the_same(make_run):
    names = ("metrics.csv", "best.npz", "last.npz", "clients.csv", "predictions.parquet")
    found = []
    for log_dir, number in (("plain", None), ("same", 3)):
        run, _ = make_run(log_dir, users=3, train_users=number)
        report = {k: v for k, v in run.test().items() if k != "run"}
        facts = {k: run.facts()[k] for k in ("coverage", "unknown_rates", "num_classes")}
        found.append((files_of(run, *names), report, facts, "users" in run.facts()))
    assert found[0] == found[1]


def test_a_run_is_scored_on_its_users_and_beside_baselines(make_run):
    plain, _ = make_run("plain", train_users=None)
    run, task = make_run()
    mine, theirs = run.test(), plain.test()
    assert mine["users"] == {
        "trained": 6,
        "scored": 2,
        "known_through_others": task.known_through_others(),
    }
    assert (mine["test/clients"], mine["test/targets"]) == (2, theirs["test/targets"])
    for name, row in mine["baselines"].items():
        assert row["test/targets"] == theirs["test/targets"], name
    for name in ("last", "frequency", "user_markov"):  # of each user's own counts alone
        # below their own counts stand the classes that others counted, of whom there are more
        accuracies = (of["baselines"][name]["test/acc@1/micro"] for of in (mine, theirs))
        assert len(set(accuracies)) == 1
    ids = task.clients.client_ids
    assert set(run.client_table()["client_id"]) == set(ids[:2])
    rows = [r.predictions(("client_id", "row"))["row"] for r in (run, plain)]
    np.testing.assert_array_equal(*rows)
    # what was kept on validation is the best over these two users' targets
    engine = JaxEngine(task)
    weights, round_num = run.load_weights("best")
    again = evaluate.evaluate(engine, weights, "val", clients=np.array([0, 1])).summary()
    assert again["val/targets"] == len(task.clients.scored.target_positions("val"))
    assert run.rounds()["val/loss/micro"][round_num] == pytest.approx(again["val/loss/micro"])


@pytest.mark.parametrize("kind", ["federated", "central", "local", "global-markov"])
def test_check_passes(make_run, kind):
    run, _ = make_run(kind=kind)
    found = checks.check_run(run, "data")
    assert {f.name: f.why for f in found if f.status == checks.PROBLEM} == {}
    why = {f.name: f.why for f in found if f.status == checks.OK}
    assert (
        why["scored once"]
        == f"each of {run.test()['test/targets']} test targets once, and nothing else"
    )
    assert "of 2 clients is unchanged" in why["scored targets"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"algorithm": "ditto", "client_lr": 0.01},
        {"algorithm": "fed-per", "personal_weights": "head_bias,rows"},
    ],
    ids=["ditto", "fed-per"],
)
def test_clients_with_models_of_their_own(make_run, overrides):
    # a scored client that never trained has what a new client starts with
    run, task = make_run(rounds=1, clients_per_round=1, **overrides)
    assert run.test()["test/clients"] == 2
    assert (
        len(evaluate.evaluate_counts(task, "last", "test").positions) == run.test()["test/targets"]
    )


def test_stopped_it_goes_on_to_the_same_bytes(make_run):
    names = ("metrics.csv", "best.npz", "last.npz")
    whole, _ = make_run("whole", rounds=4, clients_per_round=3)
    with pytest.MonkeyPatch.context() as patch:
        # after round 2 the process dies
        record = run_folder.RunFolder.record_round

        def dies(self, round_num, *args):
            if round_num == 3:
                raise KeyboardInterrupt
            record(self, round_num, *args)

        patch.setattr(run_folder.RunFolder, "record_round", dies)
        with pytest.raises(Exception, match="Resume it with"):
            make_run("part", rounds=4, clients_per_round=3)
    (path,) = (whole.path.parent.parent / "part").iterdir()
    part = run_folder.RunFolder(path)
    part, task, _ = train_workflow.resume(part, "data")
    assert files_of(part, *names) == files_of(whole, *names)
    score_workflow.evaluate_run(part, reopen_workflow.reopen_task(part, "data"))
    tables = ("clients.csv", "predictions.parquet")
    assert files_of(part, *tables) == files_of(whole, *tables)


def test_baselines_that_count_alone_refuse_it(tmp_path):
    with pytest.raises(ConfigError) as error:
        baseline_workflow.settings_of(KINDS["markov"], MORE)
    assert str(error.value) == "`train_users` has no effect on the baseline markov."
    # a config file of a federated run gives a baseline of the same users
    (tmp_path / "run.toml").write_text(config.dump(config.load(SMALL | MORE)))
    settings = baseline_workflow.settings_of(KINDS["markov"], {}, tmp_path / "run.toml")
    assert settings.data.train_users == "all"
    assert baseline_workflow.settings_of(KINDS["kernel"], MORE).data.train_users == "all"


def test_fine_tuned_copies_are_those_of_the_scored(make_run):
    run, task = make_run()
    tuned = score_workflow.evaluate_run(run, task, fine_tune=1)["fine_tuned"]
    assert tuned["test/targets"] == run.test()["test/targets"]


def test_local_models_are_those_of_the_scored(make_run):
    run, task = make_run(kind="local")
    assert len(score_workflow.local_models.from_arrays(run.load_weights("best")[0], 2)) == 2
    assert run.facts()["users"]["trained"] == 2  # nobody learns from anybody
    assert run.test()["test/clients"] == 2


@pytest.mark.parametrize("concept", ["client", "zone"])
def test_the_audit_reads_the_scored(make_task, concept):
    found = []
    for overrides in ({"users": 4}, {"users": 4, "train_users": "all"}):
        task = make_task(**overrides)
        engine = JaxEngine(task)
        weights = task.spec.init_weights(np.random.default_rng(0))
        (audited, _) = audit.audit_task(engine, weights, concept, audit.QUICK)
        found.append(audited.to_dict())
    assert found[0]["num_values"] == found[1]["num_values"]
    assert found[0]["num_test"] == found[1]["num_test"]
    assert found[0]["floor"] == found[1]["floor"]


def test_a_large_data_set_gives_the_same(tmp_path, tiny_data_set, monkeypatch):
    from fedgru.data import synthetic

    city = synthetic.CityConfig(num_users=6, checkins_per_user=40, seed=1)
    datasets.save_city("town", tmp_path, synthetic.make_city(city))
    settings = config.load(SMALL | MORE | {"data": "town"})
    small, facts = open_workflow.open_task(settings, tmp_path)
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1)
    monkeypatch.setattr(stored, "FEW_VALUES", 3)
    for _ in range(2):  # made, then opened
        large, found = open_workflow.open_task(settings, tmp_path)
        assert large.stored_parts is not None
        assert found == facts
        assert large.num_known == small.num_known
        assert tuple(large.clients.scored.client_ids) == small.clients.scored.client_ids
        weights = small.spec.init_weights(np.random.default_rng(0))
        ours, theirs = (evaluate.evaluate(JaxEngine(t), weights, "val") for t in (large, small))
        assert ours.summary() == theirs.summary()
    other, _ = open_workflow.open_task(config.load(SMALL | {"data": "town", "users": 2}), tmp_path)
    assert len(other.clients) == 2


def test_reports_and_lists_say_who_trained(make_run, monkeypatch, tmp_path, tiny_data_set):
    monkeypatch.setattr(datasets, "read_passport", lambda *_: PASSPORT)
    run, _ = make_run()
    plain, _ = make_run(train_users=None, name="plain")
    said = "trained on 6 users, scored on 2"
    html = make_report([run, plain], "data")
    assert html.count(said) == 1
    assert f"UTC, {said}." in html

    def invoke(*words):
        result = CliRunner().invoke(main, [*words, "--log-dir", str(tmp_path / "log")])
        assert result.exit_code == 0, result.output
        return result.stdout

    head, *rows = invoke("runs", "list").splitlines()
    assert head.endswith("  users")
    assert [row.split("  ")[-1] for row in rows] == ["-", said]
    assert [
        r["users"] and r["users"]["trained"] for r in json.loads(invoke("runs", "list", "--json"))
    ] == [None, 6]
    shown = invoke("runs", "show", run.path.name)
    assert f"\n  {said}\n" in shown
    assert f", {said}, next check-in: " in shown
    assert "--train-users all" in shown


PASSPORT = {
    "name": "tiny",
    "source": {"kind": "synthetic", "rows": 240},
    "counts": {"check_ins": 240, "users": 6, "venues": 60},
    "span": {"first": "2012-04-03", "last": "2012-06-03"},
    "ledger": [],
}


def test_targets_that_are_known_through_others_are_named():
    from fedgru.console import describe

    task = hand_task(users=1, train_users="all")
    text = describe.describe_task(task, open_workflow.facts_of(task))
    assert (
        "  category known only because others train too: 0 val / 1 test targets, which have no "
        "loss without these others"
    ) in text.splitlines()
    two = hand_task(users=1, train_users=2)
    assert "others train" not in describe.describe_task(two, open_workflow.facts_of(two))


def test_a_deployment_refuses_it():
    from fedgru.deploy.app import check_deployable

    with pytest.raises(ConfigError) as error:
        check_deployable(config.load(MORE))
    assert str(error.value) == (
        "`train_users` has no effect in a deployment: every connected client trains and is scored. "
        "Leave it out."
    )
