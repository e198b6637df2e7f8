"""Classes for a client's own venues that train does not have: numbered in order, never foreseen."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.core import seeding
from fedgru.data.datasets import DataSet
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.predict.predictor import Predictor, check_ins_of
from fedgru.predict.schema import Schema
from fedgru.task import features
from fedgru.task.task import build_task
from fedgru.task.unlisted import NUM_UNLISTED, number_unlisted
from tests.conftest import make_check_ins

# 16 check-ins: test ceil(3.2) = 4, val ceil(2.4) = 3, train 9. x, y and z are not in train.
VENUES = list("abcabcabc") + list("axy") + list("xzyz")
SETTINGS = {
    "target": "venue",
    "head": "candidates",
    "prior": "backoff",
    "features": "clock",
    "batch_size": 1,
    "seq_len": 5,
}


def one_user(venues=VENUES):
    check_ins = make_check_ins(["u"] * len(venues), ["k"] * len(venues), venues=venues)
    return DataSet("hand", check_ins, {"fingerprint": "hand"})


def test_two_clients_have_their_own_numbers():
    # client 0 is at 5, 9, 8, 9, 5; client 1 at 8, 9, missing, 8; only code 5 is listed, class 0
    codes = np.array([5, 9, 8, 9, 5, 8, 9, -1, 8])
    classes = np.where(codes == 5, 0, -1)
    as_targets, as_past = number_unlisted(classes, codes, np.array([0, 5, 9]), 1, 10)
    assert as_past.tolist() == [0, 1, 2, 1, 0, 1, 2, -1, 1]
    assert as_targets.tolist() == [0, -1, -1, 1, 0, -1, -1, -1, 1]


def test_values_beyond_the_number_have_no_class():
    codes = np.array([3, 4, 3, 4])
    as_targets, as_past = number_unlisted(np.full(4, -1), codes, np.array([0, 4]), 7, 1)
    assert (as_targets.tolist(), as_past.tolist()) == ([-1, -1, 7, -1], [7, -1, 7, -1])


def test_later_check_ins_change_no_number():
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 12, 60)
    classes = np.where(codes < 4, codes, -1)
    whole = number_unlisted(classes, codes, np.array([0, 60]), 4, 5)
    assert whole[1].max() == 8 and (whole[0] < 0).sum() > 8  # all five are used, and some are left
    for end in range(1, 60):
        part = number_unlisted(classes[:end], codes[:end], np.array([0, end]), 4, 5)
        for of_part, of_whole in zip(part, whole, strict=True):
            assert of_part.tolist() == of_whole[:end].tolist()


def test_a_return_is_a_target_and_a_first_visit_is_none(make_task):
    task = make_task(one_user(), **SETTINGS)
    a, b, c, x, y, z = range(6)
    assert (task.num_listed, task.num_classes) == (3, 3 + NUM_UNLISTED)
    assert task.history.classes[10:].tolist() == [x, y, x, z, y, z]
    assert task.classes[10:].tolist() == [-1, -1, x, -1, y, z]
    assert task.classes[:10].tolist() == [a, b, c] * 3 + [a]
    assert task.num_known == {"train": 8, "val": 1, "test": 3}


@pytest.mark.parametrize("overrides", [{"head": "dense"}, {"target": "category"}])
def test_other_runs_have_no_such_classes(make_task, overrides):
    task = make_task(one_user(), **SETTINGS | overrides)
    assert task.num_classes == task.num_listed == len(task.target_vocabulary)
    assert task.classes.tolist() == task.history.classes.tolist()


def untrained(make_task):
    """The task, and the model before training, which is its prior."""
    task = make_task(one_user(), **SETTINGS)
    return task, JaxEngine(task), task.spec.init_weights(seeding.rng(0, "weights"))


def test_an_unlisted_venue_is_predicted_as_the_prior_counts_it(make_task):
    task, engine, weights = untrained(make_task)
    found = evaluate.evaluate(engine, weights, "test")
    # test targets are the check-ins 12 to 15; that at z, 13, is a first visit
    assert found.scores.known.tolist() == [True, False, True, True]
    dense = task.log_prior(0, slice(None))
    expected = [dense[p - 1, task.classes[p]] for p in (12, 14, 15)]
    loss = found.scores.values["loss"]
    np.testing.assert_allclose(-loss[[0, 2, 3]], expected, atol=1e-5)
    # x has been visited once, and so it is likelier than what nobody has seen
    assert expected[0] > np.log(task.shared[3 + 3]) + 1
    candidates = task.client_candidates(0, np.array([11, 13]))
    assert [sorted(set(c.tolist()) - {-1}) for c in candidates.classes[:, 1:]] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
    ]


def test_static_counting_is_scored_as_without_them(make_task):
    """Whether a class is on the list that counting ranks does not depend on the head."""
    ours, dense = (make_task(one_user(), **SETTINGS | {"head": h}) for h in ("candidates", "dense"))
    for name in ("commonest", "last", "user_markov", "running_user_markov"):
        one, other = (evaluate.evaluate_counts(task, name, "test") for task in (ours, dense))
        assert one.scores.known.tolist() == other.scores.known.tolist()
        assert one.summary() == other.summary()


def test_predictions_name_the_clients_own_venue(make_task):
    task, engine, weights = untrained(make_task)
    found = evaluate.evaluate(engine, weights, "test")
    predicted = np.array([0, 3, 4, 5], np.int32)
    found = replace(found, scores=replace(found.scores, predicted=predicted))
    # before check-in 15 the client has been at z; before 14 not yet, but at y
    assert evaluate.prediction_table(task, found)["predicted"].tolist() == ["a", "x", "y", "z"]
    found.scores.predicted[2] = 6
    assert evaluate.prediction_table(task, found)["predicted"].tolist() == ["a", "x", None, "z"]


def test_a_stream_numbers_them_as_the_task(make_task):
    task, engine, weights = untrained(make_task)
    predictor = Predictor.start(Schema.of(task, weights), weights)
    check_ins = check_ins_of(task.check_ins, task.clients.rows)
    assert predictor.stream.class_of("x") == -1
    for end, check_in in enumerate(check_ins, start=1):
        predictor = predictor.push(check_in)
        stream = predictor.stream
        assert stream.history.classes.tolist() == task.history.classes[:end].tolist()
    assert [stream.class_of(venue) for venue in "acxyz"] == [0, 2, 3, 4, 5]
    assert [stream.value_of(place) for place in (0, 2, 3, 4, 5, 6)] == [*"acxyz", None]
    assert stream.unknown["target"] == 6  # check-ins that train does not help with
    # only values that somebody could go to, although 131 classes have a probability
    assert sorted(value for value, _ in predictor.top(200)) == [*"abcxyz"]
    log_probs = dict(predictor.top(200))
    assert np.log(log_probs["z"]) == pytest.approx(float(predictor.log_probs()[5]), abs=1e-6)


def test_a_list_from_elsewhere_leaves_some_of_train_unlisted(make_task):
    """A client of a deployment is given the list; it also trains on its own venues beyond it."""
    settings = make_task(one_user(), **SETTINGS, local_epochs=1).settings
    shared = np.full(2 + NUM_UNLISTED, 1 / (2 + NUM_UNLISTED))
    fitted = features.Fitted(ids={}, sizes={}, scales={}, classes=("a", "b"), shared=shared)
    task = build_task(one_user(), settings, fitted=fitted)
    a, b, c = 0, 1, 2  # c is the first that is not on the list
    assert task.num_classes == len(task.shared) == 2 + NUM_UNLISTED
    assert task.history.classes[:9].tolist() == [a, b, c] * 3
    assert task.classes[:9].tolist() == [a, b, -1, a, b, c, a, b, c]
    # 8 train targets; the first visit to c is left out
    assert task.local_data(0).num_examples == 7
