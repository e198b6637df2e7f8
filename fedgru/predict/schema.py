"""The inputs and outputs of a trained model: enough to use it without its data set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedgru.config import feature_names
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import Doubles, Floats, Int32s, Ints
from fedgru.data.checkins import Coded
from fedgru.models.candidate_head import NO_CANDIDATE, PREFIX, CandidateSpec
from fedgru.models.gru import ModelSpec
from fedgru.models.own import spec_from_dict, spec_to_dict
from fedgru.task import features, own_features, vocabulary
from fedgru.task.candidate_features import FeatureSet, feature_set
from fedgru.task.features import Scale
from fedgru.task.kernel_prior import Kernel
from fedgru.task.own_features import ClientCheckIns, OwnFeature, as_texts
from fedgru.task.priors import Moments
from fedgru.task.task import Task

FORMAT = 1


@dataclass(frozen=True)
class CheckIn:
    """One visit, as `Stream` takes it.

    Attributes:
        user: who.
        venue: where.
        time_s: Unix seconds, UTC.
        offset_min: minutes to add to UTC for local time.
        category: the venue's kind in the scheme of the run's data set; None if missing.
        raw_category: the kind's id in the data set's source; None if missing.
        lat_deg, lon_deg: degrees, NaN if missing.
    """

    user: str
    venue: str
    time_s: int
    offset_min: int = 0
    category: str | None = None
    raw_category: str | None = None
    lat_deg: float = float("nan")
    lon_deg: float = float("nan")


@dataclass(frozen=True)
class Schema:
    """See the module's docstring. All of it was fitted on the run's train split.

    Attributes:
        spec: ModelSpec.
        features: names, in order: id features and number features.
        asked_at: whether the moment of the next check-in is known; it has inputs of its own then.
        clock: "local" or "utc", what the time features read.
        vocabularies: id feature -> {value: id}; ids begin at 1, anything else has 0.
        sizes: id feature -> how many ids it has rows for.
        scales: name -> Scale, one per scaled feature, and per input of one's own features.
        own_widths: feature of one's own -> how many inputs it has.
        target: "category" or "venue", what is predicted.
        classes: the target's values, class 0 first.
        prior: "none", "markov", "backoff" or "kernel".
        num_unlisted: how many classes come after these, see `fedgru.task.unlisted`.
        shared: float64 [num_classes], the frequencies that all clients share.
        kernel: Kernel, with the prior of that name; else None.
        representation: the steps between hidden state and head, out of "erase" and "noise".
        min_checkins: no client of the run had fewer check-ins.
        seed: the run's.
        session_gap_s: the state is zero before a check-in that is later than this after the one
            before; None for never.
    """

    spec: ModelSpec
    features: tuple[str, ...]
    asked_at: bool
    clock: str
    vocabularies: dict[str, dict[str, int]]
    sizes: dict[str, int]
    scales: dict[str, Scale]
    own_widths: dict[str, int]
    target: str
    classes: Sequence[str]
    num_unlisted: int
    prior: str
    shared: Doubles
    kernel: Kernel | None
    representation: tuple[str, ...]
    min_checkins: int
    seed: int
    session_gap_s: float | None = None

    @classmethod
    def of(cls, task: Task, weights: Mapping[str, Any]) -> "Schema":
        """Return the Schema of a task's model.

        Args:
            task: Task, its kernel learnt.
            weights: name -> float32 array.
        """
        settings, inputs = task.settings, task.inputs
        return cls(
            spec=task.spec,
            features=feature_names.parse_features(settings.inputs.features),
            asked_at=settings.inputs.asked_at,
            clock=settings.inputs.clock,
            vocabularies={
                name: known_ids(getattr(task.check_ins, name), vocab)
                for name, vocab in inputs.vocabularies.items()
            },
            sizes=inputs.sizes,
            scales=inputs.scales,
            own_widths=inputs.own_widths,
            target=settings.inputs.target,
            classes=task.target_vocabulary.values,
            num_unlisted=task.num_classes - task.num_listed,
            prior=settings.inputs.prior,
            shared=task.shared,
            kernel=task.kernel,
            representation=tuple(
                name
                for name, weight in (("erase", "erase_removed"), ("noise", "noise_scale"))
                if weight in weights
            ),
            min_checkins=settings.data.min_checkins,
            seed=settings.loop.seed,
            session_gap_s=settings.data.session_gap_s,
        )

    @property
    def id_names(self) -> tuple[str, ...]:
        """Names of the id inputs, in the order in which the model takes them."""
        return tuple(self.vocabularies)

    @property
    def number_names(self) -> tuple[str, ...]:
        """Names of the number inputs, in the order in which the model takes them."""
        return tuple(sum(self._number_inputs.values(), ()))

    @property
    def _number_inputs(self) -> dict[str, tuple[str, ...]]:
        names = feature_names.with_asked(self.features, self.asked_at)
        return feature_names.number_inputs(names, self.own_widths)

    @property
    def feature_set(self) -> FeatureSet:
        """The FeatureSet of the head candidates."""
        return feature_set(self.asked_at)

    @cached_property
    def _own(self) -> dict[str, OwnFeature]:
        return own_features.find_all(self.features)

    def ids(self, check_ins: Sequence[CheckIn]) -> Int32s:
        """Return int32 [n, num_id_features], ids of CheckIns; 0 is unknown or missing."""
        ids = [
            [known.get(getattr(one, name), vocabulary.UNKNOWN) for one in check_ins]
            for name, known in self.vocabularies.items()
        ]
        return np.array(ids, np.int32).reshape(-1, len(check_ins)).T

    def rows(self, ids: Int32s) -> Int32s:
        """Return int32, the shape of `ids`: rows of the model's table, -1 for unknown."""
        offsets = np.cumsum([0, *self.sizes.values()])[:-1].astype(np.int32)
        return np.where(ids == vocabulary.UNKNOWN, -1, ids - 1 + offsets)

    def numbers(
        self, check_ins: Sequence[CheckIn], gap_s: Ints, before: Sequence[CheckIn] = ()
    ) -> Floats:
        """Return float32 [n, num_numbers less those of `asked_numbers`].

        Args:
            check_ins: CheckIns.
            gap_s: int64 [n], seconds since the previous check-in; 0 for a person's first.
            before: the person's CheckIns before these, which features of one's own need.
        """
        time_s = np.array([one.time_s for one in check_ins], np.int64)
        offset_min = np.array([one.offset_min for one in check_ins], np.int64)
        visits = features.Visits(
            np.array([one.lat_deg for one in check_ins], float),
            np.array([one.lon_deg for one in check_ins], float),
            gap_s,
        )
        clock_s = time_s if self.clock == "utc" else time_s + 60 * offset_min
        own = self._own_numbers([*before, *check_ins], len(before))
        columns = features.number_inputs(self.features, self.scales, clock_s, visits, own)
        return np.array(columns, np.float32).reshape(-1, len(check_ins)).T

    def asked_numbers(self, time_s: Ints, asked: Moments) -> Floats:
        """Return float32 [n, num_asked], the last of the numbers: those of the asked moments.

        Args:
            time_s: int64 [n], of the check-ins.
            asked: Moments [n], when the next check-in of each is asked for.
        """
        if not self.asked_at:
            return np.empty((len(time_s), 0), np.float32)
        missing = np.full(len(time_s), np.nan)
        visits = features.Visits(missing, missing, time_s, asked.time_s - time_s)
        clock_s = asked.time_s if self.clock == "utc" else asked.local_time_s
        names = tuple(feature_names.ASKED_FEATURES)
        columns = features.number_inputs(names, self.scales, time_s, visits, {}, clock_s)
        return np.array(columns, np.float32).T

    def _own_numbers(self, check_ins: Sequence[CheckIn], first: int) -> dict[str, Doubles]:
        """Return {feature of one's own: float64 [n, width]} of the CheckIns from `first` on."""
        if not self.own_widths:
            return {}
        time_s = np.array([one.time_s for one in check_ins], np.int64)
        offset_min = np.array([one.offset_min for one in check_ins], np.int64)
        given = ClientCheckIns(
            user=check_ins[0].user,
            venue=as_texts([one.venue for one in check_ins]),
            category=as_texts([one.category for one in check_ins]),
            raw_category=as_texts([one.raw_category for one in check_ins]),
            time_s=time_s,
            local_time_s=time_s + 60 * offset_min,
            lat_deg=np.array([one.lat_deg for one in check_ins], float),
            lon_deg=np.array([one.lon_deg for one in check_ins], float),
        )
        found = {name: feature.compute(given)[first:] for name, feature in self._own.items()}
        for name, values in found.items():
            if values.shape[1] != self.own_widths[name]:
                raise ConfigError(
                    f"`features` {name} gives {values.shape[1]} numbers a check-in, but gave "
                    f"{self.own_widths[name]} in training."
                )
        return found

    def target_classes(self, check_ins: Sequence[CheckIn]) -> Int32s:
        """Return int32 [n], each CheckIn's class on the list; -1 if train did not have it."""
        class_of = {value: i for i, value in enumerate(self.classes)}
        return np.array([class_of.get(getattr(c, self.target), -1) for c in check_ins], np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold; `from_dict` is the inverse."""
        return {
            "format": FORMAT,
            "model": spec_to_dict(self.spec),
            "inputs": self._describe_inputs(),
            "features": list(self.features),
            "asked_at": self.asked_at,
            "clock": self.clock,
            "vocabularies": {
                name: {"size": self.sizes[name], "ids": known}
                for name, known in self.vocabularies.items()
            },
            "own_widths": self.own_widths,
            "scales": {name: asdict(scale) for name, scale in self.scales.items()},
            "target": self.target,
            "classes": list(self.classes),
            "num_unlisted": self.num_unlisted,
            "prior": {
                "kind": self.prior,
                "shared": self.shared.tolist(),
                "kernel": None if self.kernel is None else self.kernel.to_dict(),
            },
            **self._names_of_candidates,
            "representation": list(self.representation),
            "min_checkins": self.min_checkins,
            "seed": self.seed,
        }

    @property
    def _names_of_candidates(self) -> dict[str, Any]:
        """Names along the axes of the inputs of the head candidates; empty with another head."""
        if not isinstance(self.spec, CandidateSpec):
            return {}
        names = self.feature_set
        return {"candidates": {"features": list(names.features), "context": list(names.context)}}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "Schema":
        """Return the Schema that `to_dict` described.

        Raises:
            DataError: for a description of another format, or of other features of candidates
                than this version of fedgru computes.
        """
        if described.get("format") != FORMAT:
            raise DataError(
                f"the model's description has format {described.get('format')}, expected {FORMAT}. "
                "Export the run again."
            )
        prior, vocabularies = described["prior"], described["vocabularies"]
        kernel = prior["kernel"]
        schema = cls(
            spec=spec_from_dict(described["model"]),
            features=tuple(described["features"]),
            asked_at=described.get("asked_at", False),
            clock=described["clock"],
            vocabularies={name: known["ids"] for name, known in vocabularies.items()},
            sizes={name: known["size"] for name, known in vocabularies.items()},
            scales={name: Scale(**s) for name, s in described["scales"].items()},
            own_widths=described.get("own_widths", {}),
            target=described["target"],
            classes=tuple(described["classes"]),
            num_unlisted=described.get("num_unlisted", 0),
            prior=prior["kind"],
            shared=np.array(prior["shared"]),
            kernel=None if kernel is None else Kernel.from_dict(kernel),
            representation=tuple(described["representation"]),
            min_checkins=described["min_checkins"],
            seed=described["seed"],
        )
        if schema._names_of_candidates.get("candidates") != described.get("candidates"):
            raise DataError(
                "the model was exported by a version of fedgru that computes other features of "
                "candidates. Train the run again with this version, and export it."
            )
        return schema

    def _describe_inputs(self) -> list[dict[str, str]]:
        """What the model takes, name by name, in words."""
        described = [
            {"name": name, "dtype": "int32", "what": "id in the vocabulary, 0 if unknown"}
            for name in self.vocabularies
        ]
        clock_name = {"local": "local time", "utc": "UTC"}[self.clock]
        for feature, names in self._number_inputs.items():
            if feature in self.own_widths:
                what = f"({feature} - mean) / deviation; see scales"
                described += [{"name": name, "dtype": "float32", "what": what} for name in names]
                continue
            read = features.ASKED_CYCLES.get(feature, feature)
            when = "" if read == feature else " at the moment of asking"
            for name, wave in zip(names, ("sin", "cos"), strict=False):
                what = f"{wave} of 2 pi times the {read}'s turn{when}, in {clock_name}"
                if feature in self.scales:
                    what = _describe_scaled(feature, self.scales[feature])
                described.append({"name": name, "dtype": "float32", "what": what})
        if isinstance(self.spec, CandidateSpec):
            described += _describe_candidates()
        if self.spec.has_prior:
            what = f"log p(class) by the person's own past, prior {self.prior}; axis: classes"
            described.append({"name": "log_prior", "dtype": "float32", "what": what})
        if "noise" in self.representation:
            what = "standard normal, drawn anew each time; it hides the concept; axis: hidden_dim"
            described.append({"name": "noise", "dtype": "float32", "what": what})
        return described


def _describe_candidates() -> list[dict[str, str]]:
    """What the head candidates takes beside the log prior, in the order of the model's inputs."""
    axes = "axis: candidates, somewhere new and then the classes that the person has been to"
    features = (
        "float32",
        f"what the person's own past says of each; {axes}; features of a candidate",
    )
    described = {
        "features": features,
        "context": ("float32", "what is the same for all candidates; axis: context"),
        "log_prior": ("float32", f"log p by the prior; {NO_CANDIDATE:g} in padding; {axes}"),
        "kinds": ("int32", f"row of the embedding of kinds, 0 for somewhere new; {axes}"),
        "classes": ("int32", f"class, -1 for somewhere new and in padding; {axes}"),
    }
    return [
        {"name": PREFIX + name, "dtype": dtype, "what": what}
        for name, (dtype, what) in described.items()
    ]


def _describe_scaled(feature: str, scale: Scale) -> str:
    if scale.deviation is None:
        return "always 0: train had no value"
    unit = features.SCALED[feature].unit
    return f"({unit} - mean) / deviation; fill in place of a missing value; see scales"


def known_ids(column: Coded, vocab: vocabulary.Vocabulary) -> dict[str, int]:
    """Return {value: id} of the values of a data set's column that a Vocabulary knows.

    >>> from fedgru.data.checkins import Coded
    >>> from fedgru.task.vocabulary import Vocabulary
    >>> column = Coded(np.array([0, 1]), ("a", "b"))
    >>> known_ids(column, Vocabulary(("b",), np.array([0, 1], np.int32)))
    {'b': 1}
    """
    return {
        value: int(number)
        for value, number in zip(column.values, vocab.id_of_code, strict=True)
        if number != vocabulary.UNKNOWN
    }
