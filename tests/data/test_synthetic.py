"""fedgru/data/synthetic.py: the planted probabilities by hand and by counting, and a sane city."""

import numpy as np
import pytest

from fedgru.core.errors import ConfigError
from fedgru.data import synthetic
from fedgru.data.synthetic import CATEGORIES, CityConfig, Habits, make_city
from fedgru.evaluation import baselines
from fedgru.task.clients import choose_clients


@pytest.fixture(scope="module")
def city():
    return make_city(CityConfig())


def by_person(city):
    """Return what the habits are indexed by, person after person, and whether it is a first."""
    check_ins = city.check_ins
    user = np.array([int(value) - 1 for value in check_ins.user.values])[check_ins.user.codes]
    order = np.argsort(user, kind="stable")
    names = list(CATEGORIES)
    category = np.array([names.index(value) for value in check_ins.category.values])
    venue = np.array([int(value[1:]) for value in check_ins.venue.values])
    columns = {
        "user": user[order],
        "category": category[check_ins.category.codes][order],
        "venue": venue[check_ins.venue.codes][order],
        "local_time_s": check_ins.local_time_s[order],
    }
    first = np.diff(columns["user"], prepend=-1) != 0
    gap_s = np.diff(columns["local_time_s"], prepend=0)
    columns["gap_s"] = np.where(first, 0, gap_s)
    return columns, first, order


def planted_probs(city):
    """Return p(next) for each check-in that is not a person's first, and what it came to be."""
    columns, first, order = by_person(city)
    is_last = np.append(first[1:], True)
    probs = city.habits.next_probs(**{name: column[~is_last] for name, column in columns.items()})
    return probs, columns["category"][~first], order[~first]


NEW_PHASE_S = 7 * 86400


def two_categories():
    """One person who likes category 1 at the weekend, and 1 after 0; category 0 peaks at 6 h.

    After a week, category 0 is liked on weekdays. Venues 0 and 1 are of category 0, venue 2 of
    category 1; 0 is 3 km west of 1 and 6 km north of 2.
    """
    return Habits(
        after=np.log([[[[1.0, 3.0], [1.0, 1.0]]] * 2]),
        taste=np.log([[[[1.0, 1.0], [1.0, 2.0]], [[7.0, 1.0], [1.0, 2.0]]]]),
        changes_s=np.array([[NEW_PHASE_S]]),
        peak_hour=np.array([[6.0, 18.0]]),
        rhythm=np.log(2),
        nearby=np.log([[1.0, 1.0], [5.0, 1.0], [1.0, 1.0]]),
        back=np.log([[1.0, 4.0]]),
        favourites=np.array([[[0, 1], [2, 2]]]),
        places_km=np.array([[0.0, 6.0], [3.0, 6.0], [0.0, 0.0]]),
        noise_share=0.1,
    )


E, CLOSE = np.e, synthetic.CLOSE
FROM_0 = (E ** (CLOSE / E), E ** (CLOSE / E**2))  # 3 km to venue 1, 6 km to venue 2
FROM_1 = (E ** (CLOSE / E), E ** (CLOSE * E ** -np.sqrt(5)))  # 3 km to venue 0, sqrt(45) to 2
FROM_2 = (E ** (CLOSE / E**2), 1)  # 6 km to venue 0, and no other venue of category 1


@pytest.mark.parametrize(
    "category, venue, day, hour, gap_h, odds",
    [
        (1, 0, 0, 12, 1, FROM_0),  # a Thursday noon: both cosines are 0
        (1, 2, 0, 12, 1, FROM_2),
        (0, 0, 0, 12, 1, (FROM_0[0], 3 * FROM_0[1])),  # after category 0
        # the rhythm: times 2 at its peak, half twelve hours off
        (0, 0, 0, 6, 1, (2 * FROM_0[0], 3 / 2 * FROM_0[1])),
        (0, 0, 2, 12, 1, (FROM_0[0], 3 * 2 * FROM_0[1])),  # a Saturday
        # a Sunday at 18 h, in venue 1
        (0, 1, 3, 18, 1, (5 / 2 * FROM_1[0], 3 * 2 * 2 * FROM_1[1])),
        (1, 0, 7, 0, 1, (7 * FROM_0[0], FROM_0[1])),  # the next phase has just begun
        (1, 0, 0, 12, 35, FROM_0),
        (1, 0, 0, 12, 36, (FROM_0[0], 4 * FROM_0[1])),  # back after 36 hours
    ],
)
def test_planted_probabilities_by_hand(category, venue, day, hour, gap_h, odds):
    local_time_s = np.array([86400 * day + 3600 * hour])  # 1970-01-01 was a Thursday
    probs = two_categories().next_probs(
        np.array([0]),
        np.array([category]),
        np.array([venue]),
        local_time_s,
        np.array([3600 * gap_h]),
    )
    expected = 0.9 * np.array(odds) / sum(odds) + 0.05
    np.testing.assert_allclose(probs, [expected], atol=1e-12)


def test_planted_probabilities_add_up_to_1(city):
    probs, _, _ = planted_probs(city)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert probs.min() >= 0.05 / len(CATEGORIES)  # the noise


def test_best_prob_depends_on_the_person_the_last_check_in_and_its_gap_alone(city):
    # Worked out anew from the finished columns, shuffled: nothing else can have come in.
    columns, first, order = by_person(city)
    before = np.flatnonzero(~first) - 1
    shuffled = np.random.default_rng(0).permutation(before)
    probs = city.habits.next_probs(**{name: column[shuffled] for name, column in columns.items()})
    best_prob = city.best_prob[order]
    np.testing.assert_array_equal(best_prob[shuffled + 1], probs.max(axis=1).astype(np.float32))
    np.testing.assert_allclose(best_prob[first], 1 / len(CATEGORIES))
    assert city.best_prob.dtype == np.float32


def test_best_prob_is_how_often_the_best_guess_is_right(city):
    probs, came, _ = planted_probs(city)
    best = probs.max(axis=1)
    standard_error = np.sqrt((best * (1 - best)).sum()) / len(best)
    assert np.mean(probs.argmax(axis=1) == came) == pytest.approx(
        best.mean(), abs=3 * standard_error
    )


@pytest.mark.parametrize(
    "other",
    ["the category before the last", "the month", "the gap", "the gap before", "days since"],
)
def test_no_other_information_helps(city, other):
    # Whatever else one knows, the categories come as often as the planted probabilities say.
    probs, came, rows = planted_probs(city)
    columns, first, _ = by_person(city)
    time_s = columns["local_time_s"]
    known = {
        "the category before the last": np.roll(columns["category"], 2)[~first],
        "the month": (time_s[~first] - synthetic.FIRST_DAY_S) // (30 * 86400),
        "the gap": np.minimum(np.diff(time_s)[~first[1:]] // 3600, 24),
        "the gap before": np.minimum(columns["gap_s"][:-1][~first[1:]] // 3600, 48),
        "days since": (time_s - np.roll(time_s, 3))[~first] // 86400,
    }[other]
    group = np.unique(known, return_inverse=True)[1]
    difference = np.zeros((group.max() + 1, len(CATEGORIES)))
    variance = np.zeros_like(difference)
    np.add.at(difference, group, np.eye(len(CATEGORIES))[came] - probs)
    np.add.at(variance, group, probs * (1 - probs))
    common = variance > 5  # elsewhere the normal approximation does not hold
    z_squared = (difference**2 / np.maximum(variance, 1e-9))[common]
    # chi-squared: mean 1, variance 2 each (the true mean of the sum is a little lower)
    assert abs(z_squared.mean() - 1) < 4 * np.sqrt(2 / common.sum())


def test_the_same_seed_gives_the_same_city():
    config = CityConfig(num_users=5, checkins_per_user=30, seed=3)
    first, second = make_city(config), make_city(config)
    other = make_city(CityConfig(num_users=5, checkins_per_user=30, seed=4))
    for name in ("time_s", "offset_min", "lat_deg", "lon_deg"):
        column = getattr(first.check_ins, name)
        assert column.tobytes() == getattr(second.check_ins, name).tobytes()
    assert first.check_ins.time_s.tobytes() != other.check_ins.time_s.tobytes()
    for name in ("user", "venue", "category", "raw_category"):
        one, two = getattr(first.check_ins, name), getattr(second.check_ins, name)
        assert one.codes.tobytes() == two.codes.tobytes() and one.values == two.values
    assert first.best_prob.tobytes() == second.best_prob.tobytes()


def test_the_default_city_is_the_embedded_data_set(city):
    # A change here changes the results of the main job: say so in CHANGELOG.
    check_ins = city.check_ins
    assert (check_ins.time_s[0], check_ins.time_s[-1]) == (1346495601, 1355119736)
    assert check_ins.category.values[:4] == ("Shopping", "Sports", "Cafe", "Bar")
    assert city.best_prob.mean() == pytest.approx(0.652250, abs=1e-6)


def test_columns_are_sane(city):
    check_ins = city.check_ins
    n = len(check_ins)
    assert n == 80 * 240
    for coded in (check_ins.user, check_ins.venue, check_ins.category, check_ins.raw_category):
        assert coded.codes.dtype == np.int32 and len(coded.codes) == n
        # values in order of first appearance, none twice
        _, first_row = np.unique(coded.codes, return_index=True)
        assert (np.diff(first_row) > 0).all() and len(first_row) == len(coded.values)
        assert len(set(coded.values)) == len(coded.values)
    assert set(check_ins.category.values) == set(CATEGORIES)
    assert check_ins.time_s.dtype == np.int64 and check_ins.offset_min.dtype == np.int32
    assert np.abs(check_ins.lat_deg - 40.7).max() < 0.11
    assert np.abs(check_ins.lon_deg + 74.0).max() < 0.11


def test_a_venue_has_one_place_and_one_kind(city):
    check_ins = city.check_ins
    for column in (
        check_ins.category.codes,
        check_ins.raw_category.codes,
        check_ins.lat_deg,
        check_ins.lon_deg,
    ):
        pairs = np.stack([check_ins.venue.codes.astype(float), column])
        assert np.unique(pairs, axis=1).shape[1] == len(check_ins.venue.values)
    homes = check_ins.category.values.index("Home")
    at_home = check_ins.category.codes == homes
    pairs = np.stack([check_ins.user.codes, check_ins.venue.codes])[:, at_home]
    assert np.unique(pairs, axis=1).shape[1] == len(np.unique(pairs[1]))  # nobody else's


def test_time_runs_forward_on_a_clock_that_goes_back_once(city):
    check_ins = city.check_ins
    assert (np.diff(check_ins.time_s) >= 0).all()
    # 2012-11-04 06:00 UTC
    clock_back_s = np.datetime64("2012-11-04T06:00", "s").astype(np.int64)
    expected = np.where(check_ins.time_s < clock_back_s, -240, -300)
    np.testing.assert_array_equal(check_ins.offset_min, expected)
    assert len(np.unique(check_ins.offset_min)) == 2


def test_people_sleep(city):
    hours = np.bincount(city.check_ins.local_time_s // 3600 % 24, minlength=24) / 19200
    assert hours[4] < 0.005
    assert hours[[3, 4, 5]].sum() < 0.01
    assert hours[12:20].sum() > 0.5


def test_habits_drift(city):
    # Half of a person's own habits are others in the next phase, 30 days later: of what follows
    # each category and of each taste. What is shared by all, or by a type, stays.
    habits = city.habits
    assert (np.diff(habits.changes_s, axis=1) == 30 * 86400).all()
    assert (habits.changes_s[:, 0] < synthetic.FIRST_DAY_S + 30 * 86400).all()
    assert habits.after.shape[1] == habits.taste.shape[1] == 5  # phases in 100 days
    taste_changed = (np.diff(habits.taste[:, :, 0], axis=1) != 0).mean()
    assert taste_changed == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / (80 * 4 * 12)))
    # a favourite that is drawn anew is the old one in one of twelve cases
    after_changed = (np.diff(habits.after, axis=1) != 0).any(axis=-1).mean()
    expected = 0.5 * 11 / 12
    assert after_changed == pytest.approx(expected, abs=3 * np.sqrt(0.25 / (80 * 4 * 12)))


def test_people_go_where_it_is_near(city):
    # Of the venues of a shared category that a person goes to, the next is nearer than the others.
    columns, first, _ = by_person(city)
    before = np.flatnonzero(~first) - 1
    user, venue = columns["user"][before], columns["venue"][before]
    category = columns["category"][before + 1]
    km = city.habits.distances_km(user, venue)[np.arange(len(user)), category]
    own = city.habits.favourites[user, category]
    shares = np.array(synthetic.FAVOURITE_SHARES)
    odds = shares * np.exp(-km / synthetic.NEAR_KM)
    probs = odds / odds.sum(axis=1, keepdims=True)
    went = own == columns["venue"][before + 1][:, None]
    different = (np.diff(np.sort(own, axis=1), axis=1) > 0).all(axis=1)
    difference = (went - probs)[different].mean(axis=0)
    error = np.sqrt((probs * (1 - probs))[different].mean(axis=0) / different.sum())
    assert (np.abs(difference) < 4 * error).all()
    assert np.abs((went - shares)[different].mean(axis=0)).max() > 0.02  # distance matters


def test_people_are_away_and_some_days_are_busier(city):
    check_ins = city.check_ins
    day = (check_ins.local_time_s - synthetic.FIRST_DAY_S) // 86400
    per_day = np.zeros((80, 110))
    np.add.at(per_day, (check_ins.user.codes, day), 1)
    for person in per_day[:, :100]:  # late at night the date is the next one
        for half in (person[:50], person[50:]):
            # away for 5 of 50 days, of which the first can hold check-ins after midnight
            quiet = np.convolve(half == 0, np.ones(4), "valid")
            assert quiet.max() == 4
    # exponential activity: the variance of a day's number is far above a Poisson's
    assert (per_day.var(axis=1) / per_day.mean(axis=1)).min() > 1.5


def test_numbers_of_check_ins():
    counts = np.bincount(make_city(CityConfig(num_users=4, seed=2)).check_ins.user.codes)
    # evenly from 0.6 to 1.4 times 240: the middles of four equal parts
    assert sorted(counts) == [168, 216, 264, 312]
    even = CityConfig(num_users=7, checkins_per_user=30, activity_spread=0)
    assert np.bincount(make_city(even).check_ins.user.codes).tolist() == [30] * 7
    alone = make_city(CityConfig(num_users=1, checkins_per_user=1))
    assert len(alone.check_ins) == 1


def test_noise_alone_leaves_nothing_to_learn():
    noise = make_city(CityConfig(num_users=3, checkins_per_user=20, noise_share=1.0))
    np.testing.assert_allclose(noise.best_prob, 1 / len(CATEGORIES))


def test_habits_are_worth_learning(city):
    # The best possible lies far above counting one's own habits, and that above counting all.
    clients, _ = choose_clients(city.check_ins)
    category = city.check_ins.category
    accuracy = {
        name: summary["acc@1/micro"]
        for name, summary in baselines.evaluate_static(
            clients, category.codes[clients.rows], len(category.values)
        ).items()
    }
    best = city.best_prob[clients.rows[clients.target_positions("test")]].mean()
    assert 0.6 < best < 0.7
    assert 0.15 < accuracy["commonest"] < 0.25
    assert accuracy["commonest"] < accuracy["global_markov"] < accuracy["user_markov"]
    assert 0.35 < accuracy["user_markov"] < best - 0.2


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_users": 0}, "`num_users` is 0, expected at least 1."),
        ({"checkins_per_user": 0}, "`checkins_per_user` is 0, expected at least 1."),
        ({"seed": -1}, "`seed` is -1, expected at least 0."),
        ({"num_days": 181}, "`num_days` is 181, expected 1 to 180."),
        ({"activity_spread": 1.0}, "`activity_spread` is 1.0, expected at least 0 and below 1."),
        ({"noise_share": 1.5}, "`noise_share` is 1.5, expected 0 to 1."),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ConfigError) as error:
        CityConfig(**setting)
    assert str(error.value) == f"made-up city: {message}"
