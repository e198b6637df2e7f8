"""`fedgru doctor`: parse, call one function, print."""

from pathlib import Path

import click

from fedgru.cli.option_names import with_options
from fedgru.cli.options import data_dir_option, echo, json_option, log_dir_option, print_json


@click.command(epilog="Example: fedgru doctor")
@json_option
@data_dir_option
@log_dir_option
def doctor(as_json: bool, data_dir: Path, log_dir: Path) -> None:
    """Show what fedgru finds on this machine.

    System, packages, compiler and its measured speed, devices, folders: paste it into a report of a
    fault. Paths can hold your name.
    """
    from fedgru.console.tables import align
    from fedgru.workflows.doctor import examine

    findings = examine(data_dir, log_dir)
    if as_json:
        print_json({finding.name: finding.to_dict() for finding in findings})
        return
    echo(with_options(align([[finding.name, finding.found] for finding in findings])))
    for finding in findings:
        if finding.advice:
            echo(with_options(f"{finding.name}: {finding.advice}"))
