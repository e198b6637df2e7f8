"""fedgru/training/asynchronous.py: rounds that overlap, by hand and against FedAvg."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.ditto import Ditto
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.algorithms.scaffold import Scaffold
from fedgru.algorithms.server_optimizers import SGD
from fedgru.algorithms.simulated import MS_PER_HOUR, InFlight, Simulated
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines import registry
from fedgru.engines.base import Engine
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.training import loop
from fedgru.training.asynchronous import REPEATED, AsynchronousTraining
from fedgru.training.rounds import FederatedTraining
from fedgru.training.simulated_time import Devices, Work, open_simulation
from fedgru.workflows import train as train_workflow
from tests.training.conftest import results


class HalfwayEngine(Engine):
    """Client c moves every number of the bias half of the way to its target."""

    name = "halfway"

    def __init__(self, task, client_rule=None):
        super().__init__(task, client_rule)
        self.targets, self.examples = {0: 8.0, 1: 16.0}, {0: 1, 1: 3}
        self.asked = []  # [bias received, clients, round_num]

    def local_updates(self, weights, cohort, round_num, constants=None, starts=None):
        self.asked.append((float(weights["bias"].flat[0]), cohort.tolist(), round_num))
        for client in cohort.tolist():
            still = {name: np.zeros_like(w) for name, w in weights.items() if name != "rows"}
            moved = (np.float32(self.targets[client]) - weights["bias"]) / 2
            yield ClientUpdate(
                client=client,
                num_examples=self.examples[client],
                dense=still | {"bias": moved},
                row_ids=np.array([0], np.int32),
                row_update=np.zeros((1, weights["rows"].shape[1]), np.float32),
                loss_sum=1.0,
                num_correct=0.0,
            )


class Paced(Devices):
    """Each client takes a whole number of hours."""

    hours = (2, 3)

    def work(self, client):
        return Work(self.hours[client] * MS_PER_HOUR, 10, 1)


@pytest.fixture
def paced(make_task):
    def make(buffer_size, hours=(2, 3), **overrides):
        task = make_task(**{"users": 2, "buffer_size": buffer_size} | overrides)
        engine = HalfwayEngine(task)
        algorithm = FedBuff(FedAvg(SGD(1.0), engine.client_rule))
        training = AsynchronousTraining(engine, algorithm, open_simulation(task))
        training.devices = Paced(task, 4, open_simulation(task).windows)
        training.devices.hours = hours
        return training

    return make


def rounds(training, number):
    """Return [(hours, bias, staleness, faults)] of some rounds, and the last state."""
    state, found = training.init(), []
    for _ in range(number):
        result = training.run_round(state, None)
        state = result.state
        bias = np.unique(state.weights["bias"])
        assert len(bias) == 1
        now = state.simulated
        found.append((now.hours, pytest.approx(float(bias[0])), now.staleness, result.faults))
    return found, state


def test_two_clients_by_hand(paced):
    # Weights start at 0. Client 0 takes 2 hours and pulls to 8, client 1 takes 3 and pulls to 16.
    #   2 h: client 0 from version 0: + (8 - 0) / 2 = 4  -> version 1: 4
    #   3 h: client 1 from version 0, 1 old: + (16 - 0) / 2 / sqrt(2) = 5.65685
    #        -> version 2: 9.65685
    #   4 h: client 0 from version 1, 1 old: + (8 - 4) / 2 / sqrt(2) = 1.41421
    #        -> version 3: 11.07107
    #   6 h: client 0 from version 3: + (8 - 11.07107) / 2 = -1.53553  -> version 4: 9.53553
    #   6 h: client 1 from version 2, 2 old: + (16 - 9.65685) / 2 / sqrt(3) = 1.83111
    #        -> version 5: 11.36664
    training = paced(1)
    found, state = rounds(training, 5)
    assert found == [
        (2.0, 4.0, 0.0, {}),
        (3.0, 9.656854, 1.0, {}),
        (4.0, 11.071068, 1.0, {}),
        (6.0, 9.535534, 0.0, {}),
        (6.0, 11.366643, 2.0, {}),
    ]
    # nobody is in flight: both places are filled when the next round begins, from version 5
    assert state.simulated.in_flight == () and state.simulated.versions == {}
    assert (state.simulated.down_bytes, state.simulated.up_bytes) == (50, 5)
    later = training.run_round(state, None).state.simulated
    assert later.in_flight == (InFlight(1, 5, 6, 9 * MS_PER_HOUR, None),)
    assert list(later.versions) == [5] and later.versions[5] is state.weights


def test_a_buffer_of_two_by_hand(paced):
    # client 0 counts 1 example, client 1 counts 3
    #   3 h: client 0 (at 2 h) and client 1, both from version 0: (1 * 4 + 3 * 8) / 4 = 7
    #   6 h: client 0 from version 0 again (at 4 h), 1 behind: 4 / sqrt(2) = 2.828427; then client 0
    #        from version 1: (8 - 7) / 2 = 0.5, both of 1 example: 1.664214 more
    #   6 h: client 1 from version 1, 1 behind: (16 - 7) / 2 / sqrt(2) = 3.181981, and at 8 h client
    #        0 from version 2: (8 - 8.664214) / 2 = -0.332107: (3 * 3.181981 - 0.332107) / 4
    training = paced(2)
    found, state = rounds(training, 3)
    assert found == [
        (3.0, 7.0, 0.0, {}),
        (6.0, 8.664214, 0.5, {}),
        (8.0, 10.967673, 0.5, {}),
    ]
    # what is trained together was received together; a second training from version 0 draws others
    assert training.engine.asked == [
        (0.0, [0, 1], 1),
        (0.0, [0], 1 + REPEATED),
        (7.0, [0], 2),
        (7.0, [1], 2),
        (pytest.approx(8.664214), [0], 3),
    ]


@pytest.mark.parametrize("engine", [JaxEngine, ReferenceEngine])
@pytest.mark.parametrize("size", [None, 3])
def test_without_staleness_it_is_fed_avg_to_the_bit(make_task, engine, size):
    # with streams this wide each client has 1 step of each epoch; all take as long
    given = {"batch_size": 16, "server_optimizer": "adam", "server_lr": 0.01, "rounds": 3}
    given |= {"dropout": 0.2} if engine is JaxEngine else {}
    plain = make_task(clients_per_round=size, **given)
    alike = {"device_spread": 0.0, "bandwidth_mbps": 1e9}
    buffered = make_task(buffer_size=size or 6, concurrency=size, **alike, **given)
    algorithm = algorithms.from_settings(plain.settings)
    expected = loop.train(FederatedTraining(engine(plain), algorithm), _ignore, _ignore)
    algorithm = FedBuff(algorithms.from_settings(buffered.settings))
    training = AsynchronousTraining(engine(buffered), algorithm, open_simulation(buffered))
    checkpoints = []
    found = loop.train(training, _ignore, checkpoints.append)
    for name, weights in expected.last.weights.items():
        np.testing.assert_array_equal(found.last.weights[name], weights)
    assert found.best_value == expected.best_value
    row = checkpoints[-1].rows[-1][0]
    assert (row["train/staleness/mean"], row["train/hours/simulated"]) == (0.0, 3 * 4 / 3600)
    assert checkpoints[0].rows[0][0]["train/staleness/mean"] is None


def _ignore(*_):
    return None


def test_whoever_is_done_is_replaced_by_a_drawn_client(make_task):
    # 2 of 6 at a time, a buffer of 2: the first two are drawn as a cohort of two would be
    task = make_task(buffer_size=2, concurrency=2)
    algorithm = FedBuff(algorithms.from_settings(task.settings))
    training = AsynchronousTraining(JaxEngine(task), algorithm, open_simulation(task))
    work = [training.devices.work(c) for c in range(6)]
    result = training.run_round(training.init(), None)
    first = np.sort(seeding.rng(0, "cohort", 1).choice(6, 2, replace=False)).tolist()
    done, stays = sorted(first, key=lambda c: work[c].duration_ms)
    others = [c for c in range(6) if c != stays]  # also who was done
    second = others[seeding.rng(0, "cohort", 1, 1).choice(5, 1, replace=False)[0]]
    ends = {stays: work[stays].duration_ms}
    ends[second] = work[done].duration_ms + work[second].duration_ms
    last, left = sorted(ends, key=ends.get)
    now = result.state.simulated
    assert now.time_ms == ends[last]
    draw = 1 + REPEATED * (second == done == left)
    assert now.in_flight == (InFlight(left, 0, draw, ends[left], None),)
    assert now.down_bytes == sum(work[c].down_bytes for c in (*first, second))
    assert now.up_bytes == work[done].up_bytes + work[last].up_bytes


def test_faults_in_flight(paced, trace):
    # client 1 is on for 2 of its 3 hours each day, and client 0 always: it sends alone
    task = paced(1).engine.task
    file = trace(task, (0, 0, 24), (1, 0, 2))
    found, state = rounds(paced(1, availability=file, step_s=1.0), 2)
    # the bias goes from 0 half way to 8, then half way again
    assert found == [(2.0, 4.0, 0.0, {}), (4.0, 6.0, 0.0, {"went off": [1]})]
    assert (state.simulated.down_bytes, state.simulated.up_bytes) == (30, 2)
    # a deadline counts from each client's own start
    found, state = rounds(paced(1, deadline_min=150.0), 3)
    assert found == [
        (2.0, 4.0, 0.0, {}),
        (4.0, 6.0, 0.0, {"too late": [1]}),
        (6.0, 7.0, 0.0, {"too late": [1]}),
    ]


def test_nobody_is_on_for_long_enough(paced, trace):
    file = trace(paced(1).engine.task, (0, 0, 1), (1, 3, 5))
    training = paced(1, availability=file)
    with pytest.raises(TrainingError) as error:
        training.run_round(training.init(), None)
    assert str(error.value) == (
        "round 1 does not end: 301 went off, and fewer than `buffer_size` updates came in. Clients "
        "must be on for longer, or be given more time."
    )


def test_places_wait_until_somebody_comes_on(paced, trace):
    # client 1 comes at 5 h, client 0 at 20 h
    file = trace(paced(1).engine.task, (0, 20, 24), (1, 5, 9))
    found, _ = rounds(paced(1, availability=file), 3)
    # 8 h: 1 from 0: 8. It starts again and goes off at 9. 22 h: 0 from 8: + 0, so does it at 22:
    # 24 h: + 0. The next day client 1 again
    assert found == [
        (8.0, 8.0, 0.0, {}),
        (22.0, 8.0, 0.0, {"went off": [1]}),
        (24.0, 8.0, 0.0, {}),
    ]


class Spoilt(HalfwayEngine):
    """Every third update is not a number."""

    def local_updates(self, weights, cohort, round_num, constants=None, starts=None):
        for update in super().local_updates(weights, cohort, round_num):
            self.examples["made"] = self.examples.get("made", 0) + 1
            bad = self.examples["made"] % 3 == 0
            yield replace(update, loss_sum=np.nan) if bad else update


def test_an_unusable_update_is_left_out_and_another_awaited(paced):
    training = paced(2)
    training.engine.__class__ = Spoilt
    found, _ = rounds(training, 2)
    # as in the buffer of two: the third update made, of client 0 at 4 h, is lost. At 6 h client 0
    # sends 0.5 of 1 example, client 1 (16 - 7) / 2 of 3, both from version 1: 3.5 more
    assert found == [(3.0, 7.0, 0.0, {}), (6.0, 10.5, 0.0, {"not finite": [0]})]


def test_training_stops_if_most_updates_are_unusable(paced):
    training = paced(2)
    training.engine.targets = {0: np.nan, 1: np.nan}
    with pytest.raises(TrainingError, match="^training loss became NaN in round 1"):
        training.run_round(training.init(), None)


FAR_APART = {"buffer_size": 2, "concurrency": 5, "device_spread": 1.0, "step_s": 60.0}


@pytest.mark.parametrize("after", [0, 3])
def test_resumed_it_ends_in_the_same_bytes(stopped, after):
    given = {"rounds": 7, "client_dropout": 0.1, "dropout": 0.2, "deadline_min": 60.0}
    whole, run = stopped(after, server_optimizer="adam", server_lr=0.01, **FAR_APART, **given)
    names = {path.name for path in (run.path / "checkpoints").glob("*.npz")}
    run, _, result = train_workflow.resume(run, "data")
    assert run.facts()["resumed"][-1]["after_round"] == after
    assert results(run) == results(whole)
    assert whole.rounds()["train/staleness/mean"][1:].max() >= 1
    assert whole.facts()["simulated_hours"] == result.last.simulated.hours
    if after == 3:  # versions older than the two checkpoints were needed
        assert {"round-0.npz", "round-1.npz"} & names


def test_what_json_holds_of_it():
    flights = (InFlight(3, 1, 2, 70, None), InFlight(0, 0, 1, 90, "too late"))
    for now in (Simulated(5, 6, 7), Simulated(5, 6, 7, flights, 0.25), Simulated(5, 6, 7, ())):
        assert Simulated.from_dict(now.to_dict()) == now
    weights = {"bias": np.zeros(3)}
    now = Simulated(5, 6, 7, flights, 0.25, {0: weights, 1: weights})
    assert "versions" not in now.to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrency": 3}, "`concurrency` has no effect without `buffer_size`."),
        (
            {"buffer_size": 3, "clients_per_round": 3},
            "`clients_per_round` has no effect with `buffer_size`: `concurrency` is how many "
            "clients train at once. Leave it out.",
        ),
        (
            {"buffer_size": 3, "min_clients": 2},
            "`min_clients` has no effect with `buffer_size`: the server waits for that many "
            "updates. Leave it out.",
        ),
        (
            {"buffer_size": 3, "agnostic_to": "zone"},
            "`agnostic_to` needs rounds with a cohort, which `buffer_size` has not: leave one of "
            "them out.",
        ),
        (
            {"buffer_size": 3, "algorithm": "q-fed-avg"},
            "`algorithm` q-fed-avg needs rounds with a cohort, which `buffer_size` has not: leave "
            "one of them out.",
        ),
        (
            {"buffer_size": 3, "oversample": 1.3},
            "`oversample` has no effect without `clients_per_round`.",
        ),
        (
            {"buffer_size": 3, "engine": "ray"},
            "`engine` ray does not know `buffer_size`. Use `engine` jax or reference, or leave "
            "`buffer_size` out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(ConfigError) as error:
        registry.check(config.load(given))
    assert str(error.value) == message


def test_more_places_than_clients(make_task):
    with pytest.raises(ConfigError) as error:
        open_simulation(make_task(buffer_size=3, concurrency=7))
    assert str(error.value) == (
        "`concurrency` is 7, but the split has 6 clients with training data."
    )


@pytest.mark.parametrize(
    "half", [Ditto(FedAvg(SGD(1.0)), 0.1), Scaffold(FedAvg(SGD(1.0), ClientRule("sgd")))]
)
def test_an_algorithm_whose_clients_have_something_of_their_own(paced, half):
    training = paced(1)
    with pytest.raises(ConfigError) as error:
        AsynchronousTraining(training.engine, FedBuff(half), training.simulation)
    assert str(error.value) == (
        f"`buffer_size` does not go with {half.name}, whose clients keep, measure or start from "
        "something of their own."
    )
