"""fedgru/priors.py: the running counts, against a slow and obvious second implementation."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from fedgru import evaluation, priors


def slow_prior(kind, classes, local_time_s, venues, shared):
    """One check-in after the other, with dictionaries, as the formulas are written."""
    num_classes = len(shared)
    n, m, c, d = Counter(), defaultdict(Counter), defaultdict(Counter), defaultdict(Counter)
    rows, before = [], None
    for now, time_s, venue in zip(classes, local_time_s, venues, strict=True):
        triple = (now, time_s // 3600 % 24 // 4, (time_s // 86400 + 3) % 7 >= 5)
        if before is not None and now >= 0:
            for table, key in zip((m, c, d), before, strict=True):
                table[key][now] += 1
        if now >= 0:
            n[now] += 1
        before = (now, triple, venue)
        row = []
        for v in range(num_classes):
            f = (n[v] + 3 * shared[v]) / (n.total() + 3)
            k = 5 if kind == "markov" else 10
            p = (m[now][v] + k * f) / (m[now].total() + k)
            if kind == "backoff":
                p = (c[triple][v] + 15 * p) / (c[triple].total() + 15)
                p = (d[venue][v] + 15 * p) / (d[venue].total() + 15)
            row.append(p)
        rows.append(row)
    return np.log(rows[:-1])


@pytest.mark.parametrize("kind", ["markov", "backoff"])
@pytest.mark.parametrize("missing", [False, True])
def test_equals_the_slow_one(kind, missing):
    rng = np.random.default_rng(0)
    classes = rng.integers(4, size=60)
    if missing:
        classes[rng.random(60) < 0.2] = -1
    times = np.cumsum(rng.integers(1, 40_000, size=60))
    venues = rng.integers(6, size=60)
    shared = np.array([0.4, 0.3, 0.15, 0.1, 0.05])  # class 4 never occurs
    found = priors.client_prior(kind, classes, times, venues).log_probs(shared)
    np.testing.assert_allclose(found, slow_prior(kind, classes, times, venues, shared), atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-6)


def test_nothing_of_the_future_enters():
    rng = np.random.default_rng(1)
    classes, venues = rng.integers(4, size=(2, 50))
    times = np.cumsum(rng.integers(1, 40_000, size=50))
    shared = np.full(5, 0.2)  # class 4 comes in the changed future only
    changed = np.where(np.arange(50) > 30, 4, classes)
    before, after = (
        priors.client_prior("backoff", c, times, venues).log_probs(shared)
        for c in (classes, changed)
    )
    np.testing.assert_array_equal(before[:31], after[:31])  # row 30 predicts check-in 31
    assert (before[31:] != after[31:]).any(axis=1).all()


def test_some_rows_alone():
    prior = priors.client_prior("markov", np.array([0, 1, 0]), np.zeros(3, int), np.zeros(3, int))
    shared = np.array([0.5, 0.5])
    # after 0: n = (1, 0), f = (1 + 1.5, 1.5) / 4, nothing followed 0 yet: p1 = f
    assert np.exp(prior.log_probs(shared, [0])[0]).tolist() == pytest.approx([0.625, 0.375])
    # after 0, 1: n = (1, 1), f = 1/2, nothing followed 1 yet
    assert np.exp(prior.log_probs(shared, [1])[0]).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.realdata
@pytest.mark.parametrize(
    "kind, expected", [("markov", (0.3184, 0.7374, 2.3285)), ("backoff", (0.3448, 0.7501, 2.3253))]
)
def test_the_published_running_counts(nyc, make_task, kind, expected):
    task = make_task(nyc, users=100)
    summary = evaluation.evaluate_running(task, kind, "test").summary()
    assert summary["test/targets"] == 11_308
    found = [summary[f"test/{name}/micro"] for name in ("acc@1", "acc@5", "loss")]
    assert [round(value, 4) for value in found] == list(expected)
