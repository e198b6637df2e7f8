"""fedgru/evaluation/audit: the views, where they are cut, and what must be told apart."""

import numpy as np
import pytest

from fedgru.agnostic import protection
from fedgru.core.errors import ConfigError
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import audit


@pytest.fixture
def engine(make_task):
    return JaxEngine(make_task())


def _examples(engine, weights, name="client", split="test", views=None, limit=10**6):
    from fedgru.agnostic.concepts import make_concept

    task, sampled = engine.task, {}
    concept = make_concept(name, task.check_ins, task.clients)
    everybody = np.arange(len(task.clients))
    plan = audit.AuditPlan(views=views, max_examples=limit)
    found = audit._examples(engine, weights, concept, split, everybody, plan, sampled)
    return found, sampled


def test_the_raw_input_of_a_model_without_id_features_is_its_numbers(make_task):
    engine = JaxEngine(make_task(features="clock,weekday"))
    weights = protection.init_weights(engine.task)
    found, _ = _examples(engine, weights, views=("raw input",))
    # sine and cosine of both: each pair has length 1
    raw = found.views["raw input"].toarray()
    assert raw.shape == (len(found.labels), 4)
    assert (raw**2).sum(axis=1) == pytest.approx(np.full(len(raw), 2.0))


def test_examples_are_all_of_the_split_that_another_check_in_follows(engine):
    weights = protection.init_weights(engine.task)
    fit, _ = _examples(engine, weights, split="val")
    test, _ = _examples(engine, weights, split="test")
    clients = engine.task.clients
    val_lengths = clients.val_ends - clients.train_ends
    test_lengths = clients.starts[1:] - clients.val_ends
    assert np.bincount(fit.groups).tolist() == val_lengths.tolist()
    assert np.bincount(test.groups).tolist() == (test_lengths - 1).tolist()


def test_views_are_what_they_say(engine):
    task, weights = engine.task, protection.init_weights(engine.task)
    found, _ = _examples(engine, weights)
    assert list(found.views) == ["representation", "logits", "raw input", "raw window"]
    # the first example: client 0, its first test check-in
    at = task.clients.val_ends[0]
    row = found.views["raw input"][0].toarray()[0]
    assert sorted(np.flatnonzero(row[: task.inputs.num_rows])) == sorted(
        r for r in task.inputs.rows[at] if r >= 0
    )
    np.testing.assert_allclose(row[task.inputs.num_rows :], task.inputs.numbers[at])
    # sixteen check-ins, a venue, a category and an hour of each
    window = found.views["raw window"][0].toarray()[0]
    assert window.sum() == 3 * 16
    venues = task.history.venues[at - 15 : at + 1]
    counts = np.bincount(venues, minlength=task.history.venues.max() + 1)
    np.testing.assert_array_equal(window[: len(counts)], counts)
    np.testing.assert_allclose(np.exp(found.views["logits"]).sum(1), 1, rtol=1e-5)


def test_logits_are_those_that_are_scored(engine):
    from fedgru.evaluation import evaluate

    weights = protection.init_weights(engine.task)
    found, _ = _examples(engine, weights)
    scored = evaluate.evaluate(engine, weights, "test")
    # scored targets are the check-ins of test; examples predict those but each client's first
    clients = engine.task.clients
    positions = clients.target_positions("test")
    kept = ~np.isin(positions, clients.val_ends)
    classes = engine.task.classes[positions[kept]]
    known = classes >= 0
    ours = -found.views["logits"][np.arange(len(classes)), np.maximum(classes, 0)]
    np.testing.assert_allclose(ours[known], scored.scores.values["loss"][kept][known], atol=1e-4)


def test_carried_state_stands_apart_where_it_differs(make_task):
    lstm = JaxEngine(make_task(cell="lstm"))
    found, _ = _examples(lstm, protection.init_weights(lstm.task))
    assert found.views["carried state"].shape[1] == 16  # hidden state and memory of 8 units
    np.testing.assert_array_equal(
        found.views["carried state"][:, :8], found.views["representation"]
    )
    noised = JaxEngine(make_task(agnostic_to="weekend", method="bottleneck"))
    weights = protection.init_weights(noised.task) | {"noise_scale": np.float32(1)}
    found, _ = _examples(noised, weights)
    gap = found.views["representation"] - found.views["carried state"]
    assert gap.std() == pytest.approx(1, abs=0.1)


def test_what_is_above_the_limit_is_counted(engine):
    weights = protection.init_weights(engine.task)
    whole, none = _examples(engine, weights)
    found, sampled = _examples(engine, weights, limit=20)
    assert none == {}
    assert len(found.labels) == 20
    assert sampled == {"test check-ins": [20, len(whole.labels)]}


def test_an_untrained_state_that_reads_ids_tells_who_it_is(engine):
    weights = protection.init_weights(engine.task)
    found, _ = audit.audit_task(engine, weights, "client", audit.AuditPlan(("logistic",)))
    assert found.worst("raw input").accuracy > 0.7  # the user is among the inputs
    assert found.worst("representation").accuracy > 0.6  # of six people, with forty examples
    assert found.worst("raw window").probe == "naive_bayes"
    assert found.floor == pytest.approx(10 / 45)  # the most active of six has ten of 45
    assert found.worst("representation + leace").accuracy < found.worst("representation").accuracy


def test_quick_audit_says_why_a_concept_was_not_audited(engine, make_task):
    weights = protection.init_weights(engine.task)
    found = audit.quick_audit(engine, weights)
    assert list(found) == ["client", "zone"]
    assert found["client"]["worst"]["representation"] > 0.6
    narrow = JaxEngine(make_task(zones=200))
    found = audit.quick_audit(narrow, weights)
    assert found["zone"]["not_audited"].startswith("concept zone needs 200 different places")
    own = JaxEngine(make_task(agnostic_to="weekend"))
    assert list(audit.quick_audit(own, protection.init_weights(own.task)))[-1] == "weekend"


def test_unknown_view(engine):
    with pytest.raises(ConfigError) as error:
        audit.audit_task(
            engine, protection.init_weights(engine.task), "client", audit.AuditPlan(views=("soul",))
        )
    assert str(error.value) == (
        "unknown view 'soul'. Accepted: representation, logits, raw input, raw window."
    )
