"""What a client lets a server run: fedgru's own code, and the one app that it has joined.

Flower sends each client the app as a zip file with Python modules in it, and would run any. Before
anything of it is installed, the client compares it (`check`):

* Its modules must be, byte for byte, those that `fedgru deploy app` writes, which only call the
  fedgru that is installed here. So a server that was taken over cannot run code of its own where
  the check-ins are.
* Its settings and tables must be those of the first app that this client took part in.

The SHA-256 of all its files stands for an app. `fedgru deploy client --allow-app SHA256` lets one
more take part, whatever is in it.
"""

import hashlib
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.version import __version__
from fedgru.deploy.app import MAX_BYTES, MODEL, PACKAGE, SETTINGS, code_files
from fedgru.storage.files import read_json_object, write_text

APPS = "apps.json"  # in the client's folder: {"joined": sha256 or none, "allowed": [sha256]}
VARIABLE = "FEDGRU_DEPLOY_APPS"  # names that file to the process that Flower starts
MAX_UNPACKED_BYTES = 4 * MAX_BYTES
_PROJECT, _MANIFEST = "pyproject.toml", ".info/CONTENT"
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256_of(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of an app's files, 64 hex digits.

    Args:
        files: name -> content. Flower writes pyproject.toml anew: of that, the values count.
    """
    parts = []
    for name in sorted(files):
        if name == _MANIFEST:  # Flower's own list of the others
            continue
        content = files[name]
        if name == _PROJECT:
            content = json.dumps(_project(content), sort_keys=True).encode()
        parts.append(f"{len(name.encode())} {len(content)} ".encode() + name.encode() + content)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def sha256_of_folder(folder: str | Path) -> str:
    """Return the SHA-256 of the app in a folder that `write_app` wrote, as clients will see it."""
    folder = Path(folder)
    names = [_PROJECT, *(f"{PACKAGE}/{file.name}" for file in (folder / PACKAGE).iterdir())]
    kinds = (".py", ".toml", ".json", ".md")  # what Flower sends
    return sha256_of({name: (folder / name).read_bytes() for name in names if name.endswith(kinds)})


def unpack(content: bytes) -> dict[str, bytes]:
    """Return {name: content} of an app as Flower sends it.

    Raises:
        DataError: if it is no app, or one that unpacks to more than MAX_UNPACKED_BYTES.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise DataError("the app unpacks to too much.")
            found = {member.filename: archive.read(member) for member in members}
    except DataError:
        raise
    except Exception as error:  # what zipfile raises depends on the damaged byte
        raise DataError(f"what the server sends is no app: {error}.") from None
    if len(found) < len(members) or _PROJECT not in found:
        raise DataError("what the server sends is no app of Flower.")
    return found


def foreign_code(files: Mapping[str, bytes]) -> str | None:
    """Return the name of a file that is not fedgru's, None if all are."""
    version = _version(files[_PROJECT])
    known = {name: text.encode() for name, text in code_files(version).items()}
    for name in sorted({*files} | {*known}):
        if name in (_MANIFEST, f"{PACKAGE}/{SETTINGS}", f"{PACKAGE}/{MODEL}"):
            continue
        if name == _PROJECT:
            if _project(files[name]) != _project(known[name]):
                return name
        elif files.get(name) != known.get(name):
            return name
    return None


def allow(folder: str | Path, allowed: Sequence[str]) -> None:
    """Let a client take part in some more apps.

    Args:
        folder: the client's.
        allowed: SHA-256 of each app, 64 hex digits.

    Raises:
        ConfigError: if one is no SHA-256.
    """
    for sha256 in allowed:
        if not _SHA256.fullmatch(sha256):
            raise ConfigError(
                f"`allow_app` is {sha256!r}, expected the 64 hex digits that the operator's "
                "`fedgru deploy app` and `fedgru deploy server` show."
            )
    file = Path(folder, APPS)
    known = _read(file)
    _write(file, known["joined"], [*dict.fromkeys([*known["allowed"], *allowed])])


def check(content: bytes, file: Path) -> str:
    """Return the SHA-256 of an app that a client takes part in; remember the first one.

    Args:
        content: of the zip file that Flower sends.
        file: APPS in the client's folder.

    Raises:
        DataError: if the client does not take part in it; says why, and what to do.
    """
    files = unpack(content)
    known, sha256 = _read(file), sha256_of(files)
    if sha256 in (known["joined"], *known["allowed"]):
        return sha256
    advice = (
        "If you want to take part in it and trust its operator, who can tell you the app's "
        f"SHA-256, take part with --allow-app {sha256}"
    )
    foreign = foreign_code(files)
    if foreign is not None:
        theirs = _version(files[_PROJECT])
        if theirs != __version__:
            raise DataError(
                f"refused: the app was made by fedgru {theirs}, here is {__version__}, and its "
                f"{foreign} differs. Install the operator's version, or ask for the app to be made "
                f"again with yours. {advice}"
            )
        raise DataError(
            f"refused: the server sends an app whose {foreign} is not fedgru's. It would run here, "
            f"where your check-ins are. {advice}"
        )
    if known["joined"] is not None:
        raise DataError(
            f"refused: the server sends another app than {known['joined'][:12]}..., which this "
            f"client has joined. {advice}"
        )
    _write(file, sha256, known["allowed"])
    return sha256


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_json_object(file)
    except ValueError as error:
        raise DataError(f"{file} is damaged, {error}. Delete it to join anew.") from None
    return {"joined": found.get("joined"), "allowed": list(found.get("allowed", []))}


def _write(file: Path, joined: str | None, allowed: list[str]) -> None:
    write_text(file, json.dumps({"joined": joined, "allowed": allowed}, indent=2) + "\n")


def _project(content: bytes) -> Any:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise DataError("the app's pyproject.toml is damaged.") from None


def _version(content: bytes) -> str:
    """The version of the fedgru that made an app, as its pyproject.toml says."""
    project = _project(content).get("project", {})
    said = project.get("description", "") if isinstance(project, dict) else ""
    words = str(said).split(" with fedgru ")
    return words[-1] if len(words) == 2 and re.fullmatch(r"[0-9a-z.+]{1,30}", words[-1]) else "?"
