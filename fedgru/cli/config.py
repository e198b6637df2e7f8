"""`fedgru config ...`: what settings come out, and where each comes from."""

from pathlib import Path
from typing import Any

import click

from fedgru.cli.options import LazyOptions, config_option, echo, json_option, print_json


@click.group(epilog="Example: fedgru config show --preset notebook --rounds 3")
def config() -> None:
    """Show settings."""


@config.command(cls=LazyOptions, epilog="Example: fedgru config show --preset notebook --rounds 3")
@config_option
@json_option
@click.option("--toml", "as_toml", is_flag=True, help="Print the file that --config takes.")
def show(
    config_file: Path | None, as_json: bool, as_toml: bool, preset: str | None, **given: Any
) -> None:
    """Show the settings that fedgru train would run with.

    It says where each comes from.

    The later of these wins: default, --preset, --config, command line.
    """
    from fedgru import config as configs
    from fedgru.console.tables import align
    from fedgru.engines import registry

    if as_json and as_toml:
        raise click.UsageError("--json and --toml exclude each other: give one of them.")
    overrides = {name: value for name, value in given.items() if value is not None}
    settings, origins = configs.resolve(overrides, config_file, preset)
    registry.check(settings)
    if as_toml:
        echo(configs.dump(settings), nl=False)
        return
    found = {
        f"{section}.{name}": {"value": getattr(getattr(settings, section), name)}
        | {"origin": origins[name]}
        for name, (section, _) in configs.fields().items()
    }
    if as_json:
        print_json(found)
        return
    rows = [
        (name, "-" if one["value"] is None else str(one["value"]), one["origin"])
        for name, one in found.items()
    ]
    echo(align([("setting", "value", "origin"), *rows]))
