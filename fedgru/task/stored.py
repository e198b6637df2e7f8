"""What a task is made of, and how that of a large data set is stored on disk.

To build a task, every check-in is read once: who takes part, vocabularies, scaling, which targets
are known. Of a large data set that is done once for the settings that it depends on; later runs
open the result in constant time and memory.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fedgru.config.feature_names import parse_features
from fedgru.config.settings import Settings
from fedgru.core.errors import DataError
from fedgru.core.types import Floats, Int32s, Ints
from fedgru.core.version import __version__
from fedgru.data.checkins import CheckIns
from fedgru.data.datasets import DataSet
from fedgru.storage import mapped
from fedgru.storage.linear_pieces import LinearPieces, compress
from fedgru.task import features, own_features, priors, unlisted
from fedgru.task.clients import Clients, CoverageLine
from fedgru.task.features import Inputs, Scale
from fedgru.task.vocabulary import Vocabulary

FOLDER = "prepared"
_HISTORY = fields(priors.History)
HISTORY = tuple(f"history.{field.name}" for field in _HISTORY)
LEARNT_FROM = ("classes", "inputs.rows", "inputs.numbers")
OF_A_CLIENT = LEARNT_FROM + HISTORY  # stored side by side in the file of a large data set
OF_TARGETS = ("session_starts", "unscored")  # of Clients, where there are any
ENDS, DRAWN_FROM = "clients.pieces", "training_clients.pieces"
FEW_VALUES = 10_000  # up to this many texts are read into memory; more stay on the disk

LAYOUT = 2  # raise it when what is stored changes, so that nothing older is read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredParts:
    """The parts of a `fedgru.task.task.Task` that need a pass over every check-in.

    Attributes:
        clients, inputs, target_vocabulary, classes, target_codes, history, best_prob,
            training_clients: as in Task.
        num_classes: as in Task.
        coverage: tuple of CoverageLine, as in Task without what depends on `eval_clients`.
        known: {name of a property of Task: its value} for those that were computed already.
        folder: the Mapped that holds the arrays, if they are on disk; then there are also
        ends: LinearPieces of the clients' Ends, and
        drawn_from: LinearPieces of the training clients, both known without reading a file.
    """

    clients: Clients
    inputs: Inputs
    target_vocabulary: Vocabulary
    num_classes: int
    classes: Int32s
    target_codes: Int32s
    history: priors.History
    best_prob: Floats | None
    training_clients: Ints
    coverage: tuple[CoverageLine, ...]
    known: dict[str, Any]
    folder: mapped.Mapped | None = None
    ends: LinearPieces | None = None
    drawn_from: LinearPieces | None = None

    @property
    def large(self) -> "Large | None":
        """How to read single clients, where the arrays are too large to stay in memory."""
        if self.folder is None or self.folder.is_small:
            return None
        assert self.folder.records and self.ends and self.drawn_from, "they come with the folder"
        return Large(self.folder.records, self.ends, self.drawn_from)


class Large(NamedTuple):
    """How single clients of a large data set are read; see StoredParts."""

    records: mapped.Records
    ends: LinearPieces
    drawn_from: LinearPieces


class HasArrays(Protocol):
    """What a StoredParts and a Task have in common: the arrays that a client learns from."""

    @property
    def classes(self) -> Int32s: ...
    @property
    def inputs(self) -> Inputs: ...
    @property
    def history(self) -> priors.History: ...


def open_or_make(
    data_set: DataSet, settings: Settings, make: Callable[[], StoredParts]
) -> StoredParts:
    """Return the StoredParts of a data set and settings.

    Args:
        data_set: DataSet; the parts of a large one are stored in its folder.
        settings: Settings.
        make: called without arguments if there are none; returns them.
    """
    if data_set.maps is None or data_set.folder is None:
        return make()
    made_from = _made_from(data_set, settings)
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(data_set.folder, FOLDER, key)
    found = mapped.load(folder, made_from)
    if found is None or ENDS not in found.arrays:  # an earlier fedgru stored it in another form
        logger.info("preparing the data for these settings (first time only): %s", folder)
        parts = make()
        try:
            arrays, facts = _to_arrays(parts, data_set.check_ins)
            mapped.save(folder, arrays, facts, made_from, OF_A_CLIENT)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): all check-ins are held in memory",
                folder,
                error.strerror or error,
            )
            return parts
        found = mapped.load(folder, made_from)
        if found is None:
            raise DataError(f"{folder} has changed since it was written. Start again.")
    return _from_arrays(found, data_set.check_ins)


def _made_from(data_set: DataSet, settings: Settings) -> dict[str, Any]:
    """Return everything that a StoredParts depends on."""
    own = own_features.find_all(parse_features(settings.inputs.features))
    made_from: dict[str, Any] = {
        "fedgru": __version__,
        "stored_layout": LAYOUT,
        "fingerprint": data_set.passport["fingerprint"],
        "data": {"users": settings.data.num_users, "min_checkins": settings.data.min_checkins},
        "inputs": settings.inputs.model_dump(exclude={"prior"}),
        "layout": settings.layout.model_dump(),
        "local_epochs": settings.client.local_epochs,
    }
    if settings.data.train_users is not None:
        made_from["data"]["train_users"] = settings.data.train_users
    if settings.data.protocol is not None:
        made_from["data"]["protocol"] = settings.data.protocol
    if settings.data.session_gap_s is not None:
        made_from["data"]["session_gap_s"] = settings.data.session_gap_s
    if number := unlisted.num_unlisted(settings):
        made_from["unlisted"] = number
    if own:
        made_from["own_features"] = {name: feature.digest() for name, feature in own.items()}
    return made_from


def _to_arrays(
    parts: StoredParts, check_ins: CheckIns
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return (arrays, facts) for `mapped.save`."""
    clients, inputs = parts.clients, parts.inputs
    arrays: dict[str, npt.NDArray[Any]] = {
        "target_codes": parts.target_codes,
        "training_clients": parts.training_clients,
        DRAWN_FROM: compress([parts.training_clients]),
        "clients.rows": clients.rows,
        "clients.starts": clients.starts,
        "clients.train_ends": clients.train_ends,
        "clients.val_ends": clients.val_ends,
        ENDS: compress(clients.ends()),
        "clients.users": check_ins.user.codes[clients.rows[clients.starts[:-1]]],
        **arrays_of_a_client(parts),
        **_vocabulary_arrays("target", parts.target_vocabulary),
    }
    for name, vocabulary in inputs.vocabularies.items():
        arrays |= _vocabulary_arrays(f"input.{name}", vocabulary)
    for name in OF_TARGETS:
        if (array := getattr(clients, name)) is not None:
            arrays[f"clients.{name}"] = array
    if parts.best_prob is not None:
        arrays["best_prob"] = parts.best_prob
    train = parts.classes[clients.in_split("train")]
    arrays["shared"] = priors.shared_frequencies(train, parts.num_classes)
    facts = {
        "num_classes": parts.num_classes,
        "id_names": inputs.id_names,
        "number_names": inputs.number_names,
        "own_widths": inputs.own_widths,
        "scales": {name: asdict(scale) for name, scale in inputs.scales.items()},
        "coverage": [asdict(line) for line in parts.coverage],
        "unknown_rates": features.unknown_rates(inputs, clients),
        "num_known": num_known(parts.classes, clients),
        "num_scored": clients.num_scored,
    }
    return arrays, facts


def arrays_of_a_client(parts: HasArrays) -> dict[str, npt.NDArray[Any]]:
    """Return {name out of OF_A_CLIENT: array} of a StoredParts or a Task."""
    learnt_from = parts.classes, parts.inputs.rows, parts.inputs.numbers
    history = (getattr(parts.history, field.name) for field in _HISTORY)
    return dict(zip(OF_A_CLIENT, (*learnt_from, *history), strict=True))


def num_known(classes: Int32s, clients: Clients) -> dict[str, int]:
    """Return {split: how many targets are of a known class}; of val and test, those scored."""
    return {
        split: int((classes[who.target_positions(split)] >= 0).sum())
        for split, who in clients.by_split().items()
    }


def _vocabulary_arrays(name: str, vocabulary: Vocabulary) -> dict[str, npt.NDArray[Any]]:
    id_of_code = {f"{name}.id_of_code": vocabulary.id_of_code}
    return id_of_code | mapped.named_texts(name, vocabulary.values)


def _from_arrays(found: mapped.Mapped, check_ins: CheckIns) -> StoredParts:
    arrays, facts = found.arrays, found.facts

    def vocabulary(name: str) -> Vocabulary:
        texts = found.texts(name)
        values = tuple(texts) if len(texts) <= FEW_VALUES else texts
        return Vocabulary(values, arrays[f"{name}.id_of_code"])

    users = check_ins.user.values
    assert isinstance(users, mapped.Texts), "a large data set keeps its texts on the disk"
    clients = Clients(
        client_ids=users.chosen(arrays["clients.users"]),
        rows=arrays["clients.rows"],
        starts=arrays["clients.starts"],
        train_ends=arrays["clients.train_ends"],
        val_ends=arrays["clients.val_ends"],
        num_scored=facts.get("num_scored"),
        **{name: arrays.get(f"clients.{name}") for name in OF_TARGETS},
    )
    inputs = Inputs(
        rows=arrays["inputs.rows"],
        numbers=arrays["inputs.numbers"],
        id_names=tuple(facts["id_names"]),
        number_names=tuple(facts["number_names"]),
        vocabularies={name: vocabulary(f"input.{name}") for name in facts["id_names"]},
        scales={name: Scale(**scale) for name, scale in facts["scales"].items()},
        own_widths=facts.get("own_widths", {}),
    )
    return StoredParts(
        clients=clients,
        inputs=inputs,
        target_vocabulary=vocabulary("target"),
        num_classes=facts["num_classes"],
        classes=arrays["classes"],
        target_codes=arrays["target_codes"],
        history=priors.History(*(arrays[f"history.{field.name}"] for field in _HISTORY)),
        best_prob=arrays.get("best_prob"),
        training_clients=arrays["training_clients"],
        coverage=tuple(CoverageLine(**line) for line in facts["coverage"]),
        known={
            "shared": np.array(arrays["shared"]),
            "unknown_rates": facts["unknown_rates"],
            "num_known": facts["num_known"],
        },
        folder=found,
        ends=LinearPieces(np.array(arrays[ENDS])),
        drawn_from=LinearPieces(np.array(arrays[DRAWN_FROM])),
    )
