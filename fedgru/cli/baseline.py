"""`fedgru baseline`: parse, call one function, print."""

from pathlib import Path
from typing import Any

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.options import (
    LazyOptions,
    config_option,
    data_dir_option,
    echo,
    log_dir_option,
    note,
    quiet_option,
    shows_progress,
)

EXAMPLE = "Example: fedgru baseline markov"


class BaselineOptions(LazyOptions):
    """All settings except those of agnostic training."""

    @property
    def left_out(self) -> tuple[str, ...]:
        from fedgru.config import AgnosticSettings

        return tuple(AgnosticSettings.model_fields)


@click.command(cls=BaselineOptions, epilog=EXAMPLE)
@click.argument("kind", metavar="KIND")
@config_option
@click.option(
    "--eval/--no-eval", "evaluates", default=True, help="Score the test split at the end."
)
@quiet_option
@data_dir_option
@log_dir_option
def baseline(
    kind: str,
    config_file: Path | None,
    preset: str | None,
    evaluates: bool,
    data_dir: Path,
    log_dir: Path,
    **given: Any,
) -> None:
    """Make and evaluate the run of a baseline.

    It is compared like any other run.

    KIND is one of: commonest, last, frequency, markov, global-markov, popular-nearby (counts of
    train and validation; popular-nearby needs --target venue), running-user-markov,
    running-markov, running-backoff, kernel (counts that continue through the test split),
    running-by-hour (the same at a known moment, as running-backoff and kernel with --asked-at),
    central (the same model, all check-ins in one place), local (one model per client, nothing is
    exchanged).
    """
    from fedgru.api import training as api
    from fedgru.console import describe
    from fedgru.runs.kinds import BASELINES

    if kind not in BASELINES:
        raise click.BadParameter(
            f"{kind!r} is not one of {', '.join(BASELINES)}.", param_hint="KIND"
        )
    overrides = {name: value for name, value in given.items() if value is not None}
    log_to_stderr()
    counting = not BASELINES[kind].trains
    run = api.baseline(
        kind,
        config_file=config_file,
        preset=preset,
        evaluate=evaluates,
        data_dir=data_dir,
        log_dir=log_dir,
        show_progress=shows_progress(),
        on_task=lambda task, facts: note(describe.describe_task(task, facts, counting=counting)),
        **overrides,
    )
    if evaluates:
        echo(describe.describe_report(run.test, run.folder.kind))
    echo(f"Run folder:  {run.path}")
