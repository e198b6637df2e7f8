"""Published protocols: which check-ins a paper keeps, how it splits them, what it scores.

docs/protocols.md says where each differs from the paper's own program.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import Bools, Ints
from fedgru.data.checkins import CheckIns
from fedgru.task.clients import Clients, CoverageLine, order_clients, split_sizes

HOUR_S, MINUTE_S = 3600, 60
MIN_VISITS = 10  # of a venue and of a user: STAN, GETNext; DeepMove keeps more than 10
STAN_LENGTH = 101  # the last check-ins of each user
GETNEXT_GAP_S, GETNEXT_LENGTH = 24 * HOUR_S, 3
GETNEXT_TRAIN, GETNEXT_VAL = 0.8, 0.9  # where train and validation end in everybody's check-ins
DEEPMOVE_GAP_S, DEEPMOVE_PAUSE_S = 72 * HOUR_S, 10 * MINUTE_S
DEEPMOVE_LENGTH, DEEPMOVE_MOST, DEEPMOVE_SESSIONS, DEEPMOVE_TRAIN = 5, 10, 5, 0.8


@dataclass(frozen=True)
class Visits:
    """Check-ins user after user, each user's in order of time.

    Attributes:
        rows: int64 [n], rows of CheckIns, which are in order of time.
        user, venue: int64 [n], codes.
        time_s: int64 [n].
        session: int64 [n], number of the session that each is in, ascending; 0 before they are cut.
        split: int64 [n], 0 train, 1 validation, 2 test.
    """

    rows: Ints
    user: Ints
    venue: Ints
    time_s: Ints
    session: Ints
    split: Ints

    def __getitem__(self, keep: Bools) -> "Visits":
        return Visits(*(values[keep] for values in vars(self).values()))

    def count(self, values: Ints) -> Ints:
        """Return int64 [n], how often the value of each check-in occurs."""
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return counts[inverse]

    def line(self, step: str) -> CoverageLine:
        return CoverageLine(step, len(np.unique(self.user)), len(self.rows))


Found = tuple[Visits, list[CoverageLine]]


def _popular(visits: Visits, least: int) -> Found:
    """Keep venues with at least `least` check-ins, then users with at least `least`."""
    visits = visits[visits.count(visits.venue) >= least]
    lines = [visits.line(f"at venues with {least} or more check-ins")]
    visits = visits[visits.count(visits.user) >= least]
    return visits, [*lines, visits.line(f"of users with {least} or more of these")]


def _stan(visits: Visits) -> Found:
    """Keep the last 101 check-ins; the last one is test, the one before it validation.

    Source: Luo, Liu, Liu 2021 (arXiv:2102.04095), and load.py and README.md of its repository.
    """
    visits, lines = _popular(visits, MIN_VISITS)
    from_end = _places(visits.user[::-1])[::-1]
    visits, from_end = visits[from_end < STAN_LENGTH], from_end[from_end < STAN_LENGTH]
    visits.split[:] = np.maximum(2 - from_end, 0)
    return visits, [*lines, visits.line(f"the last {STAN_LENGTH} of each user")]


def _getnext(visits: Visits) -> Found:
    """Cut everybody's check-ins by time, 80, 10 and 10 %, and into sessions at gaps of 24 hours.

    Source: Yang, Liu, Zhao 2022 (arXiv:2303.04741), and train.py of its repository.
    """
    visits, lines = _popular(visits, MIN_VISITS)
    rank = np.argsort(np.argsort(visits.rows, kind="stable"), kind="stable")
    share = rank / max(len(rank), 1)
    visits.split[:] = (share >= GETNEXT_TRAIN).astype(np.int64) + (share >= GETNEXT_VAL)
    begins = _changes(visits.user) | _changes(visits.split)
    begins[1:] |= np.diff(visits.time_s) > GETNEXT_GAP_S
    visits.session[:] = np.cumsum(begins)
    visits = visits[visits.count(visits.session) > 1]
    lines.append(visits.line("in sessions of 2 or more"))
    train = visits[visits.split == 0]
    visits = visits[(visits.split == 0) | np.isin(visits.user, train.user)]
    lines.append(visits.line("of users that train has"))
    visits = visits[(visits.split == 0) | np.isin(visits.venue, train.venue)]
    lines.append(visits.line("at venues that train has"))
    visits = visits[visits.count(visits.session) >= GETNEXT_LENGTH]
    return visits, [*lines, visits.line(f"in sessions of {GETNEXT_LENGTH} or more")]


def _deepmove(visits: Visits) -> Found:
    """Cut sessions at gaps of 72 hours and after 11 check-ins; 80 % of them are train.

    Source: Feng et al. 2018 (WWW), and sparse_traces.py of its repository.
    """
    pair = visits.user * (visits.venue.max(initial=0) + 1) + visits.venue
    is_known = (visits.count(visits.venue) > MIN_VISITS) | (visits.count(pair) > 1)
    is_active = visits.count(visits.user) > MIN_VISITS
    lines = [visits[is_active].line(f"of users with more than {MIN_VISITS} check-ins")]
    visits = visits[is_active & is_known]
    lines.append(visits.line(f"at venues with more than {MIN_VISITS}, or where they came back"))
    kept, number, size, last_user, last_s = np.zeros(len(visits.rows), bool), 0, 0, -1, 0
    for at, (user, time_s) in enumerate(
        zip(visits.user.tolist(), visits.time_s.tolist(), strict=True)
    ):
        ends = user != last_user or time_s - last_s > DEEPMOVE_GAP_S or size > DEEPMOVE_MOST
        if ends or time_s - last_s > DEEPMOVE_PAUSE_S:
            number, size, kept[at] = number + ends, 1 if ends else size + 1, True
        visits.session[at] = number
        last_user, last_s = user, time_s
    visits = visits[kept]
    lines.append(visits.line("more than 10 minutes after the last one"))
    visits = visits[visits.count(visits.session) >= DEEPMOVE_LENGTH]
    lines.append(visits.line(f"in sessions of {DEEPMOVE_LENGTH} or more"))
    place, number_of = _session_places(visits)
    visits, place = visits[number_of >= DEEPMOVE_SESSIONS], place[number_of >= DEEPMOVE_SESSIONS]
    number_of = number_of[number_of >= DEEPMOVE_SESSIONS]
    lines.append(visits.line(f"of users with {DEEPMOVE_SESSIONS} or more of them"))
    num_train = np.floor(DEEPMOVE_TRAIN * number_of).astype(np.int64)
    _, num_val = split_sizes(number_of)
    visits.split[:] = (place >= num_train - num_val).astype(np.int64) + (place >= num_train)
    return visits, lines


def _session_places(visits: Visits) -> tuple[Ints, Ints]:
    """Return each check-in's session, numbered within its user, and the number of sessions."""
    _, first = np.unique(visits.session, return_index=True)
    users = visits.user[first]
    sizes = np.diff(np.append(first, len(visits.rows)))
    places, counts = _places(users), visits.count(users)
    return np.repeat(places, sizes), np.repeat(counts, sizes)


def _places(values: Ints) -> Ints:
    """Return int64 [n], places within runs of equal values.

    >>> _places(np.array([7, 7, 3, 3, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    begins = np.flatnonzero(_changes(values))
    return np.arange(len(values)) - np.repeat(begins, np.diff(np.append(begins, len(values))))


def _changes(values: Ints) -> Bools:
    """Return bool [n], whether a value differs from the one before it; the first one does."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


@dataclass(frozen=True)
class Protocol:
    """A protocol by name: what it keeps, and whether only the ends of sessions are scored."""

    title: str
    keep: Callable[[Visits], Found]
    has_sessions: bool = True
    only_last: bool = False


PROTOCOLS = {
    "deepmove": Protocol("DeepMove", _deepmove),
    "stan": Protocol("STAN", _stan, has_sessions=False),
    "getnext": Protocol("GETNext", _getnext, only_last=True),
}


def choose_by_protocol(
    check_ins: CheckIns, name: str, users: int | None = None
) -> tuple[Clients, list[CoverageLine]]:
    """Choose who takes part, which of their check-ins, and the splits, by a published protocol.

    Args:
        check_ins: CheckIns, in order of time.
        name: a key of PROTOCOLS.
        users: of those that the protocol keeps, the most active ones; None for all.

    Returns:
        As `choose_clients`.

    Raises:
        ConfigError: if `users` is more than there are.
        DataError: if nobody is left, or train or test is empty.
    """
    protocol = PROTOCOLS[name]
    rows = np.argsort(check_ins.user.codes, kind="stable")
    user, venue = (c.codes[rows].astype(np.int64) for c in (check_ins.user, check_ins.venue))
    nothing = np.zeros(len(rows), np.int64)
    every = Visits(rows, user, venue, check_ins.time_s[rows], nothing, nothing.copy())
    visits, lines = protocol.keep(every)
    coverage = [every.line("in the data set"), *lines]
    order = order_clients(np.bincount(visits.user, minlength=len(check_ins.user.values)))
    if not len(order) or not all((visits.split == split).any() for split in (0, 1, 2)):
        raise DataError(
            f"`protocol` {name} leaves nothing in train, validation or test: it is for data sets "
            f"of hundreds of users. It kept {len(visits.rows):,} check-ins of {len(order):,} users."
        )
    if users is not None and users > len(order):
        raise ConfigError(f"`users` is {users}, but `protocol` {name} keeps {len(order)} users.")
    rank = np.full(len(check_ins.user.values), -1)
    rank[order[:users]] = np.arange(len(order[:users]))
    visits = visits[rank[visits.user] >= 0]
    if users is not None:
        coverage.append(visits.line(f"the {users} most active"))
    by_client = np.argsort(rank[visits.user], kind="stable")
    visits = Visits(*(values[by_client] for values in vars(visits).values()))
    client, num_clients = rank[visits.user], len(order[:users])
    in_split = [
        np.bincount(client[visits.split <= split], minlength=num_clients) for split in (0, 1)
    ]
    starts = np.append(0, np.cumsum(np.bincount(client, minlength=num_clients))).astype(np.int64)
    begins = _changes(client) | _changes(visits.session)
    last_of_session = np.append(begins[1:], True)
    clients = Clients(
        client_ids=tuple(check_ins.user.values[code] for code in order[:users]),
        rows=visits.rows,
        starts=starts,
        train_ends=starts[:-1] + in_split[0],
        val_ends=starts[:-1] + in_split[1],
        session_starts=begins if protocol.has_sessions else None,
        unscored=(visits.split > 0) & ~last_of_session if protocol.only_last else None,
    )
    return clients, coverage
