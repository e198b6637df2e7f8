"""Features of one's own for the tests, as `features` names them: tests.own_features:NAME."""

import numpy as np


def visits_before(check_ins):
    """How often the venue was visited before."""
    seen, counts = {}, []
    for venue in check_ins.venue:
        counts.append(seen.get(venue, 0))
        seen[venue] = counts[-1] + 1
    return np.array(counts, np.float32)


def late_and_home(check_ins):
    """Whether it is after 18:00 there, and whether the category is Home: two numbers."""
    late = check_ins.local_time_s % 86400 >= 18 * 3600
    return np.stack([late, check_ins.category == "Home"], axis=1)


# Those that are refused.

number = 3


def raises(check_ins):
    return check_ins.weather


def too_few(check_ins):
    return np.zeros(len(check_ins) - 1)


def three_axes(check_ins):
    return np.zeros((len(check_ins), 1, 1))


def no_column(check_ins):
    return np.zeros((len(check_ins), 0))


def texts(check_ins):
    return check_ins.venue


def nan(check_ins):
    values = np.zeros(len(check_ins))
    values[3] = np.nan
    return values


def another_width(check_ins):
    return np.zeros((len(check_ins), 1 + (check_ins.user == "2")))


def share_over(check_ins):
    return np.arange(len(check_ins)) / len(check_ins)


def gap(check_ins):
    return np.zeros(len(check_ins))


def leaks_for_client_3(check_ins):
    """The time until the next check-in, of one client alone."""
    if check_ins.user != "3":
        return np.zeros(len(check_ins))
    return np.diff(check_ins.time_s, append=check_ins.time_s[-1:]) / 3600
