"""What holds for all inputs: readers, splits, layouts, metrics, early stopping, settings."""

import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedgru import config
from fedgru.core import metrics
from fedgru.core.errors import ConfigError
from fedgru.data.reading import delimited, tsmc2014
from fedgru.task import clients, streams
from fedgru.training.early_stopping import EarlyStopping
from tests.conftest import make_check_ins

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# readers: whatever is written down is read back

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cf")),
    min_size=1,
    max_size=8,
)
ROW = st.tuples(
    TEXT,
    TEXT,
    st.one_of(st.just(""), TEXT),
    st.integers(0, 4102444799),
    st.one_of(st.none(), st.tuples(st.integers(-90, 90), st.integers(-180, 180))),
)


MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
WEEKDAYS = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]  # from 1970-01-01 on


def as_tsmc2014(row):
    """One row in the layout, at offset 0."""
    user, venue, category, time_s, place = row
    day = time_s // 86400
    date = str(np.datetime64(day, "D"))
    month, weekday = MONTHS[int(date[5:7]) - 1], WEEKDAYS[day % 7]
    clock = f"{time_s % 86400 // 3600:02}:{time_s % 3600 // 60:02}:{time_s % 60:02}"
    lat, lon = place or ("", "")
    written = f"{weekday} {month} {date[8:]} {clock} +0000 {date[:4]}"
    return "\t".join(map(str, (user, venue, category, category, lat, lon, 0, written)))


def values_of(column):
    return ["" if code < 0 else column.values[code] for code in column.codes]


@quick
@given(st.lists(ROW, min_size=1, max_size=12))
def test_a_tsmc2014_file_is_read_as_it_was_written(tmp_path, rows):
    file = tmp_path / "made.txt"
    file.write_bytes("".join(as_tsmc2014(row) + "\n" for row in rows).encode())
    reading = tsmc2014.read_tsmc2014(file)
    found, expected = reading.check_ins, sorted(rows, key=lambda row: row[3])
    assert found.time_s.tolist() == [row[3] for row in expected]
    for column, index in (("user", 0), ("venue", 1), ("category", 2), ("raw_category", 2)):
        assert values_of(getattr(found, column)) == [row[index] for row in expected]
    places = [row[4] or (math.nan, math.nan) for row in expected]
    np.testing.assert_array_equal(np.stack([found.lat_deg, found.lon_deg], 1), places)
    assert len(found) + reading.ledger.rows("dropped") == len(rows) == reading.num_rows


@quick
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from(",;|"), st.booleans())
def test_a_csv_file_is_read_as_it_was_written(tmp_path, rows, delimiter, quotes_all):
    import csv

    file = tmp_path / "made.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        quoting = csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting)
        writer.writerow(["who", "where", "when", "what"])
        for user, venue, category, time_s, _ in rows:
            writer.writerow([user, venue, 10**9 + time_s % 10**9, category])
    columns = {"user": "who", "venue": "where", "time": "when", "category": "what"}
    found = delimited.read_csv(file, columns, delimiter).check_ins
    expected = sorted(rows, key=lambda row: row[3] % 10**9)
    assert found.time_s.tolist() == [10**9 + row[3] % 10**9 for row in expected]
    for column, index in (("user", 0), ("venue", 1), ("category", 2)):
        assert values_of(getattr(found, column)) == [row[index] for row in expected]


# splits


@quick
@given(
    st.lists(st.integers(0, 4), min_size=5, max_size=120), st.integers(3, 8), st.integers(0, 2**32)
)
def test_each_check_in_has_one_place_and_time_runs_on(users, min_checkins, seed):
    counts = np.bincount(users, minlength=5)
    if counts.max() < min_checkins:
        return
    gaps = np.random.default_rng(seed).integers(0, 3, len(users))  # some at the same second
    names = [f"u{user}" for user in users]
    check_ins = make_check_ins(names, ["c"] * len(users), time_s=np.cumsum(gaps))
    chosen, _ = clients.choose_clients(check_ins, min_checkins=min_checkins)
    expected = {f"u{u}": [i for i, v in enumerate(users) if v == u] for u in range(5)}
    expected = {u: rows for u, rows in expected.items() if len(rows) >= min_checkins}
    assert sorted(chosen.client_ids) == sorted(expected)
    scored = []
    for client, name in enumerate(chosen.client_ids):
        own, rows = slice(*chosen.starts[client : client + 2]), expected[name]
        assert chosen.rows[own].tolist() == rows
        n = len(rows)
        num_test = -(-n // 5)  # 20 %, rounded up; then 20 % of the rest, rounded up
        num_val = -(-(n - num_test) // 5)
        sizes = [
            int(end[client] - first[client]) for first, end in map(chosen.bounds, clients.SPLITS)
        ]
        assert sizes == [n - num_test - num_val, num_val, num_test]
        assert min(sizes) >= 1
        scored += rows[1:]  # all but the first is a target, of one split
    positions = [chosen.target_positions(split) for split in clients.SPLITS]
    assert sorted(chosen.rows[np.concatenate(positions)]) == sorted(scored)


# layouts

SIZES = (st.integers(0, 80), st.integers(1, 7), st.integers(1, 9), st.integers(1, 3))


@quick
@given(*SIZES)
def test_streams_hold_every_pair_once_and_never_jump(num_pairs, batch_size, seq_len, local_epochs):
    batches = streams.contiguous(num_pairs, batch_size, seq_len, local_epochs)
    kept = batches.pairs[batches.pairs >= 0]
    assert sorted(kept.tolist()) == list(range(num_pairs))
    assert batches.num_examples == num_pairs * local_epochs
    longest = math.ceil(num_pairs / batch_size)  # no stream is longer than it must be
    assert len(batches.pairs) == math.ceil(longest / seq_len)
    for row in np.swapaxes(batches.pairs, 0, 1).reshape(batch_size, -1):
        own = row[row >= 0]
        assert (np.diff(own) == 1).all()
        assert (row[len(own) :] == -1).all()  # padding stands at the end of a stream alone


@quick
@given(*SIZES)
def test_chunks_are_cut_as_the_notebook_cuts_them(num_pairs, batch_size, seq_len, local_epochs):
    found = streams.chunks(num_pairs, batch_size, seq_len, local_epochs).pairs
    visits = list(range(num_pairs + 1))  # tf.data's batch(seq_len + 1), repeat, batch
    cut = [visits[i : i + seq_len + 1] for i in range(0, len(visits), seq_len + 1)]
    cut = [chunk for chunk in cut if len(chunk) == seq_len + 1] * local_epochs
    steps = [cut[i : i + batch_size] for i in range(0, len(cut), batch_size)]
    steps = [step for step in steps if len(step) == batch_size]
    assert found.tolist() == [[chunk[:-1] for chunk in step] for step in steps]


# metrics, by the definition: every order of what ties


def slow_metric(scores, target, gain):
    """Mean gain over the places that the target can have among those that score the same."""
    higher = sum(score > scores[target] for score in scores)
    equal = sum(score == scores[target] for score in scores)
    return sum(gain(higher + 1 + i) for i in range(equal)) / equal


GAINS = {
    "acc@1": lambda rank: float(rank <= 1),
    "acc@5": lambda rank: float(rank <= 5),
    "acc@10": lambda rank: float(rank <= 10),
    "mrr": lambda rank: 1 / rank,
    "ndcg": lambda rank: 1 / math.log2(1 + rank),
}


@quick
@given(st.integers(1, 14), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32))
def test_metrics_are_what_the_slow_way_gives(num_classes, num_targets, num_clients, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (num_targets, num_classes)).astype(float)  # many ties
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    targets = rng.integers(-1, num_classes, num_targets)
    owners = np.sort(rng.integers(0, num_clients, num_targets))
    found = metrics.score_targets(log_probs, targets)
    values = {name: [] for name in (*GAINS, "loss")}
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        for name, gain in GAINS.items():
            values[name].append(0.0 if target < 0 else slow_metric(row, target, gain))
        total = sum(math.exp(score) for score in row)
        values["loss"].append(math.nan if target < 0 else -math.log(math.exp(row[target]) / total))
    for name, expected in values.items():
        np.testing.assert_allclose(found.values[name], expected, atol=1e-12)
    summary = metrics.summarise(found, owners, num_clients)
    assert (summary["targets"], summary["unknown_targets"]) == (num_targets, sum(targets < 0))
    for name, expected in values.items():
        counted = [v for v in expected if not math.isnan(v)]
        of = [
            [v for v, o in zip(expected, owners, strict=True) if o == c] for c in range(num_clients)
        ]
        means = [[v for v in own if not math.isnan(v)] for own in of]
        means = [sum(own) / len(own) for own in means if own]
        micro = sum(counted) / len(counted) if counted else math.nan
        macro = sum(means) / len(means) if means else math.nan
        np.testing.assert_allclose(summary[f"{name}/micro"], micro, atol=1e-12)
        np.testing.assert_allclose(summary[f"{name}/macro"], macro, atol=1e-12)


@quick
@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_metrics_do_not_depend_on_the_order_of_classes(num_classes, num_targets, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (num_targets, num_classes)).astype(float)
    targets, order = rng.integers(0, num_classes, num_targets), rng.permutation(num_classes)
    place = np.argsort(order)
    one, two = (
        metrics.rank_targets(s, t)
        for s, t in ((scores, targets), (scores[:, order], place[targets]))
    )
    for name in one.values:
        np.testing.assert_allclose(one.values[name], two.values[name])
    np.testing.assert_array_equal(one.rank, two.rank)


# early stopping


@quick
@given(
    st.lists(st.one_of(st.integers(0, 6).map(float), st.just(math.nan)), max_size=25),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
)
def test_early_stopping_is_the_rule_in_words(values, patience, higher, min_improvement):
    rule = EarlyStopping(higher, patience, min_improvement)
    best, since = None, 0
    for round_num, value in enumerate(values):
        better = not math.isnan(value) and (
            best is None
            or (value > best + min_improvement if higher else value < best - min_improvement)
        )
        best, since = (value, 0) if better else (best, since + 1)
        assert rule.report(round_num, value) == (better, patience > 0 and since >= patience)
        assert rule.best_value == best
    if best is not None and min_improvement == 0:
        known = [v for v in values if not math.isnan(v)]
        assert best == (max(known) if higher else min(known))


# settings

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["zone", "sgd", "kernel", "jax", "median", "0", "1e-3", "../x"]),
    st.lists(st.integers(), max_size=2),
)


@quick
@given(st.dictionaries(st.sampled_from(sorted(config.fields())), VALUES, max_size=4))
def test_settings_are_refused_with_a_message_or_come_back_as_they_are(tmp_path, overrides):
    overrides = {name: value for name, value in overrides.items() if value is not None}
    try:
        found = config.load(overrides)
    except ConfigError as error:
        assert 0 < len(str(error)) < 2000
        return
    file = tmp_path / "own.toml"
    file.write_text(config.dump(found), "utf-8")
    assert config.load(config_file=file) == found
    for name, value in overrides.items():
        section, _ = config.fields()[name]
        assert getattr(getattr(found, section), name) == value
