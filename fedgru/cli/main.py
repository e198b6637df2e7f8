"""The command line: parse, call one function, print."""

from __future__ import annotations

import importlib
import logging
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.option_names import with_options
from fedgru.cli.options import (
    LazyOptions,
    config_option,
    data_dir_option,
    drop_output,
    echo,
    json_option,
    log_dir_option,
    mlflow_option,
    note,
    print_json,
    quiet_option,
    run_argument,
    shows_progress,
)
from fedgru.core import plugins
from fedgru.core.errors import FedgruError, Interrupted, Terminated
from fedgru.core.version import __version__
from fedgru.core.visible import VisibleFormatter, visible
from fedgru.engines.registry import ENGINES

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder
    from fedgru.runs.mlflow import MlflowTracker

_WORDS = "fedgru.words"  # in a context's meta: the command line


class Program(click.Group):
    """Turns errors into Click's message, and imports a command of another module when asked for."""

    elsewhere = {
        "agnostic": "fedgru.cli.agnostic",
        "algorithms": "fedgru.cli.algorithms",
        "baseline": "fedgru.cli.baseline",
        "check": "fedgru.cli.check",
        "compare": "fedgru.cli.runs",
        "config": "fedgru.cli.config",
        "data": "fedgru.cli.data",
        "deploy": "fedgru.cli.deploy",
        "card": "fedgru.cli.report",
        "doctor": "fedgru.cli.doctor",
        "export": "fedgru.cli.predict",
        "predict": "fedgru.cli.predict",
        "report": "fedgru.cli.report",
        "runs": "fedgru.cli.runs",
        "sweep": "fedgru.cli.sweep",
        "tensorboard": "fedgru.cli.report",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.elsewhere:
            return getattr(importlib.import_module(self.elsewhere[name]), name)
        return super().get_command(ctx, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        if logging.lastResort is not None:  # warnings of commands without a log of their own
            logging.lastResort.setFormatter(VisibleFormatter("%(message)s"))
        try:
            return super().main(*args, **options)
        except OSError as error:  # help or a message cannot be written; the rest: see `invoke`
            drop_output(sys.stdout)
            with suppress(OSError):
                click.echo(f"Error: cannot write the output: {error.strerror}.", err=True)
            drop_output(sys.stderr)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _sigterm_like_ctrl_c():
                return super().invoke(ctx)
        except click.ClickException as error:
            error.message = visible(error.message)  # type: ignore[misc]  # declared final
            raise
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # Click handles these
        except KeyboardInterrupt as error:
            raise _Stopped(Interrupted(".", error)) from error
        except Interrupted as error:
            raise _Stopped(error) from error
        except Exception as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(visible(self._message(ctx, error))) from error

    def _message(self, ctx: click.Context, error: Exception) -> str:
        """The message that the user sees instead of a traceback."""
        if isinstance(error, FedgruError):
            return with_options(str(error), ctx.meta[_WORDS])
        if isinstance(error, OSError) and error.filename:
            return f"cannot use {error.filename}: {error.strerror}."
        if isinstance(error, MemoryError):
            what = f" ({error})" if str(error) else ""
            return f"there is not enough memory for these settings and data{what}."
        if plugins.passed_own_code(error):
            return (
                f"{plugins.where_raised(error)}. That is code of your own. Add --debug right after "
                "fedgru to see how it was called."
            )
        return (
            f"{type(error).__name__}: {error}\nThis is a defect of fedgru. Add --debug right after "
            "fedgru to see where it comes from."
        )


class _Stopped(click.ClickException):
    """The message of an Interrupted, with the exit code that shells expect."""

    def __init__(self, error: Interrupted) -> None:
        super().__init__(visible(str(error)))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click reads it from the instance


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise Terminated, unless the parent process set another handler."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(*_: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit code: 0 done, 1 the command failed, 2 the command line is wrong, 130 stopped by "
    "Ctrl-C, 143 by SIGTERM.\n\nExample: fedgru train --features big",
)
@click.version_option(__version__, prog_name="fedgru")
@quiet_option
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train and evaluate federated models of where people go next."""


@main.command(
    cls=LazyOptions, epilog="Example: fedgru train --features big --rounds 3 --name try-out"
)
@config_option
@click.option(
    "--eval/--no-eval", "evaluates", default=True, help="Score the test split at the end."
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Resume a run that was stopped or killed; it keeps its settings.",
)
@mlflow_option
@json_option
@quiet_option
@data_dir_option
@log_dir_option
def train(
    config_file: Path | None,
    preset: str | None,
    evaluates: bool,
    resume: str | None,
    mlflow: str | None,
    as_json: bool,
    data_dir: Path,
    log_dir: Path,
    **given: Any,
) -> None:
    """Train by federated averaging, and evaluate the best round."""

    from fedgru import config
    from fedgru.api import run as api_run
    from fedgru.api import training as api
    from fedgru.console import describe

    overrides = {name: value for name, value in given.items() if value is not None}
    log_to_stderr()
    if resume is None:
        settings = config.load(overrides, config_file, preset)
        tracker = _open_tracker(mlflow, log_dir)
        run = api.train(
            settings,
            evaluate=evaluates,
            data_dir=data_dir,
            log_dir=log_dir,
            show_progress=shows_progress(),
            on_task=lambda task, facts: note(describe.describe_task(task, facts)),
        )
    else:
        tracker = _open_tracker(mlflow, log_dir)
        _refuse_beside_resume(resume, {"config": config_file, "preset": preset, **overrides})
        run = api_run.open_run(resume, log_dir=log_dir, data_dir=data_dir)
        evaluates = run.facts.get("evaluates", True)
        if run.status == "done" and (run.is_evaluated or not evaluates):
            echo(f"{describe.describe_done(run.facts, run.path)} Nothing to do.")
            return
        run = api.resume(run, show_progress=shows_progress())
    if run.result is not None and sys.stderr.isatty():  # without a terminal the log has this line
        note(describe.describe_end(run.result, run.settings))
    _track(tracker, run.folder)
    if as_json:
        ended = {name: run.facts[name] for name in ("why", "rounds", "best_round", "best_value")}
        found = {"run": str(run.path), **ended, "kept": run.facts.get("kept")}
        found["test"] = run.test if evaluates else None
        print_json(found)
        return
    if evaluates:
        echo(describe.describe_report(run.test, run.folder.kind))
    echo(f"Run folder:  {run.path}")
    elsewhere = "" if log_dir == Path("log") else f" --log-dir {shlex.quote(str(log_dir))}"
    echo(f"TensorBoard: fedgru tensorboard{elsewhere}")
    if "kept" in run.facts:
        echo(describe.describe_kept(run.facts["kept"]))


def _refuse_beside_resume(run: str, given: dict[str, Any]) -> None:
    """Refuse options that have no effect with --resume: all but the folders come from the run."""
    source = click.get_current_context().get_parameter_source("evaluates")
    names = [name for name, value in given.items() if value is not None]
    names += ["eval/--no-eval"] if source is not click.core.ParameterSource.DEFAULT else []
    if names:
        option = "--" + names[0].replace("_", "-")
        raise click.UsageError(
            f"{option} has no effect with --resume: {run} keeps the settings it was begun with, so "
            "that its result equals that of an unstopped run. For other settings train a new run."
        )


@main.command(name="eval", epilog="Example: fedgru eval --json")
@run_argument
@json_option
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    help="What runs the model; all give the same numbers.  [default: the one that trained it]",
)
@click.option(
    "--fine-tune",
    metavar="EPOCHS",
    type=click.IntRange(1),
    help="Also train each client's copy on its own train split for this many local epochs, and "
    "score the copies too.",
)
@click.option(
    "--must-beat",
    metavar="BASELINE",
    help="Fail (exit code 1) unless test acc@1 is above this baseline's, such as running_backoff; "
    "best takes the one with the highest acc@1 on validation.",
)
@mlflow_option
@quiet_option
@data_dir_option
@log_dir_option
def evaluate(
    run: str | None,
    as_json: bool,
    engine: str | None,
    fine_tune: int | None,
    must_beat: str | None,
    mlflow: str | None,
    data_dir: Path,
    log_dir: Path,
) -> None:
    """Score a run's best round on the test split.

    Without RUN it is the newest run.
    """

    from fedgru.api.run import open_run
    from fedgru.console import describe
    from fedgru.workflows import score as score_workflow

    log_to_stderr(logging.WARNING)
    found = open_run(run, log_dir=log_dir, data_dir=data_dir)
    if must_beat is not None:
        score_workflow.check_baseline(must_beat, found.settings)
    tracker = _open_tracker(mlflow, log_dir)
    settings = found.task.settings
    line = describe.describe_origin(found.path, settings)
    trained_with = settings.loop.engine
    if engine not in (None, trained_with):
        line += f", trained with {trained_with}, scored with {engine}"
    note(line)
    report = found.evaluate(engine=engine, fine_tune=fine_tune, show_progress=shows_progress())
    _track(tracker, found.folder)
    if as_json:
        print_json(report)
    else:
        echo(describe.describe_report(report, found.folder.kind))
    if must_beat is not None:
        note(score_workflow.check_beats(report, must_beat))


@main.command(epilog="Example: fedgru audit --concept client --concept zone --seeds 3")
@run_argument
@click.option(
    "--concept",
    "concepts",
    multiple=True,
    help="Concept: zone, weekend, client, category-group[:NAME,...], or a column, also one that "
    "--keep kept at import; can be repeated. Default: the run's own (--agnostic-to), client and "
    "zone.",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    type=click.Choice(["logistic", "mlp", "knn"]),
    help="Only these probes; can be repeated.",
)
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Number of seeds of the probes.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    type=click.Choice(["reconstruction", "membership"]),
    help="Attack the training instead: which values updates reveal, or who took part (trains again "
    "with canaries); can be repeated.",
)
@click.option(
    "--attack-rounds",
    type=click.IntRange(1),
    help="With --attack membership: rounds to train; as many as the run had if not given.",
)
@json_option
@quiet_option
@data_dir_option
@log_dir_option
def audit(
    run: str | None,
    concepts: tuple[str, ...],
    probes: tuple[str, ...],
    seeds: int,
    attacks: tuple[str, ...],
    attack_rounds: int | None,
    as_json: bool,
    data_dir: Path,
    log_dir: Path,
) -> None:
    """Measure what a run's representation reveals.

    Fresh probes try to recover concepts from it. Without RUN it is the newest run.
    """

    from fedgru.api.run import open_run
    from fedgru.console import describe

    if attack_rounds is not None and "membership" not in attacks:
        raise click.UsageError("--attack-rounds has no effect without --attack membership.")
    if attacks and (concepts or probes or seeds != 1):
        raise click.UsageError("--concept, --probe and --seeds have no effect with --attack.")
    found = open_run(run, log_dir=log_dir, data_dir=data_dir)
    if attacks:
        note(describe.describe_origin(found.path, found.settings))
        attacked = found.attack(attacks, rounds=attack_rounds, show_progress=shows_progress())
        if as_json:
            print_json(attacked)
        else:
            echo(describe.describe_attacks(attacked))
        return
    own = found.task.settings.agnostic.agnostic_to
    default = dict.fromkeys([*([own] if own else []), "client", "zone"])
    note(describe.describe_origin(found.path, found.settings))
    report = found.audit(
        list(concepts or default),
        probes=probes or None,
        seeds=seeds,
        show_progress=shows_progress(),
    )
    if as_json:
        print_json(report)
    else:
        echo(describe.describe_audit(report))


def _open_tracker(uri: str | None, log_dir: Path) -> MlflowTracker | None:
    """The tracker of --mlflow, or None; opened before the work, so that it fails early."""
    if uri is None:
        return None
    from fedgru.runs.mlflow import MlflowTracker

    return MlflowTracker(uri, log_dir)


def _track(tracker: MlflowTracker | None, run: RunFolder) -> None:
    if tracker is not None:
        note(f"MLflow run {tracker.log_run(run)} at {tracker.uri}")
