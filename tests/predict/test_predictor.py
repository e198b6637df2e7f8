"""fedgru/predict/schema.py and predictor.py: streamed predictions equal evaluated ones."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from fedgru.agnostic import protection
from fedgru.core.errors import ConfigError, DataError
from fedgru.data.datasets import DataSet
from fedgru.evaluation import evaluate
from fedgru.predict.predictor import Predictor, Stream, check_ins_of, evaluation_noise
from fedgru.predict.schema import CheckIn, Schema
from fedgru.training.rounds import run_round
from fedgru.workflows import train as train_workflow
from tests.conftest import make_check_ins, start

CASES = {
    "gru": {"prior": "none"},
    "lstm with counts": {"cell": "lstm", "prior": "backoff"},
    "kernel, gap": {"prior": "kernel", "features": "user,category,venue,latitude,gap,clock"},
    "own features": {
        "features": "category,tests.own_features:visits_before,tests.own_features:late_and_home"
    },
    "venues": {"target": "venue", "prior": "markov", "features": "venue,weekday"},
    "notebook's ids": {"vocabulary": "range", "clock": "utc", "scaling": "none", "prior": "none"},
    "erased": {"agnostic_to": "zone", "method": "leace", "zones": 3, "rounds": 2},
    "noise": {"agnostic_to": "client", "alpha_schedule": "constant", "rounds": 2},
    "candidates": {"head": "candidates", "prior": "kernel"},
    "candidates, venues": {"head": "candidates", "prior": "markov", "target": "venue"},
    "sessions": {"session_gap": "48h", "prior": "markov", "cell": "lstm"},
    "sessions, candidates": {"session_gap": "48h", "head": "candidates", "prior": "kernel"},
    "asked": {"asked_at": True, "prior": "backoff", "features": "category,clock,gap"},
    "asked, utc, no prior": {"asked_at": True, "cell": "lstm", "clock": "utc", "prior": "none"},
    "asked, candidates": {"asked_at": True, "head": "candidates", "prior": "kernel"},
}


def drawn(task):
    """An engine, and weights drawn at random, those of a protected representation too."""
    draw = np.random.default_rng(0)
    weights = {
        name: draw.normal(0, 0.3, weight.shape).astype(np.float32)
        for name, weight in protection.init_weights(task).items()
    }
    return train_workflow.make_engine(task), weights


def streamed(task, weights, client):
    """float32 [n - 1, num_classes], predictions of a client's check-ins, pushed one by one."""
    begin, end = task.clients.starts[client : client + 2]
    predictor = Predictor.start(Schema.of(task, weights), weights)
    found = []
    check_ins = check_ins_of(task.check_ins, task.clients.rows[begin:end])
    pairs = zip(check_ins[:-1], check_ins[1:], strict=True)
    for position, (check_in, following) in enumerate(pairs, start=begin + 1):
        predictor = predictor.push(check_in)
        if task.settings.inputs.asked_at:
            # asked at another moment before: that changes nothing
            predictor.asked(check_in.time_s + 60).log_probs()
            predictor = predictor.asked(following.time_s, following.offset_min)
        found.append(predictor.log_probs(evaluation_noise(task, position)))
    return np.array(found)


def evaluated(engine, weights, client):
    """The same by the evaluation, split after split."""
    found = []
    for split in ("train", "val", "test"):
        positions, log_probs = evaluate.model_log_probs(engine, weights, split)
        of = engine.task.clients.client_of[positions]
        found.append(log_probs(client, slice(*np.searchsorted(of, [client, client + 1]))))
    return np.concatenate(found)


@pytest.mark.parametrize("case", CASES)
def test_streamed_predictions_equal_evaluated_ones(make_task, case):
    task = make_task(**CASES[case])
    engine, weights = drawn(task)
    expected = np.exp(evaluated(engine, weights, 4))
    assert expected.std(axis=0).max() > 0.0001  # they differ from check-in to check-in
    np.testing.assert_allclose(np.exp(streamed(task, weights, 4)), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_streamed_predictions_of_a_trained_protected_model(make_task):
    task = make_task(agnostic_to="client", alpha_schedule="constant", rounds=2)
    engine = train_workflow.make_engine(task)
    algorithm, state = start(task)
    weights = run_round(engine, algorithm, state, task.training_clients).state.weights
    assert weights["noise_scale"] > 0 and np.abs(weights["erase_removed"]).max() > 0
    expected = np.exp(evaluated(engine, weights, 4))
    np.testing.assert_allclose(np.exp(streamed(task, weights, 4)), expected, rtol=0, atol=1e-5)


def test_the_loss_is_the_evaluations(make_task):
    task = make_task(prior="kernel")
    engine, weights = drawn(task)
    test = evaluate.evaluate(engine, weights, "test")
    own = test.client_index == 0
    log_probs = streamed(task, weights, 0)[task.clients.val_ends[0] - 1 :]
    classes = task.classes[test.positions[own]]
    known = classes >= 0
    np.testing.assert_allclose(
        -log_probs[known, classes[known]], test.scores.values["loss"][own][known], atol=1e-5
    )


def test_a_history_at_once_is_the_history_one_by_one(make_task):
    # 70 check-ins: one compiled stretch of 64 and six single steps
    task = make_task(prior="backoff", cell="lstm")
    weights = protection.init_weights(task)
    one = check_ins_of(task.check_ins, task.clients.rows[:35])
    weeks = one[-1].time_s - one[0].time_s
    later = [replace(check_in, time_s=check_in.time_s + weeks) for check_in in one]
    first = Predictor.start(Schema.of(task, weights), weights)
    at_once, step_by_step = first.extend(one + later), first
    for check_in in one + later:
        step_by_step = step_by_step.push(check_in)
    np.testing.assert_allclose(at_once.log_probs(), step_by_step.log_probs(), atol=2e-6)
    assert len(at_once) == len(step_by_step) == 70 and len(first) == 0
    assert at_once.stream.unknown == step_by_step.stream.unknown


def test_before_the_first_check_in_it_is_what_all_clients_share(make_task):
    task = make_task()
    weights = protection.init_weights(task)
    predictor = Predictor.start(Schema.of(task, weights), weights)
    np.testing.assert_allclose(np.exp(predictor.log_probs()), task.shared, rtol=1e-6)
    (value, probability), *_ = predictor.top(3)
    assert value == task.target_vocabulary.values[int(task.shared.argmax())]
    assert probability == pytest.approx(task.shared.max())


def test_pushing_leaves_the_old_predictor_as_it_was(make_task):
    task = make_task()
    weights = protection.init_weights(task)
    one, two, *_ = check_ins_of(task.check_ins, task.clients.rows[:5])
    predictor = Predictor.start(Schema.of(task, weights), weights).push(one)
    before = predictor.top(4)
    predictor.push(two).push(two)
    assert predictor.top(4) == before
    values, probabilities = zip(*predictor.top(task.num_classes), strict=True)
    assert sorted(values) == sorted(task.target_vocabulary.values)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert list(probabilities) == sorted(probabilities, reverse=True)


def hand_made(make_task):
    """Users a and b with 10 check-ins each; train is the first 6: venues v1, v2, v1 ..."""
    check_ins = make_check_ins(
        ["a"] * 10 + ["b"] * 10,
        ["Food", "Shop"] * 10,
        ["v1", "v2"] * 10,
        offset_min=[-60] * 20,
        lat_deg=[40.0, 42.0] * 10,
    )
    data_set = DataSet("hand", check_ins, {"fingerprint": "hand"})
    return make_task(data_set, features="user,venue,latitude,gap,clock")


def test_the_inputs_by_hand(make_task):
    task = hand_made(make_task)
    schema = Schema.of(task, {})
    stream = Stream.start(schema).push(CheckIn("b", "v2", 7200, 0, "Shop", None, 42.0, -74.0))
    # 14:00 on the local clock: sin and cos of 2 pi 14/24; latitude is (42 - 41) / 1
    stream = stream.push(CheckIn("b", "v9", 7200 + 3600 * 15, -180, "Zoo", None, 42.0, -74.0))
    found = stream.inputs()
    assert {name: value.tolist() for name, value in found.items() if name in ("user", "venue")} == {
        "user": [[2]],
        "venue": [[0]],
    }
    assert found["latitude"].tolist() == [[1.0]]
    assert found["clock_sin"][0, 0] == pytest.approx(np.sin(2 * np.pi * 14 / 24), abs=1e-7)
    hours = np.log1p(np.array([0] + [1] * 5 + [0] + [1] * 5))  # train gaps: 0, then an hour each
    assert found["gap"][0, 0] == pytest.approx((np.log(16) - hours.mean()) / hours.std(), rel=1e-6)
    assert found["log_prior"].shape == (1, 1, 2)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "user": "int32",
        "venue": "int32",
        **dict.fromkeys(("latitude", "gap", "clock_sin", "clock_cos", "log_prior"), "float32"),
    }
    assert stream.unknown == {"user": 0, "venue": 1, "target": 1}
    assert stream.user == "b"


def test_check_ins_out_of_order_or_of_somebody_else_are_refused(make_task):
    stream = Stream.start(Schema.of(hand_made(make_task), {})).push(CheckIn("a", "v1", 500))
    message = (
        "the check-in at 'v2' (time 499) is earlier than the one before it: give a person's "
        "check-ins in order of time."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        stream.push(CheckIn("a", "v2", 499))
    message = "a check-in of 'b' in the stream of 'a': start one stream for each person."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        stream.push(CheckIn("b", "v2", 500))
    assert len(stream.push(CheckIn("a", "v2", 500))) == 2


@pytest.mark.parametrize("case", CASES)
def test_an_interface_goes_through_json(make_task, case):
    task = make_task(**CASES[case])
    schema = Schema.of(task, protection.init_weights(task))
    text = json.dumps(schema.to_dict(), allow_nan=False)
    again = Schema.from_dict(json.loads(text))
    assert again.to_dict() == schema.to_dict()
    assert again.shared.tolist() == schema.shared.tolist()
    names = [entry["name"] for entry in schema.to_dict()["inputs"]]
    (first,) = check_ins_of(task.check_ins, task.clients.rows[:1])
    stream = Stream.start(again).push(first)
    if task.settings.inputs.asked_at:
        stream = stream.asked(first.time_s)
    assert names == list(stream.inputs())


def test_a_description_of_another_format_is_refused():
    message = "the model's description has format 0, expected 1. Export the run again."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Schema.from_dict({"format": 0})


def test_a_description_of_other_features_of_candidates_is_refused(make_task):
    described = Schema.of(make_task(head="candidates"), {}).to_dict()
    assert described["candidates"]["features"][0] == "followed_any"
    described["candidates"]["features"][0] = "followed_never"
    message = (
        "the model was exported by a version of fedgru that computes other features of candidates. "
        "Train the run again with this version, and export it."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Schema.from_dict(described)


def test_a_model_that_knows_the_time_needs_the_moment(make_task):
    def message(action, kind=ConfigError):
        with pytest.raises(kind) as error:
            action()
        return str(error.value)

    task = make_task(asked_at=True)
    weights = protection.init_weights(task)
    check_in, *_ = check_ins_of(task.check_ins, task.clients.rows[:5])
    predictor = Predictor.start(Schema.of(task, weights), weights).push(check_in)
    assert message(predictor.log_probs) == (
        "the model was trained with `asked_at`: it needs the moment for which it is asked. Give it "
        "with asked(time_s, offset_min)."
    )
    early = check_in.time_s - 1
    assert message(lambda: predictor.asked(early), DataError) == (
        f"the moment of asking (time {early}) is earlier than the last check-in (time "
        f"{check_in.time_s}): give a later one."
    )
    # what follows forgets the moment
    later = replace(check_in, time_s=check_in.time_s + 3600)
    assert "needs the moment" in message(predictor.asked(later.time_s).push(later).top)
    other = make_task()
    weights = protection.init_weights(other)
    predictor = Predictor.start(Schema.of(other, weights), weights).push(check_in)
    assert message(lambda: predictor.asked(later.time_s)) == (
        "the model was trained without `asked_at`: it does not read the moment of asking. Leave it "
        "out."
    )


def test_the_moment_of_asking_changes_the_prediction(make_task):
    task = make_task(asked_at=True, head="candidates")
    _, weights = drawn(task)
    check_ins = check_ins_of(task.check_ins, task.clients.rows[:20])
    predictor = Predictor.start(Schema.of(task, weights), weights).extend(check_ins)
    last = check_ins[-1]
    soon, later = (
        predictor.asked(last.time_s + hours * 3600, last.offset_min).log_probs()
        for hours in (1, 12)
    )
    assert np.abs(soon - later).max() > 0.01
