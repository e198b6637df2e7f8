"""Write a bill of materials (CycloneDX 1.6, JSON) of each lock: `make sbom`.

It names every package that an environment of the lock can hold, with its version, the marker that
says where it is installed, and the SHA-256 of each file that pip would accept. The same locks give
the same bytes.
"""

import argparse
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

SPEC = "1.6"
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))?(?: \\)?$")
_HASH = re.compile(r"^ {4}--hash=sha256:([0-9a-f]{64})(?: \\)?$")


def read_lock(text: str) -> list[dict[str, Any]]:
    """Return the packages of a lock: name, version, marker (or None), sha256 (list).

    Raises:
        ValueError: for a line that is neither a package nor a hash.
    """
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if package := _PACKAGE.match(line):
            name, version, marker = package.groups()
            found.append({"name": name, "version": version, "marker": marker, "sha256": []})
        elif (digits := _HASH.match(line)) and found:
            found[-1]["sha256"].append(digits[1])
        elif line.strip():
            raise ValueError(f"line {number} is neither a package nor a hash: {line!r}")
    return found


def to_bom(lock: str, packages: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """Return the bill of materials of a lock's packages as a dict.

    Args:
        lock: the lock's name.
        packages: from `read_lock`.
        version: of fedgru.
    """
    own = {"type": "application", "bom-ref": "fedgru", "name": "fedgru", "version": version}
    components = [_component(package) for package in packages]
    content = json.dumps([own, lock, components], sort_keys=True)
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": {"component": own, "properties": [_property("lock", lock)]},
        "components": components,
        "dependencies": [{"ref": "fedgru", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _component(package: dict[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", package["name"]).lower()
    purl = f"pkg:pypi/{name}@{package['version']}"
    properties = [_property("file-sha256", digits) for digits in package["sha256"]]
    if package["marker"]:
        properties.insert(0, _property("marker", package["marker"]))
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": package["version"],
        "purl": purl,
        "properties": properties,
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"fedgru:{name}", "value": value}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("locks", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    root = Path(__file__).parents[1]
    version = re.search(r'__version__ = "(.+)"', (root / "fedgru/core/version.py").read_text())
    assert version is not None, "fedgru/core/version.py has a version"
    given.output.mkdir(parents=True, exist_ok=True)
    for lock in given.locks:
        packages = read_lock(lock.read_text("utf-8"))
        file = given.output / f"{lock.stem}.cdx.json"
        file.write_text(json.dumps(to_bom(lock.name, packages, version[1]), indent=2) + "\n")
        sys.stdout.write(f"{file}: {len(packages)} packages\n")


if __name__ == "__main__":
    main(sys.argv[1:])
