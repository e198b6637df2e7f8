"""`fedgru compare` and `fedgru runs`: parse, call one function, print."""

from pathlib import Path

import click

from fedgru.cli.option_names import with_options
from fedgru.cli.options import (
    RunName,
    data_dir_option,
    echo,
    json_option,
    log_dir_option,
    note,
    print_json,
    run_argument,
)


@click.command(epilog="Example: fedgru compare log/*-markov log/*-run")
@click.argument("runs", nargs=-1, required=True, type=RunName(), metavar="RUN RUN...")
@click.option(
    "--metric",
    "names",
    multiple=True,
    help="Metric: acc@1, acc@5, acc@10, mrr, ndcg or loss; can be repeated.  [default: acc@1, "
    "acc@5, loss]",
)
@click.option("--markdown", "form", flag_value="markdown", help="Print the table as Markdown.")
@click.option(
    "--latex", "form", flag_value="latex", help="Print it as LaTeX, for the package booktabs."
)
@click.option(
    "--csv", "form", flag_value="csv", help="Print a CSV, a row for each run and metric, unrounded."
)
@json_option
@log_dir_option
def compare(
    runs: tuple[str, ...], names: tuple[str, ...], form: str | None, as_json: bool, log_dir: Path
) -> None:
    """Compare evaluated runs with the first one, paired by client.

    Seeds of the same settings become one row: means, smallest to largest in brackets. Copies
    fine-tuned by `fedgru eval --fine-tune` get a row of their own. Runs of other data, another
    target or other splits are refused.
    """
    from fedgru.console import compared
    from fedgru.evaluation import comparison
    from fedgru.runs.listing import open_run
    from fedgru.storage.tables import to_csv

    if form and as_json:
        raise click.UsageError(f"--{form} and --json exclude each other: give one of them.")
    found = comparison.compare(
        [open_run(log_dir, name) for name in runs], names or comparison.DEFAULT_METRICS
    )
    if as_json:
        print_json(found)
    elif form == "csv":
        echo(to_csv(list(compared.to_rows(found))), nl=False)
    elif form == "latex":
        echo(compared.as_latex(found))
    elif form == "markdown":
        echo(compared.as_markdown(found))
    else:
        echo(compared.as_text(found))


@click.group(epilog="Example: fedgru runs list")
def runs() -> None:
    """List, show and remove runs."""


@runs.command(name="list", epilog="Example: fedgru runs list --json")
@json_option
@log_dir_option
def list_runs(as_json: bool, log_dir: Path) -> None:
    """List the runs, the one started last first."""
    from fedgru.console import describe
    from fedgru.runs.listing import all_runs

    found = [run.overview() for run in all_runs(log_dir)]
    if as_json:
        print_json(found)
    elif found:
        echo(describe.describe_runs(found))
    else:
        note(f"no run in {log_dir}/. Make one with: fedgru train --features big")


@runs.command(name="show", epilog="Example: fedgru runs show")
@run_argument
@json_option
@log_dir_option
def show(run: str | None, as_json: bool, log_dir: Path) -> None:
    """Show a run's settings, its end and its scores.

    Without RUN it is the newest run.
    """
    from fedgru.console import describe
    from fedgru.runs.listing import open_run

    folder = open_run(log_dir, run)
    if as_json:
        shown = folder.overview() | {
            "settings": folder.settings().model_dump(),
            "facts": folder.facts(),
            "test": folder.test(),
        }
        print_json(shown)
    else:
        echo(with_options(describe.describe_run(folder)))


@runs.command(name="bytes", epilog="Example: fedgru runs bytes --output bytes.csv")
@run_argument
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="New CSV file.",
)
@json_option
@data_dir_option
@log_dir_option
def count_bytes(
    run: str | None, output: Path, as_json: bool, data_dir: Path, log_dir: Path
) -> None:
    """Write the bytes each client received and sent.

    A row per client and round. Without RUN it is the newest run. It is computed from the shapes of
    what is sent and from who was drawn. The file has the clients' ids.
    """
    from fedgru.api.run import open_run
    from fedgru.workflows.ledger import write_ledger

    found = open_run(run, log_dir=log_dir, data_dir=data_dir)
    done = write_ledger(found.folder, found.task, output)
    if as_json:
        print_json(done)
        return
    megabytes = [f"{done[name] / 1e6:,.2f} MB" for name in ("down_bytes", "up_bytes")]
    echo(
        f"to clients {megabytes[0]}, from clients {megabytes[1]}; {done['lines']:,} lines: {output}"
    )


@runs.command(name="rm", epilog="Example: fedgru runs rm try-out --yes")
@click.argument("names", nargs=-1, required=True, type=RunName(), metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_dir_option
def remove(names: tuple[str, ...], yes: bool, log_dir: Path) -> None:
    """Delete runs, their weights and results."""
    from fedgru.runs.listing import open_run, remove_runs

    folders = list({run.path: run for run in (open_run(log_dir, name) for name in names)}.values())
    for folder in folders:
        echo(str(folder.path), err=True)
    if not yes:
        count = f"{len(folders)} run{'' if len(folders) == 1 else 's'}"
        click.confirm(f"Delete {count} for good?", abort=True, err=True)
    remove_runs(folders, log_dir)
    echo(f"deleted: {', '.join(str(folder.path) for folder in folders)}")


@runs.command(name="share", epilog="Example: fedgru runs share --output shared")
@run_argument
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="New folder for the copy.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier copy there.")
@json_option
@log_dir_option
def share_run(run: str | None, output: Path, overwrite: bool, as_json: bool, log_dir: Path) -> None:
    """Copy a run without what tells of single persons.

    Without RUN it is the newest run.

    It leaves out ids, predictions and scores of single clients, and says what it left out and what
    the rest still tells.
    """
    from fedgru.console.tables import align
    from fedgru.runs.listing import open_run
    from fedgru.runs.share import share

    done = share(open_run(log_dir, run), output, overwrite)
    if as_json:
        print_json({"folder": str(output)} | done)
        return
    for title, table in (("Given away:", done["given"]), ("Left out:", done["left_out"])):
        echo(f"{title}\n{align([('', *row) for row in table.items()])}")
    echo(f"Copy: {output}")
