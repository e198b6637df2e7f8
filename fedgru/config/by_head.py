"""The head that a run has if none is given, and the defaults that depend on the head.

The head `candidates` is the default where it can be; docs/method.md says by which measurements.

Public names:
    PRIVATE: the defaults of a run with differential privacy that differ from those without.
    CANDIDATES: the defaults of `head` candidates that differ from those of `head` dense.
    fill: adds head and defaults to what was given.
    defaults_of, differences: the default of every setting of a run, and what is not the default.
    default_text: the default of a setting as text for help.
    why_dense: why the head of a run is dense by default.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fedgru.config.settings import Settings, fields, short

CANDIDATES: dict[str, Any] = {
    "batch_size": 4,
    "hidden_dim": 32,
    "dropout": 0.7,  # of ids: with less, the state learns people by heart
    "client_optimizer": "sgd",
    "client_lr": 0.02,
    "local_epochs": 1,
    "mean": "clients",
    # a client with more check-ins takes more steps: by examples it would count twice over
    "client_weights": "equal",
    "server_optimizer": "adam",
    "server_lr": 0.01,
    "server_lr_schedule": "linear",
    "rounds": 80,
    "patience": 20,
}
# with differential privacy, whatever the head: other values are refused
PRIVATE: dict[str, Any] = {"mean": "clients", "client_weights": "equal", "patience": 0}
# setting of CANDIDATES -> (another one, the values of it with which the default holds)
_ONLY_WITH = {
    "client_lr": ("client_optimizer", ("sgd",)),
    "server_lr": ("server_optimizer", ("adam",)),
    "server_lr_schedule": ("server_optimizer", ("adam",)),
    # the others average over owners by themselves
    "mean": ("robust", ("none", "krum", "geometric-median", "centred-clipping", "norm-bounding")),
}


def why_dense(settings: Settings) -> str | None:
    """Return which setting makes the head dense if no head is given; None if it is candidates."""
    return _why_dense(lambda name: getattr(getattr(settings, fields()[name][0]), name))


def _why_dense(value_of: Callable[[str], Any]) -> str | None:
    if value_of("prior") != "kernel":
        return f"`prior` is {value_of('prior')}"
    if value_of("engine") == "tff":
        return "`engine` is tff"
    for name in ("model", "agnostic_to"):
        if value_of(name) is not None:
            return f"`{name}` is {short(value_of(name))}"
    return None


def fill(sections: dict[str, Any]) -> None:
    """Add the head, and the defaults that depend on it, where they are not given.

    Args:
        sections: {section: {field name: value}}; it is changed.
    """
    given = {
        name: sections[section][name]
        for name, (section, _) in fields().items()
        if isinstance(sections.get(section), dict) and name in sections[section]
    }
    for name, value in _missing(given).items():
        sections.setdefault(fields()[name][0], {})[name] = value


def _missing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return {field name: value} of what depends on the head and is not given."""
    plain = {name: info.default for name, (_, info) in fields().items()}
    head = given.get("head")
    if head is None:
        head = "candidates" if _why_dense(lambda n: given.get(n, plain[n])) is None else "dense"
    found = {"head": head}
    if head == "candidates":
        filled = plain | CANDIDATES | dict(given)
        for name, value in CANDIDATES.items():
            other, values = _ONLY_WITH.get(name, (name, (filled[name],)))
            if filled[other] in values:
                found[name] = value
    if given.get("dp_clip") is not None:
        found |= PRIVATE
    if given.get("compress") is not None:
        found["algorithm"] = "compressed"
    return {name: value for name, value in found.items() if name not in given}


def defaults_of(settings: Settings) -> dict[str, Any]:
    """Return {field name: its default beside the other settings}."""
    plain = {name: info.default for name, (_, info) in fields().items()}
    values = {name: getattr(getattr(settings, s), name) for name, (s, _) in fields().items()}
    found = plain | _missing({n: v for n, v in values.items() if n not in CANDIDATES})
    for name in _ONLY_WITH:
        rest = {n: v for n, v in values.items() if n != name}
        found[name] = _missing(rest).get(name, plain[name])
    found["head"] = _missing({n: v for n, v in values.items() if n != "head"})["head"]
    return found


def differences(settings: Settings) -> dict[str, Any]:
    """Return {field name: value} of the settings that are not the defaults."""
    values = {name: getattr(getattr(settings, s), name) for name, (s, _) in fields().items()}
    defaults = defaults_of(settings)
    return {name: value for name, value in values.items() if value != defaults[name]}


def default_text(name: str) -> str:
    """Return the default of a setting as text for help; empty if there is none.

    >>> default_text("hidden_dim")
    '32 with --head candidates, else 256'
    """
    plain = fields()[name][1].default
    if name == "head":
        return "candidates with --prior kernel, else dense"
    if name in CANDIDATES:
        return f"{CANDIDATES[name]} with --head candidates, else {plain}"
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    return "" if plain is None else str(plain)
