"""The app that the server sends to its clients: settings, tables of values, and two programs.

Flower packs a folder of .py, .toml, .json and .md files and sends it to every node. Its content is
the same for all clients, and public: the ids of values, the scale of numbers, the shared part of
the prior. So no client has to ask for the id of one of its places.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgru import config
from fedgru.config.feature_names import OWN_KIND, kind_of, parse_features
from fedgru.config.settings import Settings
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.version import __version__
from fedgru.deploy.privacy import Privacy, check_privacy
from fedgru.engines import registry
from fedgru.predict.schema import Schema
from fedgru.storage.folders import writing_folder
from fedgru.task.features import Fitted

if TYPE_CHECKING:
    from fedgru.task.task import Task

PACKAGE = "fedgru_app"
PLAIN = Privacy()
MAX_BYTES = 10 << 20  # of the packed app, what Flower takes
SETTINGS, MODEL = "settings.toml", "model.json"
_PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "fedgru-app"
version = "1.0.0"
description = "Federated next-place prediction with fedgru {version}"
license = "Apache-2.0"
dependencies = []  # nothing is installed on a client's machine: fedgru is there already

[tool.flwr.app]
publisher = "fedgru"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"
"""
_SERVER_APP = '''\
"""What the server runs: fedgru's round loop over the clients that are there."""

from pathlib import Path

from fedgru.deploy.server import make_server_app

app = make_server_app(Path(__file__).parent)
'''
_CLIENT_APP = '''\
"""What every client runs: local training and scoring on its own check-ins."""

from pathlib import Path

from fedgru.deploy.client import make_client_app

app = make_client_app(Path(__file__).parent)
'''
# Settings of simulated clients, and why a deployment has no use for them.
_SIMULATED = {
    "agnostic_to": "it needs states of all clients in one place",
    "client_dropout": "real clients drop out by themselves",
    "attack": "it makes simulated clients malicious",
    "eval_clients": "every connected client validates its own data",
    "protocol": "every client keeps its own check-ins",
    "session_gap": "its clients carry the state on",
    "train_users": "every connected client trains and is scored",
    **dict.fromkeys(
        config.AvailabilitySettings.model_fields, "real clients take the time that they take"
    ),
    **dict.fromkeys(
        config.PrivacySettings.model_fields, "its own options `clip` and `noise` protect updates"
    ),
    "clients_per_call": "every client trains by itself",
    "algorithm": "its server averages updates, and its clients keep nothing",
}


@dataclass(frozen=True)
class App:
    """An app, read.

    Attributes:
        settings: Settings of the run.
        schema: Schema: the model's shapes, and the tables of values.
        privacy: Privacy.
        sha256: of settings and tables, 64 hex digits.
    """

    settings: config.Settings
    schema: Schema
    privacy: Privacy
    sha256: str

    @property
    def fitted(self) -> Fitted:
        """Fitted: what a client's task takes from the app."""
        schema = self.schema
        return Fitted(
            ids=schema.vocabularies,
            sizes=schema.sizes,
            scales=schema.scales,
            classes=tuple(schema.classes),
            shared=schema.shared,
        )


def refuse_own_features(settings: Settings) -> None:
    """Raise a ConfigError for features that a client would have to import somebody's code for."""
    own = [n for n in parse_features(settings.inputs.features) if kind_of(n) == OWN_KIND]
    if own:
        raise ConfigError(
            f"`features` {own[0]} is of your own, and a client of a deployment runs fedgru's code "
            "alone. Leave it out."
        )


def check_deployable(settings: Settings) -> None:
    """Raise a ConfigError for a setting that a deployment cannot follow."""
    if not registry.engine_of(settings).trains_on_devices:
        raise ConfigError(
            f"`engine` {settings.loop.engine} is for simulations: clients train with jax. Leave "
            "it out."
        )
    refuse_own_features(settings)
    for name in config.differences(settings):
        if name in _SIMULATED:
            raise ConfigError(
                f"`{name}` has no effect in a deployment: {_SIMULATED[name]}. Leave it out."
            )


def code_files(version: str) -> dict[str, str]:
    """Return {name: text} of an app's files but its settings and tables: they are always the same.

    Args:
        version: of the fedgru that makes the app.
    """
    return {
        "pyproject.toml": _PYPROJECT.format(package=PACKAGE, version=version),
        f"{PACKAGE}/__init__.py": '"""A federation of fedgru."""\n',
        f"{PACKAGE}/server_app.py": _SERVER_APP,
        f"{PACKAGE}/client_app.py": _CLIENT_APP,
    }


def write_app(folder: str | Path, task: Task, privacy: Privacy = PLAIN) -> None:
    """Write an app whose tables are those of a task.

    Args:
        folder: path of the new folder, which must not exist.
        task: Task of the data set that the tables are taken from, its kernel learnt.
        privacy: Privacy.

    Raises:
        ConfigError: for a setting that a deployment cannot follow.
        DataError: if the folder is there already or cannot be written, or the tables are too large.
    """
    folder = Path(folder)
    check_deployable(task.settings)
    check_privacy(privacy, task.settings)
    content = {"model": Schema.of(task, {}).to_dict(), "privacy": asdict(privacy)}
    described = json.dumps(content, ensure_ascii=False)
    if len(described.encode()) > MAX_BYTES:
        raise DataError(
            f"the tables of values take {len(described.encode()):,} bytes, Flower sends at most "
            f"{MAX_BYTES:,}. Leave venue or user out of `features`."
        )
    files = code_files(__version__) | {
        f"{PACKAGE}/{SETTINGS}": config.dump(task.settings),
        f"{PACKAGE}/{MODEL}": described + "\n",
    }
    if folder.exists():
        raise DataError(f"{folder} exists already: choose another name, or delete it.")
    try:
        with writing_folder(folder) as new:
            (new / PACKAGE).mkdir()
            for name, text in files.items():
                (new / name).write_text(text, "utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}.") from None


def read_app(folder: str | Path) -> App:
    """Return the App in a folder: one that `write_app` wrote, or the package inside of it.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    folder = Path(folder)
    package = folder / PACKAGE if (folder / PACKAGE).is_dir() else folder
    try:
        texts = [(package / name).read_text("utf-8") for name in (SETTINGS, MODEL)]
        described = json.loads(texts[1])
        schema = Schema.from_dict(described["model"])
        privacy = Privacy(**described["privacy"])
    except OSError:
        raise DataError(
            f"{folder} is not an app of fedgru. Make one with: fedgru deploy app FOLDER"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, DataError):
        raise DataError(f"{package / MODEL} is damaged. Make the app again.") from None
    settings = config.read_stored(package / SETTINGS)
    sha256 = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return App(settings, schema, privacy, sha256)
