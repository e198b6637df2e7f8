"""`make sbom`: a bill of materials has each package of its lock, once, as it is locked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / f"requirements{which}.lock" for which in ("", "-dist", "-tff")]


@pytest.fixture(scope="module")
def boms(tmp_path_factory):
    """{lock: its bill of materials}, and the folder."""
    folder = tmp_path_factory.mktemp("sbom")
    command = [sys.executable, str(ROOT / ".ci/sbom.py"), "--output", str(folder)]
    subprocess.run([*command, *map(str, LOCKS)], check=True)
    again = tmp_path_factory.mktemp("again")
    command[-1] = str(again)
    subprocess.run([*command, *map(str, LOCKS)], check=True)
    for file in folder.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()
    return {lock: json.loads((folder / f"{lock.stem}.cdx.json").read_text()) for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_of_the_lock_is_in_it(boms, lock):
    text, bom = lock.read_text(), boms[lock]
    locked = sorted(re.findall(r"^([a-z0-9][a-z0-9.-]*)==(\S+)", text, re.MULTILINE))
    found = [(one["name"], one["version"]) for one in bom["components"]]
    assert sorted(found) == [(re.sub("[.]", "-", name), version) for name, version in locked]
    hashes = re.findall("sha256:([0-9a-f]{64})", text)
    listed = [
        one["value"]
        for component in bom["components"]
        for one in component["properties"]
        if one["name"] == "fedgru:file-sha256"
    ]
    assert listed == hashes
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    refs = [one["bom-ref"] for one in bom["components"]]
    assert len({*refs}) == len(refs) and bom["dependencies"][0]["dependsOn"] == refs
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[^@ ]+", ref) for ref in refs)


def test_where_a_package_is_installed_is_said(boms):
    (colorama,) = [c for c in boms[LOCKS[0]]["components"] if c["name"] == "colorama"]
    assert {"name": "fedgru:marker", "value": "sys_platform == 'win32'"} in colorama["properties"]


def test_a_line_that_is_not_understood_is_an_error(tmp_path):
    (tmp_path / "odd.lock").write_text("https://example.org/package.whl\n")
    command = [sys.executable, str(ROOT / ".ci/sbom.py"), "--output", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path / "odd.lock")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "line 1 is neither a package nor a hash: 'https://example.org/" in done.stderr
