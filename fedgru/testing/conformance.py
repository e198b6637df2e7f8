"""The conformance suite of algorithms: what must hold for each, whoever wrote it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fedgru import algorithms, config
from fedgru.agnostic import protection
from fedgru.algorithms import registry
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState
from fedgru.algorithms.per_client import PerClient
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.registry import AlgorithmInfo
from fedgru.api import data as api_data
from fedgru.api import run as api_run
from fedgru.api import training as api
from fedgru.config.settings import Settings
from fedgru.core.errors import ConfigError, Interrupted
from fedgru.core.types import OnRound, Row, Weights
from fedgru.engines import registry as engines
from fedgru.engines.base import Engine, RoundResult
from fedgru.storage.client_store import ClientStore, dump
from fedgru.task.task import Task
from fedgru.testing.closeness import first_difference, metric_difference
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import personal

COHORT = (0, 2, 5)  # clients of different size
LARGE_COHORT = (0, 1, 2, 5)
BAD_CLIENT = 2
# A gradient that passes near zero makes Adam's step a matter of rounding, the more so the larger
# the steps are: hence the small client_lr.
SMALL: dict[str, Any] = {
    "data": "conformance",
    "hidden_dim": 8,
    "batch_size": 2,
    "seq_len": 5,
    "dropout": 0.0,
    "threads": 1,
    "local_epochs": 2,
    "client_lr": 0.003,
    "mean": "clients",
    "prior": "backoff",
    "patience": 0,
}
BY_SGD = {"client_optimizer": "sgd", "client_lr": 0.1}
RESULTS = ("metrics.csv", "best.npz", "last.npz")

Make: TypeAlias = Callable[[Settings, FedAvg], Algorithm]
Flat: TypeAlias = dict[str, Any]  # words -> array or number
Spoil: TypeAlias = Callable[[ClientUpdate], ClientUpdate]


def check_algorithm(algorithm: str | AlgorithmInfo | Make, /, **settings: Any) -> list[str]:
    """Check that an algorithm keeps the rules that runs rely on. It takes some 10 seconds.

    On a made-up city of 6 clients it trains a few rounds, and checks that

    * the ServerState that it is given is not changed, and the next one has the same names and
      shapes, float32 weights and the next round number; the same seed gives the same bytes;
    * an update that cannot be used (NaN) enters neither the mean nor what is kept;
    * the order of the cohort changes nothing but the rounding;
    * a run that is stopped and resumed ends in the same bytes as one that is not;
    * engine jax, with its C code and by XLA, and engine reference give the same weights, slots,
      kept arrays and validation, within the tolerance that holds for fedgru's own engines.

    Args:
        algorithm: a name of `fedgru algorithms`, MODULE:OBJECT, an AlgorithmInfo, or a class or
            function of (settings, server_half).
        settings: settings by name, in place of small ones; such as `server_optimizer="momentum"`.

    Returns:
        A sentence for each check that was done: it names what was compared.

    Raises:
        AssertionError: if one fails; names the algorithm and what differs.
        ConfigError: if there is no such algorithm, it cannot be made, or the settings do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="fedgru-testing-") as folder:
        case = _Case.of(algorithm, settings, Path(folder))
        done = []
        for check in (_check_rounds, _check_bad_updates, _check_order, _check_resuming):
            done.append(check(case))
        return [*done, *_check_engines(case)]


@dataclass(frozen=True)
class _Case:
    """An algorithm and what it is checked on."""

    info: AlgorithmInfo
    is_named: bool
    task: Task
    folder: Path

    @classmethod
    def of(
        cls, algorithm: str | AlgorithmInfo | Make, given: Mapping[str, Any], folder: Path
    ) -> _Case:
        if "algorithm" in given:
            raise ConfigError("`algorithm` is given twice: as the algorithm, and in its settings.")
        info, name = _resolve(algorithm)
        needed = BY_SGD if info.needs_sgd else {}
        named = {} if name is None else {"algorithm": name}
        settings = api.make_settings(**(SMALL | needed | dict(given) | named))
        engines.check(settings)
        api_data.make_city(
            "conformance", data_dir=folder, num_users=6, checkins_per_user=40, seed=1
        )
        task = api.build_task(settings, data_dir=folder)
        return cls(info, name is not None, task.with_kernel(), folder)

    def make(self) -> Algorithm:
        """Return the algorithm, made anew."""
        settings = self.task.settings
        return registry.make(self.info, settings, algorithms.server_half(settings))

    def fail(self, sentence: str) -> AssertionError:
        """Return the error of a check that fails."""
        return AssertionError(f"{self.info.name}: {sentence}")


def _resolve(algorithm: str | AlgorithmInfo | Make) -> tuple[AlgorithmInfo, str | None]:
    """Return the AlgorithmInfo, and what the setting `algorithm` calls it; None if nothing does."""
    if isinstance(algorithm, str):
        return registry.find(algorithm), algorithm
    if isinstance(algorithm, AlgorithmInfo):
        is_built_in = registry.BUILT_IN.get(algorithm.name) is algorithm
        return algorithm, algorithm.name if is_built_in else None
    name = getattr(algorithm, "__qualname__", type(algorithm).__qualname__)
    return registry.as_info(algorithm, name), None


@dataclass(frozen=True)
class _Played:
    """What some rounds end in."""

    state: ServerState
    results: tuple[RoundResult, ...]
    val: Mapping[str, float | None]
    kept: Flat
    engine: str

    @property
    def arrays(self) -> Flat:
        return _flat(self.state) | self.kept


def _play(
    case: _Case, engine_class: type[Engine[Any]], cohorts: Sequence[Sequence[int]]
) -> _Played:
    """Train rounds of these cohorts; each is checked."""
    algorithm = case.make()
    engine = engine_class(case.task, algorithm.client_rule)
    training = FederatedTraining(engine, algorithm)
    try:
        state = training.init()
        results: list[RoundResult] = []
        first = _flat(state)
        for cohort in cohorts:
            copy = {name: np.array(array) for name, array in _flat(state).items()}
            result = training.run_round(state, np.array(cohort))
            if found := first_difference(_flat(state), copy, exactly=True):
                raise case.fail(
                    "a round changed the ServerState that it began with, in place: "
                    f"{found}. Make new arrays."
                )
            _check_state(case, result.state, first, len(results) + 1)
            state = result.state
            results.append(result)
        val, kept = training.validate(state), _kept(training)
        return _Played(state, tuple(results), val, kept, _name_of(engine))
    finally:
        training.close()
        engine.close()


def _check_state(case: _Case, state: ServerState, first: Flat, round_num: int) -> None:
    """Check a ServerState after a round against that before round 1."""
    if state.round_num != round_num:
        raise case.fail(f"after round {round_num} the ServerState has round_num {state.round_num}.")
    now = _flat(state)
    for name in [*first, *now]:
        if name not in now or name not in first:
            when = "before round 1" if name in now else "after a round"
            raise case.fail(f"the ServerState has no {name} {when}. Its names must stay the same.")
        shapes = np.shape(first[name]), np.shape(now[name])
        if shapes[0] != shapes[1]:
            raise case.fail(f"{name} has shape {shapes[0]} before round 1, but {shapes[1]} after.")
    for name, array in state.weights.items():
        if array.dtype != np.float32:
            raise case.fail(f"weights {name} are {array.dtype} after a round, expected float32.")
        if not np.isfinite(array).all():
            raise case.fail(f"weights {name} are not finite after round {round_num}.")


def _name_of(engine: Engine[Any]) -> str:
    steps = getattr(engine, "what_runs_steps", None)  # of engine jax
    return engine.name if steps is None else f"{engine.name} ({steps})"


def _flat(state: ServerState) -> Flat:
    """Return the weights and slots of a ServerState by words."""
    found: Flat = {f"weights {name}": array for name, array in state.weights.items()}
    for slot, value in state.optimizer.items():
        if isinstance(value, Mapping):
            found |= {f"slot {slot} of {name}": array for name, array in value.items()}
        else:
            found[f"slot {slot}"] = value
    return found


def _kept(training: FederatedTraining) -> Flat:
    return {} if training.per_client is None else _in_words(training.per_client.store)


def _in_words(store: ClientStore) -> Flat:
    return {
        f"what client {client} keeps as {name}": array
        for client, arrays in dump(store)
        for name, array in arrays.items()
    }


# engines


def _in_c() -> type[Engine[Any]]:
    """Engine jax, with its C code wherever the rule allows."""
    from fedgru.engines.jax.engine import JaxEngine

    class InC(JaxEngine):
        def __init__(self, task: Task, client_rule: Any = None) -> None:
            super().__init__(task, client_rule, heeds_speeds=False)

    return InC


def _by_xla() -> type[Engine[Any]]:
    """Engine jax without its C code."""
    from fedgru.engines.jax.engine import JaxEngine

    class ByXla(JaxEngine):
        def __init__(self, task: Task, client_rule: Any = None) -> None:
            super().__init__(_with_loop(task, local_loop="xla"), client_rule)

    return ByXla


def _spoiling(spoil: Spoil) -> type[Engine[Any]]:
    """Engine jax, but BAD_CLIENT's updates of round 2 are spoilt."""
    from fedgru.engines.jax.engine import JaxEngine

    class Spoiling(JaxEngine):
        def local_updates(
            self, weights: Weights, cohort: Any, round_num: int, *others: Any, **named: Any
        ) -> Iterator[ClientUpdate]:
            for update in super().local_updates(weights, cohort, round_num, *others, **named):
                is_bad = round_num == 2 and update.client == BAD_CLIENT
                yield spoil(update) if is_bad else update

    return Spoiling


def _filled(value: float) -> Spoil:
    """Return a function that fills the arrays of a ClientUpdate with a number."""

    def fill(update: ClientUpdate) -> ClientUpdate:
        dense = {name: np.full_like(array, value) for name, array in update.dense.items()}
        return replace(update, dense=dense, row_update=np.full_like(update.row_update, value))

    return fill


def _with_loop(task: Task, **values: Any) -> Task:
    loop = task.settings.loop.model_copy(update=values)
    return replace(task, settings=task.settings.model_copy(update={"loop": loop}))


# checks: each returns what it has found, in words


def _check_rounds(case: _Case) -> str:
    algorithm = case.make()
    if isinstance(algorithm, PerClient):
        model = protection.init_weights(case.task)
        own = algorithm.received(algorithm.init(model).weights)
        if found := first_difference(own, model, exactly=True):
            raise case.fail(f"before round 1 clients do not receive the model's weights: {found}.")
    once, again = (_play(case, _in_c(), [LARGE_COHORT, COHORT, COHORT]) for _ in range(2))
    if found := first_difference(again.arrays, once.arrays, exactly=True):
        raise case.fail(
            f"the same rounds with the same seed end in other numbers: {found}. Draw by the "
            "seed of the settings and the round number."
        )
    return "in three rounds no ServerState is changed in place, and names and shapes stay"


def _check_bad_updates(case: _Case) -> str:
    nan, huge = (
        _play(case, _spoiling(_filled(value)), [LARGE_COHORT, LARGE_COHORT])
        for value in (np.nan, 1e6)
    )
    rejected = [
        [why for why, clients in played.results[1].faults.items() if BAD_CLIENT in clients]
        for played in (nan, huge)
    ]
    if not rejected[0]:
        raise case.fail("an update of NaN is counted in the mean: finish must send it as it is.")
    for name, array in nan.kept.items():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            raise case.fail(f"{name} is not finite: it comes from an update that is not used.")
    if rejected[1]:  # some rules bound each update: then a huge one can be used
        found = first_difference(nan.arrays, huge.arrays, exactly=True)
        if found:
            raise case.fail(
                f"an update that is not used has an effect: {found} with its content. Return what "
                "a client keeps from finish; it is kept if the update is used."
            )
    return f"an update that cannot be used ({rejected[0][0]}) has no effect"


def _check_order(case: _Case) -> str:
    once, turned = (
        _play(case, _in_c(), [order(LARGE_COHORT), order(LARGE_COHORT)])
        for order in (sorted, lambda clients: sorted(clients, reverse=True))
    )
    found = first_difference(turned.arrays, once.arrays)
    found = found or metric_difference(turned.val, once.val)
    if found:
        raise case.fail(f"the order of the cohort matters after 2 rounds: {found}.")
    return "the order of the cohort changes nothing but the rounding"


def _check_resuming(case: _Case) -> str:
    settings = case.task.settings
    # which loop is faster here is measured, so one is chosen
    loop = {"rounds": 3, "clients_per_round": 3, "local_loop": "xla", "engine": "jax"}
    task = replace(case.task, settings=config.change(settings, loop))

    def own() -> Algorithm | None:
        return None if case.is_named else case.make()

    def train(name: str, on_round: OnRound | None = None) -> Path:
        log_dir = case.folder / name
        api.train(
            task,
            algorithm=own(),
            on_round=on_round,
            evaluate=False,
            data_dir=case.folder,
            log_dir=log_dir,
        )
        return log_dir

    def stop(round_num: int, row: Row) -> None:
        if round_num == 3:
            raise KeyboardInterrupt

    whole = api_run.open_run(log_dir=train("whole"), data_dir=case.folder)
    with suppress(Interrupted):
        train("stopped", stop)
    stopped = api_run.open_run(log_dir=case.folder / "stopped", data_dir=case.folder)
    stopped = api.resume(stopped, algorithm=own())
    for name in RESULTS:
        if (stopped.path / name).read_bytes() != (whole.path / name).read_bytes():
            raise case.fail(
                f"a run that is stopped after round 2 and resumed ends in another {name}: what "
                "rounds depend on must be in the ServerState, in what clients keep, or drawn by "
                "the seed."
            )
    if found := first_difference(_kept_in(stopped), _kept_in(whole), exactly=True):
        raise case.fail(f"a run that is stopped and resumed ends in other kept arrays: {found}.")
    return "a run that is stopped and resumed ends in the same bytes"


def _kept_in(run: api_run.Run) -> Flat:
    """What clients keep in a run folder, by words."""
    if not (run.path / personal.STORE).exists():
        return {}
    with closing(personal.open_store(run.folder)) as store:
        return _in_words(store)


def _check_engines(case: _Case) -> list[str]:
    """Compare jax with the reference, and its two ways to run local steps with each other."""
    cohorts = [COHORT, COHORT]
    in_c = _play(case, _in_c(), cohorts)
    others = [] if "XLA" in in_c.engine else [_play(case, _by_xla(), cohorts)]
    if "reference" in case.info.engines:
        from fedgru.engines.reference import ReferenceEngine

        others.insert(0, _play(case, ReferenceEngine, cohorts))
    if not others:
        return [f"{in_c.engine} is the only engine that runs it: compared with none"]
    done = []
    for played, expected in zip([in_c, *others[1:]], [others[0]] * len(others), strict=True):
        _compare(case, played, expected)
        done.append(f"{played.engine} equals {expected.engine}")
    return done


def _compare(case: _Case, played: _Played, expected: _Played) -> None:
    """Compare two rounds of two engines."""
    found = first_difference(played.arrays, expected.arrays)
    for ours, theirs in zip(played.results, expected.results, strict=True):
        found = found or metric_difference(ours.metrics, theirs.metrics)
    found = found or metric_difference(played.val, expected.val)
    if found:
        raise case.fail(f"{played.engine} and {expected.engine} differ after 2 rounds: {found}.")
