"""What fedgru finds on this machine: text to read, and to paste into a report of a fault."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedgru.core import cache, jax_setup, machine, versions
from fedgru.core.errors import FedgruError
from fedgru.engines.jax import loop_speed
from fedgru.engines.jax.native import compiler

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox")


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        name: what was looked at.
        found: what there is, in words.
        advice: what to do about it; empty where nothing is wrong.
    """

    name: str
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(data_dir: Path, log_dir: Path) -> list[Finding]:
    """Return what is found: system, packages, compiler, devices, folders. It changes nothing.

    Args:
        data_dir, log_dir: folders of data sets and runs; they need not exist.
    """
    installed = versions.installed_versions()
    packages = [f"{name} {version}" for name, version in list(installed.items())[2:]]
    return [
        Finding("fedgru", f"{installed['fedgru']}, Python {installed['python']}"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("processor", f"{machine.describe_machine()}{_memory()}"),
        Finding("packages", ", ".join(packages)),
        _c_compiler(),
        _speeds(),
        _devices(),
        _browser(),
        _cache(),
        *(_folder(name, folder) for name, folder in (("data", data_dir), ("log", log_dir))),
    ]


def _memory() -> str:
    size = machine.memory_bytes()
    return "" if size is None else f", {size / 2**30:.0f} GiB memory"


def _c_compiler() -> Finding:
    library, problem = compiler.first_try()
    if library is None:
        return Finding(
            "C compiler",
            f"none that can be used: {problem}",
            "Local steps run by XLA, with the same numbers. Install gcc 11 or clang 14, or later.",
        )
    return Finding("C compiler", f"{compiler.find_compiler()[0]}, its code is loaded")


def _speeds() -> Finding:
    library, _ = compiler.first_try()
    kept = [] if library is None else loop_speed.all_kept(library.digest)
    if not kept:
        return Finding("local steps", "not timed yet: the first longer training does that")
    faster = sum(speeds.native_is_faster for speeds in kept)
    ratios = sorted(speeds.xla_s / speeds.native_s for speeds in kept)
    return Finding(
        "local steps",
        f"C is faster than XLA for {faster} of {len(kept)} settings that were timed, "
        f"{ratios[0]:.1f} to {ratios[-1]:.1f} times XLA's speed",
    )


def _devices() -> Finding:
    try:
        found = jax_setup.pick_device("auto")
    except (FedgruError, RuntimeError) as error:
        return Finding("device", f"JAX finds none: {error}", "Reinstall jax and jaxlib.")
    kind = str(getattr(found, "device_kind", found.platform))
    return Finding("device", f"{found.platform} ({kind}), which `device` auto takes")


def _browser() -> Finding:
    names = [name for name in BROWSERS if shutil.which(name)]
    if not names:
        return Finding("browser", "none found; reports are HTML files that any browser opens")
    return Finding("browser", ", ".join(names))


def _cache() -> Finding:
    folder = cache.compiled_folder()
    if folder is None:
        return Finding("cache", f"off ({cache.SETTING}): C code is compiled in every process")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("cache", f"{folder}, {size / 1e6:.1f} MB")


def _folder(name: str, folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(there).free
    advice = "There is little room for runs and data sets." if free < 1 << 30 else ""
    exists = f"{folder.resolve()}" if folder.exists() else f"{folder.resolve()}, not made yet"
    return Finding(f"{name} folder", f"{exists}, {free / 1e9:.0f} GB free", advice)
