"""Every rule by a case that breaks it; what a round does with faulty clients."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import config
from fedgru.algorithms import faults
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines.jax.engine import JaxEngine
from fedgru.training.rounds import run_round
from tests.conftest import start

WEIGHTS = {"rows": np.ones((3, 2), np.float32), "bias": np.full(4, 2, np.float32)}


def update(**changes):
    from fedgru.algorithms.fed_avg import ClientUpdate

    good = {
        "client": 5,
        "num_examples": 7,
        "dense": {"bias": np.ones(4, np.float32)},
        "row_ids": np.array([0, 2], np.int32),
        "row_update": np.ones((2, 2), np.float32),
        "loss_sum": 1.0,
        "num_correct": 1.0,
    }
    return ClientUpdate(**good | changes)


def bias(*values):
    return {"bias": np.array(values, np.float32)}


# what was received: 4 ones in rows 0 and 2 and four 2s: norm sqrt(4 + 16); 100 times it is 447.2
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"dense": bias(447.1, 0, 0, 0), "row_update": np.zeros((2, 2), np.float32)}, None),
        ({"dense": bias(447.3, 0, 0, 0), "row_update": np.zeros((2, 2), np.float32)}, "too large"),
        ({"dense": bias(1, np.nan, 0, 0)}, "not finite"),
        ({"row_update": np.full((2, 2), np.inf, np.float32)}, "not finite"),
        ({"loss_sum": float("nan")}, "not finite"),
        ({"loss_sum": float("inf"), "num_examples": 0}, "not finite"),
        # their squares are beyond a float32, they are not
        ({"dense": bias(1, 1e30, 0, 0)}, "too large"),
        ({"dense": bias(1, 1e30, 0, 0), "num_examples": 0}, "no examples"),
        # 199 is under half of the limit by the dense weights alone (norm 4), 201 is not
        ({"dense": bias(199, 0, 0, 0), "row_update": np.zeros((2, 2), np.float32)}, None),
        ({"dense": bias(201, 0, 0, 0), "row_update": np.zeros((2, 2), np.float32)}, None),
        ({"dense": bias(199, 0, 0, 0), "num_examples": 0}, "no examples"),
        ({"dense": bias(1, 1, 1)}, "wrong shape"),
        ({"dense": {}}, "wrong shape"),
        ({"dense": bias(1, 1, 1, 1) | {"more": np.ones(1)}}, "wrong shape"),
        ({"row_update": np.ones((2, 3), np.float32)}, "wrong shape"),
        ({"row_ids": np.array([0, 3], np.int32)}, "wrong shape"),
        ({"row_ids": np.array([-1, 0], np.int32)}, "wrong shape"),
        ({"row_ids": np.array([1, 1], np.int32)}, "wrong shape"),
        ({"num_examples": 0}, "no examples"),
    ],
)
def test_what_cannot_be_used(changes, why):
    assert faults.problem(update(**changes), WEIGHTS) == why


def test_weights_that_are_not_finite_make_no_update_small():
    received = WEIGHTS | {"bias": np.array([np.inf, 2, 2, 2], np.float32)}
    changes = {"dense": bias(1, np.nan, 0, 0)}
    assert faults.problem(update(**changes), received) == "not finite"
    assert faults.problem(update(), WEIGHTS | {"bias": np.zeros(4, np.float32)}) is None


class Broken(JaxEngine):
    """Some clients' updates are spoilt on their way to the server."""

    spoilt = {}

    def local_updates(self, weights, cohort, round_num, constants=None):
        for one in super().local_updates(weights, cohort, round_num, constants):
            changes = self.spoilt.get(one.client, {})
            yield replace(one, **changes)


def test_a_faulty_client_is_kept_out_of_the_mean_and_told(make_task):
    task = make_task()
    algorithm, state = start(task)
    engine = Broken(task)
    engine.spoilt = {1: {"loss_sum": float("nan")}, 4: {"num_examples": 0}}
    found = run_round(engine, algorithm, state, np.arange(6))
    assert found.faults == {"not finite": [1], "no examples": [4]}
    expected = run_round(JaxEngine(task), algorithm, state, np.array([0, 2, 3, 5]))
    assert (found.num_clients, found.metrics) == (4, expected.metrics)
    for name, weights in expected.state.weights.items():
        np.testing.assert_array_equal(found.state.weights[name], weights)
    assert expected.faults == {}


def test_most_of_the_cohort_unusable_is_training_gone_wrong(make_task):
    task = make_task()
    algorithm, state = start(task)
    engine = Broken(task)
    engine.spoilt = {client: {"num_examples": 0} for client in range(4)}
    with pytest.raises(TrainingError) as error:
        run_round(engine, algorithm, state, np.arange(6))
    assert str(error.value) == (
        "training diverged: 4 of 6 updates cannot be used in round 1 (client "
        f"{task.clients.client_ids[0]} first). "
        "Try a smaller `client_lr` (now 0.002) or `server_lr` (now 1)."
    )


def test_a_round_with_too_few_clients_is_skipped(make_task):
    task = make_task(min_clients=5)
    algorithm, state = start(task)
    engine = Broken(task)
    engine.spoilt = {0: {"num_examples": 0}, 1: {"num_examples": 0}}
    found = run_round(engine, algorithm, state, np.arange(6))
    assert (found.num_clients, found.state.round_num) == (0, 1)
    assert found.state.weights is state.weights
    assert np.isnan(list(found.metrics.values())).all()


def test_clients_drop_out_by_seed_round_and_client(make_task):
    task = make_task(client_dropout=0.5)
    everybody = np.arange(6)
    rounds = [faults.drop_out(task, everybody, round_num) for round_num in range(1, 201)]
    for answer, gone in rounds:
        assert sorted([*answer.tolist(), *gone]) == list(range(6))
    # 1200 draws of 1/2: 600 give or take 3 * 17
    assert 549 < sum(len(gone) for _, gone in rounds) < 651
    # who else is asked changes nothing for a client
    assert faults.drop_out(task, everybody[:3], 7)[1] == [c for c in rounds[6][1] if c < 3]
    assert faults.drop_out(make_task(), everybody, 1) == (everybody, [])  # and no draw


def test_a_round_without_those_who_dropped_out(make_task):
    task = make_task(client_dropout=0.5)
    algorithm, state = start(task)
    answer, gone = faults.drop_out(task, np.arange(6), 1)
    assert gone and len(answer)
    found = run_round(JaxEngine(task), algorithm, state, np.arange(6))
    assert found.faults == {"dropped out": gone}
    expected = run_round(JaxEngine(make_task()), algorithm, state, answer)
    assert found.metrics == expected.metrics


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"robust": "median", "mean": "clients"},
            "`mean` clients has no effect with `robust` median, which averages each id's row over "
            "the clients that own it. Leave it out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(ConfigError) as error:
        config.load(given)
    assert str(error.value) == message


def test_more_than_there_are(make_task):
    for given, message in (
        ({"min_clients": 7}, "`min_clients` is 7, but a round has 6 clients."),
        (
            {"attack": "noise", "attackers": 7},
            "`attackers` is 7, but the split has 6 clients with training data.",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            make_task(**given)
        assert str(error.value) == message


def test_every_fault_is_written_down(make_task, tmp_path):
    from fedgru.workflows import train as train_workflow

    task = make_task(client_dropout=0.3, rounds=3, patience=0, seed=2)
    run, _, result = train_workflow.train(task, {}, tmp_path)
    expected = [
        (round_num, task.clients.client_ids[client], "dropped out")
        for round_num in (1, 2, 3)
        for client in faults.drop_out(task, np.arange(6), round_num)[1]
    ]
    assert list(result.faults) == expected != []
    lines = (run.path / "faults.csv").read_text().splitlines()
    assert lines == ["round,client_id,why", *(",".join(map(str, f)) for f in expected)]
    assert run.facts()["faults"] == {"dropped out": len(expected)}
    told = f"clients missing in the mean: {len(expected)} times dropped out (faults.csv)"
    assert told in (run.path / "run.log").read_text()


def test_a_skipped_round_is_told_and_training_goes_on(make_task, tmp_path, caplog):
    from fedgru.workflows import train as train_workflow

    task = make_task(client_dropout=0.9, min_clients=6, rounds=2, patience=0)
    _, _, result = train_workflow.train(task, {}, tmp_path)
    assert result.last.round_num == 2
    assert [r.getMessage() for r in caplog.records if "was skipped" in r.getMessage()] == [
        f"round {round_num} was skipped, the weights stay: fewer usable updates than "
        "`min_clients` 6"
        for round_num in (1, 2)
    ]
