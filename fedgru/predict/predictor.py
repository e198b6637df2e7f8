"""Where one person goes next: a stream of check-ins in, probabilities out, one at a time.

`Stream` keeps a person's check-ins as the model needs them, `Predictor` runs the model over them.
Both are immutable: `push` returns a new one. A model of `asked_at` knows when the next check-in is:
`asked` gives the moment, and the step of the last check-in waits for it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.jax_setup import import_jax
from fedgru.core.types import Bools, Floats, Int32s, Ints, Weights
from fedgru.data.checkins import CheckIns, Coded
from fedgru.evaluation.evaluate import log_softmax
from fedgru.models import gru, keras_candidates
from fedgru.models.candidate_head import CandidateSpec, Scored
from fedgru.models.own import OwnSpec
from fedgru.predict.schema import CheckIn, Schema
from fedgru.task import priors, unlisted
from fedgru.task.candidates import client_candidates
from fedgru.task.clients import SPLITS
from fedgru.task.kernel_prior import kernel_prior
from fedgru.task.task import Task

FORWARD_SEQ_LEN = 64  # check-ins in one compiled call, where a history is longer


class _Codes(dict):
    """(column, text) -> code: equal texts of a column have equal codes."""

    def __init__(self) -> None:
        self._new = itertools.count()

    def __missing__(self, text: tuple[str, str]) -> int:
        return self.setdefault(text, next(self._new))


@dataclass(frozen=True)
class Stream:
    """One person's check-ins so far, as a model takes them.

    Attributes:
        schema: Schema.
        user: the person; None before the first check-in.
        history: History, what the prior counts.
        ids: int32 [num_id_features], those of the last check-in; 0 unknown.
        numbers: float32 [num_numbers], those of the last check-in, without those of the moment of
            asking.
        unknown: id feature, and "target" -> check-ins whose value the model does not know.
        past: all CheckIns so far, if there are features of one's own; else empty.
        moment: Moments [1], when the next check-in is asked for; None if that was not given.
    """

    schema: Schema
    user: str | None
    history: priors.History
    ids: Int32s
    numbers: Floats
    unknown: dict[str, int]
    past: tuple[CheckIn, ...]
    _codes: _Codes  # shared with earlier streams of the person; it only grows
    moment: priors.Moments | None = None

    @classmethod
    def start(cls, schema: Schema) -> "Stream":
        """Return an empty Stream, of no person yet."""
        empty = [np.zeros(0, dtype) for dtype in [np.int32] * 3 + [np.int64] * 2 + [float] * 2]
        names = [*schema.vocabularies, "target"]
        return cls(
            schema,
            None,
            priors.History(*empty),
            np.zeros(len(schema.vocabularies), np.int32),
            np.zeros(0, np.float32),
            dict.fromkeys(names, 0),
            (),
            _Codes(),
        )

    def __len__(self) -> int:
        return len(self.history)

    def push(self, check_in: CheckIn) -> "Stream":
        """Return the Stream with one more CheckIn; see `extend`."""
        stream, _, _ = self.extend([check_in])
        return stream

    def extend(self, check_ins: Sequence[CheckIn]) -> tuple["Stream", Int32s, Floats]:
        """Return the Stream with more CheckIns, and the inputs of the steps that can be taken now.

        These are those of the given check-ins. With `asked_at` the step of a check-in needs the
        moment of the one after it: there are those of the last check-in so far, if there is one,
        and of all given ones but the last.

        Args:
            check_ins: list of CheckIn, at least one, in order of time.

        Returns:
            (Stream, ids int32 [n, num_id_features], numbers float32 [n, num_numbers]).

        Raises:
            DataError: if one is earlier than the one before it, or of somebody else.
        """
        time_s = np.array([one.time_s for one in check_ins], np.int64)
        before = self.history.time_s[-1:] if len(self) else time_s[:1]
        gap_s = np.diff(np.concatenate([before, time_s]))
        if (gap_s < 0).any():
            late = check_ins[int(np.argmax(gap_s < 0))]
            raise DataError(
                f"the check-in at {late.venue!r} (time {late.time_s}) is earlier than the one "
                "before it: give a person's check-ins in order of time."
            )
        user = check_ins[0].user if self.user is None else self.user
        for one in check_ins:
            if one.user != user:
                raise DataError(
                    f"a check-in of {one.user!r} in the stream of {user!r}: start one stream for "
                    "each person."
                )
        schema = self.schema
        ids, classes = schema.ids(check_ins), schema.target_classes(check_ins)
        numbers = schema.numbers(check_ins, gap_s, self.past)
        offset_min = np.array([one.offset_min for one in check_ins], np.int64)
        venues = self._code("venue", check_ins)
        history = priors.History(
            classes=self._past_classes(classes, venues),
            categories=self._code("category", check_ins),
            venues=venues,
            time_s=time_s,
            local_time_s=time_s + 60 * offset_min,
            lat_deg=np.array([one.lat_deg for one in check_ins], float),
            lon_deg=np.array([one.lon_deg for one in check_ins], float),
        )
        missed = [*(ids == 0).sum(axis=0).tolist(), int((classes < 0).sum())]
        unknown = {
            name: number + more
            for (name, number), more in zip(self.unknown.items(), missed, strict=True)
        }
        stream = replace(
            self,
            user=user,
            history=self.history.join(history),
            ids=ids[-1],
            numbers=numbers[-1],
            unknown=unknown,
            past=(*self.past, *check_ins) if schema.own_widths else (),
            moment=None,
        )
        if not schema.asked_at:
            return stream, ids, numbers
        if len(self):
            ids = np.vstack([self.ids, ids])
            numbers = np.vstack([self.numbers, numbers])
        steps = stream.history[len(stream) - len(ids) :]
        asked = schema.asked_numbers(steps.time_s, steps.asked)
        return stream, ids[:-1], np.hstack([numbers, asked])[:-1]

    def asked(self, time_s: int, offset_min: int = 0) -> "Stream":
        """Return the Stream that is asked for the next check-in at a moment, with `asked_at`.

        Args:
            time_s: Unix seconds.
            offset_min: minutes to add to UTC for local time.

        Raises:
            ConfigError: for a model without `asked_at`, which reads no such moment.
            DataError: if it is earlier than the last check-in.
        """
        if not self.schema.asked_at:
            raise ConfigError(
                "the model was trained without `asked_at`: it does not read the moment of asking. "
                "Leave it out."
            )
        if len(self) and time_s < self.history.time_s[-1]:
            raise DataError(
                f"the moment of asking (time {time_s}) is earlier than the last check-in (time "
                f"{self.history.time_s[-1]}): give a later one."
            )
        moment = np.array([time_s], np.int64)
        return replace(self, moment=priors.Moments(moment, moment + 60 * offset_min))

    @property
    def session_starts(self) -> Bools:
        """bool [n], whether each check-in begins a session; none does without `session_gap`."""
        gap_s = self.schema.session_gap_s
        if gap_s is None:
            return np.zeros(len(self), bool)
        return np.append(True, np.diff(self.history.time_s) > gap_s)[: len(self)]

    @property
    def step(self) -> tuple[Int32s, Floats]:
        """The inputs of the last check-in: ids int32 [num_id_features], numbers [num_numbers].

        Raises:
            ConfigError: with `asked_at`, if the moment of asking was not given.
        """
        if not self.schema.asked_at:
            return self.ids, self.numbers
        asked = self.schema.asked_numbers(self.history.time_s[-1:], self._given_moment)
        return self.ids, np.concatenate([self.numbers, asked[0]])

    @property
    def _given_moment(self) -> priors.Moments:
        if self.moment is None:
            raise ConfigError(
                "the model was trained with `asked_at`: it needs the moment for which it is asked. "
                "Give it with asked(time_s, offset_min)."
            )
        return self.moment

    @property
    def _open_ended(self) -> priors.History:
        """The History with the check-in to come, see `History.with_open_end`."""
        return self.history.with_open_end(self._given_moment if self.schema.asked_at else None)

    def _code(self, column: str, check_ins: Sequence[CheckIn]) -> Int32s:
        values = (getattr(one, column) for one in check_ins)
        codes = [-1 if value is None else self._codes[column, value] for value in values]
        return np.array(codes, np.int32)

    def _past_classes(self, classes: Int32s, venues: Int32s) -> Int32s:
        """Return int32 [n], the classes of more check-ins, the unlisted ones included."""
        num_listed, number = len(self.schema.classes), self.schema.num_unlisted
        if not number:
            return classes
        before = np.where(self.history.classes < num_listed, self.history.classes, -1)
        every = np.concatenate([before, classes])
        codes = np.concatenate([self.history.venues, venues])
        ends = np.array([0, len(every)])
        return unlisted.number_unlisted(every, codes, ends, num_listed, number)[1][len(self) :]

    def class_of(self, value: str | None) -> int:
        """Return the class of a value of the target; -1 if neither train nor this person has it."""
        classes = self.schema.classes
        if value in classes:
            return classes.index(value)
        return next((place for place, text in self._unlisted.items() if text == value), -1)

    def value_of(self, place: int) -> str | None:
        """Return the value of a class; None for an unlisted one that the person does not have."""
        classes = self.schema.classes
        return classes[place] if place < len(classes) else self._unlisted.get(place)

    @property
    def _unlisted(self) -> dict[int, str]:
        """{unlisted class: its value}, of those that the person has been to."""
        has = self.history.classes >= len(self.schema.classes)
        text_of = {code: text for (column, text), code in self._codes.items() if column == "venue"}
        pairs = zip(self.history.classes[has].tolist(), self.history.venues[has], strict=True)
        return {place: text_of[int(code)] for place, code in pairs}

    def log_prior(self) -> Floats | None:
        """Return float32 [num_classes], log p(next) by the person's own past; None without one."""
        schema = self.schema
        if schema.prior == "none":
            return None
        return self._last_prior(schema.prior).log_probs(schema.shared)[0]

    def _last_prior(self, kind: str) -> priors.ClientPrior:
        """The ClientPrior of the check-in to come, of one row."""
        history, shared = self._open_ended, self.schema.shared
        if kind == "kernel":
            assert self.schema.kernel is not None, "a schema with this prior has its kernel"
            return kernel_prior(self.schema.kernel, history, shared, len(self) - 1)
        return priors.count_prior(kind, history, shared, self.schema.asked_at)[-1:]

    def beside(self) -> Any:
        """Return what the head reads beside the state, see `Task.beside`: of one prediction.

        The log prior, float32 [1, num_classes], or None without one; with head candidates a Scored.
        """
        schema, log_prior = self.schema, self.log_prior()
        if log_prior is None:
            return None
        if not isinstance(schema.spec, CandidateSpec):
            return log_prior[None]
        found = client_candidates(
            self._open_ended,
            schema.shared,
            self._last_prior(schema.prior),
            self._last_prior("backoff"),
            common_classes=schema.target == "category",
            first=len(self) - 1,
            feature_set=schema.feature_set,
        )
        return Scored(found.candidates, found.classes, log_prior[None])

    def draw_noise(self) -> Floats:
        """Return float32 [hidden_dim], standard normal, by the run's seed and this length."""
        draw = seeding.rng(self.schema.seed, "prediction noise", len(self))
        return draw.standard_normal(self.schema.spec.hidden_dim).astype(np.float32)

    def inputs(self, noise: Floats | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return what an exported Keras model is called with at the last check-in, by name.

        Args:
            noise: float32 [hidden_dim], for a model that takes some; `draw_noise` by default.

        Returns:
            {name: array [1, 1] or [1, 1, size]}: one stream, one check-in; with head candidates
            two of them have an axis for these before the last: `num_candidates` differs by person.

        Raises:
            ConfigError: with `asked_at`, if the moment of asking was not given.
        """
        schema = self.schema
        ids, numbers = self.step
        named = dict(zip(schema.vocabularies, ids, strict=True))
        named |= dict(zip(schema.number_names, numbers, strict=True))
        beside = self.beside()
        if isinstance(beside, Scored):
            named |= {name: array[0] for name, array in keras_candidates.feed(beside).items()}
        elif beside is not None:
            named["log_prior"] = beside[0]
        if "noise" in schema.representation:
            named["noise"] = self.draw_noise() if noise is None else noise
        return {name: np.asarray(value)[None, None] for name, value in named.items()}


@dataclass(frozen=True)
class Predictor:
    """A trained model that runs over one person's check-ins.

    >>> predictor = Predictor.start(schema, weights)           # doctest: +SKIP
    >>> predictor.push(check_in).push(another).top(2)             # doctest: +SKIP
    [('Food', 0.41), ('Shop & Service', 0.17)]

    Attributes:
        stream: Stream.
        weights: name -> float32 array.
        state: float32 [1, hidden_dim] each: the hidden state, and for an LSTM its memory; of a
            model of one's own what `OwnModel.start` gives. With `asked_at` it is the one before the
            last check-in, whose step waits for the moment after it.
    """

    stream: Stream
    weights: Weights
    state: tuple[Any, ...]
    _recurrent: dict[str, Any]  # those of the recurrent layer, as JAX arrays

    @classmethod
    def start(cls, schema: Schema, weights: Weights) -> "Predictor":
        """Return a Predictor that has seen nothing: its state is zero.

        Args:
            schema: Schema.
            weights: name -> float32 array.
        """
        if isinstance(schema.spec, OwnSpec):
            return cls(Stream.start(schema), weights, schema.spec.own.start(), {})
        jax = import_jax()
        state = gru.zero_state(schema.spec.cell, schema.spec.hidden_dim, 1)
        recurrent = ("rows", "numbers", "recurrent", "bias")
        at_hand = {name: jax.numpy.asarray(weights[name]) for name in recurrent}
        return cls(Stream.start(schema), weights, state, at_hand)

    def __len__(self) -> int:
        return len(self.stream)

    def push(self, check_in: CheckIn) -> "Predictor":
        """Return the Predictor after one more CheckIn; see `Stream.extend` for the errors."""
        return self.extend([check_in])

    def extend(self, check_ins: Sequence[CheckIn]) -> "Predictor":
        """Return the Predictor after more CheckIns, in order of time."""
        if not check_ins:
            return self
        stream, ids, numbers = self.stream.extend(check_ins)
        starts = stream.session_starts[-len(check_ins) :]
        return replace(self, stream=stream, state=self._advanced(ids, numbers, starts))

    def asked(self, time_s: int, offset_min: int = 0) -> "Predictor":
        """Return the Predictor that is asked at a moment; see `Stream.asked`."""
        return replace(self, stream=self.stream.asked(time_s, offset_min))

    def _advanced(
        self, ids: Int32s, numbers: Floats, starts: Bools | None = None
    ) -> tuple[Any, ...]:
        """Return the state after some steps, whose inputs these are, [n, ...].

        It is zero before those where `starts` is true, bool [n]; None for none.
        """
        if starts is None:
            starts = np.zeros(len(ids), bool)
        rows, spec = self.stream.schema.rows(ids), self.stream.schema.spec
        if not len(rows):
            return self.state
        if isinstance(spec, OwnSpec):
            return spec.own.advance(self.weights, rows, numbers, self.state)
        rows = rows[:, None]
        state, begin = self.state, 0
        while begin < len(rows):
            # whole stretches, then one by one: two shapes are compiled, whatever the length
            size = FORWARD_SEQ_LEN if len(rows) - begin >= FORWARD_SEQ_LEN else 1
            part = slice(begin, begin + size)
            step = _forward_step(spec.cell)
            inputs = rows[part], numbers[part, None]
            state = step(self._recurrent, *inputs, state, starts[part, None])
            begin += size
        return state

    def log_probs(self, noise: Floats | None = None) -> Floats:
        """Return float32 [num_classes], log p(next check-in's class).

        Without a check-in these are the frequencies that all clients share.

        Args:
            noise: as for `Stream.inputs`.

        Raises:
            ConfigError: with `asked_at`, if the moment of asking was not given.
        """
        schema = self.stream.schema
        if not len(self):
            return np.log(schema.shared).astype(np.float32)
        if "noise" in schema.representation and noise is None:
            noise = self.stream.draw_noise()
        state = self.state
        if schema.asked_at:
            ids, numbers = self.stream.step
            state = self._advanced(ids[None], numbers[None])
        seen = gru.represent(self.weights, np.asarray(state[0])[0], noise)
        return log_softmax(schema.spec.logits(self.weights, seen[None], self.stream.beside()))[0]

    def top(self, k: int = 5, noise: Floats | None = None) -> list[tuple[str, float]]:
        """Return the k most probable values and their probabilities, [(value, probability)]."""
        log_probs = self.log_probs(noise)
        order = np.argsort(-log_probs, kind="stable")
        values = ((self.stream.value_of(i), float(np.exp(log_probs[i]))) for i in order.tolist())
        return list(itertools.islice(((v, p) for v, p in values if v is not None), k))


@cache
def _forward_step(cell: str) -> Callable[..., Any]:
    """The compiled pass over some check-ins of one stream: the state after them."""
    jax = import_jax()

    def step(weights: dict[str, Any], rows: Any, numbers: Any, state: Any, starts: Any) -> Any:
        gates = gru.project(weights, rows, numbers)
        recurrent, bias = weights["recurrent"], weights["bias"]
        return gru.forward(cell, gates, recurrent, bias, state, starts)[1]

    return jax.jit(step)


def check_ins_of(check_ins: CheckIns, rows: Ints) -> list[CheckIn]:
    """Return rows of a CheckIns' columns as a list of CheckIn.

    Args:
        check_ins: `fedgru.data.checkins.CheckIns`.
        rows: int64 [n].
    """

    def texts(column: Coded) -> list[str | None]:
        return [column.values[code] if code >= 0 else None for code in column.codes[rows]]

    columns = (
        *(texts(column) for column in (check_ins.user, check_ins.venue)),
        *(values[rows].tolist() for values in (check_ins.time_s, check_ins.offset_min)),
        *(texts(column) for column in (check_ins.category, check_ins.raw_category)),
        *(values[rows].tolist() for values in (check_ins.lat_deg, check_ins.lon_deg)),
    )
    return [CheckIn(*values) for values in zip(*columns, strict=True)]


def evaluation_noise(task: Task, position: int) -> Floats:
    """Return the noise that the evaluation adds at a target, float32 [hidden_dim].

    Args:
        task: Task.
        position: of the target.
    """
    clients = task.clients.scored
    split = next(split for split in SPLITS if clients.in_split(split)[position])
    positions = clients.target_positions(split)
    draw = seeding.rng(task.settings.loop.seed, f"representation noise {split}")
    noise = draw.standard_normal((len(positions), task.spec.hidden_dim)).astype(np.float32)
    return noise[np.searchsorted(positions, position)]
