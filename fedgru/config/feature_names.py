"""The names and kinds of features, and the sets that the setting `features` accepts."""

import re
from collections.abc import Iterable, Mapping

from fedgru.core import plugins
from fedgru.core.errors import ConfigError

GROUP = "fedgru.features"  # of entry points
OWN_KIND = "own"  # computed by a function of one's own, see fedgru/task/own_features.py

# id: a column of the check-ins, one-hot. cycle: the phase of a time in a cycle, as sine and cosine.
# scaled: one number, standardised. `fedgru/task/features.py` computes the last two.
FEATURES = {
    "user": "id",
    "category": "id",
    "venue": "id",
    "raw_category": "id",
    "latitude": "scaled",
    "longitude": "scaled",
    "clock": "cycle",
    "day": "cycle",
    "month": "cycle",
    "weekday": "cycle",
    "gap": "scaled",
}
# inputs of the model with `asked_at`, of the moment of the next check-in
ASKED_FEATURES = {"asked_clock": "cycle", "asked_weekday": "cycle", "asked_gap": "scaled"}
# of Keras models; an input has another name
_LAYERS = (
    *("bias", "dropout", "erase", "factor", "head", "hidden", "inputs", "log_prior", "noise"),
    *("prior_scale", "probabilities", "protected", "recurrent", "represented", "reversal"),
    *("rows", "scores", "share", "states"),
)
ID_FEATURES, CYCLE_FEATURES, SCALED_FEATURES = (
    tuple(name for name, kind in FEATURES.items() if kind == which)
    for which in ("id", "cycle", "scaled")
)
_PLACE = ("user", "category", "venue", "raw_category", "latitude", "longitude")
FEATURE_SETS = {
    # the reference notebook's model inputs
    "big": (*_PLACE, "clock", "day", "month", "weekday"),
    "small": ("category", "clock", "weekday"),
    "category": ("category",),
}


def parse_features(text: str) -> tuple[str, ...]:
    """Return the feature names of a set, or of a comma-separated list.

    One of your own is MODULE:FUNCTION, which is not opened here, or the name of an entry point.

    >>> parse_features("category,gap")
    ('category', 'gap')
    >>> parse_features("category,my_module:km_from_home")
    ('category', 'my_module:km_from_home')

    Raises:
        ConfigError: for an unknown or repeated name; lists the accepted ones.
    """
    names = FEATURE_SETS.get(text.strip()) or tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in FEATURES and ":" not in name]
    brought = plugins.find(GROUP) if unknown else {}
    unknown = [name for name in unknown if name not in brought]
    if unknown and unknown[0] in FEATURE_SETS:
        raise ConfigError(
            f"`features` is {text}, but {unknown[0]} is a set: give it alone, or list its "
            f"features: {','.join(FEATURE_SETS[unknown[0]])}."
        )
    if unknown:
        raise ConfigError(
            f"unknown feature {unknown[0]!r} in `features` {text}. Accepted: one of the sets "
            f"{', '.join(FEATURE_SETS)}, or a comma-separated list of "
            f"{', '.join([*FEATURES, *brought])}, or MODULE:FUNCTION of your own."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"`features` {text} names a feature twice.")
    return names


def with_asked(names: tuple[str, ...], asked_at: bool) -> tuple[str, ...]:
    """Return the features that `parse_features` returned with those of `asked_at` after them."""
    return (*names, *ASKED_FEATURES) if asked_at else names


def kind_of(name: str) -> str:
    """Return the kind of a feature that `with_asked` returned."""
    return (FEATURES | ASKED_FEATURES).get(name, OWN_KIND)


def own_inputs(name: str, width: int) -> tuple[str, ...]:
    """Return the names of the inputs of a feature of one's own.

    >>> own_inputs("my_module:km_from_home", 1), own_inputs("is-new", 2)
    (('km_from_home',), ('is_new_1', 'is_new_2'))
    """
    plain = re.sub(r"\W", "_", name.partition(":")[2] or name)
    return (plain,) if width == 1 else tuple(f"{plain}_{i + 1}" for i in range(width))


def number_inputs(
    names: Iterable[str], own_widths: Mapping[str, int] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return {feature: names of its inputs} of the features that are numbers, in their order.

    Args:
        names: as `with_asked` returns them.
        own_widths: feature of one's own -> how many numbers it gives for a check-in.

    Raises:
        ConfigError: if two features have an input of the same name.

    >>> number_inputs(("category", "gap", "clock"))
    {'gap': ('gap',), 'clock': ('clock_sin', 'clock_cos')}
    """
    inputs: dict[str, tuple[str, ...]] = {}
    # so that no name of fedgru's is taken
    owners = {name: name for name in (*FEATURES, *ASKED_FEATURES)}
    owners |= dict.fromkeys(_LAYERS, "a layer of the model")
    for name in names:
        kind = kind_of(name)
        if kind == "cycle":
            inputs[name] = (f"{name}_sin", f"{name}_cos")
        elif kind == "scaled":
            inputs[name] = (name,)
        elif kind == OWN_KIND:
            inputs[name] = own_inputs(name, (own_widths or {})[name])
        for one in inputs.get(name, ()):
            if owners.setdefault(one, name) != name:
                raise ConfigError(
                    f"`features` {name} gives an input called {one}, as {owners[one]} does. Give "
                    "the function another name."
                )
    return inputs
