"""`fedgru algorithms`: parse, call one function, print."""

import click

from fedgru.cli.options import echo, json_option, print_json


@click.command(epilog="Example: fedgru algorithms scaffold")
@click.argument("name", required=False)
@json_option
def algorithms(name: str | None, as_json: bool) -> None:
    """List the algorithms, or show one in full.

    NAME is one of the list, or MODULE:CLASS of your own.
    """
    from dataclasses import asdict

    from fedgru.console import algorithms as texts
    from fedgru.workflows import algorithms as workflow

    if name is not None:
        one = workflow.explain_algorithm(name)
        if as_json:
            print_json(asdict(one))
        else:
            echo(texts.describe_algorithm(one))
        return
    found = workflow.list_algorithms()
    if as_json:
        print_json(asdict(found))
    else:
        echo(texts.describe_algorithms(found))
