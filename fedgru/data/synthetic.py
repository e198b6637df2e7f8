"""A made-up city with planted habits and a known best possible accuracy.

A person's next check-in depends only on the person, on the last check-in, on its local hour,
weekday and date, and on the time since the one before. Many habits are shared by all people (what
follows what, at which hour, in which district) or by all people of a hidden type (office worker,
student, night owl, parent), which is not in the data. So counting one person's check-ins finds
part of the habits, and learning from all people finds more.

As in real cities, habits drift: every 30 days, each on their own day, people replace some of their
own. People go where it is near: to a category of which they have a favourite close to the last
venue, and to the closest of their favourites. And they are away for days, are more active on some
days than on others, and do other things when they are back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedgru.core.errors import ConfigError
from fedgru.core.types import AnyInts, Doubles, Floats, Ints
from fedgru.data.checkins import CheckIns, Coded
from fedgru.data.distances import KM_PER_DEG

# coarse category: the usual local hour, the kinds of venue
CATEGORIES = {
    "Home": (23, ("Home (private)", "Residential Building (Apartment / Condo)")),
    "Public Transport": (8, ("Subway", "Bus Station", "Train Station")),
    "Work": (9, ("Office",)),
    "School": (10, ("College Academic Building", "University")),
    "Cafe": (11, ("Coffee Shop", "Tea Room")),
    "Park": (14, ("Park", "Garden")),
    "Shopping": (15, ("Clothing Store", "Department Store", "Mall")),
    "Grocery": (17, ("Food & Drink Shop", "Deli / Bodega")),
    "Sports": (18, ("Gym / Fitness Center", "Pool")),
    "Restaurant": (19, ("American Restaurant", "Pizza Place", "Mexican Restaurant", "Diner")),
    "Entertainment": (20, ("Movie Theater", "Arcade", "Library")),
    "Bar": (22, ("Bar", "Gastropub")),
}
# hidden type: hours later than usual, liked on weekdays, liked at the weekend
TYPES = {
    "office worker": (0, ("Work", "Public Transport", "Cafe"), ("Home", "Shopping", "Restaurant")),
    "student": (2, ("School", "Cafe", "Home"), ("Bar", "Entertainment", "Home")),
    "night owl": (4, ("Bar", "Work", "Restaurant"), ("Bar", "Home", "Entertainment")),
    "parent": (-2, ("School", "Grocery", "Home"), ("Park", "Sports", "Home")),
}
# strength of each habit, in log-odds
CITY_HABIT = 3.0  # what follows what, the same for all people: drawn between -3 and 3
TYPE_HABIT = 1.5  # what follows what, for each type: drawn between -1.5 and 1.5
OWN_HABIT = 3.0  # of each person's favourite category after each category
OWN_TASTE = 1.5  # of each category for each person: drawn between -1.5 and 1.5
TYPE_TASTE = 2.5  # of the categories that a type likes
HOME_TASTE = 3.0  # of Home, for all people
RHYTHM = 3.5  # at the usual hour; -3.5 twelve hours away
DISTRICT = 0.5  # what follows in the district of the last venue: drawn between -0.5 and 0.5
CLOSE = 2.0  # of a category with a favourite next to the last venue; falls with distance
BACK = 2.0  # what follows the first check-in after some days, by type: drawn between -2 and 2

NUM_DISTRICTS = 4
VENUES_PER_CATEGORY = 16  # shared ones
OWN_VENUES = ("Home", "Work", "School")  # each person has one of each, which nobody else visits
FAVOURITE_SHARES = (0.6, 0.3, 0.1)  # a person's favourites of a category, at equal distance
NEAR_KM = 3.0  # at this distance a venue's odds are 1/e of those next door
CHANGE_DAYS = 30  # between two changes of a person's habits
CHANGED_SHARE = 0.5  # of a person's own habits, replaced by others at each change
AWAY_SHARE = 0.1  # of all days, as one absence of each person in each half of the time
BACK_S = 36 * 3600  # a check-in so long after the one before is the first after some days
CENTRE_DEG = (40.7, -74.0)
FIRST_DAY_S = 1346457600  # 2012-09-01 00:00 on the local clock, a Saturday
CLOCK_BACK_S = 1351994400  # 2012-11-04 02:00 on the local clock: UTC-4 before, then UTC-5
MAX_DAYS = 180  # the clock goes forward again on 2013-03-10


@dataclass(frozen=True)
class CityConfig:
    """The size of the city, and how regular it is.

    Attributes:
        num_users: at least 1.
        checkins_per_user: mean number of check-ins, at least 1.
        seed: random seed, at least 0.
        num_days: time span, 1 to 180; more days give longer gaps between check-ins.
        activity_spread: people's numbers of check-ins are evenly spaced from 1 - spread to
            1 + spread times the mean; at least 0, below 1.
        noise_share: 0 to 1, the share of check-ins that follow no habit, of a uniform category.

    Raises:
        ConfigError: if a setting is out of range.
    """

    num_users: int = 80
    checkins_per_user: int = 240
    seed: int = 0
    num_days: int = 100
    activity_spread: float = 0.4
    noise_share: float = 0.05

    def __post_init__(self) -> None:
        for name, accepted, fits in (
            ("num_users", "at least 1", self.num_users >= 1),
            ("checkins_per_user", "at least 1", self.checkins_per_user >= 1),
            ("seed", "at least 0", self.seed >= 0),
            ("num_days", f"1 to {MAX_DAYS}", 1 <= self.num_days <= MAX_DAYS),
            ("activity_spread", "at least 0 and below 1", 0 <= self.activity_spread < 1),
            ("noise_share", "0 to 1", 0 <= self.noise_share <= 1),
        ):
            if not fits:
                value = getattr(self, name)
                raise ConfigError(f"made-up city: `{name}` is {value}, expected {accepted}.")


@dataclass(frozen=True)
class Habits:
    """The planted habits, as log-odds that are added up.

    Attributes:
        after: float64 [num_users, num_phases, num_categories, num_categories], of the next
            category, by person, phase and last category.
        taste: float64 [num_users, num_phases, 2, num_categories], on weekdays and at the weekend.
        changes_s: int64 [num_users, num_phases - 1], local clock at which the next phase begins, in
            order.
        peak_hour: float64 [num_users, num_categories], the local hour at which the category is
            most likely to come next, the maximum of a cosine over the day.
        rhythm: float, amplitude of that cosine.
        nearby: float64 [num_venues, num_categories], by last venue.
        back: float64 [num_users, num_categories], where the last check-in was the first after
            `BACK_S` or more.
        favourites: int64 [num_users, num_categories, num_favourites], venues.
        places_km: float64 [num_venues, 2], east and north.
        noise_share: float, weight of the added uniform distribution.
    """

    after: Doubles
    taste: Doubles
    changes_s: Ints
    peak_hour: Doubles
    rhythm: float
    nearby: Doubles
    back: Doubles
    favourites: Ints
    places_km: Doubles
    noise_share: float

    def distances_km(self, user: AnyInts, venue: AnyInts) -> Doubles:
        """Return float64 [n, num_categories, num_favourites], from each venue to the favourites."""
        away = self.places_km[self.favourites[user]] - self.places_km[venue][:, None, None]
        return np.hypot(away[..., 0], away[..., 1])

    def next_probs(
        self, user: AnyInts, category: AnyInts, venue: AnyInts, local_time_s: Ints, gap_s: Ints
    ) -> Doubles:
        """Return float64 [n, num_categories], p(next category) after each of n check-ins.

        Args:
            user, category, venue: int [n], indices into the tables above.
            local_time_s: int64 [n], local clock of the check-in, seconds since 1970-01-01.
            gap_s: int64 [n], seconds since the person's check-in before; 0 for the first one.
        """
        hour = local_time_s[:, None] / 3600 % 24
        weekend = (local_time_s // 86400 + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        phase = (self.changes_s[user] <= local_time_s[:, None]).sum(axis=1)
        elsewhere = self.favourites[user] != venue[:, None, None]
        nearest_km = self.distances_km(user, venue).min(axis=-1, where=elsewhere, initial=np.inf)
        log_odds = (
            self.after[user, phase, category]
            + self.taste[user, phase, weekend.astype(np.int64)]
            + self.rhythm * np.cos(2 * np.pi * (hour - self.peak_hour[user]) / 24)
            + self.nearby[venue]
            + CLOSE * np.exp(-nearest_km / NEAR_KM)
            + np.where(gap_s[:, None] >= BACK_S, self.back[user], 0)
        )
        odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
        probs = odds / odds.sum(axis=1, keepdims=True)
        return (1 - self.noise_share) * probs + self.noise_share / probs.shape[1]


@dataclass(frozen=True)
class City:
    """A made-up city.

    Attributes:
        check_ins: CheckIns. User "3" is person 2 of `habits`, venue "v0007" is its venue 7, and
            its categories are those of CATEGORIES in that order.
        best_prob: float32 [num_checkins], the probability of this check-in's most likely category,
            given the habits and all check-ins before. Its mean over some check-ins is the best
            accuracy that any model can expect on them.
        habits: Habits, from which the check-ins were drawn.
        config: CityConfig.
    """

    check_ins: CheckIns
    best_prob: Floats
    habits: Habits
    config: CityConfig


def make_city(config: CityConfig) -> City:
    """Draw a city; the same config gives the same city.

    The times of check-ins do not depend on the categories. A person's first check-in has a uniform
    category; the venue is one of the person's favourites of that category, sooner a near one.

    Args:
        config: CityConfig.

    Returns:
        City, its check-ins in order of time.
    """
    rng = np.random.default_rng(config.seed)
    num_users, num_categories = config.num_users, len(CATEGORIES)
    everyone = np.arange(num_users)
    types = rng.permutation(num_users) % len(TYPES)
    venues, favourites = _make_venues(rng, num_users)
    habits = _make_habits(rng, types, venues, favourites, config)
    local_time_s, counts = _make_times(rng, types, config)

    shape = local_time_s.shape
    category, venue = np.empty((2, *shape), np.int64)
    best_prob = np.empty(shape, np.float32)
    probs = np.full((num_users, num_categories), 1 / num_categories)
    odds = np.tile(FAVOURITE_SHARES, (num_users, num_categories, 1))
    gap_s = np.diff(local_time_s, axis=0, prepend=local_time_s[:1])
    for step in range(len(local_time_s)):
        if step > 0:
            last = category[step - 1], venue[step - 1], local_time_s[step - 1], gap_s[step - 1]
            probs = habits.next_probs(everyone, *last)
            away_km = habits.distances_km(everyone, venue[step - 1])
            odds = np.array(FAVOURITE_SHARES) * np.exp(-away_km / NEAR_KM)
        best_prob[step] = probs.max(axis=1)
        category[step] = _draw(rng, probs)
        chosen = odds[everyone, category[step]]
        choice = _draw(rng, chosen / chosen.sum(axis=1, keepdims=True))
        venue[step] = favourites[everyone, category[step], choice]

    happens = np.arange(len(local_time_s))[:, None] < counts
    order = np.argsort(local_time_s[happens], kind="stable")
    user, category, venue, best_prob, local_time_s = (
        np.broadcast_to(table, shape)[happens][order]
        for table in (everyone, category, venue, best_prob, local_time_s)
    )
    offset_min = np.where(local_time_s < CLOCK_BACK_S, -240, -300).astype(np.int32)
    check_ins = CheckIns(
        user=_coded([str(person + 1) for person in everyone], user),
        venue=_coded([f"v{number:04}" for number in range(len(venues["kind"]))], venue),
        category=_coded(list(CATEGORIES), category),
        raw_category=_coded(venues["kind"], venue),
        time_s=local_time_s - 60 * offset_min.astype(np.int64),
        offset_min=offset_min,
        lat_deg=venues["lat_deg"][venue],
        lon_deg=venues["lon_deg"][venue],
    )
    return City(check_ins, best_prob, habits, config)


def _make_venues(rng: np.random.Generator, num_users: int) -> tuple[dict[str, Any], Ints]:
    """Return the venues' columns, and each person's favourites, int64 [user, category, 3]."""
    category: list[int] = []
    favourites = []
    for index, name in enumerate(CATEGORIES):
        num_choices = len(FAVOURITE_SHARES)
        if name in OWN_VENUES:
            count = num_users
            chosen = np.tile(np.arange(count)[:, None], (1, num_choices))
        else:
            count = VENUES_PER_CATEGORY
            chosen = rng.integers(count, size=(num_users, num_choices))
        favourites.append(len(category) + chosen)
        category += [index] * count
    kinds = [kinds for _, kinds in CATEGORIES.values()]
    kind = [kinds[index][rng.integers(len(kinds[index]))] for index in category]
    district = rng.integers(NUM_DISTRICTS, size=len(category))
    centres_deg = CENTRE_DEG + rng.uniform(-0.08, 0.08, (NUM_DISTRICTS, 2))
    places_deg = centres_deg[district] + rng.uniform(-0.02, 0.02, (len(category), 2))
    lat_deg, lon_deg = np.round(places_deg, 6).T
    east_km = (lon_deg - CENTRE_DEG[1]) * KM_PER_DEG * np.cos(np.radians(CENTRE_DEG[0]))
    venues = {
        "kind": kind,
        "district": district,
        "lat_deg": lat_deg,
        "lon_deg": lon_deg,
        "places_km": np.stack([east_km, (lat_deg - CENTRE_DEG[0]) * KM_PER_DEG], axis=1),
    }
    return venues, np.stack(favourites, axis=1)


def _make_habits(
    rng: np.random.Generator,
    types: AnyInts,
    venues: dict[str, Any],
    favourites: Ints,
    config: CityConfig,
) -> Habits:
    """Draw the habits of people of these types; venues and favourites are those of the city."""
    num_users, num_types, num_categories = len(types), len(TYPES), len(CATEGORIES)

    def between(limit: float, *shape: int) -> Doubles:
        return rng.uniform(-limit, limit, (*shape, num_categories))

    first_change_s = FIRST_DAY_S + rng.integers(CHANGE_DAYS * 86400, size=(num_users, 1))
    num_changes = -(-config.num_days // CHANGE_DAYS)
    own_after, own_taste = [], []
    for _ in range(num_changes + 1):
        follower = rng.integers(num_categories, size=(num_users, num_categories))
        own_after.append(OWN_HABIT * np.eye(num_categories)[follower])
        own_taste.append(between(OWN_TASTE, num_users))
    type_taste = np.zeros((num_types, 2, num_categories))
    for row, (_, *liked) in zip(type_taste, TYPES.values(), strict=True):
        for day, names in enumerate(liked):
            row[day, [list(CATEGORIES).index(name) for name in names]] = TYPE_TASTE
    home_taste = HOME_TASTE * (np.array(list(CATEGORIES)) == "Home")
    usual_hour = np.array([hour for hour, _ in CATEGORIES.values()], np.float64)
    shared_after = between(CITY_HABIT, num_categories)
    type_after = between(TYPE_HABIT, num_types, num_categories)[types]
    return Habits(
        after=(shared_after + type_after)[:, None] + _drift(rng, own_after),
        taste=(type_taste[types] + home_taste)[:, None] + _drift(rng, own_taste)[:, :, None],
        changes_s=first_change_s + CHANGE_DAYS * 86400 * np.arange(num_changes),
        peak_hour=usual_hour + _hours_later(types)[:, None],
        rhythm=RHYTHM,
        nearby=between(DISTRICT, NUM_DISTRICTS)[venues["district"]],
        back=between(BACK, num_types)[types],
        favourites=favourites,
        places_km=venues["places_km"],
        noise_share=config.noise_share,
    )


def _drift(rng: np.random.Generator, phases: Sequence[Doubles]) -> Doubles:
    """Return [num_users, num_phases, num_habits, ...], half of each phase as in the one before.

    Args:
        phases: [num_users, num_habits, ...] each, new values of all habits.
    """
    kept = [phases[0]]
    for new in phases[1:]:
        changed = rng.random(new.shape[:2]) < CHANGED_SHARE
        kept.append(np.where(changed.reshape(*changed.shape, *[1] * (new.ndim - 2)), new, kept[-1]))
    return np.stack(kept, axis=1)


def _make_times(rng: np.random.Generator, types: AnyInts, config: CityConfig) -> tuple[Ints, Ints]:
    """Return local times in order, int64 [step, user], and each user's number of check-ins."""
    rank = rng.permutation(config.num_users)
    activity = 1 + config.activity_spread * ((2 * rank + 1) / config.num_users - 1)
    counts = np.maximum(np.round(config.checkins_per_user * activity), 1).astype(np.int64)
    shape = counts.max(), config.num_users
    # awake from 7 to 24, most active from 12 to 19, shifted by the type's hours
    hour = 7 + 12 * rng.random(shape) + 5 * rng.random(shape) + _hours_later(types)
    day = _draw_days(rng, shape, config.num_days)
    local_time_s = FIRST_DAY_S + 86400 * day + (3600 * hour).astype(np.int64)
    local_time_s[np.arange(len(local_time_s))[:, None] >= counts] = np.iinfo(np.int64).max
    return np.sort(local_time_s, axis=0), counts


def _draw_days(rng: np.random.Generator, shape: tuple[int, int], num_days: int) -> Ints:
    """Return a day of each check-in, int64 [step, user]: on some days a person is more active.

    In each half of the time a person is away once, for `AWAY_SHARE` of that half.
    """
    num_users = shape[1]
    activity = rng.exponential(size=(num_users, num_days))
    half = num_days // 2
    away = round(AWAY_SHARE * half)
    for start in (0, half):
        first = start + rng.integers(half - away + 1, size=num_users)
        since = np.arange(num_days) - first[:, None]
        activity[(since >= 0) & (since < away)] = 0
    until = np.cumsum(activity, axis=1)
    drawn = rng.random(shape) * until[:, -1]
    days = [
        np.searchsorted(row, column, side="right")
        for row, column in zip(until, drawn.T, strict=True)
    ]
    return np.minimum(np.stack(days, axis=1), num_days - 1)  # a product can round up to the sum


def _hours_later(types: AnyInts) -> Ints:
    return np.array([shift for shift, _, _ in TYPES.values()])[types]


def _draw(rng: np.random.Generator, probs: Doubles) -> Ints:
    """Draw one column of each row."""
    drawn = (np.cumsum(probs, axis=1) <= rng.random((len(probs), 1))).sum(axis=1)
    return np.minimum(drawn, probs.shape[1] - 1)  # a row can add up to just below 1


def _coded(names: Sequence[str], index: AnyInts) -> Coded:
    """Return the column names[index] as Coded, values in order of first appearance."""
    codes, values = pd.factorize(np.array(names, object)[index])
    return Coded(codes.astype(np.int32), tuple(values))
