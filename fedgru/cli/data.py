"""`fedgru data ...`: import, describe, list and make data sets. Imports only click at first."""

import click

from fedgru.cli.options import columns_option, complete_data_sets, data_dir_option, note, print_json
from fedgru.console.tables import align


def _examples(*lines):
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


name_option = click.option(
    "--name", required=True, metavar="NAME", help="What to call the new data set."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a data set of that name."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


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
        click.echo(_describe(facts))


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
        data_set, laid_out = check_data_set(one, data_dir)
        click.echo(
            f"{data_dir}/{one}: {_count(len(data_set.check_ins), 'check-in')}, fingerprint "
            f"{data_set.passport['fingerprint'][:12]}, as they were saved."
        )
        for path in laid_out:
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
    rows = [("name", "check-ins", "users", "venues", "first", "last", "source")]
    for passport in passports:
        counts, span, source = (passport[key] for key in ("counts", "span", "source"))
        numbers = [f"{counts[key]:,}" for key in ("check_ins", "users", "venues")]
        days = [span[key][:10] for key in ("first", "last")]
        rows.append((passport["name"], *numbers, *days, source.get("file", source["kind"])))
    click.echo(align(rows, right=(1, 2, 3)))


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
    click.echo(_describe(facts))
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


def _describe(facts):
    """The facts of `fedgru.data.passport.describe` as aligned text."""
    counts = facts["counts"]
    title = (
        f"{facts['name']}: {_count(counts['check_ins'], 'check-in')} of "
        f"{_count(counts['users'], 'user')} at {_count(counts['venues'], 'venue')}"
    )
    blocks = [align(_overview(facts)), _per_user(facts["check_ins_per_user"])]
    if facts["source"]["kind"] != "made-up city":
        blocks.append(_rows_on_the_way_in(facts))
    return "\n\n".join([title, *blocks])


def _overview(facts):
    span, zone, counts = facts["span"], facts["time_zone"], facts["counts"]
    first, last = (span[key].replace("T", " ").rstrip("Z") for key in ("first", "last"))
    offsets = sorted(zone["offsets_min"].items(), key=lambda item: -item[1])
    clocks = [f"{_utc_offset(int(offset))} ({number:,})" for offset, number in offsets[:3]]
    if len(offsets) > 3:
        clocks.append(f"{len(offsets) - 3} more")

    def shares(commonest):
        return ", ".join(f"{value} {n / counts['check_ins']:.1%}" for value, n in commonest)

    commonest = shares(facts["commonest_categories"])
    rows = [
        *_source(facts),
        ("time", f"{first} to {last} UTC"),
        ("local clock", ", ".join(clocks)),
        *(
            (f"{name} hour", f"{hour:02}:00 local time")
            for name in ("busiest", "quietest")
            if (hour := zone[f"{name}_local_hour"]) is not None
        ),
    ]
    if commonest:
        rows += [
            ("categories", f"{counts['categories']:,} ({facts['categories']['scheme']})"),
            ("commonest", commonest),
            ("raw categories", f"{counts['raw_categories']:,}"),
        ]
    else:
        rows.append(("categories", "none"))
    for name, number in facts.get("own", {}).items():
        values = shares(facts["commonest_own"][name])
        rows.append((f"kept {name}", f"{_count(number, 'value')}: {values}" if number else "empty"))
    if zone["warning"]:
        rows.append(("warning", zone["warning"]))
    if facts["box_deg"]:
        rows += [
            (name, "{:.4f} to {:.4f}".format(*facts["box_deg"][key]))
            for name, key in (("latitude", "lat"), ("longitude", "lon"))
        ]
    if facts["best_possible_accuracy"] is not None:
        best = f"{facts['best_possible_accuracy']:.4f} over all check-ins"
        rows.append(("best possible accuracy", best))
    return [("", *row) for row in rows]


def _source(facts):
    """Rows of the overview: what the data set was made from."""
    source = facts["source"]
    if source["kind"] == "made-up city":
        settings = ", ".join(f"{key} {value}" for key, value in facts["settings"].items())
        return [("source", "made-up city"), ("settings", settings)]
    encodings = {"utf-8-sig": "UTF-8 with byte order mark", "utf-8": "UTF-8", "latin-1": "Latin-1"}
    layouts = {"tsmc2014": "TSMC2014", "iso8601": "ISO 8601", "unix": "Unix seconds"}
    how = [source["kind"], source["compression"], encodings[source["encoding"]]]
    how.append(f"times as {layouts[source['time_layout']]}")
    return [
        ("source", f"{source['file']}, {_count(source['rows'], 'row')}"),
        ("read as", ", ".join(word for word in how if word != "none")),
    ]


def _per_user(quantiles):
    names = {"0": "min", "50": "median", "100": "max"}
    percent = [key for key in quantiles if key != "mean"]
    rows = [
        ["", *(names.get(key, f"{key}%") for key in percent)],
        ["", *(f"{quantiles[key]:,}" for key in percent)],
    ]
    table = align(rows, right=range(1, len(rows[0])))
    return f"Check-ins per user (mean {quantiles['mean']:,.1f})\n{table}"


def _rows_on_the_way_in(facts):
    num_rows, lines = facts["source"]["rows"], facts["ledger"]
    rows = []
    for line in lines:
        examples = ", ".join(f"{example:,}" for example in line["examples"])
        more = ", ..." if line["rows"] > len(line["examples"]) else ""
        share = f"{line['rows'] / num_rows:.1%}"
        row = "row" if line["rows"] == 1 else "rows"
        rows.append(
            (
                "",
                line["kind"],
                f"{line['rows']:,}",
                share,
                line["reason"],
                f"{row} {examples}{more}",
            )
        )
    for kind in ("repaired", "dropped"):
        if kind not in {line["kind"] for line in lines}:
            rows.insert(0, ("", kind, "0", "0.0%", "", ""))
    table = align(rows, right=(2, 3))
    return f"What happened to rows on the way in\n{table}"


def _utc_offset(offset_min):
    hours, minutes = divmod(abs(offset_min), 60)
    return f"UTC{'-' if offset_min < 0 else '+'}{hours:02}:{minutes:02}"


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
