"""`fedgru check`: parse, call one function, print."""

from pathlib import Path

import click

from fedgru.cli.option_names import with_options
from fedgru.cli.options import (
    data_dir_option,
    echo,
    json_option,
    log_dir_option,
    note,
    print_json,
    quiet_option,
    run_argument,
    shows_progress,
)


@click.command(epilog="Example: fedgru check --json")
@run_argument
@json_option
@quiet_option
@data_dir_option
@log_dir_option
def check(run: str | None, as_json: bool, data_dir: Path, log_dir: Path) -> None:
    """Check that a run is an honest experiment.

    Without RUN it is the newest run.

    It checks that nothing was fitted on val or test, that splits do not overlap and are in order,
    that no target was known before it was predicted, that each test check-in is scored once, that
    the best round was chosen on validation, and that the run's predictions and weights give its
    results. It takes any run, baselines too. Exit code 1 if there is a problem.
    """
    from tqdm import tqdm

    from fedgru.checks import checks
    from fedgru.console.checks import describe_checks
    from fedgru.runs.listing import open_run

    folder = open_run(log_dir, run)
    note(str(folder.path))
    with tqdm(
        total=len(checks.CHECKS), unit="check", disable=not shows_progress(), leave=False
    ) as progress:

        def on_check(name: str) -> None:
            progress.set_description(name, refresh=False)
            progress.update()

        findings = checks.check_run(folder, data_dir, on_check)
    found = checks.to_dict(folder, findings)
    if as_json:
        print_json(found)
    else:
        echo(with_options(describe_checks(found)))
    if found["counts"][checks.PROBLEM]:
        raise click.exceptions.Exit(1)
