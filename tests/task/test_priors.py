"""fedgru/task/priors.py, kernel_prior.py: against slow and obvious second implementations."""

import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from fedgru.data import datasets
from fedgru.evaluation import evaluate
from fedgru.task import kernel_layout, kernel_prior, priors


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


def random_history(seed, n=60, num_classes=4, missing=False):
    rng = np.random.default_rng(seed)
    classes = rng.integers(num_classes, size=n).astype(np.int32)
    if missing:
        classes[rng.random(n) < 0.2] = -1
    time_s = np.cumsum(rng.integers(1, 80_000, size=n))
    lat_deg = 40.7 + 0.02 * rng.random(n)
    lat_deg[rng.random(n) < 0.1] = np.nan
    return priors.History(
        classes=classes,
        categories=classes,
        venues=rng.integers(6, size=n).astype(np.int32),
        time_s=time_s,
        local_time_s=time_s - 4 * 3600,
        lat_deg=lat_deg,
        lon_deg=-74 + 0.02 * rng.random(n),
    )


SHARED = np.array([0.4, 0.3, 0.15, 0.1, 0.05])  # class 4 never occurs in a random history
KERNEL = kernel_prior.Kernel(1.5, 0.7, 2.8, 1.4, 0.3, 0.4, 0.5, -0.5, 0.3, 0.9, 0.8)

ASKED_KERNEL = replace(KERNEL, gap=1.2)


def prior_of(kind, history, shared=SHARED):
    if kind == "kernel":
        return kernel_prior.kernel_prior(KERNEL, history, shared)
    return priors.count_prior(kind, history, shared)


@pytest.mark.parametrize("kind", ["markov", "backoff"])
@pytest.mark.parametrize("missing", [False, True])
def test_counts_equal_the_slow_ones(kind, missing):
    history = random_history(0, missing=missing)
    found = prior_of(kind, history).log_probs(SHARED)
    expected = slow_prior(kind, history.classes, history.local_time_s, history.venues, SHARED)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def slow_asked_counts(kind, history, shared):
    """One prediction after the other: what followed before, at such an hour and otherwise."""
    h, rows = history, []
    times = [(h.local_time_s // 3600 % 24 // 4)[j] * 2 + h.weekend[j] for j in range(len(h))]
    for i in range(len(h) - 1):
        n = Counter(c for c in h.classes[: i + 1].tolist() if c >= 0)
        by_time, by_class, by_both, by_venue = (Counter() for _ in range(4))
        for j in (j for j in range(i) if h.classes[j + 1] >= 0):
            same_time, followed = times[j + 1] == times[i + 1], h.classes[j + 1]
            same_class, same_venue = (v[j] == v[i] for v in (h.classes, h.venues))
            by_time[followed] += same_time
            by_class[followed] += same_class
            by_both[followed] += same_class and same_time
            by_venue[followed] += same_venue and same_time
        levels = [(by_time, 10)]
        if kind == "backoff":
            levels += [(by_class, 10), (by_both, 15), (by_venue, 15)]
        row = []
        for v in range(len(shared)):
            p = (n[v] + 3 * shared[v]) / (n.total() + 3)
            for level, weight in levels:
                p = (level[v] + weight * p) / (level.total() + weight)
            row.append(p)
        rows.append(row)
    return np.log(rows)


@pytest.mark.parametrize("kind", priors.ASKED_COUNTS)
@pytest.mark.parametrize("missing", [False, True])
def test_counts_that_know_the_time_equal_the_slow_ones(kind, missing):
    history = random_history(0, n=90, missing=missing)
    found = priors.count_prior(kind, history, SHARED, asked_at=True).log_probs(SHARED)
    np.testing.assert_allclose(found, slow_asked_counts(kind, history, SHARED), atol=1e-5)
    blind = priors.count_prior("backoff", history, SHARED).log_probs(SHARED)
    assert np.abs(found - blind).max() > 0.05


def slow_kernel(kernel, history, shared, window=10**9):
    """One pair of check-ins after the other, as the formula is written."""
    h, rows, ahead = history, [], int(kernel.asked_at)
    hours = np.log1p(np.diff(h.time_s) / 3600)
    for i in range(len(h) - 1):
        counts, recent = np.zeros(len(shared)), np.zeros(len(shared))
        for j in range(i + 1):
            if h.classes[j] >= 0:
                recent[h.classes[j]] += 0.5 ** ((h.time_s[i] - h.time_s[j]) / (15 * 86400))
        base = (recent + 5 * shared) / (recent.sum() + 5)
        for j in range(max(0, i - window), i):
            km_north = 111.2 * (h.lat_deg[i] - h.lat_deg[j])
            km_east = 111.2 * np.cos(np.radians(h.lat_deg[i]))
            km_east *= h.lon_deg[i] - h.lon_deg[j]
            near = np.exp(-(km_north**2 + km_east**2) / 2)
            turn = 2 * np.pi * (h.local_time_s[i + ahead] - h.local_time_s[j + ahead]) / 86400
            alike = [
                h.venues[i] == h.venues[j],
                h.categories[i] == h.categories[j] >= 0,
                h.venues[i] == h.venues[j] if np.isnan(near) else near,
                np.cos(turn),
                h.weekend[i + ahead] == h.weekend[j + ahead],
                j > 0 and h.categories[i - 1] == h.categories[j - 1] >= 0,
                j > 0 and h.venues[i - 1] == h.venues[j - 1],
                np.exp(-2 * (hours[i] - hours[j]) ** 2),
            ]
            weights = [
                kernel.same_venue,
                kernel.same_category,
                kernel.near,
                kernel.hour,
                kernel.weekend,
                kernel.same_category_before,
                kernel.same_venue_before,
                kernel.gap or 0,
            ]
            exponent = sum(w * (x - 1) for w, x in zip(weights, alike, strict=True))
            months = (h.time_s[i] - h.time_s[j]) / (30 * 86400)
            if h.classes[j + 1] >= 0:
                counts[h.classes[j + 1]] += np.exp(
                    exponent - np.exp(kernel.log_forgetting) * months
                )
        k = np.exp(kernel.log_k)
        pooled = np.log((counts + k * base) / (counts.sum() + k))
        z = kernel.base_power * np.log(base) + kernel.trust * (pooled - np.log(base))
        rows.append(z - np.log(np.exp(z).sum()))
    return np.array(rows)


@pytest.mark.parametrize("kernel", [KERNEL, ASKED_KERNEL], ids=["next", "asked"])
@pytest.mark.parametrize("missing", [False, True])
def test_kernel_equals_the_slow_one(missing, kernel):
    history = random_history(2, n=70, missing=missing)  # two blocks of 64, the second padded
    found = kernel_prior.kernel_prior(kernel, history, SHARED).log_probs(SHARED)
    np.testing.assert_allclose(found, slow_kernel(kernel, history, SHARED), atol=2e-4)


def test_kernel_of_a_client_that_owns_every_class():
    history = random_history(3, num_classes=5)
    found = prior_of("kernel", history).log_probs(SHARED)
    np.testing.assert_allclose(found, slow_kernel(KERNEL, history, SHARED), atol=2e-4)


@pytest.mark.parametrize("missing", [False, True])
def test_kernel_compares_with_the_last_check_ins_alone(monkeypatch, missing):
    history = random_history(2, n=70, missing=missing)
    expected = slow_kernel(KERNEL, history, SHARED, window=20)
    assert np.abs(expected - slow_kernel(KERNEL, history, SHARED)).max() > 0.1
    monkeypatch.setattr(kernel_prior, "WINDOW", 20)
    monkeypatch.setattr(kernel_prior, "PART", 16)  # parts that end within the history, and at it
    monkeypatch.setattr(kernel_prior, "CELLS_AT_ONCE", 5 * (20 + 16))
    found = prior_of("kernel", history).log_probs(SHARED)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    # and so does a stream, which asks for the last one alone
    for n in (2, 20, 21, 22, 37, 70):
        last = kernel_prior.kernel_prior(KERNEL, history[:n], SHARED, first=n - 2)
        np.testing.assert_allclose(last.log_probs(SHARED)[0], expected[n - 2], atol=2e-4)


def as_bytes(prior):
    return [array.tobytes() for array in (prior.support, prior.log_own, prior.log_rest)]


def test_a_window_longer_than_a_history_changes_no_byte(monkeypatch, make_task):
    made_up = [random_history(n, n=n, missing=True) for n in (2, 12, 63, 64, 65, 200, 999, 1000)]
    task = make_task(datasets.open_data_set("embedded", "data"), users=20)
    parts = zip(task.clients.starts[:-1], task.clients.starts[1:], strict=True)
    embedded = [task.history[start:end] for start, end in parts]
    for histories, shared in ((embedded, task.shared), (made_up, SHARED)):
        longest = max(len(history) for history in histories)
        found = []
        for window in (10**9, longest, longest - 1):
            monkeypatch.setattr(kernel_prior, "WINDOW", window)
            own = [prior_of("kernel", history, shared) for history in histories]
            kernel = kernel_prior.fit_kernel(histories, shared, seed=0, rounds=2)
            found.append(([as_bytes(prior) for prior in own], kernel))
        assert found[0] == found[1]
        assert found[0][1] != found[2][1]  # a window that is shorter is seen


def test_learning_takes_the_last_check_ins_of_a_long_history(monkeypatch):
    histories = [random_history(seed, n=n) for seed, n in enumerate((30, 90))]
    cut = [histories[0], histories[1][-40:]]
    expected = kernel_prior.fit_kernel(cut, SHARED, seed=0, rounds=5)
    monkeypatch.setattr(kernel_prior, "WINDOW", 40)
    assert kernel_prior.fit_kernel(histories, SHARED, seed=0, rounds=5) == expected


@pytest.mark.parametrize("kind", ["markov", "backoff"])
def test_counting_a_few_classes_at_once_changes_no_byte(monkeypatch, kind):
    history = random_history(0, n=300, num_classes=40, missing=True)
    shared = np.full(50, 1 / 50)
    whole = prior_of(kind, history, shared)
    monkeypatch.setattr(priors, "CELLS_AT_ONCE", 7 * 300)
    assert as_bytes(prior_of(kind, history, shared)) == as_bytes(whole)


@pytest.mark.parametrize("kind", ["markov", "backoff", "kernel"])
def test_memory_beside_the_result_does_not_grow_with_the_classes(monkeypatch, kind):
    history = random_history(0, n=1500, num_classes=1400)
    shared = np.full(1400, 1 / 1400)
    monkeypatch.setattr(priors, "CELLS_AT_ONCE", 1 << 15)
    monkeypatch.setattr(kernel_prior, "WINDOW", 64)
    monkeypatch.setattr(kernel_prior, "PART", 32)
    monkeypatch.setattr(kernel_prior, "CELLS_AT_ONCE", 1 << 9)
    tracemalloc.start()
    try:
        result = prior_of(kind, history, shared).log_own.nbytes
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # one more array of float32 for all check-ins and classes would double it
    assert result < most < 1.6 * result


@pytest.mark.parametrize("kind", ["markov", "backoff", "kernel"])
def test_is_a_distribution_and_holds_nothing_of_the_future(kind):
    history = random_history(1, n=50)
    later = np.arange(50) > 30
    changed = replace(
        history,
        classes=np.where(later, 4, history.classes),
        categories=np.where(later, 4, history.categories),
        venues=np.where(later, 99, history.venues),
        time_s=history.time_s + later * 9_999,
        lat_deg=np.where(later, 51.5, history.lat_deg),
        lon_deg=np.where(later, 0.0, history.lon_deg),
    )
    before, after = (prior_of(kind, h).log_probs(SHARED) for h in (history, changed))
    np.testing.assert_allclose(np.exp(before).sum(axis=1), 1, atol=1e-5)
    # row 30 predicts check-in 31; shared arrays of another size may round otherwise
    np.testing.assert_allclose(before[:31], after[:31], atol=1e-5)
    assert (np.abs(before[31:] - after[31:]) > 1e-3).any(axis=1).all()


def test_some_rows_alone():
    history = random_history(0, n=3)
    history = replace(history, classes=np.array([0, 1, 0]), venues=np.zeros(3, int))
    prior, shared = (
        priors.count_prior("markov", history, np.array([0.5, 0.5])),
        np.array([0.5, 0.5]),
    )
    # after 0: n = (1, 0), f = (1 + 1.5, 1.5) / 4, nothing followed 0 yet: p1 = f
    assert np.exp(prior.log_probs(shared, [0])[0]).tolist() == pytest.approx([0.625, 0.375])
    # after 0, 1: n = (1, 1), f = 1/2, nothing followed 1 yet
    assert np.exp(prior.log_probs(shared, [1])[0]).tolist() == pytest.approx([0.5, 0.5])


def test_learning_the_kernel_finds_what_the_clients_go_by():
    # everybody repeats what followed at the same venue; the category and the hour say nothing
    rng = np.random.default_rng(0)
    histories = []
    for client in range(4):
        base = random_history(client, n=200)
        venues = rng.integers(4, size=200).astype(np.int32)
        classes = np.concatenate([[0], (venues[:-1] + client) % 4]).astype(np.int32)
        histories.append(
            replace(base, venues=venues, classes=classes, categories=rng.permutation(classes))
        )
    losses = []
    kernel = kernel_prior.fit_kernel(
        histories, SHARED, seed=0, on_round=lambda _, loss: losses.append(loss)
    )
    assert kernel.same_venue > 1.5 + max(kernel.same_category, kernel.hour, kernel.weekend)
    assert losses[0] > 0.8 > 3 * losses[-1]
    again = kernel_prior.fit_kernel(histories, SHARED, seed=0, threads=1)
    assert again == kernel
    assert kernel_prior.Kernel.from_dict(kernel.to_dict()) == kernel


@pytest.mark.parametrize("kernel", [KERNEL, ASKED_KERNEL], ids=["next", "asked"])
@pytest.mark.parametrize("missing", [False, True])
def test_gradient_of_the_kernel_by_finite_differences(missing, kernel):
    # the second client is shorter, and knows fewer classes
    histories = [random_history(5, missing=missing), random_history(6, n=30)]
    histories[1] = replace(histories[1], classes=np.minimum(histories[1].classes, 1))
    pasts = kernel_layout.lay_out(histories, SHARED, kernel.asked_at)
    rows = np.stack([np.arange(20, 50), np.arange(30) % 19 + 10])
    numbers = np.array(list(kernel.to_dict().values()), np.float32)
    gradients = kernel_prior._gradients(numbers, pasts, rows)
    for i in range(len(numbers)):
        nudge = np.zeros_like(numbers)
        nudge[i] = 0.02
        high, low = (
            kernel_prior._gradients(n, pasts, rows)[:, -1]
            for n in (numbers + nudge, numbers - nudge)
        )
        assert gradients[:, i] == pytest.approx((high - low) / 0.04, abs=3e-4)


def test_clients_computed_together_learn_as_if_alone():
    histories = [random_history(seed, n=n) for seed, n in enumerate((80, 30, 50))]
    numbers = np.array(list(KERNEL.to_dict().values()), np.float32)
    rows = np.array([[70, 20, 78], [20, 28, 11], [48, 48, 10]])
    together = kernel_prior._gradients(numbers, kernel_layout.lay_out(histories, SHARED), rows)
    for history, own_rows, gradient in zip(histories, rows, together, strict=True):
        alone = kernel_layout.lay_out([history], SHARED)
        found = kernel_prior._gradients(numbers, alone, own_rows[None])
        np.testing.assert_allclose(found[0], gradient, rtol=1e-5, atol=1e-6)


def test_little_data_moves_the_kernel_little():
    # two clients of 12 pairs: two eligible pairs each, drawn again and again
    histories = [random_history(seed, n=13) for seed in (0, 1)]
    kernel = kernel_prior.fit_kernel(histories, SHARED, seed=0)
    moved = np.subtract(
        list(kernel.to_dict().values()), list(kernel_prior.Kernel().to_dict().values())
    )
    assert 0.01 < np.abs(moved).max() < 0.8


def test_nobody_with_enough_past_leaves_the_start_values():
    kernel = kernel_prior.fit_kernel([random_history(0, n=11)], SHARED, seed=0)
    assert kernel == kernel_prior.Kernel()


@pytest.mark.realdata
@pytest.mark.parametrize(
    "kind, expected", [("markov", (0.3184, 0.7374, 2.3285)), ("backoff", (0.3448, 0.7501, 2.3253))]
)
def test_the_published_running_counts(nyc, make_task, kind, expected):
    task = make_task(nyc, users=100, prior="none")
    summary = evaluate.evaluate_running(task, kind, "test").summary()
    assert summary["test/targets"] == 11_308
    found = [summary[f"test/{name}/micro"] for name in ("acc@1", "acc@5", "loss")]
    assert [round(value, 4) for value in found] == list(expected)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_learnt_kernel_beats_the_best_counts_on_real_people(nyc, make_task):
    task = make_task(nyc, users=100, prior="kernel", threads=2)
    summary = evaluate.evaluate_running(task, "kernel", "test").summary()
    assert summary["test/acc@1/micro"] == pytest.approx(0.367, abs=0.002)  # counts: 0.3448
    assert summary["test/loss/micro"] == pytest.approx(2.059, abs=0.005)  # counts: 2.3253
