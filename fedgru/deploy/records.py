"""All data that server and client exchange, as Flower's records.

To the client: `weights`, every array of the model; and `ask`: the round, the client's number,
whether to train and with how many others, which split to score.

To the server, as asked: `dense` and `rows`, an update, and `sums` of the training (with secure
aggregation all of it in one masked vector, see `fedgru/deploy/secure.py`); a `val` or `test` record
with the sums of each metric, of the model and of counting; or `hello`, four counts. Of an error
only the kind is sent: its text can quote a check-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.core import metrics
from fedgru.core.types import Weights

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    from fedgru.evaluation.evaluate import Evaluation

MODEL = "model"  # the predictor in a score record that is the model itself


@dataclass(frozen=True)
class Ask:
    """What the server asks of one client.

    Attributes:
        round_num: the round that is trained; the weights are those of the round before.
        client: the client's number, which seeds its dropout.
        train: whether to train.
        cohort: how many clients train in the round.
        score: the split to score with the weights, "val" or "test", or "" for none.
    """

    round_num: int
    client: int
    train: bool
    cohort: int
    score: str


@dataclass(frozen=True)
class Scores:
    """One client's scores of a split as sums.

    Attributes:
        targets, unknown_targets: int.
        sums: predictor -> {metric: (sum, count)}.
    """

    targets: int
    unknown_targets: int
    sums: dict[str, dict[str, tuple[float, int]]]


def pack_ask(ask: Ask, weights: Weights) -> RecordDict:
    """Return the RecordDict of an Ask and its weights."""
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({"weights": _pack(weights), "ask": ConfigRecord(vars(ask))})


def unpack_ask(content: RecordDict) -> tuple[Ask, Weights]:
    """Return (Ask, weights) from a RecordDict."""
    return Ask(**content["ask"]), _unpack(content["weights"])


def pack_update(update: ClientUpdate) -> dict[str, Any]:
    """Return {name: record} of a ClientUpdate, without its number, which the server knows."""
    from flwr.app import MetricRecord

    sums = {
        "num_examples": update.num_examples,
        "loss_sum": update.loss_sum,
        "num_correct": update.num_correct,
    }
    return {
        "dense": _pack(update.dense),
        "rows": _pack({"ids": update.row_ids, "update": update.row_update}),
        "sums": MetricRecord(sums),
    }


def unpack_update(content: RecordDict, client: int) -> ClientUpdate:
    """Return the ClientUpdate in a RecordDict; `fedgru.algorithms.faults` checks its numbers.

    Raises:
        ValueError: if it has not the form of one.
    """
    try:
        rows, sums = _unpack(content["rows"]), content["sums"]
        update = ClientUpdate(
            client=client,
            num_examples=int(sums["num_examples"]),
            dense=_unpack(content["dense"]),
            row_ids=rows["ids"],
            row_update=rows["update"],
            loss_sum=float(sums["loss_sum"]),
            num_correct=float(sums["num_correct"]),
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an update: {error}") from error
    floats = (update.row_update, *update.dense.values())
    if any(array.dtype != np.float32 for array in floats) or update.row_ids.dtype != np.int32:
        raise ValueError("an update of other numbers than float32, or row ids other than int32")
    if update.row_ids.ndim != 1:
        raise ValueError(f"row ids have {update.row_ids.ndim} axes, expected 1")
    return update


def pack_scores(evaluations: dict[str, Evaluation]) -> MetricRecord:
    """Return the MetricRecord of a client's evaluations of one split.

    Args:
        evaluations: predictor -> Evaluation of one client; MODEL is among them.
    """
    from flwr.app import MetricRecord

    scores = evaluations[MODEL].scores
    packed: dict[str, Any] = {"targets": len(scores), "unknown_targets": int((~scores.known).sum())}
    for predictor, evaluation in evaluations.items():
        for name in evaluation.scores.values:
            sums, counts = evaluation.client_sums(name)
            packed[f"{predictor}/{name}"] = [float(sums[0]), float(counts[0])]
    return MetricRecord(packed)


def unpack_scores(record: MetricRecord) -> Scores:
    """Return the Scores in a MetricRecord.

    Raises:
        ValueError: if it has not the form of one, or a number in it is not finite.
    """
    try:
        found = dict(record)
        targets, unknown = int(found.pop("targets")), int(found.pop("unknown_targets"))
        sums: dict[str, dict[str, tuple[float, int]]] = {}
        for key, (total, count) in found.items():
            predictor, _, name = key.partition("/")
            if name in metrics.METRICS and np.isfinite(total) and 0 <= count <= targets:
                sums.setdefault(predictor, {})[name] = (float(total), int(count))
            else:
                raise ValueError(f"{key} is {total} of {count}")
        if not 0 <= unknown <= targets or set(sums[MODEL]) != set(metrics.METRICS):
            raise ValueError("its counts do not fit together")
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not scores: {error}") from error
    return Scores(targets, unknown, sums)


def pack_error(error: BaseException) -> dict[str, Any]:
    """Return {name: record} of an error: only its kind, since its text can quote a check-in."""
    from flwr.app import ConfigRecord

    return {"error": ConfigRecord({"kind": type(error).__name__})}


def _pack(arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRecord:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(a, order="C")) for name, a in arrays.items()})


def _unpack(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    return {name: array.numpy() for name, array in record.items()}
