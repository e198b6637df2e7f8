"""fedgru/evaluation/evaluate.py: every target once, the right state, the right baselines."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from fedgru.core import metrics, seeding
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.models import gru


@pytest.fixture
def engine(make_task):
    return JaxEngine(make_task())


@pytest.fixture
def weights(engine):
    return gru.init_weights(engine.task.spec, seeding.rng(0, "weights"))


def one_client_by_hand(task, weights, client, from_position, to_position):
    """log p of the targets from+1 .. to, the state zero before position from."""
    own = slice(from_position, to_position)
    gates = gru.project(weights, task.inputs.rows[own][:, None], task.inputs.numbers[own][:, None])
    state = gru.zero_state("gru", task.spec.hidden_dim, 1)
    hidden, _ = gru.recur("gru", gates, weights["recurrent"], weights["bias"], state)
    pairs = np.arange(from_position, to_position) - task.clients.starts[client]
    scores = gru.logits(weights, hidden[:, 0], task.log_prior(client, pairs))
    targets = task.classes[from_position + 1 : to_position + 1]
    return -np.take_along_axis(jax.nn.log_softmax(scores), targets[:, None], 1)[:, 0]


@pytest.mark.parametrize("warm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_state_warmed_by_all_of_the_past_or_cold(engine, weights, warm):
    task, clients = engine.task, engine.task.clients
    found = evaluate.evaluate(engine, weights, "test", warm=warm)
    for client in range(len(clients)):
        last, test_starts = clients.starts[client + 1] - 1, clients.val_ends[client]
        begin = clients.starts[client] if warm else test_starts - 1
        losses = one_client_by_hand(task, weights, client, begin, last)
        own = found.client_index == client
        np.testing.assert_allclose(
            found.scores.values["loss"][own], losses[-own.sum() :], atol=1e-5
        )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_target_is_scored_exactly_once(engine, weights, split):
    found = evaluate.evaluate(engine, weights, split)
    np.testing.assert_array_equal(found.positions, engine.task.clients.target_positions(split))
    assert len(found.scores) == len(found.positions)


def test_revisits_and_first_visits_are_all_targets(engine, weights):
    warm = evaluate.evaluate(engine, weights, "test")
    report, _ = evaluate.full_report(engine.task, warm, seed=0)
    parts = [report["revisits"], report["first_visits"]]
    assert sum(part["test/targets"] for part in parts) == report["test/targets"] == len(warm.scores)
    hits = [p["test/targets"] * p["test/acc@1/micro"] for p in parts]
    assert sum(hits) / report["test/targets"] == pytest.approx(report["test/acc@1/micro"])


def test_first_visits_by_hand(engine):
    clients = engine.task.clients
    first = evaluate.first_visits(engine.task)
    for client in range(len(clients)):
        seen = set()
        for position in range(*clients.starts[client : client + 2]):
            venue = engine.task.history.venues[position]
            assert first[position] == (venue not in seen)
            seen.add(venue)


def test_report_holds_baselines_intervals_and_the_best_possible(engine, weights):
    warm = evaluate.evaluate(engine, weights, "test")
    report, _ = evaluate.full_report(engine.task, warm, seed=0)
    assert set(report["baselines"]) == {
        "commonest",
        "last",
        "global_markov",
        "frequency",
        "user_markov",
        "running_user_markov",
        "running_markov",
        "running_backoff",
    }
    for row in report["baselines"].values():
        assert row["test/targets"] == report["test/targets"]
    low, high = report["intervals"]["test/acc@1/micro"]
    assert low < report["test/acc@1/micro"] < high
    gain = report["gains"]["running_backoff"]["test/loss/micro"]
    running = report["baselines"]["running_backoff"]["test/loss/micro"]
    assert gain["difference"] == pytest.approx(report["test/loss/micro"] - running)
    assert gain["interval"][0] < gain["difference"] < gain["interval"][1]
    task = engine.task
    best = np.mean([task.best_prob[p] for p in task.clients.target_positions("test")])
    assert report["best_possible"] == pytest.approx(best)
    assert report["share_of_best"] == pytest.approx(report["test/acc@1/micro"] / best)


def test_client_table_gives_back_the_overall_numbers(engine, weights):
    found = evaluate.evaluate(engine, weights, "test")
    table = evaluate.client_table(engine.task, found)
    assert tuple(table["client_id"]) == engine.task.clients.client_ids
    summary = found.summary()
    assert np.mean(table["acc@1"]) == pytest.approx(summary["test/acc@1/macro"])
    assert np.average(table["acc@1"], weights=table["targets"]) == pytest.approx(
        summary["test/acc@1/micro"]
    )


def test_a_venue_never_seen_in_train_is_a_miss_and_has_no_loss(make_task):
    engine = JaxEngine(make_task(target="venue", prior="markov"))
    unknown = engine.task.classes[engine.task.clients.target_positions("test")] < 0
    assert unknown.any() and not unknown.all()
    weights = gru.init_weights(engine.task.spec, seeding.rng(0, "weights"))
    found = evaluate.evaluate(engine, weights, "test")
    for name in metrics.RANK_METRICS:
        assert not found.scores.values[name][unknown].any()
    assert np.isnan(found.scores.values["loss"]).tolist() == unknown.tolist()
    assert found.summary()["test/unknown_targets"] == unknown.sum()


def test_predictions_target_by_target(engine, weights):
    task = engine.task
    table = evaluate.prediction_table(task, evaluate.evaluate(engine, weights, "test"))
    position = task.clients.target_positions("test")[-1]  # the last check-in of the last client
    row = task.clients.rows[position]
    losses = one_client_by_hand(
        task, weights, len(task.clients) - 1, task.clients.starts[-2], position
    )
    log_prob = -float(losses[-1])
    target = task.check_ins.category.values[task.check_ins.category.codes[row]]
    last = {name: values[-1] for name, values in table.items()}
    assert last["client_id"] == task.clients.client_ids[-1]
    assert (last["row"], last["target"]) == (row, target)
    assert last["log_prob"] == pytest.approx(log_prob, abs=1e-5)
    assert last["predicted"] in task.target_vocabulary.values
    assert (last["rank"] == 1) == (last["predicted"] == target)
    assert (np.log(last["prob"]) > log_prob + 1e-6) == (last["rank"] > 1)


def test_a_static_baseline_says_which_class_by_its_name(make_task):
    task = make_task(prior="none")
    found = evaluate.evaluate_counts(task, "last", "test")
    table = evaluate.prediction_table(task, found)
    category, positions = task.check_ins.category, task.clients.target_positions("test")
    before = category.codes[task.clients.rows[positions - 1]]
    assert table["predicted"].tolist() == [category.values[code] for code in before]
    assert np.isnan(table["prob"]).all() and np.isnan(table["log_prob"]).all()
    gained = evaluate.gains(found, evaluate.evaluate_counts(task, "commonest", "test"), 0)
    assert list(gained) == ["test/acc@1/micro", "test/acc@5/micro"]  # neither has a loss


@pytest.mark.parametrize("name", ["user_markov", "popular_nearby"])
def test_counts_of_some_clients_are_scored_as_among_all(make_task, name):
    task = make_task(prior="none", target="venue", features="user,venue")
    everybody = evaluate.evaluate_counts(task, name, "val", radius_km=1.0)
    some = evaluate.evaluate_counts(task, name, "val", np.array([1, 4]), 1.0)
    chosen = np.isin(everybody.client_index, [1, 4])
    np.testing.assert_array_equal(some.positions, everybody.positions[chosen])
    np.testing.assert_array_equal(some.scores.rank, everybody.scores.rank[chosen])
    assert (some.num_clients, set(some.client_index.tolist())) == (2, {0, 1})


def test_the_best_counting_is_chosen_on_validation_never_on_test(engine, weights):
    task = engine.task
    warm = evaluate.evaluate(engine, weights, "test")
    report, _ = evaluate.full_report(task, warm, seed=0)
    on_val = {name: row["val/acc@1/micro"] for name, row in report["baselines"].items()}
    running = evaluate.evaluate_running(task, "backoff", "val").summary()
    assert on_val["running_backoff"] == running["val/acc@1/micro"]
    best = report["best_counting"]
    assert best["name"] == max(on_val, key=on_val.get)
    positions = task.clients.target_positions("val")
    assert (best["among"], best["targets"]) == (8, len(positions))
    # other check-ins in the test split, and the choice is the same, its results on test are not
    changed = task.target_codes.copy()
    changed[task.clients.in_split("test")] = changed[0]
    moved = replace(task, target_codes=changed)
    other, _ = evaluate.full_report(moved, warm, seed=0)
    assert other["best_counting"] == best
    assert {name: row["val/acc@1/micro"] for name, row in other["baselines"].items()} == on_val
    before, after = (r["baselines"]["user_markov"]["test/acc@1/micro"] for r in (report, other))
    assert before != after


def test_popular_nearby_needs_venues_and_coordinates(make_task):
    assert evaluate.why_not_nearby(make_task(prior="none")) == "it needs `target` venue"
    task = make_task(prior="none", target="venue", features="user,venue")
    assert evaluate.why_not_nearby(task) is None
    warm = evaluate.evaluate_running(task, "markov", "test")
    report, _ = evaluate.full_report(task, warm, seed=0)
    found = report["popular_nearby"]
    on_val = {
        km: evaluate.evaluate_counts(task, "popular_nearby", "val", None, km).summary()
        for km in found["radii_km"]
    }
    accuracies = [row["val/acc@1/micro"] for row in on_val.values()]
    assert found["radius_km"] == found["radii_km"][accuracies.index(max(accuracies))]
    assert report["baselines"]["popular_nearby"]["val/acc@1/micro"] == max(accuracies)
    nowhere = np.full_like(task.history.lat_deg, np.nan)
    lost = replace(task, history=replace(task.history, lat_deg=nowhere))
    report, _ = evaluate.full_report(lost, warm, seed=0)
    assert report["popular_nearby"] == {"absent": "the data set has no coordinates"}
    assert "popular_nearby" not in report["baselines"]


def test_some_clients_are_scored_as_among_all(engine, weights):
    everybody = evaluate.evaluate(engine, weights, "val")
    some = evaluate.evaluate(engine, weights, "val", clients=[1, 4])
    chosen = np.isin(everybody.client_index, [1, 4])
    np.testing.assert_array_equal(some.positions, everybody.positions[chosen])
    assert (some.num_clients, set(some.client_index.tolist())) == (2, {0, 1})
    np.testing.assert_allclose(
        some.scores.values["loss"], everybody.scores.values["loss"][chosen], atol=1e-6
    )


def test_many_clients_are_scored_in_blocks(engine, weights, monkeypatch):
    at_once = evaluate.evaluate(engine, weights, "test")
    monkeypatch.setattr(evaluate, "CLIENTS_AT_ONCE", 4)
    in_blocks = evaluate.evaluate(engine, weights, "test")
    np.testing.assert_array_equal(in_blocks.positions, at_once.positions)
    np.testing.assert_array_equal(in_blocks.client_index, at_once.client_index)
    assert in_blocks.num_clients == at_once.num_clients == 6
    np.testing.assert_allclose(
        in_blocks.scores.values["loss"], at_once.scores.values["loss"], atol=1e-6
    )


def made_up_scores(correct, losses):
    """An Evaluation of clients, each a list of 0 or 1 and a list of losses; NaN is unknown."""
    loss = np.array([value for client in losses for value in client])
    num = len(loss)
    scores = metrics.TargetScores(
        {"acc@1": np.array([float(v) for client in correct for v in client]), "loss": loss},
        ~np.isnan(loss),
        *(np.zeros(num), np.zeros(num, np.int32), np.zeros(num)),
    )
    index = np.repeat(np.arange(len(correct)), [len(client) for client in correct])
    return evaluate.Evaluation(
        "test", np.arange(num), index.astype(np.int32), scores, len(correct), ("a", "b")
    )


def test_the_worst_tenth_by_hand():
    # of 11 clients with targets the worst 2: client 4 has acc@1 0 and loss (3 + 1) / 2, client 7
    # 1/4 and (1 + 2 + 6) / 3, its last target is unknown; client 2 has no targets. Counting each
    # check-in once would give 1/6.
    correct, losses = [[1, 0]] * 12, [[0.5, 0.5]] * 12
    correct[2], losses[2] = [], []
    correct[4], losses[4] = [0, 0], [3.0, 1.0]
    correct[7], losses[7] = [1, 0, 0, 0], [1.0, 2.0, 6.0, np.nan]
    found = evaluate.worst_tenth(made_up_scores(correct, losses))
    assert found == {"clients": 2, "acc@1": 0.125, "loss": 2.5}


def test_the_worst_tenth_has_at_least_one_client_and_perhaps_no_loss():
    found = evaluate.worst_tenth(made_up_scores([[1], [0]], [[0.5], [np.nan]]))
    assert found == {"clients": 1, "acc@1": 0.0, "loss": None}
