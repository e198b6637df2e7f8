"""`fedgru deploy ...`: a real federation. Imports only click at first."""

import os
from pathlib import Path
from typing import Any

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.options import (
    LazyOptions,
    columns_option,
    config_option,
    data_dir_option,
    echo,
    log_dir_option,
    note,
    quiet_option,
    shows_progress,
)

insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Plaintext without authentication: for a trial on one machine.",
)


@click.group(epilog="Example: fedgru deploy app places --features category,clock,weekday")
def deploy() -> None:
    """Train with people who keep their own check-ins.

    It uses Flower (docs/deployment.md).
    """
    os.umask(0o077)  # check-ins, keys, logs and databases, also Flower's, are for the owner alone


class AppOptions(LazyOptions):
    """All settings except those of simulated clients and of the machine."""

    @property
    def left_out(self) -> tuple[str, ...]:
        from fedgru.config import AvailabilitySettings, PrivacySettings
        from fedgru.config.rules import BACKDOOR

        return (
            *AvailabilitySettings.model_fields,
            *PrivacySettings.model_fields,
            *("client_dropout", "attack", "attackers", "attack_scale", *BACKDOOR, "agnostic_to"),
            *("engine", "threads", "device", "local_loop", "clients_per_call"),
            *("eval_clients", "train_users"),
            *("ray_address", "ray_actors", "ray_cpus", "ray_gpus", "ray_item"),
        )


@deploy.command(
    cls=AppOptions,
    epilog="Example: fedgru deploy app places --features category,clock,weekday",
)
@click.argument("folder", type=click.Path())
@config_option
@click.option(
    "--secure",
    is_flag=True,
    help="Secure aggregation (Flower's SecAgg+): the server learns only sums of updates. It needs "
    "at least 2 clients in each round and 4 more messages.",
)
@click.option(
    "--clip",
    type=click.FloatRange(0, min_open=True),
    help="Clip each client's update to this L2 norm.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, min_open=True),
    help="Noise in each round's sum of updates, in units of --clip. Each client adds its share, "
    "and all clients get the same weight.",
)
@quiet_option
@data_dir_option
def app(
    folder: str,
    config_file: Path | None,
    preset: str | None,
    secure: bool,
    clip: float | None,
    noise: float | None,
    data_dir: Path,
    **given: Any,
) -> None:
    """Write the app that server and clients run.

    It holds settings, and tables of values.

    The tables come from a data set of yours (--data): the ids of categories and venues, the scale
    of numbers, the frequencies and the kernel of the prior. Every client receives all of it, so use
    a public data set.
    """
    from fedgru import config
    from fedgru.deploy.app import check_deployable, write_app
    from fedgru.deploy.bundle import sha256_of_folder
    from fedgru.deploy.privacy import Privacy, check_privacy
    from fedgru.privacy.accounting import DELTA, Releases, epsilon
    from fedgru.workflows import open as open_workflow

    overrides = {name: value for name, value in given.items() if value is not None}
    settings = config.load(overrides, config_file, preset)
    check_deployable(settings)
    privacy = Privacy(secure, clip, noise)
    check_privacy(privacy, settings)
    task, _ = open_workflow.open_task(settings, data_dir)
    task = open_workflow.learn_prior(task, shows_progress())
    write_app(folder, task, privacy)
    sizes = ", ".join(f"{name} {size:,}" for name, size in task.inputs.sizes.items())
    note(f"ids in the tables: {sizes or 'none'}; {task.num_classes} classes")
    if "user" in task.inputs.sizes:
        note("user is among the --features: everybody can read these users' ids in the app.")
    if noise is not None:
        rounds = settings.loop.rounds
        found = epsilon(Releases(noise), rounds)
        note(
            f"After {rounds} rounds the updates are ({found:.3g}, {DELTA:g})-differentially "
            "private for each participant, as long as all add their noise. The scores "
            "that clients send are not covered."
        )
    note(f"SHA-256 of the app, for its clients: {sha256_of_folder(folder)}")
    echo(f"{folder}: start the server with: fedgru deploy server {folder} --clients N")


@deploy.command(epilog="Example: fedgru deploy certificate certificates --host localhost")
@click.argument("folder", type=click.Path())
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="Name or address under which clients reach the server; can be repeated.",
)
@click.option(
    "--days",
    default=365,
    show_default=True,
    type=click.IntRange(1),
    help="Days for which the certificate is valid.",
)
def certificate(folder: str, hosts: tuple[str, ...], days: int) -> None:
    """Make the server's certificate, or renew it.

    The first time this also makes the authority that signs it. Give ca.crt to every client, and
    ca.key to nobody. Renewing keeps the authority, so nothing changes for clients.
    """
    from fedgru.deploy import require_flower
    from fedgru.deploy.keys import CA_CERT, make_certificate

    require_flower()
    ends = make_certificate(folder, hosts, days)
    echo(f"{folder}: a certificate for {', '.join(hosts)} until {ends:%Y-%m-%d}.")
    note(f"Give {folder}/{CA_CERT} to every client.")


@deploy.command(epilog="Example: fedgru deploy key ann")
@click.argument("name", type=click.Path())
def key(name: str) -> None:
    """Make a client's pair of keys.

    NAME stays on its machine; NAME.pub is for the server.
    """
    from fedgru.deploy import require_flower
    from fedgru.deploy.keys import make_key

    require_flower()
    public = make_key(name)
    echo(f"{name} stays on this machine. Send {public} to the server's operator.")


@deploy.command(epilog="Example: fedgru deploy server places --clients 3")
@click.argument("app", type=click.Path())
@click.option(
    "--clients",
    required=True,
    type=click.IntRange(1),
    help="Begin when this many clients are connected. Later ones join in the next round.",
)
@click.option(
    "--keys",
    default="keys",
    show_default=True,
    metavar="FOLDER",
    help="Clients' public keys, NAME.pub each; other clients are refused.",
)
@click.option(
    "--certificates",
    default="certificates",
    show_default=True,
    metavar="FOLDER",
    help="Where fedgru deploy certificate wrote the server's certificate.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Listen here; 0.0.0.0 is reached from other machines.",
)
@click.option(
    "--port",
    default=9092,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Listen on this port for clients.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(1.0),
    metavar="SECONDS",
    help="Wait this long for a client's reply; then the round continues without it.",
)
@click.option(
    "--folder",
    default="fedgru-server",
    show_default=True,
    help="Files that the server needs to resume after a kill.",
)
@insecure_option
@quiet_option
@log_dir_option
def server(
    app: str,
    clients: int,
    keys: str,
    certificates: str,
    host: str,
    port: int,
    timeout_s: float,
    folder: str,
    insecure: bool,
    log_dir: Path,
) -> None:
    """Train APP with the clients that connect; it ends after one run.

    If it was stopped or killed, run the same command again to resume from its last round.
    """
    from fedgru.console.describe import describe_report
    from fedgru.deploy.serve import Server

    log_to_stderr()
    if insecure:
        warn("plaintext: anybody who reaches the port can read the updates and send their own.")
    where = (None, None) if insecure else (certificates, keys)
    run = Server(folder, app, host, port, *where).run(log_dir, clients, timeout_s, note)
    echo(describe_report(run.test(), run.kind))
    echo(f"Run folder:  {run.path}")


@deploy.command(
    epilog="\b\nExample:\n  fedgru deploy client --data mine.txt --server localhost:9092 \\\n"
    "    --key ann"
)
@click.option("--data", "file", required=True, metavar="FILE", help="Your check-ins.")
@click.option(
    "--server",
    "address",
    required=True,
    metavar="HOST:PORT",
    help="Address of the server.",
)
@click.option(
    "--ca",
    default="ca.crt",
    show_default=True,
    metavar="FILE",
    help="The certificate of the server's authority.",
)
@click.option("--key", metavar="FILE", help="Your private key, from `fedgru deploy key`.")
@columns_option(
    "For a table with a header: the name of each field's column, as in `fedgru data import csv`. "
    "Without it the file has the layout of TSMC2014."
)
@click.option(
    "--categories",
    metavar="coarse|raw|FILE",
    help="As in `fedgru data import`.  [default: coarse, or raw with --column]",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Drop and count bad rows instead of stopping at the first.",
)
@click.option(
    "--folder",
    default="fedgru-client",
    show_default=True,
    help="Where the client keeps its check-ins, as imported, and its log.",
)
@click.option(
    "--allow-app",
    "allow_app",
    multiple=True,
    metavar="SHA256",
    help="Take part in this app too; can be repeated. Without it: in the first one that comes, if "
    "all of its code is fedgru's.",
)
@click.option(
    "--min-cohort",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Send no update to a round of fewer clients.",
)
@click.option(
    "--max-cohort",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Believe no round of more clients: each adds the less noise, the more there are.",
)
@click.option(
    "--min-noise",
    type=click.FloatRange(0, min_open=True),
    help="Take part only in apps with at least this --noise.",
)
@click.option(
    "--max-clip",
    type=click.FloatRange(0, min_open=True),
    help="Take part only in apps that clip updates, at this --clip or less.",
)
@click.option(
    "--max-epsilon",
    type=click.FloatRange(0, min_open=True),
    help="Send no update that brings all ever sent from --folder above this epsilon.",
)
@click.option(
    "--delta",
    default=1e-5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of --max-epsilon.",
)
@click.option(
    "--runs",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Take part this many times in an app.",
)
@click.option("--record", is_flag=True, help="Keep a copy of every byte that is sent, in sent/.")
@click.option(
    "--patience",
    "patience_s",
    default=90.0,
    show_default=True,
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="Try again for this long if the server refuses this client.",
)
@insecure_option
@quiet_option
def client(
    file: str,
    address: str,
    ca: str,
    key: str | None,
    columns: dict[str, str],
    categories: str | None,
    skip_bad_rows: bool,
    folder: str,
    allow_app: tuple[str, ...],
    record: bool,
    patience_s: float,
    insecure: bool,
    **demanded: Any,
) -> None:
    """Take part with the check-ins in a file, which stay here. Stop it with Ctrl-C."""
    from fedgru.deploy import require_flower
    from fedgru.deploy.join import Client, import_own
    from fedgru.deploy.terms import Terms

    require_flower()
    if not insecure and key is None:
        raise click.UsageError("--key is missing. Make one with: fedgru deploy key NAME")
    if insecure:
        warn("plaintext: anybody between you and the server can read your updates.")
    data_set = import_own(file, folder, columns, categories, skip_bad_rows)
    note(f"{len(data_set.check_ins):,} check-ins imported; they stay in {folder}.")
    for line in data_set.passport["ledger"]:
        note(f"  {line['kind']}: {line['reason']}, {line['rows']:,} rows")
    ca_file, key_file = (None, None) if insecure else (ca, key)
    terms = Terms(**demanded)
    Client(folder, address, ca_file, key_file, record, patience_s, allow_app, terms).run(note)


def warn(text: str) -> None:
    """Print what is unsafe, also with --quiet."""
    echo(f"Warning: --insecure: {text}", err=True)
