"""A sweep: points of settings, each trained with some seeds, in a folder that outlives its process.

log/sweeps/NAME/
sweep.json     what was asked
trials.db      optuna's storage (SQLite): parameters, values and states of all trials
sweep.csv      the same as a table, a row per trial
locks/         held by the processes at work; the system lets go of them when a process dies
compiled/      what JAX compiled, for all trials of the same shapes
hparams/       TensorBoard's HParams tab
<time>-NAME-<trial>-seed<seed>/   a run folder like any other

A trial is one point. It belongs to the process that holds its lock, so one that is unfinished and
not locked was left by a process that died, and is taken over: same number, same parameters.
"""

import json
import shlex
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from fedgru import config
from fedgru.core.errors import ConfigError, Interrupted, RunError, TrainingError
from fedgru.core.jax_setup import compiled_in
from fedgru.engines import registry
from fedgru.runs import folder as run_folder
from fedgru.storage.tables import write_csv, write_json
from fedgru.sweep import hparams, search_space
from fedgru.sweep import results as sweep_results
from fedgru.sweep.plan import Plan
from fedgru.sweep.trials import describe_scored, do_trial
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow

POLL_S = 0.5


class Sweep:
    """A sweep's folder, see the top of this module."""

    def __init__(self, path, plan, scored):
        self.path = Path(path)
        self.plan = plan
        self.scored = scored  # what `describe_scored` says of the first point

    @classmethod
    def create(cls, log_dir, data_dir, plan):
        """Make the sweep's folder, or open it if the same was asked for before.

        Raises:
            ConfigError, DataError: if a value does not fit the data.
            RunError: if there is a sweep of that name that was asked for otherwise.
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
                "--log-dir."
            ) from None
        sweep = cls(path, plan, scored)
        with sweep.lock("sweep"):
            if (path / "sweep.json").exists():
                found = _read(path)
                sweep._check_same(found)
                sweep.plan = replace(plan, num_trials=max(plan.num_trials, found["trials"]))
            write_json(path / "sweep.json", sweep.plan.to_json() | {"scored": scored})
        return sweep

    def _check_same(self, found):
        asked = self.plan.to_json() | {"scored": self.scored}
        words = {"axes": "what it tries", "scored": "the data", "prune": "--prune"}
        words |= {"seeds": "--seeds", "search": "how it searches (a grid, or --trials)"}
        other = [text for key, text in words.items() if asked[key] != found[key]]
        for section, values in asked["settings"].items():
            there = found["settings"].get(section, {})
            other += [
                config.option(name)
                for name in dict.fromkeys([*values, *there])
                if values.get(name) != there.get(name) and name not in self.plan.axes
            ]
        if other:
            raise RunError(
                f"{self.path} is a sweep that differs from this one in {', '.join(other)}. Give "
                f"this one another --name, or go on with that one: {self.resume_command()}"
            )

    @classmethod
    def reopen(cls, log_dir, name, num_trials=None):
        """Open an existing sweep.

        Args:
            log_dir: folder of all runs.
            name: of the sweep.
            num_trials: int, to go on to more trials than it was begun with.

        Raises:
            RunError: if there is no such sweep; names those there are.
            ConfigError: if a grid is to have another number of trials, or a sweep fewer.
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
        if num_trials is not None and num_trials != plan.num_trials:
            if not plan.draws:
                raise ConfigError(
                    f"--trials is {num_trials}, but {path} is a grid of {plan.num_trials} points."
                )
            if num_trials < plan.num_trials:
                raise ConfigError(
                    f"--trials is {num_trials}, but {path} was asked for {plan.num_trials}: give "
                    "more, or leave it out."
                )
            sweep.plan = replace(plan, num_trials=num_trials)
            with sweep.lock("sweep"):
                write_json(path / "sweep.json", found | {"trials": num_trials})
        return sweep

    def lock(self, name, wait=True):
        """Return a lock of the folder, a context manager; None if another holds it and not `wait`.

        It is the system's own, so that a killed process holds nothing: no heartbeat that comes
        late, no process number that another process has by now.
        """
        file = self.path / "locks" / name
        lock = FileLock(file, blocking=wait, thread_local=False, fallback_to_soft=False)
        try:
            return lock.acquire()
        except Timeout:
            return None

    @cached_property
    def storage(self):
        """optuna's storage, in trials.db."""
        optuna = search_space.import_optuna()
        with self.lock("database"):  # two processes would both make the tables
            return optuna.storages.RDBStorage(
                f"sqlite:///{self.path / 'trials.db'}",
                engine_kwargs={"connect_args": {"timeout": 60}},
            )

    @cached_property
    def study(self):
        """The optuna Study in the storage."""
        optuna, storage = search_space.import_optuna(), self.storage
        with self.lock("database"):
            return optuna.create_study(
                storage=storage,
                study_name=self.plan.name,
                direction=self.plan.direction,
                load_if_exists=True,
            )

    def records(self):
        """Return a dict per trial, by number, see `results.to_record`."""
        return [sweep_results.to_record(trial) for trial in self.study.get_trials(deepcopy=False)]

    def work(self, data_dir, on_trial, on_wait=None, threads=None, show_progress=False):
        """Do trials until none is left, here or in another process.

        Args:
            data_dir: folder of data sets.
            on_trial: called with the record of each trial done here.
            on_wait: called once with the number of trials that other processes still do; None
                leaves instead of waiting for them.
            threads: clients trained at the same time where the settings do not say; int or None.
            show_progress: whether to draw bars on stderr.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM; says how to go on.
            RunError: if a folder cannot be written.
        """
        keeps = registry.engine_of(self.plan.base).trains_here
        try:
            with compiled_in(self.path / "compiled") if keeps else nullcontext():
                self._work(on_trial, on_wait, data_dir, threads, show_progress)
        except (KeyboardInterrupt, Interrupted) as error:
            finished = sum(record["status"] != "running" for record in self.records())
            raise Interrupted(
                f". {finished} of {self.plan.num_trials} trials are finished; go on with: "
                f"{self.resume_command()}",
                error.__cause__ if isinstance(error, Interrupted) else error,
            ) from error

    def resume_command(self):
        """Return the command that goes on with the sweep."""
        log_dir = self.path.parent.parent
        words = ["fedgru", "sweep", "--resume", self.plan.name]
        return shlex.join(words if str(log_dir) == "log" else [*words, "--log-dir", str(log_dir)])

    def _work(self, on_trial, on_wait, *how):
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
                return
            if not waiting:
                on_wait(unfinished)
                waiting = True
            time.sleep(POLL_S)

    def _claim(self):
        """Return (its lock, number, whether a dead process began it) of a trial to do, or None."""
        from optuna.trial import TrialState, create_trial

        study, plan = self.study, self.plan
        with self.lock("sweep"):
            trials = study.get_trials()
            for number in (t.number for t in trials if not t.state.is_finished()):
                lock = self.lock(f"trial-{number}", wait=False)
                if lock is None:
                    continue
                # who held the lock may have finished the trial since: look again
                if not study.get_trials(deepcopy=False)[number].state.is_finished():
                    return lock, number, True
                lock.lock.release()
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

    def _trial_id(self, number):
        study_id = self.storage.get_study_id_from_name(self.plan.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def report(self, number, round_num, value):
        """Write down what a trial has reached in a round, for others to be compared with."""
        self.storage.set_trial_intermediate_value(self._trial_id(number), round_num, value)

    def finish(self, number, state, value, attributes):
        """Write down how a trial ended; last its state, so that it is finished when all is there.

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

    def _write_table(self):
        with self.lock("sweep"):
            write_csv(self.path / "sweep.csv", sweep_results.table(self.plan, self.records()))

    def best(self):
        """Return the record of the best trial that was done in full.

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

    def score(self, record, data_dir):
        """Score a trial's runs on the test split, which no choice has looked at.

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


def _read(path):
    try:
        return json.loads((path / "sweep.json").read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path / 'sweep.json'} is damaged, it is not JSON: {error}.") from None
