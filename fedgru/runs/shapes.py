"""What the JSON files of a run folder hold, looked at on reading: they can be a stranger's.

A value of another type is an error that names it. A value that is missing is one when it is asked
for, as runs of earlier versions have less: see `Record`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedgru.core.errors import RunError

_MOST = 2**63  # whole numbers are indices and sizes


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value < _MOST


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


# a shape: (whether a value has it, in words), {key: shape} with "*" for all other keys, [shape]
Shape = tuple[Callable[[Any], bool], str] | dict[str, Any] | list[Any]

TEXT: Shape = (lambda value: isinstance(value, str), "a text")
TEXT_OR_NULL: Shape = (lambda value: value is None or isinstance(value, str), "a text or null")
WHOLE: Shape = (_is_whole, "a whole number")
FLAG: Shape = (lambda value: isinstance(value, bool), "true or false")
NUMBER: Shape = (_is_number, "a number")
NUMBER_OR_NULL: Shape = (lambda v: v is None or _is_number(v), "a number or null")
INTERVAL: Shape = (
    lambda v: isinstance(v, list) and len(v) == 2 and all(x is None or _is_number(x) for x in v),
    "a list of two numbers",
)
NUMBERS: Shape = (
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)),
    "a list of two numbers",
)
_USERS = {"trained": WHOLE, "scored": WHOLE, "known_through_others": {"*": WHOLE}}
_METRICS = {"*": NUMBER_OR_NULL}
# there always is an acc@1, but no loss where all targets are unknown
_GAINS = {
    "test/acc@1/micro": {"difference": NUMBER, "interval": NUMBERS},
    "*": {"difference": NUMBER_OR_NULL, "interval": INTERVAL},
}
_CONCEPT = {
    "concept": TEXT,
    **dict.fromkeys(("num_values", "num_fit", "num_test", "num_unknown"), WHOLE),
    "floor": NUMBER,
    "readings": [
        {
            **{"view": TEXT, "probe": TEXT, "interval": NUMBERS, "converged": FLAG},
            **dict.fromkeys(("accuracy", "lowest", "highest"), NUMBER),
            "control": NUMBER_OR_NULL,
        }
    ],
    "worst": {"*": NUMBER},
    "sampled": {"*": WHOLE},
}
RUN: Shape = {
    **dict.fromkeys(("started", "data", "fingerprint", "config_sha256", "salt"), TEXT),
    **dict.fromkeys(("status", "computes_with", "error", "data_dir"), TEXT),
    "why": TEXT_OR_NULL,
    "coverage": [{"step": TEXT, "clients": WHOLE, "checkins": WHOLE}],
    "unknown_rates": {"*": {"*": NUMBER_OR_NULL}},
    "users": _USERS,
    "own_features": {"*": {"mean": NUMBER, "deviation": NUMBER}},
    "sweep": {"name": TEXT, "trial": WHOLE},
    "versions": {"*": TEXT_OR_NULL},
    **dict.fromkeys(("num_classes", "rounds", "best_round"), WHOLE),
    "best_rounds": INTERVAL,
    "best_value": NUMBER_OR_NULL,
    "simulated_hours": NUMBER,
    "faults": {"*": WHOLE},
    "resumed": [{"at": TEXT, "after_round": WHOLE}],
    "members": [{"name": TEXT}],
}
TEST: Shape = {
    **dict.fromkeys(("run", "data", "kind", "task", "engine"), TEXT),
    **dict.fromkeys(("test/clients", "test/targets", "test/unknown_targets", "round"), WHOLE),
    "worst_tenth": {"clients": WHOLE, "acc@1": NUMBER, "loss": NUMBER_OR_NULL},
    "intervals": {"test/acc@1/micro": NUMBERS, "*": INTERVAL},
    **dict.fromkeys(("cold", "revisits", "first_visits"), _METRICS),
    "baselines": {"*": _METRICS},
    "best_counting": {"name": TEXT, "among": WHOLE, "targets": WHOLE, "clients": WHOLE},
    "gains": {"*": _GAINS},
    "popular_nearby": {"absent": TEXT, "radius_km": NUMBER, "radii_km": [NUMBER]},
    "best_possible": NUMBER,
    "share_of_best": NUMBER,
    "leakage": {"*": _CONCEPT},
    "users": _USERS,
    "backdoor": {"trigger": TEXT, "target": TEXT},
    "fine_tuned": {"epochs": WHOLE, "gains": _GAINS, "*": NUMBER_OR_NULL},
    "test/acc@1/micro": NUMBER,
    "test/*": NUMBER_OR_NULL,
}
AUDIT: Shape = {"run": TEXT, "data": TEXT, "round": WHOLE, "concepts": {"*": _CONCEPT}}
ATTACKS: Shape = {"run": TEXT, "data": TEXT, "round": WHOLE}


class Record(dict[str, Any]):
    """A dict of a run's JSON file: what is missing in it is the file's fault.

    Args:
        value: dict; the dicts in it become Records.
        file: its path.
    """

    def __init__(self, value: dict[str, Any], file: Path) -> None:
        super().__init__({key: _in_records(one, file) for key, one in value.items()})
        self._file = file

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self._file} is damaged, it has no {key}.")


def _in_records(value: Any, file: Path) -> Any:
    if isinstance(value, dict):
        return Record(value, file)
    return [_in_records(one, file) for one in value] if isinstance(value, list) else value


def check(value: Any, shape: Shape, path: str = "") -> None:
    """Raise a ValueError that names the first value which has not its shape.

    >>> check({"coverage": [{"clients": "four"}]}, RUN)
    Traceback (most recent call last):
        ...
    ValueError: coverage/1/clients is 'four', expected a whole number
    """
    if isinstance(shape, tuple):
        fits, words = shape
        if not fits(value):
            raise ValueError(f"{path} is {_short(value)}, expected {words}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{path} is {_short(value)}, expected a list")
        for number, one in enumerate(value, start=1):
            check(one, shape[0], f"{path}/{number}")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{path} is {_short(value)}, expected an object")
        for key, one in value.items():
            wanted = shape.get(key, shape.get(f"{key.partition('/')[0]}/*", shape.get("*")))
            if wanted is not None:
                check(one, wanted, f"{path}/{key}".lstrip("/"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
