"""`fedgru data ...`: import, describe, list and make data sets. Imports only click at first."""

import click

from fedgru.cli.options import (
    columns_option,
    complete_data_sets,
    data_dir_option,
    json_option,
    note,
    print_json,
)
from fedgru.console.data_sets import describe_data_set, describe_data_sets
from fedgru.console.tables import count


def _examples(*lines):
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


name_option = click.option(
    "--name", required=True, metavar="NAME", help="What to call the new data set."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a data set of that name."
)


class Formats(click.Group):
    """One command per reader of check-in files, also of other packages', made when asked for."""

    def list_commands(self, ctx):
        from fedgru.data.reading.registry import reader_names

        return reader_names()

    def get_command(self, ctx, name):
        from fedgru.data.reading.registry import READERS, find_reader, reader_names

        known = name in READERS or name in reader_names()
        return _import_command(find_reader(name)) if known else None


def _import_command(reader):
    """The command `fedgru data import FORMAT` of a reader."""

    def run(file, name, data_dir, categories, overwrite, **options):
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
            help="27 coarse categories, the names as they are, or a CSV with the header "
            "name,category.",
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


def _reader_option(option):
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
def data():
    """Import, describe, list and make data sets."""


@data.group(
    "import",
    cls=Formats,
    epilog=_examples("fedgru data import tsmc2014 tests/data/checkins.txt --name tiny"),
)
def import_():
    """Make a data set from a file of check-ins.

    The file may be plain, .gz or .zip, in UTF-8 or Latin-1. Nothing is written unless the whole
    import succeeds.
    """


@data.command(epilog=_examples("fedgru data describe"))
@click.argument("name", required=False, shell_complete=complete_data_sets)
@json_option
@data_dir_option
def describe(name, as_json, data_dir):
    """Show counts and what was dropped.

    Also the time span, the local clock, check-ins per user, and why rows were dropped. NAME is a
    data set; without it the embedded one is described.
    """
    from fedgru.data.datasets import EMBEDDED, open_data_set
    from fedgru.data.passport import describe as get_facts

    if name is None:
        note("Using the embedded data set, a made-up city.")
    facts = get_facts(open_data_set(name or EMBEDDED, data_dir))
    if as_json:
        print_json(facts)
    else:
        click.echo(describe_data_set(facts))


@data.command(epilog=_examples("fedgru data check"))
@click.argument("name", required=False, shell_complete=complete_data_sets)
@data_dir_option
def check(name, data_dir):
    """Verify every byte of a data set, by default of each in the folder.

    A data set of 10,000 check-ins or more is verified when its columns are laid out for reading
    through memory maps; opened later, only sizes and the time of change are compared. This reads
    all of it again, and all that is laid out.
    """
    from fedgru.data.datasets import list_data_sets
    from fedgru.workflows.data_check import check_data_set

    names = [passport["name"] for passport in list_data_sets(data_dir)] if name is None else [name]
    for one in names:
        data_set, folders = check_data_set(one, data_dir)
        click.echo(
            f"{data_dir}/{one}: {count(len(data_set.check_ins), 'check-in')}, fingerprint "
            f"{data_set.passport['fingerprint'][:12]}, as they were saved."
        )
        for path in folders:
            click.echo(f"{path}: as it was laid out.")
    if not names:
        click.echo(f"There is no data set in {data_dir}.")


@data.command("list", epilog=_examples("fedgru data list"))
@json_option
@data_dir_option
def list_(as_json, data_dir):
    """List the data sets."""
    from fedgru.data.datasets import list_data_sets, open_data_set

    passports = [open_data_set().passport, *list_data_sets(data_dir)]
    if as_json:
        print_json(passports)
        return
    click.echo(describe_data_sets(passports))


@data.command(epilog=_examples("fedgru data synth --name town --users 20 --checkins-per-user 100"))
@name_option
@click.option("--users", type=click.IntRange(1), help="Number of people.  [default: as embedded]")
@click.option(
    "--checkins-per-user", type=click.IntRange(1), help="On average.  [default: as embedded]"
)
@click.option("--seed", type=int, help="Another seed, another city.  [default: 0]")
@overwrite_option
@data_dir_option
def synth(name, users, checkins_per_user, seed, overwrite, data_dir):
    """Make a city of people with habits.

    The habits are drawn from the seed, so the best accuracy that is possible is known.
    """
    from fedgru.data.datasets import save_city
    from fedgru.data.synthetic import CityConfig, make_city

    settings = {"num_users": users, "checkins_per_user": checkins_per_user, "seed": seed}
    config = CityConfig(**{key: value for key, value in settings.items() if value is not None})
    _show_saved(save_city(name, data_dir, make_city(config), overwrite), data_dir)


def _show_saved(data_set, data_dir):
    from fedgru.data.passport import describe as get_facts

    facts = get_facts(data_set)
    click.echo(describe_data_set(facts))
    if _has_no_clock(facts):
        note(
            "Note: no row says its offset from UTC, so local time is UTC. If it is not, give "
            "--offset MINUTES or --column offset=NAME."
        )
    note(f"Saved as {data_dir}/{data_set.name}.")


def _has_no_clock(facts):
    settings = facts["settings"]
    return (
        facts["source"]["kind"] == "csv"
        and set(facts["time_zone"]["offsets_min"]) == {"0"}
        and settings["offset_min"] is None
        and "offset" not in settings["columns"]
    )
