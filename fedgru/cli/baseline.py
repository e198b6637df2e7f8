"""`fedgru baseline`: parse, call one function, print."""

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.options import (
    LazyOptions,
    config_option,
    data_dir_option,
    log_dir_option,
    note,
    quiet_option,
    shows_progress,
)

EXAMPLE = "Example: fedgru baseline markov"


class BaselineOptions(LazyOptions):
    """All settings but those that say what ordinary training must not know."""

    @property
    def left_out(self):
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
def baseline(kind, config_file, preset, evaluates, data_dir, log_dir, **given):
    """Make the run of a baseline, to be evaluated and compared as any other.

    KIND is one of: commonest, last, frequency, markov, global-markov (counts of train and
    validation), running-markov, running-backoff, kernel (counts that go on through the test
    split), central (the same model, all check-ins in one place), local (a model per client,
    nothing exchanged).
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
        click.echo(describe.describe_report(run.test, run.folder.kind))
    click.echo(f"Run folder:  {run.path}")
