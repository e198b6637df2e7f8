"""The tour in CONTRIBUTING.md: its files exist, and settings climb as often as it says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = {"four": 4, "five": 5, "six": 6}


def steps():
    """The numbered steps of the tour, each the list of the files it names, in its order."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    _, _, tour = text.partition("## One training run, from top to bottom\n")
    tour, _, _ = tour.partition("\n## ")
    (said,) = re.findall(r"they climb, (\w+) times", tour)
    return said, [
        re.findall(r"`([\w/]+\.py)`", step) for step in re.split(r"^\d\. ", tour, flags=re.M)[1:]
    ]


def test_settings_go_down_within_a_step_and_climb_between_two():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    order = layers["contracts"][0]["layers"]
    height = {name: -at for at, layer in enumerate(order) for name in layer.split(" | ")}
    said, found = steps()
    for step in found:
        assert step and all((ROOT / "fedgru" / file).exists() for file in step), step
        # a step may name two files of one package, and the data set's behind the task's
        heights = [height[file.split("/")[0]] for file in step]
        assert heights == sorted(heights, reverse=True), step
    path = [height[file.split("/")[0]] for step in found for file in step]
    climbs = sum(later > earlier for earlier, later in zip(path, path[1:], strict=False))
    assert climbs == WORDS[said] == len(found) - 1 <= 6
