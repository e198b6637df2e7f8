"""`fedgru predict` and `fedgru export`: a trained model's prediction, and the model itself."""

from pathlib import Path

import click

from fedgru.cli.options import (
    columns_option,
    data_dir_option,
    echo,
    json_option,
    log_dir_option,
    names_option,
    note,
    print_json,
    quiet_option,
    run_argument,
)


@click.command(epilog="Example: fedgru predict --client 23 --top 3")
@run_argument
@click.option("--client", metavar="ID", help="Whose next check-in: a user of the run's data set.")
@click.option(
    "--history",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Predict from the check-ins in this table, not from the data set's; with --client from "
    "those of one user in it.",
)
@click.option(
    "--until",
    type=click.IntRange(0),
    metavar="N",
    help="Read only the first N check-ins, and show which came next.  [default: all]",
)
@click.option(
    "--at",
    metavar="TIME",
    help="With a run of --asked-at: the moment for which the next check-in is asked, such as "
    "2012-04-10T18:30 (on the local clock of the last check-in) or 2012-04-10T18:30-04:00.  "
    "[default: with --until, when the next check-in came]",
)
@click.option(
    "--top",
    "k",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    metavar="K",
    help="Number of places to show.",
)
@columns_option(
    "With --history: the name of each field's column, as for fedgru data import csv.  "
    "[default: the column called FIELD]",
)
@click.option(
    "--categories",
    metavar="FILE",
    help="With --history: the category table that the data set was imported with, if it was not "
    "coarse or raw.",
)
@click.option(
    "--offset",
    "offset_min",
    type=int,
    metavar="MINUTES",
    help="With --history: minutes from UTC of the local clock, for every row.",
)
@click.option(
    "--times-without-zone",
    metavar="local|utc",
    help="With --history: clock of the times without a zone.  [default: local if an offset is "
    "given, else utc; needed if other times have a zone]",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="With --history: drop and count bad rows instead of stopping at the first.",
)
@json_option
@quiet_option
@data_dir_option
@log_dir_option
def predict(
    run: str | None,
    client: str | None,
    history: Path | None,
    until: int | None,
    at: str | None,
    k: int,
    columns: dict[str, str],
    categories: str | None,
    offset_min: int | None,
    times_without_zone: str | None,
    skip_bad_rows: bool,
    as_json: bool,
    data_dir: Path,
    log_dir: Path,
) -> None:
    """Predict where one person goes next.

    Without RUN it is the newest run.

    The model reads the person's check-ins up to the last one, or to --until, and names the K most
    probable categories or venues of the one after it. With a run of --asked-at it also reads when
    that is.
    """
    from fedgru.console import describe, predictions
    from fedgru.data.datasets import read_passport
    from fedgru.data.reading.rows import NO_ZONE
    from fedgru.predict import past as pasts
    from fedgru.predict.load import load_model
    from fedgru.runs import listing
    from fedgru.workflows import reopen as reopen_workflow

    if history is None:
        if client is None:
            raise click.UsageError("Give --client ID, or --history FILE.")
        for option, value in (
            ("--column", columns),
            ("--categories", categories),
            ("--offset", offset_min),
            ("--times-without-zone", times_without_zone),
            ("--skip-bad-rows", skip_bad_rows),
        ):
            if value:
                raise click.UsageError(f"{option} has no effect without --history FILE.")
    folder = listing.open_run(log_dir, run)
    task = reopen_workflow.reopen_task(folder, data_dir)
    schema, weights, round_num = load_model(folder, task, client)
    if history is None:
        assert client is not None, "refused above"
        past = pasts.client_past(task, client, until)
    else:
        passport = read_passport(task.settings.data.data, data_dir)
        past = pasts.file_past(
            history,
            passport["categories"],
            columns,
            client,
            categories,
            offset_min,
            until,
            skip_bad_rows,
            times_without_zone,
        )
    found = pasts.forecast(task, schema, weights, past, k, at)
    head = {"run": str(folder.path), "data": task.settings.data.data, "round": round_num}
    note(describe.describe_origin(folder.path, task.settings))
    for line in past.ledger.lines:
        if line.reason.startswith(NO_ZONE):
            rows = "1 row" if line.rows == 1 else f"{line.rows:,} rows"
            note(f"Note: {rows} of {history}: {line.reason}.")
        if line.kind == "dropped":
            rows = "1 row" if line.rows == 1 else f"{line.rows:,} rows"
            verb = "was" if line.rows == 1 else "were"
            note(f"Note: {rows} of {history} {verb} dropped: {line.reason}.")
    if not past.has_clock:
        note(
            f"Note: no row of {history} has an offset from UTC, so local time is UTC. If it is "
            "not, give --offset MINUTES or --column offset=NAME."
        )
    if as_json:
        print_json(head | found)
    else:
        echo(predictions.describe_forecast(found))


@click.command(epilog="Example: fedgru export --to keras --output exported")
@run_argument
@click.option(
    "--to",
    "kind",
    required=True,
    type=click.Choice(["keras", "savedmodel", "weights"]),
    help="A Keras file, a TensorFlow SavedModel, or arrays (.npz).",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="New folder for the model and model.json, which describes its inputs.",
)
@click.option(
    "--client",
    metavar="ID",
    help="Whose model, of a run whose clients have models of their own.  [default: the one that "
    "a new client starts with]",
)
@names_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier export there.")
@json_option
@quiet_option
@data_dir_option
@log_dir_option
def export(
    run: str | None,
    kind: str,
    output: Path,
    client: str | None,
    with_names: bool,
    overwrite: bool,
    as_json: bool,
    data_dir: Path,
    log_dir: Path,
) -> None:
    """Write a run's model for use elsewhere.

    Without RUN it is the newest run.

    The model keeps the state of one person's stream: call it with one check-in at a time, and it
    returns the probabilities of the next. docs/predict.md shows how.
    """
    from fedgru.api.run import open_run
    from fedgru.console import describe, predictions

    found = open_run(run, log_dir=log_dir, data_dir=data_dir)
    note(describe.describe_origin(found.path, found.task.settings))
    description = found.export(kind, output, overwrite=overwrite, client=client, names=with_names)
    if as_json:
        print_json({"folder": str(output)} | description)
    else:
        echo(predictions.describe_export(output, description))
