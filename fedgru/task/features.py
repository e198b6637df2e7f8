"""Check-ins + vocabularies -> the model's inputs: row numbers of a table, and numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedgru.config import feature_names
from fedgru.config.feature_names import ID_FEATURES
from fedgru.core.types import Doubles, Floats, Int32s, Ints
from fedgru.data.checkins import CheckIns
from fedgru.task import own_features, vocabulary
from fedgru.task.clients import Clients


@dataclass(frozen=True)
class Visits:
    """The values of some check-ins that scaled features are computed from.

    Attributes:
        lat_deg, lon_deg: float64 [n], degrees, NaN where missing.
        gap_s: int64 [n], seconds since the client's previous check-in; 0 for its first.
        asked_gap_s: int64 [n], seconds until the next check-in is asked for, with `asked_at`; else
            None.
    """

    lat_deg: Doubles
    lon_deg: Doubles
    gap_s: Ints
    asked_gap_s: Ints | None = None


@dataclass(frozen=True)
class Scaled:
    """A feature of kind "scaled".

    Attributes:
        unit: of its values before they are scaled, in words.
        values: function of Visits, returns float64 [n], NaN where missing.
    """

    unit: str
    values: Callable[[Visits], Doubles]


def _log_asked_gap(visits: Visits) -> Doubles:
    assert visits.asked_gap_s is not None, "features of `asked_at` need the asked moments"
    return np.log1p(visits.asked_gap_s / 3600)


SCALED = {
    "latitude": Scaled("degrees", lambda visits: visits.lat_deg),
    "longitude": Scaled("degrees", lambda visits: visits.lon_deg),
    "gap": Scaled(
        "log(1 + hours since the check-in before)", lambda visits: np.log1p(visits.gap_s / 3600)
    ),
    "asked_gap": Scaled("log(1 + hours until the moment of asking)", _log_asked_gap),
}


def _days(time_s: Ints) -> npt.NDArray[np.datetime64]:
    return time_s.astype("datetime64[s]").astype("datetime64[D]")


def _day_of_month(time_s: Ints) -> Ints:
    days = _days(time_s)
    return (days - days.astype("datetime64[M]")).astype(np.int64) + 1


def _month(time_s: Ints) -> Ints:
    return _days(time_s).astype("datetime64[M]").astype(np.int64) % 12 + 1


# Feature of kind "cycle" -> function of time_s, int64 [n], seconds since 1970-01-01 00:00 on the
# clock to be read; it returns float64 [n], the share of the cycle that is over.
# Source: the reference notebook's columns of these names.
CYCLES: dict[str, Callable[[Ints], Doubles]] = {
    "clock": lambda time_s: time_s % 86400 / 86400,
    "day": lambda time_s: _day_of_month(time_s) / 30,
    "month": lambda time_s: _month(time_s) / 12,
    # Monday is 0, and 1970-01-01 was a Thursday
    "weekday": lambda time_s: (time_s // 86400 + 3) % 7 / 7,
}


ASKED_CYCLES = {"asked_clock": "clock", "asked_weekday": "weekday"}  # of the moment of asking


@dataclass(frozen=True)
class Scale:
    """How the values of a scaled feature become a number input.

    Attributes:
        fill: replaces a missing value: the train mean.
        mean, deviation: the input is (value - mean) / deviation. Where the deviation is None every
            input is 0: train has no value of this feature.
    """

    fill: float
    mean: float
    deviation: float | None

    def apply(self, values: Doubles) -> Doubles:
        """Return float64, the shape of `values`, which has NaN where a value is missing."""
        if self.deviation is None:
            return np.zeros(len(values))
        filled = np.where(np.isfinite(values), values, self.fill)
        return (filled - self.mean) / self.deviation


@dataclass(frozen=True)
class Inputs:
    """The model's inputs at every position of the clients.

    The values of all id features share one table of rows, feature after feature; a one-hot
    input times a kernel is a look-up in that table.

    Attributes:
        rows: int32 [num_positions, num_id_features], row of the table; -1 for unknown, which
            adds nothing.
        numbers: float32 [num_positions, num_numbers].
        id_names: names of the id features, in the order of `rows`.
        number_names: names of the columns of `numbers`.
        vocabularies: name -> Vocabulary, one per id feature.
        scales: name -> Scale, one per scaled feature, and per input of one's own features.
        own_widths: feature of one's own -> how many of `number_names` it has.
    """

    rows: Int32s
    numbers: Floats
    id_names: tuple[str, ...]
    number_names: tuple[str, ...]
    vocabularies: dict[str, vocabulary.Vocabulary]
    scales: dict[str, Scale]
    own_widths: dict[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> how many ids an id feature has, beside that for unknown."""
        return {name: len(vocab) for name, vocab in self.vocabularies.items()}

    @property
    def num_rows(self) -> int:
        """Rows of the table: the known values of all id features."""
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Fitted:
    """What a task otherwise fits on its own train splits, for a task that is given it.

    Attributes:
        ids: id feature -> {value: id}; ids begin at 1, anything else has 0.
        sizes: id feature -> how many ids it has.
        scales: name -> Scale, one per scaled feature.
        classes: the target's values, class 0 first.
        shared: float64 [num_classes], the frequencies that all clients share.
    """

    ids: dict[str, dict[str, int]]
    sizes: dict[str, int]
    scales: dict[str, Scale]
    classes: tuple[str, ...]
    shared: Doubles


def build_inputs(
    check_ins: CheckIns,
    clients: Clients,
    names: Sequence[str],
    clock: str = "local",
    vocabulary_rule: str = "train",
    scaling: bool = True,
    fitted: Fitted | None = None,
) -> Inputs:
    """Build the inputs; vocabularies and scaling are fitted on the train splits alone.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        names: feature names, as `with_asked` returns them.
        clock: "local", or "utc" as in the reference notebook.
        vocabulary_rule: "train", or "range" as in the reference notebook.
        scaling: whether scaled features are brought to mean 0 and deviation 1. A missing
            coordinate becomes the train mean either way.
        fitted: Fitted, in place of fitting them; None fits them.

    Returns:
        Inputs.
    """
    train_rows = clients.rows[clients.in_split("train")]
    vocabularies, id_columns, offset = {}, [], 0
    for name in (name for name in names if name in ID_FEATURES):
        column = getattr(check_ins, name)
        if fitted is not None:
            vocab = vocabulary.from_ids(column, fitted.ids[name], fitted.sizes[name])
        elif vocabulary_rule == "train":
            vocab = vocabulary.from_train(column, train_rows)
        else:
            vocab = vocabulary.from_range(column, clients.rows)
        ids = vocab.encode(column.codes[clients.rows])
        id_columns.append(np.where(ids == vocabulary.UNKNOWN, -1, ids - 1 + offset))
        vocabularies[name] = vocab
        offset += len(vocab)

    time_s, rows = check_ins.time_s, clients.rows
    local_time_s = time_s if clock == "utc" else check_ins.local_time_s
    following = _following(clients)
    visits = Visits(
        check_ins.lat_deg[rows],
        check_ins.lon_deg[rows],
        _gap_s(time_s[rows], clients),
        time_s[rows[following]] - time_s[rows] if "asked_gap" in names else None,
    )
    in_train = clients.in_split("train")
    # what is asked for after the last check-in of train is not in train
    asked_in_train = in_train & in_train[following] & (following > np.arange(len(rows)))
    scales = {
        name: fitted.scales[name]
        if fitted
        else _fit_scale(
            scaled.values(visits)[asked_in_train if name == "asked_gap" else in_train], scaling
        )
        for name, scaled in SCALED.items()
        if name in names
    }
    own = {
        name: feature.compute_all(check_ins, clients)
        for name, feature in own_features.find_all(names).items()
    }
    own_widths = {name: values.shape[1] for name, values in own.items()}
    inputs_of = feature_names.number_inputs(names, own_widths)
    for name, values in own.items():
        for one, column in zip(inputs_of[name], values.T, strict=True):
            scales[one] = fitted.scales[one] if fitted else _fit_scale(column[in_train], scaling)
    number_columns = number_inputs(
        names, scales, local_time_s[rows], visits, own, local_time_s[rows[following]]
    )
    num_positions = len(clients.rows)
    return Inputs(
        rows=np.stack(id_columns, 1).astype(np.int32)
        if id_columns
        else np.empty((num_positions, 0), np.int32),
        numbers=np.stack(number_columns, 1).astype(np.float32)
        if number_columns
        else np.empty((num_positions, 0), np.float32),
        id_names=tuple(vocabularies),
        number_names=tuple(sum(inputs_of.values(), ())),
        vocabularies=vocabularies,
        scales=scales,
        own_widths=own_widths,
    )


def number_inputs(
    names: Sequence[str],
    scales: Mapping[str, Scale],
    clock_s: Ints,
    visits: Visits,
    own: Mapping[str, Doubles],
    asked_clock_s: Ints | None = None,
) -> list[Doubles]:
    """Return the number inputs of some check-ins, a list of float64 [n], as the features come.

    Args:
        names: feature names, as `with_asked` returns them; id features are ignored.
        scales: name -> Scale, one per scaled feature.
        clock_s: int64 [n], seconds since 1970-01-01 00:00 on the clock of the cycles.
        visits: Visits, the check-ins.
        own: feature of one's own -> float64 [n, width].
        asked_clock_s: as `clock_s`, of the moment at which the next check-in is asked for; None
            where no feature needs it.
    """
    columns = []
    widths = {name: values.shape[1] for name, values in own.items()}
    for name, inputs in feature_names.number_inputs(names, widths).items():
        if name in own:
            pairs = zip(inputs, own[name].T, strict=True)
            columns += [scales[one].apply(values) for one, values in pairs]
        elif name in CYCLES:
            columns += circle(clock_s, name)
        elif name in ASKED_CYCLES:
            assert asked_clock_s is not None, "features of `asked_at` need the asked moments"
            columns += circle(asked_clock_s, ASKED_CYCLES[name])
        else:
            columns.append(scales[name].apply(SCALED[name].values(visits)))
    return columns


def circle(time_s: Ints, name: str) -> list[Doubles]:
    """Return [sin, cos], float64 of the shape of `time_s`: where a time lies in a cycle."""
    turn = CYCLES[name](time_s)
    return [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]


def unknown_rates(inputs: Inputs, clients: Clients) -> dict[str, dict[str, float]]:
    """Return {name: {split: share}}, the check-ins of each split whose value has id 0.

    Of val and test those of the clients that are scored count.
    """
    return {
        name: {
            split: float(np.mean(inputs.rows[: len(who.rows)][who.in_split(split), column] < 0))
            for split, who in clients.by_split().items()
        }
        for column, name in enumerate(inputs.id_names)
    }


def _gap_s(time_s: Ints, clients: Clients) -> Ints:
    gap_s = np.diff(time_s, prepend=time_s[:1])
    gap_s[clients.starts[:-1]] = 0
    return gap_s


def _following(clients: Clients) -> Ints:
    """Return int64 [num_positions], where a client's next check-in is; of its last one its own."""
    following = np.arange(1, len(clients.rows) + 1)
    following[clients.starts[1:] - 1] -= 1
    return following


def _fit_scale(train_values: Doubles, scaling: bool) -> Scale:
    """The Scale of a feature, fitted on its train values, NaN where missing."""
    known = train_values[np.isfinite(train_values)]
    if not len(known):
        return Scale(0.0, 0.0, None)
    mean, deviation = float(known.mean()), float(known.std())
    if not scaling:
        return Scale(mean, 0.0, 1.0)
    return Scale(mean, mean, deviation if deviation > 0 else 1.0)


def narrowed(inputs: Inputs, part: slice, train: slice) -> Inputs:
    """Return the inputs of some positions; only the values in their train split are known.

    Args:
        inputs: Inputs.
        part: slice of positions, one client's.
        train: slice of positions inside `part`, its train split.

    Returns:
        Inputs with their own vocabularies and table; values that train does not have are unknown.
        The scaling of numbers does not change.
    """
    rows, vocabularies, before, after = inputs.rows[part].copy(), {}, 0, 0
    for column, (name, known) in enumerate(inputs.vocabularies.items()):
        own = np.unique(inputs.rows[train, column])
        own = own[own >= 0] - before
        new_id = np.zeros(len(known) + 1, np.int32)  # from old ids, 0 stays unknown
        new_id[own + 1] = np.arange(1, len(own) + 1)
        vocabularies[name] = vocabulary.Vocabulary(
            tuple(known.values[i] for i in own), new_id[known.id_of_code]
        )
        ids = new_id[np.where(rows[:, column] < 0, 0, rows[:, column] - before + 1)]
        rows[:, column] = np.where(ids > 0, after + ids - 1, -1)
        before, after = before + len(known), after + len(own)
    return replace(inputs, rows=rows, numbers=inputs.numbers[part], vocabularies=vocabularies)
