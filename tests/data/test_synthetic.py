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
    return columns, first, order


def planted_probs(city):
    """Return p(next) for each check-in that is not a person's first, and what it came to be."""
    columns, first, order = by_person(city)
    is_last = np.append(first[1:], True)
    probs = city.habits.next_probs(**{name: column[~is_last] for name, column in columns.items()})
    return probs, columns["category"][~first], order[~first]


def two_categories():
    """One person who likes category 1 at the weekend, and 1 after 0; category 0 peaks at 6 h."""
    return Habits(
        after=np.log([[[1.0, 3.0], [1.0, 1.0]]]),
        taste=np.log([[[1.0, 1.0], [1.0, 2.0]]]),
        peak_hour=np.array([[6.0, 18.0]]),
        rhythm=np.log(2),
        nearby=np.log([[1.0, 1.0], [5.0, 1.0]]),
        noise_share=0.1,
    )


@pytest.mark.parametrize(
    "category, venue, day, hour, odds",
    [
        (1, 0, 0, 12, (1, 1)),  # a Thursday noon: both cosines are 0, nothing else speaks
        (0, 0, 0, 12, (1, 3)),  # after category 0
        (0, 0, 0, 6, (1 * 2, 3 / 2)),  # the rhythm: times 2 at its peak, half twelve hours off
        (0, 0, 2, 12, (1, 3 * 2)),  # a Saturday
        (0, 1, 3, 18, (1 * 5 / 2, 3 * 2 * 2)),  # a Sunday at 18 h, in the other venue
    ],
)
def test_planted_probabilities_by_hand(category, venue, day, hour, odds):
    local_time_s = np.array([86400 * day + 3600 * hour])  # 1970-01-01 was a Thursday
    probs = two_categories().next_probs(
        np.array([0]), np.array([category]), np.array([venue]), local_time_s
    )
    expected = 0.9 * np.array(odds) / sum(odds) + 0.05
    np.testing.assert_allclose(probs, [expected], atol=1e-12)


def test_planted_probabilities_add_up_to_1(city):
    probs, _, _ = planted_probs(city)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert probs.min() >= 0.05 / len(CATEGORIES)  # the noise


def test_best_prob_depends_on_the_person_and_the_last_check_in_alone(city):
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


@pytest.mark.parametrize("other", ["the category before the last", "the month", "the gap"])
def test_no_other_information_helps(city, other):
    # Whatever else one knows, the categories come as often as the planted probabilities say.
    probs, came, rows = planted_probs(city)
    columns, first, _ = by_person(city)
    time_s = columns["local_time_s"]
    known = {
        "the category before the last": np.roll(columns["category"], 2)[~first],
        "the month": (time_s[~first] - synthetic.FIRST_DAY_S) // (30 * 86400),
        "the gap": np.minimum(np.diff(time_s)[~first[1:]] // 3600, 24),
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
    assert (check_ins.time_s[0], check_ins.time_s[-1]) == (1346497588, 1355126522)
    assert check_ins.category.values[:4] == ("Shopping", "Bar", "Cafe", "Sports")
    assert city.best_prob.mean() == pytest.approx(0.638823, abs=1e-6)


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
