"""The command line: parse, call one function, print."""

import importlib
import logging
import shlex
import sys
from pathlib import Path

import click

from fedgru import __version__
from fedgru.cli_options import LazyOptions, data_dir_option, log_dir_option
from fedgru.engines import ENGINES
from fedgru.errors import FedgruError


class Program(click.Group):
    """Turns errors into Click's message, and imports a command of another module when asked for."""

    elsewhere = {
        "agnostic": "fedgru.cli_agnostic",
        "baseline": "fedgru.cli_baseline",
        "compare": "fedgru.cli_runs",
        "data": "fedgru.cli_data",
        "report": "fedgru.cli_report",
        "runs": "fedgru.cli_runs",
        "sweep": "fedgru.cli_sweep",
        "tensorboard": "fedgru.cli_report",
    }

    def list_commands(self, ctx):
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx, name):
        if name in self.elsewhere:
            return getattr(importlib.import_module(self.elsewhere[name]), name)
        return super().get_command(ctx, name)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # Click's own business
        except Exception as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(_message(error)) from error


def _message(error):
    """What the person at the terminal reads instead of a traceback."""
    if isinstance(error, FedgruError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}."
    return (
        f"{type(error).__name__}: {error}\nThis is a defect of fedgru. Add --debug right after "
        "fedgru to see where it comes from."
    )


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fedgru train --features big",
)
@click.version_option(__version__, prog_name="fedgru")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug):
    """Train and evaluate federated models of where people go next."""


@main.command(
    cls=LazyOptions, epilog="Example: fedgru train --features big --rounds 3 --name try-out"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file of settings; options given here win over it.",
)
@click.option(
    "--eval/--no-eval", "evaluates", default=True, help="Score the test split at the end."
)
@data_dir_option
@log_dir_option
def train(config_file, preset, evaluates, data_dir, log_dir, **given):
    """Train by federated averaging, and evaluate the best round."""
    from fedgru import config, experiment, reports, scoring

    overrides = {name: value for name, value in given.items() if value is not None}
    settings = config.load(overrides, config_file, preset)
    log_to_stderr()
    task, facts = experiment.open_task(settings, data_dir)
    click.echo(reports.describe_task(task, facts), err=True)
    run, task, result = experiment.train(task, facts, log_dir, show_progress=sys.stderr.isatty())
    if sys.stderr.isatty():  # elsewhere the log says it
        click.echo(reports.describe_end(result, settings), err=True)
    if evaluates:
        report = scoring.evaluate_run(run, task)
        click.echo(reports.describe_report(report))
    click.echo(f"Run folder:  {run.path}")
    elsewhere = "" if log_dir == Path("log") else f" --log-dir {shlex.quote(str(log_dir))}"
    click.echo(f"TensorBoard: fedgru tensorboard{elsewhere}")


@main.command(name="eval", epilog="Example: fedgru eval --json")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
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
    "score it: before and after.",
)
@click.option(
    "--must-beat",
    metavar="BASELINE",
    help="Fail (exit code 1) unless test acc@1 is above this baseline's, such as running_backoff.",
)
@data_dir_option
@log_dir_option
def evaluate(run, as_json, engine, fine_tune, must_beat, data_dir, log_dir):
    """Score a run's best round on the test split (default: the newest run)."""
    import json

    from fedgru import experiment, reports, runs, scoring

    log_to_stderr(logging.WARNING)
    folder = runs.open_run(log_dir, run)
    if must_beat is not None:
        scoring.check_baseline(must_beat, folder.settings())
    task = experiment.reopen_task(folder, data_dir)
    line = f"{folder.path}, {reports.describe_data(task.settings.data.data)}"
    trained_with = task.settings.loop.engine
    if engine not in (None, trained_with):
        line += f", trained with {trained_with}, scored with {engine}"
    click.echo(line, err=True)
    report = scoring.evaluate_run(folder, task, engine, fine_tune, sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(runs.without_nan(report), indent=2))
    else:
        click.echo(reports.describe_report(report))
    if must_beat is not None:
        click.echo(scoring.check_beats(report, must_beat), err=True)


@main.command(epilog="Example: fedgru audit --concept client --concept zone --seeds 3")
@click.argument("run", required=False)
@click.option(
    "--concept",
    "concepts",
    multiple=True,
    help="zone, weekend, client, category-group[:NAME,...], or a column, also one that --keep kept "
    "at import; may be repeated. Default: the run's own (--agnostic-to), client and zone.",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    type=click.Choice(["logistic", "mlp", "knn"]),
    help="Only these probes; may be repeated.",
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 100))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")
@data_dir_option
@log_dir_option
def audit(run, concepts, probes, seeds, as_json, data_dir, log_dir):
    """Let fresh probes read what a run's representation should not tell (default: newest run)."""
    import json

    from fedgru import experiment, reports, runs, scoring
    from fedgru.agnostic.probes import PROBES

    folder = runs.open_run(log_dir, run)
    task = experiment.reopen_task(folder, data_dir)
    own = task.settings.agnostic.agnostic_to
    concepts = concepts or dict.fromkeys([*([own] if own else []), "client", "zone"])
    click.echo(f"{folder.path}, {reports.describe_data(task.settings.data.data)}", err=True)
    report = scoring.audit_run(
        folder, task, list(concepts), probes or PROBES, seeds, sys.stderr.isatty()
    )
    if as_json:
        click.echo(json.dumps(runs.without_nan(report), indent=2))
    else:
        click.echo(reports.describe_audit(report))


def log_to_stderr(level=None):
    """Show warnings, and where no progress bar can be drawn also a line per round."""
    if level is None:
        level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    handler = AboveTheBar()
    handler.setLevel(level)
    handler.addFilter(lambda record: record.levelno < logging.ERROR)  # these come as the message
    logger = logging.getLogger("fedgru")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    click.get_current_context().call_on_close(lambda: logger.removeHandler(handler))


class AboveTheBar(logging.StreamHandler):
    """Writes to stderr lines of their own, above a progress bar if there is one."""

    def emit(self, record):
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)
