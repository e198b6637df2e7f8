"""The features of candidates: against a slow second route, causal, and equal in a stream."""

import dataclasses
import math

import numpy as np
import pytest

from fedgru.models.candidate_head import NO_CANDIDATE
from fedgru.task import candidate_features, candidates
from fedgru.task.candidate_features import ASKED, NEVER, NEXT
from fedgru.task.candidates import client_candidates
from fedgru.task.kernel_prior import Kernel, kernel_prior
from fedgru.task.priors import History, count_prior

NUM_CLASSES = 7
SHARED = np.arange(1.0, NUM_CLASSES + 1) / np.arange(1.0, NUM_CLASSES + 1).sum()
DAY, HOUR = 86400, 3600
FEATURES = NEXT.features
# without and with the moment of the next check-in
both = pytest.mark.parametrize("feature_set", [NEXT, ASKED], ids=["next", "asked"])


def made_up(n, seed=0, num_classes=NUM_CLASSES - 1, located=True):
    """A person's check-ins; the last class is never visited."""
    rng = np.random.default_rng(seed)
    venues = rng.integers(0, 12, n).astype(np.int32)
    time_s = 1_400_000_000 + np.cumsum(rng.integers(200, 20 * HOUR, n))
    lat = 40.7 + 0.02 * rng.random(12)[venues]
    lon = -74 + 0.02 * rng.random(12)[venues]
    if not located:
        lat[rng.random(n) < 0.3] = np.nan
    return History(
        classes=(venues % num_classes).astype(np.int32),
        categories=(venues % num_classes).astype(np.int32),
        venues=venues,
        time_s=time_s,
        local_time_s=time_s - 4 * HOUR,
        lat_deg=lat,
        lon_deg=lon,
    )


def found(history, first=0, feature_set=NEXT, **others):
    asked_at = feature_set.asked_at
    prior = kernel_prior(Kernel.start(asked_at), history, SHARED)
    backoff = count_prior("backoff", history, SHARED, asked_at)
    return client_candidates(
        history, SHARED, prior, backoff, first=first, feature_set=feature_set, **others
    )


def unscaled(candidates_found, name, feature_set=NEXT):
    at = feature_set.features.index(name)
    values = candidates_found.candidates.features[..., at]
    shifts, scales = feature_set.scaling
    return values * scales[at] + shifts[at]


def by_class(of_candidates, candidates_found, pair):
    """{class: value} of the candidates of a pair, without "somewhere new"."""
    classes = candidates_found.classes[pair, 1:]
    return {c: of_candidates[pair, 1 + k] for k, c in enumerate(classes.tolist()) if c >= 0}


def slow_weights(history, i, j):
    """The similarities of check-ins i and j, each written down again, one number at a time."""
    age_s = float(history.time_s[i] - history.time_s[j])
    hour = history.local_hour
    cos = math.cos(2 * math.pi * (hour[i] - hour[j]) / 24)
    day = history.local_time_s // DAY
    same = {
        "category": history.categories[i] == history.categories[j],
        "venue": history.venues[i] == history.venues[j],
        "weekday": (day[i] - day[j]) % 7 == 0,
    }
    for back, name in ((1, "before"), (2, "before_that")):
        both = i >= back and j >= back
        same[f"category_{name}"] = (
            both and history.categories[i - back] == history.categories[j - back]
        )
        same[f"venue_{name}"] = both and history.venues[i - back] == history.venues[j - back]
    gaps = [math.log1p((history.time_s[k] - history.time_s[max(k - 1, 0)]) / HOUR) for k in (i, j)]
    place = [int((day[:k] == day[k]).sum()) for k in (i, j)]
    km = 111.2 * math.hypot(
        history.lat_deg[i] - history.lat_deg[j],
        (history.lon_deg[i] - history.lon_deg[j]) * math.cos(math.radians(history.lat_deg[i])),
    )
    if not math.isfinite(km):
        km = 0.0 if same["venue"] else 50.0
    km = min(km, 50.0)
    ahead = (hour[j] - hour[i]) % 24
    weights = {name: float(equal) for name, equal in same.items()}
    weights |= {
        "one": 1.0,
        "fade": math.exp(-0.43 * age_s / (30 * DAY)),
        "hour": math.exp(4 * (cos - 1)),
        "sharp_hour": math.exp(12 * (cos - 1)),
        "weekend": 1.0 if history.weekend[i] == history.weekend[j] else 0.25,
        "gap": math.exp(-2 * (gaps[0] - gaps[1]) ** 2),
        "place_in_day": float(place[0] == place[1]),
        "near": math.exp(-(km**2) / 2 / 0.09),
        "around": math.exp(-(km**2) / 2),
        "soon": math.exp(-ahead / 4),
        "within_2_hours": float(ahead < 2),
        "within_8_hours": float(ahead < 8),
        "yesterday": float(DAY - 6 * HOUR <= age_s <= DAY),
        "week_ago": float(7 * DAY - 6 * HOUR <= age_s <= 7 * DAY),
        "today": float(day[i] == day[j]),
        "last_10": float(i - j < 10),
        "last_3": float(i - j < 3),
    }
    for days in (3, 15, 60):
        weights[f"half_{days}"] = 0.5 ** (age_s / DAY / days)
    return weights | slow_asked_weights(history, i, j), km


def slow_asked_weights(history, i, j):
    """The same of the moments of the check-ins after i and j."""
    k, m = i + 1, j + 1
    hour, day = history.local_hour, history.local_time_s // DAY
    cos = math.cos(2 * math.pi * (hour[k] - hour[m]) / 24)
    since_h = (history.time_s[k] - history.time_s[j]) / HOUR
    gaps = [math.log1p((history.time_s[n + 1] - history.time_s[n]) / HOUR) for n in (i, j)]
    place = [int((day[: n + 1] == day[n + 1]).sum()) for n in (i, j)]
    return {
        "asked_hour": math.exp(4 * (cos - 1)),
        "asked_sharp_hour": math.exp(12 * (cos - 1)),
        "asked_sharpest_hour": math.exp(40 * (cos - 1)),
        "asked_weekend": 1.0 if history.weekend[k] == history.weekend[m] else 0.25,
        "asked_weekday": float((day[k] - day[m]) % 7 == 0),
        "asked_gap": math.exp(-2 * (gaps[0] - gaps[1]) ** 2),
        "asked_place_in_day": float(place[0] == place[1]),
        "asked_yesterday": float(21 <= since_h <= 27),
        "asked_week_ago": float(165 <= since_h <= 171),
        "asked_last_hours": float(since_h <= 4),
        "asked_today": float(day[j] == day[k]),
    }


@both
@pytest.mark.parametrize("located", [True, False])
def test_counts_equal_sums_written_down_one_by_one(located, feature_set):
    history = made_up(40, located=located)
    ours = found(history, feature_set=feature_set)
    for i in (0, 1, 7, 38):
        alike = [slow_weights(history, i, j)[0] for j in range(i + 1)]
        recent = np.zeros(NUM_CLASSES)
        for j in range(i + 1):
            recent[history.classes[j]] += alike[j]["half_15"]
        base = (recent + 5 * SHARED) / (recent.sum() + 5)
        tables = {"followed": feature_set.followed, "visited": feature_set.visited}
        for kind, table in tables.items():
            ahead = kind == "followed"
            for name, factors in table.items():
                counts = np.zeros(NUM_CLASSES)
                for j in range(i + 1 - ahead):
                    weight = math.prod(alike[j][factor] for factor in factors)
                    counts[history.classes[j + ahead]] += weight
                wanted = np.log((counts + base) / (counts.sum() + 1)) - np.log(base)
                values = by_class(unscaled(ours, f"{kind}_{name}", feature_set), ours, i)
                assert set(values) == set(history.classes[: i + 1].tolist())
                for c, value in values.items():
                    assert value == pytest.approx(wanted[c], abs=2e-4), (name, c)
                new = unscaled(ours, f"{kind}_{name}", feature_set)[i, 0]
                assert new == pytest.approx(-np.log(counts.sum() + 1), abs=2e-4)
                at = feature_set.context.index(f"log_total_{kind}_{name}")
                total = ours.candidates.context[i, at]
                assert total == pytest.approx((np.log1p(counts.sum()) - 2.2) / 1.2, abs=2e-4)


def test_recency_by_hand():
    # at class 0 at hours 0 and 10, at class 1 at hours 4 and 12
    time_s = np.array([0, 4, 10, 12, 20]) * HOUR
    history = History(
        classes=np.array([0, 1, 0, 1, 2], np.int32),
        categories=np.array([0, 1, 0, 1, 2], np.int32),
        venues=np.array([0, 1, 0, 1, 2], np.int32),
        time_s=time_s,
        local_time_s=time_s,
        lat_deg=np.array([0.0, 0.01, 0.0, 0.01, 0.02]),
        lon_deg=np.zeros(5),
    )
    ours = found(history)
    at = {name: by_class(unscaled(ours, name), ours, 3) for name in candidate_features.RECENCY}
    assert at["log_hours_since"] == pytest.approx({0: math.log(3), 1: 0.0}, abs=1e-5)
    assert at["log_check_ins_since"] == pytest.approx({0: math.log(2), 1: 0.0}, abs=1e-5)
    assert at["log_interval"] == pytest.approx({0: math.log(11), 1: math.log(9)}, abs=1e-5)
    assert at["log_overdue"] == pytest.approx({0: math.log(3 / 11), 1: math.log(1 / 9)}, abs=1e-5)
    assert at["is_last"] == pytest.approx({0: 0, 1: 1})
    assert at["is_before"] == pytest.approx({0: 1, 1: 0})
    assert at["is_before_that"] == pytest.approx({0: 0, 1: 1})
    assert at["log_km_last"] == pytest.approx(
        {0: math.log(0.05 + 1.112), 1: math.log(0.05)}, abs=1e-4
    )
    new = [unscaled(ours, name)[3, 0] for name in candidate_features.RECENCY]
    assert new == pytest.approx(NEVER, abs=1e-5)
    # after one visit there is no interval yet
    assert by_class(unscaled(ours, "log_interval"), ours, 1)[1] == pytest.approx(math.log(10000))


def test_features_of_an_asked_moment_by_hand():
    # Thursday: class 0 at 8:00 and class 1 at 12:00; Friday: class 0 at 8:00, asked at 14:00
    time_s = np.array([8, 12, 32, 38]) * HOUR
    history = History(
        classes=np.array([0, 1, 0, 1], np.int32),
        categories=np.array([0, 1, 0, 1], np.int32),
        venues=np.array([0, 1, 0, 1], np.int32),
        time_s=time_s,
        local_time_s=time_s,
        lat_deg=np.zeros(4),
        lon_deg=np.zeros(4),
    )
    ours = found(history, feature_set=ASKED)

    def at(name):
        return by_class(unscaled(ours, name, ASKED), ours, 2)

    # to the asked moment, 6 h after the last check-in: 6 and 26 hours; 24 between visits to class 0
    assert at("log_hours_since") == pytest.approx({0: math.log(7), 1: math.log(27)}, abs=1e-5)
    assert at("log_overdue") == pytest.approx(
        {0: math.log(7 / 25), 1: math.log(27 / 10000)}, abs=1e-5
    )
    # 12:00 yesterday lies 26 h before, 8:00 lies 30 h before; today class 0 alone
    recent = {0: 0.5 ** (1 / 15) + 1, 1: 0.5 ** (20 / 24 / 15)}
    base = {c: (recent[c] + 5 * SHARED[c]) / (sum(recent.values()) + 5) for c in (0, 1)}
    assert at("visited_yesterday") == pytest.approx(
        {0: -math.log(2), 1: math.log((1 + base[1]) / 2 / base[1])}, abs=1e-4
    )
    assert at("visited_today") == pytest.approx(
        {0: math.log((1 + base[0]) / 2 / base[0]), 1: -math.log(2)}, abs=1e-4
    )
    # followed: class 1 at 12:00, a twelfth of a turn from 14:00; class 0 at 8:00, a quarter
    fade = [math.exp(-0.43 * h / 24 / 30) for h in (24, 20)]
    counts = {
        1: fade[0] * math.exp(12 * (math.sqrt(3) / 2 - 1)),
        0: fade[1] * math.exp(12 * (0 - 1)),
    }
    total = sum(counts.values()) + 1
    assert at("followed_sharp_hour") == pytest.approx(
        {c: math.log((counts[c] + base[c]) / total / base[c]) for c in (0, 1)}, abs=1e-4
    )
    context = dict(zip(ASKED.context, ours.candidates.context[2], strict=True))
    assert context["cos"] == pytest.approx(-math.sqrt(3) / 2 / 0.7, abs=1e-5)  # of 14:00
    assert context["log_asked_gap"] == pytest.approx((math.log(7) - 1.1) / 1.25, abs=1e-5)
    assert context["log_gap"] == pytest.approx((math.log(21) - 1.1) / 1.25, abs=1e-5)
    assert context["place_in_day"] == pytest.approx((1 / 3 - 1) / 0.8, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_of_the_next_check_in_its_moment_alone_is_known(seed):
    """Its class, venue and place, and all later ones, change nothing; its moment does."""
    history, rng = made_up(120, seed), np.random.default_rng(seed)
    pair = int(rng.integers(20, 110))
    other = made_up(120, seed + 100)
    shift = history.time_s[pair + 2] + 5 * DAY - other.time_s[pair + 2]
    later = dataclasses.replace(
        other, time_s=other.time_s + shift, local_time_s=other.local_time_s + shift
    )[pair + 2 :]
    following = dataclasses.replace(
        other[pair + 1 : pair + 2],
        time_s=history.time_s[[pair + 1]],
        local_time_s=history.local_time_s[[pair + 1]],
    )
    past = history[: pair + 1]
    changed = past.join(following).join(later)
    assert not np.array_equal(changed.lat_deg[pair + 1 :], history.lat_deg[pair + 1 :])
    ours, theirs = (found(h, feature_set=ASKED) for h in (history, changed))
    for at in range(pair + 1):
        for name in ASKED.features:
            one, two = (by_class(unscaled(f, name, ASKED), f, at) for f in (ours, theirs))
            assert one == pytest.approx(two, abs=1e-5), name
        context = ours.candidates.context[at]
        assert context == pytest.approx(theirs.candidates.context[at], abs=1e-5)
    moments = {n: getattr(following, n) + 3 * HOUR for n in ("time_s", "local_time_s")}
    delayed = dataclasses.replace(following, **moments)
    moved = found(past.join(delayed), feature_set=ASKED).candidates.features[pair]
    assert np.abs(moved - ours.candidates.features[pair][: len(moved)]).max() > 0.01


@both
def test_features_come_in_eights(feature_set):
    # the C code reads whole vectors of them
    assert len(feature_set.features) % 8 == 0
    assert len(set(feature_set.features)) == len(feature_set.features)
    assert feature_set.scaling.shape == (2, len(feature_set.features))
    assert feature_set.context_scaling.shape == (2, len(feature_set.context))


@pytest.mark.parametrize("window", [1024, 30])
def test_recency_equals_what_is_looked_up_one_by_one(monkeypatch, window):
    monkeypatch.setattr(candidates, "WINDOW", window)
    history = made_up(230, located=False)  # three blocks, the last one short
    history.classes[np.random.default_rng(1).random(230) < 0.2] = -1
    ours = found(history)
    for i in (0, 5, 28, 29, 30, 31, 95, 96, 97, 150, 228):
        seen = range(max(0, i - window + 1), i + 1)
        values = {name: by_class(unscaled(ours, name), ours, i) for name in FEATURES}
        visits = {c: [j for j in seen if history.classes[j] == c] for c in range(NUM_CLASSES)}
        assert set(values["log_interval"]) == {c for c, at in visits.items() if at}
        for c, at in visits.items():
            if not at:
                continue
            km = [slow_weights(history, i, j)[1] for j in at]
            since_h = (history.time_s[i] - history.time_s[at[-1]]) / HOUR
            between_h = 9999.0
            if len(at) > 1:
                between_h = (history.time_s[at[-1]] - history.time_s[at[0]]) / HOUR / (len(at) - 1)
            wanted = {
                "log_hours_since": math.log1p(since_h),
                "log_check_ins_since": math.log1p(i - at[-1]),
                "log_interval": math.log1p(between_h),
                "log_overdue": min(max(math.log((since_h + 1) / (between_h + 1)), -6), 4),
                "log_km_nearest": math.log(0.05 + min(km)),
                "log_km_mean": math.log(0.05 + sum(km) / len(km)),
                "log_km_last": math.log(0.05 + km[-1]),
                "is_last": float(history.classes[i] == c),
                "is_before": float(i > 0 and history.classes[i - 1] == c),
                "is_before_that": float(i > 1 and history.classes[i - 2] == c),
            }
            assert {name: values[name][c] for name in wanted} == pytest.approx(wanted, abs=3e-4)


def test_the_shared_frequency_is_left_out_where_classes_are_not_common():
    """It would tell how often a venue is visited in the rest of train."""
    history = made_up(40)
    common, others = found(history), found(history, common_classes=False)
    at = FEATURES.index("log_shared")
    wanted = {c: math.log(SHARED[c]) for c in range(NUM_CLASSES - 1)}
    assert by_class(unscaled(common, "log_shared"), common, 38) == pytest.approx(wanted, abs=1e-5)
    assert not others.candidates.features[..., at].any()
    same = [place for place in range(len(FEATURES)) if place != at]
    np.testing.assert_array_equal(
        others.candidates.features[..., same], common.candidates.features[..., same]
    )
    assert others.candidates.kinds.max() == 1 and common.candidates.kinds.max() == NUM_CLASSES - 1


def test_log_prior_sums_to_one_and_spreads_as_the_prior():
    history = made_up(60)
    ours = found(history)
    probs = np.exp(ours.candidates.log_prior.astype(float))
    assert probs.sum(axis=1) == pytest.approx(np.ones(59), abs=1e-5)
    dense = np.exp(kernel_prior(Kernel(), history, SHARED).log_probs(SHARED).astype(float))
    for pair in (0, 5, 58):
        own = by_class(probs, ours, pair)
        assert own == pytest.approx({c: dense[pair, c] for c in own}, abs=1e-6)
        others = [c for c in range(NUM_CLASSES) if c not in own]
        assert probs[pair, 0] == pytest.approx(dense[pair, others].sum(), abs=1e-6)
        top = max(others, key=lambda c: dense[pair, c])
        assert ours.classes[pair, 0] == top
        assert np.exp(ours.log_top[pair]) == pytest.approx(
            dense[pair, top] / dense[pair, others].sum(), rel=1e-4
        )


def test_nowhere_is_new_for_whom_has_been_everywhere():
    shared = np.array([0.5, 0.5])
    history = made_up(30, num_classes=2)
    prior = count_prior("backoff", history, shared)
    ours = client_candidates(history, shared, prior, prior)
    assert ours.candidates.log_prior[-1, 0] == np.float32(NO_CANDIDATE)
    assert ours.classes[-1, 0] == -1


@pytest.mark.parametrize("seed", range(5))
def test_later_check_ins_change_nothing(seed):
    """Everything after a check-in is replaced; what predicts the next one stays."""
    history, other = made_up(150, seed), made_up(150, seed + 100)
    later = 1 + int(np.random.default_rng(seed).integers(20, 140))
    shift = history.time_s[later] - other.time_s[later]
    other = dataclasses.replace(
        other, time_s=other.time_s + shift, local_time_s=other.local_time_s + shift
    )
    # the class that the past never had may be visited later
    replaced = dataclasses.replace(other, classes=(other.classes + 1) % NUM_CLASSES)[later:]
    changed = history[:later].join(replaced)
    ours, theirs = found(history), found(changed)
    for pair in range(later):
        for name in FEATURES:
            one, two = (by_class(unscaled(f, name), f, pair) for f in (ours, theirs))
            assert one == pytest.approx(two, abs=1e-5), name
        context = ours.candidates.context[pair]
        assert context == pytest.approx(theirs.candidates.context[pair], abs=1e-5)


def test_a_stream_gives_what_the_whole_history_gives(monkeypatch):
    monkeypatch.setattr(candidates, "WINDOW", 50)
    history = made_up(130)
    whole = found(history)
    for n in (1, 2, 17, 51, 90, 129):
        last = found(history[: n + 1], first=n - 1)
        for name in FEATURES:
            one = by_class(unscaled(whole, name), whole, n - 1)
            two = by_class(unscaled(last, name), last, 0)
            assert one == pytest.approx(two, abs=1e-5), name
        assert last.candidates.context[0] == pytest.approx(
            whole.candidates.context[n - 1], abs=1e-5
        )


def test_what_left_the_window_is_new_again(monkeypatch):
    monkeypatch.setattr(candidates, "WINDOW", 5)
    history = made_up(40)
    ours = found(history)
    for pair in range(39):
        seen = set(history.classes[max(0, pair - 4) : pair + 1].tolist())
        assert {c for c in ours.classes[pair, 1:].tolist() if c >= 0} == seen


def test_only_the_likeliest_are_candidates(monkeypatch):
    monkeypatch.setattr(candidates, "MOST_CANDIDATES", 2)
    history = made_up(60)
    ours = found(history)
    dense = kernel_prior(Kernel(), history, SHARED).log_probs(SHARED)
    assert ours.classes.shape == (59, 3)
    for pair in (30, 58):
        seen = np.unique(history.classes[: pair + 1])
        likeliest = seen[np.argsort(-dense[pair, seen])[:2]]
        assert set(ours.classes[pair, 1:].tolist()) == set(likeliest.tolist())
    assert np.exp(ours.candidates.log_prior.astype(float)).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_places_of_targets():
    history = made_up(40)
    ours = found(history)
    targets = history.classes[1:].copy()
    places = ours.places(targets)
    for pair, (target, place) in enumerate(zip(targets.tolist(), places.tolist(), strict=True)):
        been = target in history.classes[: pair + 1]
        assert (place > 0) == been
        assert not been or ours.classes[pair, place] == target


def test_whom_nothing_is_known_of_has_no_candidates():
    history = dataclasses.replace(made_up(3), classes=np.full(3, -1, np.int32))
    ours = found(history)
    assert ours.classes.tolist() == [[NUM_CLASSES - 1]] * 2  # the likeliest of all
    assert ours.candidates.log_prior == pytest.approx(np.zeros((2, 1)), abs=1e-6)
    assert unscaled(ours, "followed_any") == pytest.approx(np.zeros((2, 1)), abs=1e-6)
