"""`fedgru report`, `card` and `tensorboard`: runs to look at. Imports only click first."""

import time
from pathlib import Path

import click

from fedgru.cli.options import (
    RunName,
    data_dir_option,
    echo,
    log_dir_option,
    names_option,
    run_argument,
)

EXPECTED_PORT = 6006  # TensorBoard's own


@click.command(epilog="Example: fedgru report")
@click.argument("names", metavar="[RUN]...", nargs=-1, type=RunName())
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="The file to write.  [default: report.html in the run's folder; with several runs, in the "
    "current one]",
)
@names_option
@data_dir_option
@log_dir_option
def report(
    names: tuple[str, ...], output: Path | None, with_names: bool, data_dir: Path, log_dir: Path
) -> None:
    """Write a report of evaluated runs, one HTML file.

    Without RUN it is the newest run.

    It shows up to six runs side by side, if they were scored on the same targets.
    """
    from fedgru.report.build import write_report
    from fedgru.runs import listing

    started = time.perf_counter()
    folders = [listing.open_run(log_dir, name) for name in names or (None,)]
    if output is None:
        output = folders[0].path / "report.html" if len(folders) == 1 else Path("report.html")
    size_bytes = write_report(folders, data_dir, output, with_names)
    echo(
        f"Report: {output} ({size_bytes / 1e6:.1f} MB, made in {time.perf_counter() - started:.1f}"
        " s)"
    )


@click.command(epilog="Example: fedgru card")
@run_argument
@data_dir_option
@log_dir_option
def card(run: str | None, data_dir: Path, log_dir: Path) -> None:
    """Print a run's model card, in Markdown.

    Without RUN it is the newest run. It says what the run is, on which data, how it compares with
    counting, what it reveals, and for what it must not be used. No ids of users are in it.
    """
    from fedgru.report.card import make_card
    from fedgru.runs import listing

    echo(make_card(listing.open_run(log_dir, run), data_dir), nl=False)


@click.command(epilog="Example: fedgru tensorboard --port 0")
@run_argument
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=EXPECTED_PORT,
    show_default=True,
    help="Where it listens, on this machine alone; 0 takes any free one.",
)
@log_dir_option
def tensorboard(run: str | None, port: int, log_dir: Path) -> None:
    """Show a run in TensorBoard until Ctrl-C (default: all runs)."""
    from fedgru.runs import listing, tensorboard_server

    folder = listing.open_run(log_dir, run).path if run else log_dir
    if not run:
        listing.open_run(log_dir)  # there must be one
    echo(f"TensorBoard of {folder}: {tensorboard_server.start(folder, port)} (Ctrl-C ends it)")
    tensorboard_server.wait_for_ctrl_c()
