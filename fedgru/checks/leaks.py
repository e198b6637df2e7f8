"""Checks that nothing was fitted on val or test, and that no target was known before prediction.

The task is built again from the same check-ins with another future (`counterfactuals`). All that
comes before that future must stay the same; if it changes, it depended on the future.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedgru.checks import counterfactuals
from fedgru.checks.checked_run import CheckedRun, NotApplicable, Problem
from fedgru.config.feature_names import own_inputs
from fedgru.core import seeding
from fedgru.core.types import AnyArray, AnyInts, Bools, Ints
from fedgru.models.candidate_head import Trained
from fedgru.task.clients import SPLITS

if TYPE_CHECKING:
    from fedgru.task.task import LocalData, Task

Places: TypeAlias = tuple[AnyInts, ...]  # an array of indices for each axis
SAME = 1e-4  # sums of the same numbers in another order, in float32
_SEED = 0  # of the other futures, fixed so that the same run gives the same findings


def check_vocabulary(checked: CheckedRun) -> str:
    """Every id of inputs and of the target stands for a value that occurs in train."""
    task = checked.task
    train_rows = task.clients.rows[task.clients.in_split("train")]
    known = {f"of feature {name}": (name, v) for name, v in task.inputs.vocabularies.items()}
    target = task.settings.inputs.target
    known[f"of target {target}"] = target, task.target_vocabulary
    for what, (name, vocabulary) in known.items():
        column = getattr(task.check_ins, name)
        train = {column.values[code] for code in set(column.codes[train_rows].tolist()) - {-1}}
        beyond = len(set(vocabulary.values) - train)
        if beyond:
            raise Problem(
                f"{beyond} of the {len(vocabulary)} ids {what} stand for values that are not in "
                "train" + _because_of_range(task)
            )
    again = _with_other_val_and_test(checked)
    for name, vocabulary in task.inputs.vocabularies.items():
        if vocabulary.values != again.inputs.vocabularies[name].values:
            raise Problem(f"the ids of {name} change with what comes after train")
    if task.target_vocabulary.values != again.target_vocabulary.values:
        raise Problem(f"the ids of target {target} change with what comes after train")
    if not np.array_equal(task.shared, again.shared):
        raise Problem("the frequencies that all clients share change with what comes after train")
    sizes = [f"{name} {len(v)}" for name, v in task.inputs.vocabularies.items()]
    return f"known from train alone: {', '.join([*sizes, f'target {task.num_listed}'])}"


def _because_of_range(task: Task) -> str:
    rule = task.settings.inputs.vocabulary
    return f" (`vocabulary` is {rule})" if rule != "train" else ""


def check_scaling(checked: CheckedRun) -> str:
    """Numbers, and labels of a protected concept, do not change with what comes after train."""
    task, again = checked.task, _with_other_val_and_test(checked)
    in_train = task.clients.in_split("train")
    for column, name in enumerate(task.inputs.number_names):
        ours, theirs = (t.inputs.numbers[in_train, column] for t in (task, again))
        if not np.allclose(ours, theirs, rtol=0, atol=SAME):
            raise Problem(
                f"{name} in train changes by up to {np.abs(ours - theirs).max():.3g} with what "
                "comes after train"
            )
    if task.protection is not None and again.protection is not None:
        ours, theirs = (p.concept.labels[in_train] for p in (task.protection, again.protection))
        if not np.array_equal(ours, theirs):
            concept = task.protection.concept.name
            raise Problem(f"labels of {concept} in train change with what comes after train")
    if not task.inputs.number_names and task.protection is None:
        raise NotApplicable("the inputs hold no numbers")
    return f"train is unchanged (to {SAME:g}) when all later check-ins are replaced"


def _with_other_val_and_test(checked: CheckedRun) -> Task:
    """The Task of the same train splits followed by other val and test splits."""
    clients = checked.task.clients
    draw = seeding.rng(_SEED, "other val and test")
    first, _ = clients.bounds("val")
    asked_at = checked.settings.inputs.asked_at
    return checked.rebuilt(
        counterfactuals.rewritten(checked.task.check_ins, clients, first, draw, asked_at)
    )


def check_splits(checked: CheckedRun) -> str:
    """Each of a client's check-ins lies in one split."""
    clients = checked.task.clients
    inside = np.sum([clients.in_split(split) for split in SPLITS], axis=0)
    _refuse(checked, inside > 1, "in two splits")
    _refuse(checked, inside < 1, "in no split")
    _, times = np.unique(clients.rows, return_counts=True)
    if (times > 1).any():
        raise Problem(f"{(times > 1).sum():,} check-ins belong to two clients, or to one twice")
    targets = np.concatenate([clients.target_positions(split) for split in SPLITS])
    if len(np.unique(targets)) < len(targets):
        raise Problem(f"{len(targets) - len(np.unique(targets)):,} targets lie in two splits")
    owners = np.array(clients.client_ids, object)[clients.client_of]
    users = np.array(checked.task.check_ins.user.values, object)
    _refuse(
        checked,
        users[checked.task.check_ins.user.codes[clients.rows]] != owners,
        "with the wrong client",
    )
    sizes = [f"{split} {clients.in_split(split).sum():,}" for split in SPLITS]
    return f"each check-in of {len(clients)} clients in one: {', '.join(sizes)}"


def check_time_order(checked: CheckedRun) -> str:
    """Within each client train ends before val, and val before test."""
    clients = checked.task.clients
    time_s = checked.task.check_ins.time_s[clients.rows]
    early = np.zeros(len(time_s), bool)
    early[1:] = (np.diff(time_s) < 0) & (np.diff(clients.client_of) == 0)
    _refuse(checked, early, "earlier than the one before them")
    for before, after in zip(SPLITS[:-1], SPLITS[1:], strict=True):
        for client in range(len(clients)):
            ends = [clients.bounds(split) for split in (before, after)]
            (a, b), (c, d) = ((first[client], end[client]) for first, end in ends)
            if a < b and c < d and time_s[a:b].max() > time_s[c:d].min():
                raise Problem(
                    f"client {clients.client_ids[client]} has {before} check-ins later than its "
                    f"first {after} check-in"
                )
    return "within each client train ends before val, and val before test"


def _refuse(checked: CheckedRun, is_bad: Bools, what: str) -> None:
    if is_bad.any():
        clients, first = checked.task.clients, int(np.flatnonzero(is_bad)[0])
        raise Problem(
            f"{is_bad.sum():,} check-ins {what}, the first in row {clients.rows[first]} of the "
            f"data set (client {clients.client_ids[clients.client_of[first]]})"
        )


def check_training_targets(checked: CheckedRun) -> str:
    """The inputs for a training target contain neither that target nor later check-ins."""
    if not checked.kind.trains:
        raise NotApplicable("the run is a counting baseline: it trains on nothing")
    task, clients = checked.task, checked.task.clients
    if not checked.kind.pools:  # its streams are never repeated, and are reset by client
        _refuse_carried_state(task)
    starts, ends = clients.bounds("train")
    draw = seeding.rng(_SEED, "backwards from")
    drawn = draw.integers(starts + 1, np.maximum(ends - 1, starts + 2))
    first = np.where(ends - starts > 2, drawn, ends)
    keeps = _keeps_moment(task)
    reversed_ = counterfactuals.run_backwards(task.check_ins, clients, first, ends, keeps)
    again = _scaled_as(task, checked.rebuilt(reversed_))
    compared, trained = 0, task.training_clients
    if not checked.kind.shares_model:
        trained = trained[trained < len(clients.scored)]
    for client in trained:
        last = first[client] - starts[client] - 1
        targets, here = _pairs_up_to(task, client, last)
        _, there = _pairs_up_to(again, client, last)
        ours, theirs = checked.trained_on(task, client), checked.trained_on(again, client)
        for (what, one), (_, other) in zip(
            _inputs_at(ours, here), _inputs_at(theirs, there), strict=True
        ):
            same = np.abs(one - other) <= SAME  # not so if one is NaN
            _refuse_changed(task, what, targets, ~same.reshape(len(same), -1).all(axis=1))
        compared += len(targets)
    return (
        f"the inputs of {compared:,} targets of {len(trained)} clients are unchanged "
        f"when the rest of train is reversed{_but_the_moment(task)}"
    )


def _scaled_as(task: Task, again: Task) -> Task:
    """Return `again` with features of one's own scaled as in `task`.

    Their mean and deviation in train can depend on the order of its check-ins.
    """
    ours, theirs = task.inputs, again.inputs
    numbers = np.array(theirs.numbers)
    for feature, width in ours.own_widths.items():
        for name in own_inputs(feature, width):
            column = numbers[:, theirs.number_names.index(name)]
            one, other = ours.scales[name], theirs.scales[name]
            if one.deviation and other.deviation:
                values = column * np.float64(other.deviation) + other.mean
                column[:] = (values - one.mean) / one.deviation
    return replace(again, inputs=replace(theirs, numbers=numbers))


def _pairs_up_to(task: Task, client: int, last: int) -> tuple[Ints, Places]:
    """Return the targets of a client's pairs up to one, and where they stand in its LocalData.

    Both are in the order of the pairs: with sessions their places depend on later check-ins.
    """
    pairs = task.batches(client).pairs
    flat = np.flatnonzero((pairs >= 0) & (pairs <= last))
    flat = flat[np.argsort(pairs.reshape(-1)[flat], kind="stable")]
    targets = task.clients.starts[client] + pairs.reshape(-1)[flat] + 1
    return targets, np.unravel_index(flat, pairs.shape)


def _inputs_at(data: LocalData, where: Places) -> Iterator[tuple[str, AnyArray]]:
    """Yield what the model reads at some places of a LocalData, and in words what it is."""
    yield "an id", data.rows[where]
    yield "a number", data.numbers[where]
    if isinstance(data.beside, Trained):
        for name in ("features", "context", "log_prior"):
            yield "a candidate", getattr(data.beside.candidates, name)[where]
    elif isinstance(data.beside, np.ndarray):
        yield "the prior", data.beside[where]


def _refuse_carried_state(task: Task) -> None:
    """Raise a Problem if a recurrent state has read check-ins later than its target."""
    total = turned = 0
    for client in task.training_clients:
        pairs = task.batches(client).pairs
        for row in np.swapaxes(pairs, 0, 1).reshape(pairs.shape[1], -1):
            row = row[row >= 0]
            seen = np.maximum.accumulate(row)[:-1]
            turned += int((row[1:] < seen).sum())
            total += len(row)
    if turned:
        raise Problem(
            f"of {total:,} targets of a round {turned:,} are predicted from a state that has read "
            f"later check-ins: `layout` {task.settings.layout.layout} does not reset the state in "
            f"{task.settings.client.local_epochs} local epochs"
        )


def check_scored_targets(checked: CheckedRun) -> str:
    """A prediction does not change with its target, nor with later check-ins."""
    task, clients = checked.task, checked.task.clients
    splits = checked.scored_splits
    low, _ = clients.bounds(splits[0])
    low, ends = np.maximum(low, clients.starts[:-1] + 1), clients.starts[1:]
    draw = seeding.rng(_SEED, "rewritten from")
    first = np.where(low < ends, draw.integers(low, np.maximum(ends, low + 1)), ends)
    again = checked.rebuilt(
        counterfactuals.rewritten(
            task.check_ins,
            clients,
            first,
            seeding.rng(_SEED, "rewritten"),
            keeps_moment=_keeps_moment(task),
        )
    )
    if any(
        len(v) != len(again.inputs.vocabularies[n]) for n, v in task.inputs.vocabularies.items()
    ):
        raise Problem("ids change with what comes later, see the check `vocabulary`")
    compared = 0
    for split in splits:
        ours = checked.test_scores if split == "test" else checked.score(task, split)
        theirs = checked.score(again, split)
        before, theirs_before = (e.positions <= first[e.client_index] for e in (ours, theirs))
        one, other = ours.scores[before], theirs.scores[theirs_before]
        changed = np.where(
            np.isfinite(one.prob),
            ~(np.abs(one.prob - other.prob) <= SAME),
            one.predicted != other.predicted,
        )
        _refuse_changed(task, f"a prediction of {split}", ours.positions[before], changed)
        compared += len(changed)
    return (
        f"the prediction of {compared:,} {' and '.join(splits)} targets of {len(clients.scored)} "
        f"clients is unchanged when all later check-ins are replaced{_but_the_moment(task)}"
    )


def _keeps_moment(task: Task) -> bool:
    """Whether the moment of a target may count: it says whether there is a target at all."""
    return task.settings.inputs.asked_at or task.settings.data.session_gap is not None


def _but_the_moment(task: Task) -> str:
    """Say that the target's moment stays where it may count."""
    return ", the target's moment alone kept" if _keeps_moment(task) else ""


def _refuse_changed(task: Task, what: str, targets: Ints, changed: Bools) -> None:
    if changed.any():
        clients, first = task.clients, targets[changed][0]
        raise Problem(
            f"{what} changes with the target or with later check-ins, for {changed.sum():,} of "
            f"{len(changed):,} targets; the first in row {clients.rows[first]} of the data set "
            f"(client {clients.client_ids[clients.client_of[first]]})"
        )
