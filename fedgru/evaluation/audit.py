"""What a run's representation reveals about its clients: the probe audit of the federated model.

Probes are fitted on the val split and tested on the test split. For each client these are disjoint
in time, from each other and from training. The views:

* representation: what the heads see, erased and noised where the method does so;
* carried state: what the device keeps between check-ins, where that is not the representation;
* logits: log-probabilities of the next place, which a deployed model shows;
* raw input: the model's inputs at that check-in, an upper bound for what one check-in reveals;
* raw window: for the concept `client`, naive Bayes on venue, category and hour of the last
  check-ins: re-identification without any model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fedgru.agnostic import probes, protection
from fedgru.agnostic.concepts import Concept, make_concept
from fedgru.agnostic.probes import PROBES, Examples
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyInts, Floats, Ints, Weights
from fedgru.evaluation.evaluate import Forward
from fedgru.task.features import Inputs
from fedgru.task.task import Task

REPRESENTATION, CARRIED, LOGITS = "representation", "carried state", "logits"
RAW, WINDOW = "raw input", "raw window"
WINDOW_LEN = 16
NAMES = {"val": "validation", "test": "test"}
MAX_CLIENTS = 100  # of the concept `client`: a probe has one class for each
MAX_EXAMPLES = 20_000  # to fit on, and to test on


class StateEngine(Forward, Protocol):
    """An engine that can also give all that is kept between check-ins."""

    def hidden_states(
        self,
        weights: Weights,
        first_positions: Ints,
        end_positions: Ints,
        wanted: Ints,
        carried: bool = False,
    ) -> Floats: ...


@dataclass(frozen=True)
class AuditPlan:
    """How much is audited.

    Attributes:
        probe_names: names out of PROBES.
        seeds: see `probes.audit`; the first also draws clients and examples above the limits.
        views: names of views; None for all.
        max_examples: to fit on, and to test on; of more, a random sample is used.
        controls: whether the shuffled controls, and the representation after LEACE, are audited
            too.
    """

    probe_names: Sequence[str] = PROBES
    seeds: Sequence[int] = (0,)
    views: Sequence[str] | None = None
    max_examples: int = MAX_EXAMPLES
    controls: bool = True


WHOLE = AuditPlan()
QUICK = AuditPlan(("logistic",), (0,), (REPRESENTATION, LOGITS), 4_000, controls=False)
QUICK_CONCEPTS = ("client", "zone")


def audit_task(
    engine: StateEngine,
    weights: Weights,
    name: str,
    plan: AuditPlan = WHOLE,
    on_fit: Callable[[], object] | None = None,
) -> tuple[probes.Audit, dict[str, list[int]]]:
    """Audit one concept of a task under some weights.

    Args:
        engine: an engine that gives carried states, see `fedgru.engines.fastest`.
        weights: name -> float32 array.
        name: the concept, see `make_concept`.
        plan: AuditPlan.
        on_fit: see `probes.audit`.

    Returns:
        (Audit, sampled): sampled is {what: [taken, of how many]}, for clients and examples above
        the limits.

    Raises:
        ConfigError, DataError: if the concept or a view is unknown, or the concept has fewer than
            two values in the val or in the test weeks.
    """
    task = engine.task
    agnostic = task.settings.agnostic
    if task.protection is not None and task.protection.concept.name == name:
        concept = task.protection.concept  # as training had it
    else:
        seed = task.settings.loop.seed
        concept = make_concept(name, task.check_ins, task.clients.scored, agnostic.zones, seed)
    taken, sampled = _draw_clients(task, concept, plan.seeds[0])
    fit, test = (
        _examples(engine, weights, concept, split, taken, plan, sampled)
        for split in ("val", "test")
    )
    windows = [replace(e, views={WINDOW: e.views.pop(WINDOW, None)}) for e in (fit, test)]
    seeds, controls = plan.seeds, plan.controls
    erased = REPRESENTATION if controls and REPRESENTATION in fit.views else None
    found = probes.audit(name, fit, test, plan.probe_names, seeds, erased, controls, on_fit)
    if windows[0].views[WINDOW] is not None:
        fit_on, test_on = windows
        ceiling = probes.audit(
            name, fit_on, test_on, ("naive_bayes",), seeds, None, controls, on_fit
        )
        found = replace(found, readings=[*found.readings, *ceiling.readings])
    return found, sampled


def quick_audit(engine: StateEngine, weights: Weights) -> dict[str, dict[str, Any]]:
    """Run the audit that is part of every run: {concept: dict}, or why it cannot be audited.

    Only a logistic regression, on the representation and the logits: a lower bound of what can be
    recovered. `fedgru audit` runs the other probes.
    """
    task, found = engine.task, {}
    names = list(QUICK_CONCEPTS)
    if task.protection is not None and task.protection.concept.name not in names:
        names.append(task.protection.concept.name)
    for name in names:
        try:
            audit, sampled = audit_task(engine, weights, name, QUICK)
        except (ConfigError, DataError) as error:
            found[name] = {"not_audited": str(error)}
            continue
        found[name] = audit.to_dict() | {"sampled": sampled}
    return found


def _draw_clients(task: Task, concept: Concept, seed: int) -> tuple[Ints, dict[str, list[int]]]:
    """Return the clients that are audited, and {"clients": [taken, of how many]} if not all."""
    everybody = np.arange(len(task.clients.scored))
    if not concept.is_client or len(everybody) <= MAX_CLIENTS:
        return everybody, {}
    draw = seeding.rng(seed, "audited clients")
    taken = np.sort(draw.choice(everybody, MAX_CLIENTS, replace=False))
    return taken, {"clients": [MAX_CLIENTS, len(everybody)]}


def _examples(
    engine: StateEngine,
    weights: Weights,
    concept: Concept,
    split: str,
    taken: Ints,
    plan: AuditPlan,
    sampled: dict[str, list[int]],
) -> Examples:
    """Return the Examples of one split: each of its check-ins that is followed by another one."""
    task, clients = engine.task, engine.task.clients.scored
    first, end = clients.bounds(split)
    end = np.minimum(end, clients.starts[1:] - 1)
    ranges = [np.arange(first[client], end[client]) for client in taken]
    positions = np.concatenate(ranges)
    if len(positions) > plan.max_examples:
        sampled[f"{NAMES[split]} check-ins"] = [plan.max_examples, len(positions)]
        draw = seeding.rng(plan.seeds[0], f"audited {split}")
        positions = np.sort(draw.choice(positions, plan.max_examples, replace=False))
    owners = clients.client_of[positions]
    run_to = np.zeros(len(clients), np.int64)
    np.maximum.at(run_to, owners, positions + 1)
    starts = clients.starts[:-1]
    run_to = np.maximum(run_to, starts)
    asked = plan.views is None or CARRIED in plan.views
    runs = clients.runs(starts, run_to)
    carried = engine.hidden_states(weights, *runs, positions, carried=asked)
    hidden = carried[:, : task.spec.states_dim]
    seen = protection.represent(task, weights, hidden, split)
    represented, kept = task.spec.representation(seen), task.spec.carried(carried)
    made = {
        REPRESENTATION: lambda: represented,
        LOGITS: lambda: _log_probs(task, weights, seen, positions, owners),
        RAW: lambda: _raw(task.inputs, positions),
    }
    if concept.is_client:
        made[WINDOW] = lambda: _windows(task, positions)
    if asked and kept.shape[1] and not np.array_equal(kept, represented):
        made[CARRIED] = lambda: kept
    wanted = set(made if plan.views is None else plan.views)
    if unknown := wanted - {*made, CARRIED}:
        raise ConfigError(f"unknown view {min(unknown)!r}. Accepted: {', '.join(made)}.")
    return Examples(
        {view: make() for view, make in made.items() if view in wanted},
        concept.labels[positions],
        owners,
    )


def _log_probs(
    task: Task, weights: Weights, seen: Floats, positions: Ints, owners: AnyInts
) -> Floats:
    log_probs = np.empty((len(positions), task.num_classes), np.float32)
    for client in np.unique(owners):
        at = owners == client
        beside = task.beside(client, positions[at] - task.clients.starts[client])
        scores = task.spec.logits(weights, seen[at], beside)
        scores = scores - scores.max(-1, keepdims=True)
        log_probs[at] = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return log_probs


def _raw(inputs: Inputs, positions: Ints) -> Any:
    """The model's inputs, one-hot and sparse."""
    from scipy.sparse import csr_matrix, hstack

    numbers = csr_matrix(inputs.numbers[positions])
    if not inputs.id_names:
        return numbers
    return hstack([_one_hot(inputs.rows[positions].T, inputs.num_rows), numbers]).tocsr()


def _windows(task: Task, positions: Ints) -> Any:
    """Counts of venue, category and hour over each check-in and those before it, sparse."""
    history, starts = task.history, task.clients.starts
    first = starts[task.clients.client_of[positions]]
    num_venues, num_categories = history.venues.max() + 1, history.categories.max() + 1
    columns = []
    for back in range(WINDOW_LEN):
        at = positions - back
        inside = at >= first
        read = np.maximum(at, 0)
        for codes, offset in (
            (history.venues, 0),
            (history.categories, num_venues),
            (history.local_hour.astype(np.int64), num_venues + num_categories),
        ):
            known = inside & (codes[read] >= 0)
            columns.append(np.where(known, codes[read] + offset, -1))
    return _one_hot(columns, int(num_venues + num_categories + 24))


def _one_hot(columns: Iterable[AnyInts], width: int) -> Any:
    """Sum of one-hot codings of int [n] columns, -1 for none: sparse float32 [n, width]."""
    from scipy.sparse import csr_matrix

    coded = np.stack(list(columns), 1)
    row, column = np.nonzero(coded >= 0)
    ones = np.ones(len(row), np.float32)
    return csr_matrix((ones, (row, coded[row, column])), (len(coded), width))
