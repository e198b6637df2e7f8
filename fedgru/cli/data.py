"""`fedgru data ...`: import, describe, list and make data sets. Imports only click at first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgru.cli.options import (
    columns_option,
    complete_data_sets,
    data_dir_option,
    echo,
    json_option,
    note,
    print_json,
)

if TYPE_CHECKING:
    from click.decorators import FC

    from fedgru.data.datasets import DataSet
    from fedgru.data.reading.base import Option, Reader


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


name_option = click.option(
    "--name", required=True, metavar="NAME", help="Name of the new data set."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a data set of that name."
)


class Formats(click.Group):
    """One command per reader of check-in files, made when it is used; other packages add more."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from fedgru.data.reading.registry import reader_names

        return reader_names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from fedgru.data.reading.registry import READERS, find_reader, reader_names

        known = name in READERS or name in reader_names()
        return _import_command(find_reader(name)) if known else None


def _import_command(reader: Reader) -> click.Command:
    """The command `fedgru data import FORMAT` of a reader."""

    def run(
        file: str, name: str, data_dir: Path, categories: str, overwrite: bool, **options: Any
    ) -> None:
        from fedgru.data.datasets import import_file

        data_set = import_file(reader.name, file, name, data_dir, categories, overwrite, **options)
        _show_saved(data_set, data_dir)

    wrapped = [
        click.argument("file"),
        name_option,
        *map(_reader_option, reader.options),
        click.option(
            "--categories",
            default=reader.categories,
            show_default=True,
            metavar="coarse|raw|FILE",
            help="Categories: 27 coarse ones, the names as they are, a CSV with the header "
            "name,category, or FILE.json:DEPTH, a tree of categories as Foursquare publishes it, "
            "by id or name (1: its roots).",
        ),
        overwrite_option,
        data_dir_option,
    ]
    for wrap in reversed(wrapped):
        run = wrap(run)
    return click.command(
        reader.name,
        help=f"{reader.help}\n\n{reader.details}",
        epilog=_examples(*reader.example) if reader.example else None,
    )(run)


def _reader_option(option: Option) -> Callable[[FC], FC]:
    flag = option.flag or "--" + option.name.replace("_", "-")
    if option.type is dict:
        return columns_option(option.help, option.required, flag, option.name)
    return click.option(
        flag,
        option.name,
        type=option.type,
        is_flag=option.type is bool,
        multiple=option.multiple,
        required=option.required,
        default=option.default,
        metavar=option.metavar,
        help=option.help,
    )


@click.group(epilog=_examples("fedgru data describe"))
def data() -> None:
    """Import, describe, list and make data sets."""


@data.group(
    "import",
    cls=Formats,
    epilog=_examples("fedgru data import tsmc2014 tests/data/checkins.txt --name tiny"),
)
def import_() -> None:
    """Make a data set from a file of check-ins.

    The file can be plain, .gz or .zip, in UTF-8, Latin-1 or Windows-1252. Nothing is written unless
    the whole import succeeds.
    """


@data.group(epilog=_examples("fedgru data export libcity embedded --to libcity"))
def export() -> None:
    """Write a data set in another project's format."""


@export.command("libcity", epilog=_examples("fedgru data export libcity embedded --to libcity"))
@click.argument("name", shell_complete=complete_data_sets)
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="New folder for the files.",
)
@data_dir_option
def export_libcity_(name: str, folder: Path, data_dir: Path) -> None:
    """Write a data set as LibCity's atomic files: .geo, .usr, .dyna.

    fedgru data import libcity reads them back. LibCity has one category and one pair of coordinates
    per venue; check-ins that differ are counted.
    """
    from fedgru.console.tables import count
    from fedgru.data.datasets import open_data_set
    from fedgru.data.libcity_export import export_libcity

    done = export_libcity(name, open_data_set(name, data_dir).check_ins, folder)
    for field, number in done.differing.items():
        note(
            f"Note: {count(number, 'check-in')} had another {field.replace('_', ' ')} than their "
            "venue's first one, or none; they get that one."
        )
    if done.without_coordinates:
        note(f"Note: {count(done.without_coordinates, 'venue')} without coordinates.")
    if done.own:
        note(f"Note: left out, LibCity has no place for them: {', '.join(done.own)}.")
    note("Note: users and venues keep their names: the files are for you, not to be given away.")
    echo(
        f"{folder}: {count(done.check_ins, 'check-in')} of {count(done.users, 'user')} at "
        f"{count(done.venues, 'venue')}."
    )


@data.command(epilog=_examples("fedgru data describe"))
@click.argument("name", required=False, shell_complete=complete_data_sets)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a page with figures and a map.",
)
@json_option
@data_dir_option
def describe(name: str | None, html: Path | None, as_json: bool, data_dir: Path) -> None:
    """Show counts, small plots, warnings and what was dropped.

    It also shows the time span, the local clock, check-ins per user, and why rows were dropped. A
    warning is given for moves faster than a plane, repeats, venues with one visit, coordinates 0, 0
    and a clock that is quietest by day. NAME is a data set; without it the embedded one is
    described.
    """
    from fedgru.console.data_sets import describe_data_set
    from fedgru.data.datasets import EMBEDDED, open_data_set
    from fedgru.data.passport import describe as get_facts
    from fedgru.data.quality import describe_quality

    if name is None:
        note("Using the embedded data set, a made-up city.")
    data_set = open_data_set(name or EMBEDDED, data_dir)
    facts = get_facts(data_set) | {"quality": describe_quality(data_set.check_ins)}
    if html is not None:
        from fedgru.report.data_page import write_data_page

        size = write_data_page(facts, data_set.check_ins, html)
        note(f"Wrote {html} ({size / 1024:,.0f} KiB).")
    if as_json:
        print_json(facts)
    else:
        echo(describe_data_set(facts))


@data.command(epilog=_examples("fedgru data check"))
@click.argument("name", required=False, shell_complete=complete_data_sets)
@data_dir_option
def check(name: str | None, data_dir: Path) -> None:
    """Verify every byte of a data set, by default of each in the folder.

    A data set of 10,000 check-ins or more is verified once, when its columns are stored for memory
    maps. Opening it later compares only sizes and times of change. This command reads all of it
    again, with all stored copies.
    """
    from fedgru.console.tables import count
    from fedgru.data.datasets import list_data_sets
    from fedgru.workflows.data_check import check_data_set

    names = [passport["name"] for passport in list_data_sets(data_dir)] if name is None else [name]
    for one in names:
        data_set, folders = check_data_set(one, data_dir)
        echo(
            f"{data_dir}/{one}: {count(len(data_set.check_ins), 'check-in')}, fingerprint "
            f"{data_set.passport['fingerprint'][:12]}, intact."
        )
        for path in folders:
            echo(f"{path}: intact.")
    if not names:
        echo(f"There is no data set in {data_dir}.")


@data.command("list", epilog=_examples("fedgru data list"))
@json_option
@data_dir_option
def list_(as_json: bool, data_dir: Path) -> None:
    """List the data sets."""
    from fedgru.console.data_sets import describe_data_sets
    from fedgru.data.datasets import list_data_sets, open_data_set

    passports = [open_data_set().passport, *list_data_sets(data_dir)]
    if as_json:
        print_json(passports)
        return
    echo(describe_data_sets(passports))


@data.command(epilog=_examples("fedgru data sources"))
@json_option
def sources(as_json: bool) -> None:
    """List published data sets that can be imported.

    It shows address, licence, citation and size.

    Nothing is downloaded. What no trustworthy source gives is called unknown.
    """
    from dataclasses import asdict

    from fedgru.console.data_sets import describe_published
    from fedgru.data.published import PUBLISHED

    if as_json:
        print_json([asdict(one) for one in PUBLISHED])
    else:
        echo(describe_published([asdict(one) for one in PUBLISHED]))


@data.command(epilog=_examples("fedgru data synth --name town --users 20 --checkins-per-user 100"))
@name_option
@click.option("--users", type=click.IntRange(1), help="Number of people.  [default: as embedded]")
@click.option(
    "--checkins-per-user", type=click.IntRange(1), help="On average.  [default: as embedded]"
)
@click.option("--seed", type=int, help="Another seed, another city.  [default: 0]")
@overwrite_option
@data_dir_option
def synth(
    name: str,
    users: int | None,
    checkins_per_user: int | None,
    seed: int | None,
    overwrite: bool,
    data_dir: Path,
) -> None:
    """Make a city of people with habits.

    The habits are drawn from the seed, so the best possible accuracy is known.
    """
    from fedgru.data.datasets import save_city
    from fedgru.data.synthetic import CityConfig, make_city

    settings = {"num_users": users, "checkins_per_user": checkins_per_user, "seed": seed}
    config = CityConfig(**{key: value for key, value in settings.items() if value is not None})
    _show_saved(save_city(name, data_dir, make_city(config), overwrite), data_dir)


def _show_saved(data_set: DataSet, data_dir: Path) -> None:
    from fedgru.console.data_sets import describe_data_set
    from fedgru.data.passport import describe as get_facts

    facts = get_facts(data_set)
    echo(describe_data_set(facts))
    if _has_no_clock(facts):
        is_table = facts["source"]["kind"] == "csv"
        has_column = " or --column offset=NAME" if is_table else ""
        note(
            "Note: no row has an offset from UTC, so local time is UTC. If it is not, give "
            f"--offset MINUTES{has_column}."
        )
    note(f"Saved as {data_dir}/{data_set.name}.")


def _has_no_clock(facts: dict[str, Any]) -> bool:
    """Return whether all local times are UTC, and nobody said so."""
    settings = facts["settings"]
    return (
        "offset_min" in settings
        and set(facts["time_zone"]["offsets_min"]) == {"0"}
        and settings["offset_min"] is None
        and "offset" not in settings.get("columns", {})
    )
