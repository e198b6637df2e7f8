"""A sweep: points of settings, each trained with some seeds, in a folder that outlives its process.

log/sweeps/NAME/
sweep.json     the plan
trials.db      optuna's storage (SQLite): parameters, values and states of all trials
sweep.csv      the same as a table, a row per trial
locks/         held by the working processes; the system releases them when a process dies
compiled/      what JAX compiled, for all trials of the same shapes
hparams/       TensorBoard's HParams tab
<time>-NAME-<trial>-seed<seed>/   a run folder like any other

A trial is one point. The process that holds its lock works on it. An unfinished trial without a
lock was left by a process that died; another process takes it over, with the same number and
parameters.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from fedgru.core.errors import ConfigError, Interrupted, RunError, TrainingError
from fedgru.core.jax_setup import compiled_in
from fedgru.engines import registry
from fedgru.runs import folder as run_folder
from fedgru.storage.folders import mend
from fedgru.storage.tables import write_csv, write_json
from fedgru.sweep import hparams, search_space
from fedgru.sweep import results as sweep_results
from fedgru.sweep.plan import Plan
from fedgru.sweep.trials import describe_scored, do_trial
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import TrialState

POLL_S = 0.5


class Sweep:
    """A sweep's folder, see the top of this module."""

    def __init__(self, path: Path, plan: Plan, scored: dict[str, Any]) -> None:
        self.path = Path(path)
        self.plan = plan
        self.scored = scored  # `describe_scored` of the first point

    @classmethod
    def create(cls, log_dir: str | Path, data_dir: str | Path, plan: Plan) -> Self:
        """Make the sweep's folder, or open that of an earlier sweep with the same plan.

        Raises:
            ConfigError, DataError: if a value does not fit the data.
            RunError: if there is a sweep of that name with another plan.
        """
        for point in search_space.edges(plan.axes):
            task, facts = open_workflow.open_task(plan.settings(point), data_dir)
            scored = describe_scored(task, facts)
        path = Path(log_dir) / "sweeps" / plan.name
        try:
            (path / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write to {error.filename}: {error.strerror}. Choose another folder with "
                "`log_dir`."
            ) from None
        sweep = cls(path, plan, scored)
        with sweep.lock("sweep"):
            mend(path)
            if (path / "sweep.json").exists():
                found = _read(path)
                sweep._check_same(found)
                sweep.plan = replace(plan, num_trials=max(plan.num_trials, found["trials"]))
            write_json(path / "sweep.json", sweep.plan.to_json() | {"scored": scored})
        return sweep

    def _check_same(self, found: dict[str, Any]) -> None:
        asked = self.plan.to_json() | {"scored": self.scored}
        words = {"axes": "what it tries", "scored": "the data", "prune": "`prune`"}
        words |= {"seeds": "`seeds`", "search": "how it searches (a grid, or `trials`)"}
        other = [text for key, text in words.items() if asked[key] != found[key]]
        for section, values in asked["settings"].items():
            there = found["settings"].get(section, {})
            other += [
                f"`{name}`"
                for name in dict.fromkeys([*values, *there])
                if values.get(name) != there.get(name) and name not in self.plan.axes
            ]
        if other:
            raise RunError(
                f"{self.path} is a sweep that differs from this one in {', '.join(other)}. Give "
                f"this one another `name`, or resume that one: {self.resume_command()}"
            )

    @classmethod
    def reopen(cls, log_dir: str | Path, name: str, num_trials: int | None = None) -> Self:
        """Open an existing sweep.

        Args:
            log_dir: folder of all runs.
            name: of the sweep.
            num_trials: int, more trials than before; None keeps their number.

        Raises:
            RunError: if there is no such sweep; names the existing ones.
            ConfigError: for another number of trials of a grid, or fewer than before.
        """
        path = Path(log_dir) / "sweeps" / name
        if not (path / "sweep.json").is_file():
            known = sorted(file.parent.name for file in path.parent.glob("*/sweep.json"))
            raise RunError(
                f"no sweep {name} in {path.parent}. "
                + (f"There are: {', '.join(known)}." if known else "There is none yet.")
            )
        found = _read(path)
        plan = Plan.from_json(found)
        sweep = cls(path, plan, found["scored"])
        with sweep.lock("sweep"):
            mend(path)
        if num_trials is not None and num_trials != plan.num_trials:
            if not plan.draws:
                raise ConfigError(
                    f"`trials` is {num_trials}, but {path} is a grid of {plan.num_trials} points."
                )
            if num_trials < plan.num_trials:
                raise ConfigError(
                    f"`trials` is {num_trials}, but {path} has {plan.num_trials} already: give "
                    "more, or leave it out."
                )
            sweep.plan = replace(plan, num_trials=num_trials)
            with sweep.lock("sweep"):
                write_json(path / "sweep.json", found | {"trials": num_trials})
        return sweep

    def lock(self, name: str) -> AcquireReturnProxy[BaseFileLock]:
        """Wait for a lock of the folder and return it, a context manager.

        It is a lock of the operating system, so that a killed process holds nothing.
        """
        return self._file_lock(name).acquire()

    def try_lock(self, name: str) -> AcquireReturnProxy[BaseFileLock] | None:
        """Return a lock as `lock` does, or None if another process holds it."""
        try:
            return self._file_lock(name).acquire(blocking=False)
        except Timeout:
            return None

    def _file_lock(self, name: str) -> BaseFileLock:
        return FileLock(self.path / "locks" / name, thread_local=False, fallback_to_soft=False)

    @cached_property
    def storage(self) -> RDBStorage:
        """optuna's storage, in trials.db."""
        optuna = search_space.import_optuna()
        with self.lock("database"):  # only one process may make the tables
            return optuna.storages.RDBStorage(
                f"sqlite:///{self.path / 'trials.db'}",
                engine_kwargs={"connect_args": {"timeout": 60}},
            )

    @cached_property
    def study(self) -> Study:
        """The optuna Study in the storage."""
        optuna, storage = search_space.import_optuna(), self.storage
        with self.lock("database"):
            return optuna.create_study(
                storage=storage,
                study_name=self.plan.name,
                direction=self.plan.direction,
                load_if_exists=True,
            )

    def records(self) -> list[dict[str, Any]]:
        """Return a dict per trial, by number, see `results.to_record`."""
        return [sweep_results.to_record(trial) for trial in self.study.get_trials(deepcopy=False)]

    def work(
        self,
        data_dir: str | Path,
        on_trial: Callable[[dict[str, Any]], None],
        on_wait: Callable[[int], None] | None = None,
        threads: int | None = None,
        show_progress: bool = False,
    ) -> None:
        """Do trials until none is left, here or in another process.

        Args:
            data_dir: folder of data sets.
            on_trial: called with the record of each trial done here.
            on_wait: called once with the number of trials in other processes, before waiting for
                them; None returns without waiting.
            threads: clients trained at the same time, if the settings do not set it; int or None.
            show_progress: whether to draw bars on stderr.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM; names the command to resume.
            RunError: if a folder cannot be written.
        """
        keeps = registry.engine_of(self.plan.base).trains_here
        try:
            with compiled_in(self.path / "compiled") if keeps else nullcontext():
                self._work(on_trial, on_wait, data_dir, threads, show_progress)
        except (KeyboardInterrupt, Interrupted) as error:
            finished = sum(record["status"] != "running" for record in self.records())
            raise Interrupted(
                f". {finished} of {self.plan.num_trials} trials are finished; resume with: "
                f"{self.resume_command()}",
                (error.__cause__ or error) if isinstance(error, Interrupted) else error,
            ) from error

    def resume_command(self) -> str:
        """Return the command that resumes the sweep."""
        log_dir = self.path.parent.parent
        words = ["fedgru", "sweep", "--resume", self.plan.name]
        return shlex.join(words if str(log_dir) == "log" else [*words, "--log-dir", str(log_dir)])

    def _work(
        self,
        on_trial: Callable[[dict[str, Any]], None],
        on_wait: Callable[[int], None] | None,
        *how: Any,
    ) -> None:
        waiting = False
        while True:
            claimed = self._claim()
            if claimed is not None:
                lock, number, taken_over = claimed
                with lock:
                    do_trial(self, number, taken_over, *how)
                self._write_table()
                on_trial(self.records()[number])
                continue
            unfinished = sum(record["status"] == "running" for record in self.records())
            if not unfinished or on_wait is None:
                self._write_table()  # a process that died can have finished a trial without it
                return
            if not waiting:
                on_wait(unfinished)
                waiting = True
            time.sleep(POLL_S)

    def _claim(self) -> tuple[AcquireReturnProxy, int, bool] | None:
        """Return (lock, number, whether a dead process began it) of a trial to do, or None."""
        from optuna.trial import TrialState, create_trial

        study, plan = self.study, self.plan
        with self.lock("sweep"):
            trials = study.get_trials()
            for number in (t.number for t in trials if not t.state.is_finished()):
                left = self.try_lock(f"trial-{number}")
                if left is None:
                    continue
                # look again: the last holder of the lock can have finished the trial
                if not study.get_trials(deepcopy=False)[number].state.is_finished():
                    return left, number, True
                left.lock.release()
            number = len(trials)
            if number >= plan.num_trials:
                return None
            if plan.draws:
                seed = plan.base.loop.seed
                point = search_space.draw(plan.axes, seed, number, trials, plan.direction)
            else:
                point = search_space.grid(plan.axes)[number]
            lock = self.lock(f"trial-{number}")
            study.add_trial(  # together with its parameters, or not at all
                create_trial(
                    state=TrialState.RUNNING,
                    params=point,
                    distributions=search_space.distributions(plan.axes),
                )
            )
            return lock, number, False

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.plan.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def report(self, number: int, round_num: int, value: float) -> None:
        """Record the metric of a trial in a round; the pruner compares later trials with it."""
        self.storage.set_trial_intermediate_value(self._trial_id(number), round_num, value)

    def finish(
        self, number: int, state: TrialState, value: float | None, attributes: dict[str, Any]
    ) -> None:
        """Record how a trial ended; its state last, so that a finished trial is complete.

        Args:
            number: int, of the trial.
            state: optuna TrialState.
            value: float, None if it failed.
            attributes: dict: `runs`, list of dict; `why`, text; perhaps `same_as`, the number of
                the trial whose point it shares.
        """
        if "same_as" not in attributes:
            hparams.write_trial(
                self.path / "hparams" / f"trial-{number + 1}",
                f"{self.plan.name}, trial {number + 1}",
                self.study.get_trials(deepcopy=False)[number].params,
                self.plan.metric,
                {run["seed"]: run["value"] for run in attributes["runs"]},
            )
        trial_id = self._trial_id(number)
        for name, content in attributes.items():
            self.storage.set_trial_user_attr(trial_id, name, content)
        self.storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def _write_table(self) -> None:
        with self.lock("sweep"):
            write_csv(self.path / "sweep.csv", sweep_results.table(self.plan, self.records()))

    def best(self) -> dict[str, Any]:
        """Return the record of the best trial that was neither pruned nor failed.

        Raises:
            TrainingError: if there is none.
        """
        records = self.records()
        done = [record for record in records if record["status"] == "done"]
        if not done:
            raise TrainingError(
                f"all {len(records)} trials of {self.path} failed. The first: {records[0]['why']}"
            )
        return sweep_results.ranked(self.plan, done)[0]

    def score(self, record: dict[str, Any], data_dir: str | Path) -> list[dict[str, Any]]:
        """Score a trial's runs on the test split, which influenced no choice.

        Returns:
            list of dict, see `score.evaluate_run`, one per seed.
        """
        reports = []
        with self.lock("test"):
            for name in (run["run"] for run in record["runs"]):
                run = run_folder.RunFolder(self.path / name)
                report = run.test()
                if not report:
                    task = reopen_workflow.reopen_task(run, data_dir)
                    report = score_workflow.evaluate_run(run, task)
                reports.append(report)
        return reports


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "sweep.json").read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path / 'sweep.json'} is damaged, it is not JSON: {error}.") from None
