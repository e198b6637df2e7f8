"""Check-ins + vocabularies -> the model's inputs: row numbers of a table, and numbers."""

from dataclasses import dataclass, replace

import numpy as np

from fedgru.config.feature_names import ID_FEATURES, NUMBER_FEATURES, TIME_FEATURES
from fedgru.task import vocabulary


@dataclass(frozen=True)
class Scale:
    """How latitude, longitude or gap becomes a number input.

    Attributes:
        fill: what stands in for a missing value: the train mean.
        mean, deviation: what is taken off, and what the rest is divided by. A deviation of None
            makes every value 0: train had none to go by, and the feature carries no information.
    """

    fill: float
    mean: float
    deviation: float | None

    def apply(self, values):
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
        scales: name -> Scale, of those of latitude, longitude and gap that are features.
    """

    rows: np.ndarray
    numbers: np.ndarray
    id_names: tuple[str, ...]
    number_names: tuple[str, ...]
    vocabularies: dict[str, vocabulary.Vocabulary]
    scales: dict[str, Scale]

    @property
    def sizes(self):
        """Name -> how many ids an id feature has, beside that for unknown."""
        return {name: len(vocab) for name, vocab in self.vocabularies.items()}

    @property
    def num_rows(self):
        """Rows of the table: the known values of all id features."""
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Fitted:
    """What a task fits on its train splits, for one that is given it instead.

    Attributes:
        ids: id feature -> {value: id}; ids begin at 1, anything else has 0.
        sizes: id feature -> how many ids it has.
        scales: latitude, longitude, gap -> Scale, of those that are features.
        classes: the target's values, class 0 first.
        shared: float64 [num_classes], the frequencies that all clients share.
    """

    ids: dict[str, dict[str, int]]
    sizes: dict[str, int]
    scales: dict[str, Scale]
    classes: tuple[str, ...]
    shared: np.ndarray


def build_inputs(
    check_ins,
    clients,
    names,
    clock="local",
    vocabulary_rule="train",
    scaling=True,
    fitted=None,
):
    """Build the inputs; vocabularies and scaling are fitted on the train splits alone.

    Args:
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        names: feature names, as `parse_features` returns them.
        clock: "local", or "utc" as in the reference notebook.
        vocabulary_rule: "train", or "range" as in the reference notebook.
        scaling: whether latitude, longitude and gap are brought to mean 0 and deviation 1.
            A missing coordinate becomes the train mean either way.
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
    measured = {
        "latitude": check_ins.lat_deg[rows],
        "longitude": check_ins.lon_deg[rows],
        "gap": log_gap_h(_gap_s(time_s[rows], clients)),
    }
    in_train = clients.in_split("train")
    scales = {
        name: fitted.scales[name] if fitted else _fit_scale(values[in_train], scaling)
        for name, values in measured.items()
        if name in names
    }
    number_names, number_columns = number_inputs(names, scales, local_time_s[rows], measured)
    num_positions = len(clients.rows)
    return Inputs(
        rows=np.stack(id_columns, 1).astype(np.int32)
        if id_columns
        else np.empty((num_positions, 0), np.int32),
        numbers=np.stack(number_columns, 1).astype(np.float32)
        if number_columns
        else np.empty((num_positions, 0), np.float32),
        id_names=tuple(vocabularies),
        number_names=tuple(number_names),
        vocabularies=vocabularies,
        scales=scales,
    )


def number_inputs(names, scales, clock_s, measured):
    """Return the number inputs of some check-ins: their names, and a float64 column for each.

    Args:
        names: feature names, as `parse_features` returns them; id features are passed over.
        scales: name -> Scale, for those of latitude, longitude and gap among the names.
        clock_s: int64 [n], seconds since 1970-01-01 00:00 on the clock that the time features read.
        measured: {"latitude": degrees, "longitude": degrees, "gap": see `log_gap_h`}, float64 [n]
            each, NaN where missing.
    """
    number_names, columns = [], []
    for name in (name for name in names if name in NUMBER_FEATURES):
        if name in TIME_FEATURES:
            number_names += [f"{name}_sin", f"{name}_cos"]
            columns += circle(clock_s, name)
        else:
            number_names.append(name)
            columns.append(scales[name].apply(measured[name]))
    return number_names, columns


def circle(time_s, name):
    """Return [sin, cos], float64 of the shape of `time_s`: where a time stands in its cycle.

    clock: share of 24 h; day: day of month / 30; month: month / 12; weekday: Monday 0, / 7;
    each times 2 pi. Source: the reference notebook's columns of these names.

    Args:
        time_s: int64, seconds since 1970-01-01 00:00 on the clock to be read.
        name: "clock", "day", "month" or "weekday".
    """
    if name == "clock":
        turn = time_s % 86400 / 86400
    elif name == "weekday":
        turn = (time_s // 86400 + 3) % 7 / 7  # 1970-01-01 was a Thursday
    else:
        days = time_s.astype("datetime64[s]").astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        if name == "day":
            turn = ((days - months).astype(np.int64) + 1) / 30
        else:
            turn = (months.astype(np.int64) % 12 + 1) / 12
    return [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]


def unknown_rates(inputs, clients):
    """Return {name: {split: share}}, the check-ins of each split whose value has id 0."""
    return {
        name: {
            split: float(np.mean(inputs.rows[clients.in_split(split), column] < 0))
            for split in ("train", "val", "test")
        }
        for column, name in enumerate(inputs.id_names)
    }


def log_gap_h(gap_s):
    """log(1 + hours) of the seconds since the client's previous check-in; 0 for its first."""
    return np.log1p(gap_s / 3600)


def _gap_s(time_s, clients):
    gap_s = np.diff(time_s, prepend=time_s[:1])
    gap_s[clients.starts[:-1]] = 0
    return gap_s


def _fit_scale(train_values, scaling):
    """The Scale of a feature, fitted on its train values, NaN where missing."""
    known = train_values[np.isfinite(train_values)]
    if not len(known):
        return Scale(0.0, 0.0, None)
    mean, deviation = float(known.mean()), float(known.std())
    if not scaling:
        return Scale(mean, 0.0, 1.0)
    return Scale(mean, mean, deviation if deviation > 0 else 1.0)


def narrowed(inputs, part, train):
    """Return the inputs of some positions, knowing only the values that their train split has.

    Args:
        inputs: Inputs.
        part: slice of positions, one client's.
        train: slice of positions inside `part`, its train split.

    Returns:
        Inputs with vocabularies and a table of their own; what train does not have is unknown.
        The scaling of numbers stays.
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
