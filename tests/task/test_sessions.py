"""`session_gap`: where sessions begin, what is reset, what goes on, what is trained and scored."""

import numpy as np
import pytest

from fedgru import config
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.data.datasets import DataSet, import_file
from fedgru.deploy.app import check_deployable
from fedgru.engines import registry
from fedgru.engines.jax.central import CentralEngine
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.evaluation import evaluate
from fedgru.models.optimizers import init_slots
from fedgru.task.clients import choose_clients
from fedgru.task.task import build_task
from fedgru.training import local_models
from tests.conftest import make_check_ins

HOUR_S = 3600
# of one person: hours and categories; 24 h later is the same session, a second more is not
HOURS = [0, 5, 29, 53 + 1 / 3600, 54, 80, 81, 82, 110, 111, 140, 141]
KINDS = list("ABACBADACBAC")
BEGIN = [0, 3, 5, 8, 10]


def by_hand(**settings):
    users = ["a"] * 12 + ["b"] * 5  # b: an hour between them, one session
    seconds = [round(HOUR_S * hour) for hour in HOURS] + [HOUR_S * (200 + i) for i in range(5)]
    check_ins = make_check_ins(users, [*KINDS, *"ABABA"], time_s=seconds)
    small = {"hidden_dim": 4, "batch_size": 2, "seq_len": 2, "prior": "markov", "threads": 1}
    settings = config.load(small | {"features": "category", "session_gap": "24h"} | settings)
    return build_task(DataSet("hand", check_ins, {"fingerprint": "hand"}), settings)


def test_sessions_by_hand():
    clients = by_hand().clients
    assert clients.client_ids == ("a", "b")
    assert np.flatnonzero(clients.session_starts).tolist() == [*BEGIN, 12]
    # a: 12 check-ins, test ceil(2.4) = 3, val ceil(1.8) = 2; b: 5, test 1, val 1
    assert (clients.train_ends.tolist(), clients.val_ends.tolist()) == ([7, 15], [9, 16])
    assert clients.target_positions("train").tolist() == [1, 2, 4, 6, 13, 14]
    assert clients.target_positions("val").tolist() == [7, 15]
    assert clients.target_positions("test").tolist() == [9, 11, 16]
    assert clients.target_positions("test", np.array([1])).tolist() == [16]
    found = clients.runs(np.array([0, 12]), np.array([9, 16]))
    assert [ends.tolist() for ends in found] == [[0, 3, 5, 8, 12], [3, 5, 8, 9, 16]]


def test_without_sessions_nothing_changes():
    check_ins = by_hand().check_ins
    clients, _ = choose_clients(check_ins)
    assert clients.session_starts is None
    assert clients.target_positions("test").tolist() == [9, 10, 11, 16]


def test_coverage_counts_targets_within_sessions():
    lines = {line.step: (line.clients, line.checkins) for line in by_hand().coverage}
    assert lines["train targets"] == lines["  used for training"] == (2, 6)
    assert lines["  first of a later session, not predicted"] == (1, 4)
    assert (lines["val targets"], lines["test targets"]) == ((2, 2), (2, 3))


def test_local_steps_begin_with_a_session():
    task = by_hand()
    data = task.local_data(0)
    # pairs (input, target) of train: 0-1, 1-2 | 3-4 | 5-6
    assert task.batches(0).pairs.tolist() == [[[0, 1], [3, -1]], [[5, -1], [-1, -1]]]
    assert data.resets.tolist() == [[True, True], [True, False]]
    assert data.mask.tolist() == [[[1, 1], [1, 0]], [[1, 0], [0, 0]]]
    assert data.num_examples == 4 * task.settings.client.local_epochs
    kinds = task.target_vocabulary.values
    assert [kinds[data.targets[at]] for at in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]] == (
        ["B", "A", "B", "D"]
    )


def test_counts_go_on_from_session_to_session():
    # before 11 stands A (10), which B, C, D, C followed at 0, 2, 5, 7: twice C, both times in
    # another session; before 9 stands C (8), which B followed at 3; b goes from B to A as before
    found = evaluate.evaluate_baselines(by_hand())
    for name in ("user_markov", "running_user_markov"):
        assert found[name].positions.tolist() == [9, 11, 16]
        assert found[name].client_index.tolist() == [0, 0, 1]
        assert found[name].scores.values["acc@1"].tolist() == [1, 1, 1], name
    history = by_hand().history
    assert np.array_equal(history.classes, by_hand(session_gap=None).history.classes)


@pytest.mark.parametrize("head", ["dense", "candidates"])
@pytest.mark.parametrize("engine_class", [JaxEngine, ReferenceEngine])
def test_streams_equal_batches(make_task, engine_class, head):
    """A pass over the local steps has the loss of states that go through whole sessions."""
    head_dropout = {"head_dropout": 0.0} if head == "candidates" else {}
    once = {"session_gap": "48h", "seq_len": 3, "local_epochs": 2, "client_lr": 1e-20}
    task = make_task(head=head, prior="markov", **once, **head_dropout)
    assert max(np.diff(np.flatnonzero(task.clients.session_starts))) > 4  # more than one step
    weights = drawn(task)
    engine = engine_class(task)
    for update in engine.local_updates(weights, [0, 4], 1):
        loss, number = train_loss(engine, weights, update.client)
        assert update.num_examples == 2 * number
        assert update.loss_sum == pytest.approx(2 * loss, rel=1e-5)


def drawn(task):
    draw = np.random.default_rng(0)
    weights = task.spec.init_weights(seeding.rng(0, "weights"))
    return {
        name: (w + draw.normal(0, 0.3, w.shape)).astype(np.float32) for name, w in weights.items()
    }


def train_loss(engine, weights, client):
    """(summed loss, number) of a client's targets of known class in train, by evaluation."""
    found = evaluate.evaluate(engine, weights, "train", clients=np.array([client]))
    losses = found.scores.values["loss"]
    return losses[~np.isnan(losses)].sum(), (~np.isnan(losses)).sum()


def test_pooled_streams_equal_batches(make_task):
    task = make_task(session_gap="48h", seq_len=3, head="dense", client_lr=1e-20)
    engine, weights = CentralEngine(task), drawn(task)
    slots = init_slots(engine.client_rule.optimizer, weights)
    cohort = task.training_clients
    *_, sums, number = engine.run_pass(weights, slots, 0, cohort, 1, 1)
    alone = [train_loss(engine, weights, client) for client in cohort]
    assert number == sum(count for _, count in alone)
    assert sums[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)


def test_a_client_alone_has_its_sessions():
    task = by_hand()
    alone = local_models.alone(task, 1)
    assert alone.clients.session_starts.tolist() == [True] + [False] * 4
    alone = local_models.alone(task, 0)
    assert np.flatnonzero(alone.clients.session_starts).tolist() == BEGIN
    assert np.array_equal(alone.local_data(0).resets, task.local_data(0).resets)


def test_half_a_unit_is_the_same_gap():
    assert config.load({"session_gap": "1.5h"}).data.session_gap_s == 5400
    assert config.load({"session_gap": "90min"}).data.session_gap_s == 5400
    assert config.load({"session_gap": "1d"}).task_name == (
        "next check-in, within sessions (gap 24 h)"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"session_gap": "24"},
            "`session_gap` is 24, expected a time with its unit: 24h, 90min or 3d.",
        ),
        (
            {"session_gap": "0h"},
            "`session_gap` is 0h, expected a time with its unit: 24h, 90min or 3d.",
        ),
        (
            {"session_gap": "24h", "layout": "chunks"},
            "`session_gap` cannot be combined with `layout`, whose chunks do not end with a "
            "session: leave one of them out.",
        ),
        (
            {"session_gap": "24h", "asked_at": True},
            "`session_gap` cannot be combined with `asked_at`, which knows the moment of every "
            "next check-in: leave one of them out.",
        ),
        (
            {"session_gap": "24h", "agnostic_to": "zone"},
            "`session_gap` cannot be combined with `agnostic_to`, which erases states of all "
            "check-ins: leave one of them out.",
        ),
    ],
)
def test_what_does_not_go_with_sessions(settings, text):
    with pytest.raises(ConfigError) as error:
        config.load(settings)
    assert str(error.value) == text


def test_engines_and_deployments_that_carry_the_state_on():
    settings = config.load({"session_gap": "24h", "engine": "tff", "mean": "clients"})
    with pytest.raises(ConfigError, match="`engine` tff does not know"):
        registry.check(settings)
    with pytest.raises(ConfigError) as error:
        check_deployable(config.load({"session_gap": "24h"}))
    assert str(error.value) == (
        "`session_gap` has no effect in a deployment: its clients carry the state on. Leave it out."
    )


def test_a_file_is_the_same_in_another_order(tmp_path):
    """Sessions are those of a person, however the rows of several people are mixed."""
    rows = [
        f"{user},{kind},{1333476009 + round(HOUR_S * hour)},{kind}"
        for user in ("x", "y")
        for hour, kind in zip(HOURS, KINDS, strict=True)
    ]
    columns = {"user": "u", "venue": "v", "time": "t", "category": "c"}
    starts = []
    for name, order in (("one", rows), ("other", [*rows[12:], *rows[:12]])):
        file = tmp_path / f"{name}.csv"
        file.write_text("\n".join(["u,v,t,c", *order]) + "\n")
        data_set = import_file("csv", file, name, tmp_path / "data", columns=columns)
        clients, _ = choose_clients(data_set.check_ins, session_gap_s=24 * HOUR_S)
        starts.append(np.flatnonzero(clients.session_starts).tolist())
    assert starts[0] == starts[1] == [*BEGIN, *(12 + at for at in BEGIN)]
