"""`fedgru check`: parse, call one function, print."""

import click

from fedgru.cli.options import (
    data_dir_option,
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
def check(run, as_json, data_dir, log_dir):
    """Check that a run is an honest experiment (default: the newest run).

    Whether anything was fitted beyond train, splits overlap or are out of order, a target was
    known before it was predicted, each test check-in is scored once, the best round was chosen on
    validation, and the results are what the run's predictions and weights give. Takes any run,
    baselines too. Exit code 1 if there is a problem.
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

        def on_check(name):
            progress.set_description(name, refresh=False)
            progress.update()

        findings = checks.check_run(folder, data_dir, on_check)
    found = checks.to_dict(folder, findings)
    if as_json:
        print_json(found)
    else:
        click.echo(describe_checks(found))
    if found["counts"][checks.PROBLEM]:
        raise click.exceptions.Exit(1)
