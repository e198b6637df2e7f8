"""docs/algorithms.md has every algorithm of the registry, no other, and says of each what is so."""

import re
from pathlib import Path

import pytest

from fedgru import config
from fedgru.algorithms import registry
from fedgru.algorithms.catalogue import BY_SETTING
from fedgru.core.errors import ConfigError
from fedgru.workflows.algorithms import list_algorithms

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "algorithms.md").read_text("utf-8")
LISTED = list_algorithms()
EVERY = [one for one in (*LISTED.by_name, *LISTED.by_setting) if not one.package]


def sections(text):
    """Return {heading: text below it} of the headings of third order."""
    _, *found = re.split(r"^###? (.*)\n", text, flags=re.M)
    return {name: below for name, below in zip(found[::2], found[1::2], strict=True)}


def options_of(one):
    given = {**one.asked_by, **one.needs, **one.settings}
    return " ".join(f"{config.option(n)} {'N' if v is None else v}" for n, v in given.items())


def test_every_algorithm_is_there_in_the_order_of_the_list():
    headings = [name for name in sections(PAGE) if not name.startswith("By ")]
    assert headings == [one.name for one in EVERY]
    names = PAGE.index("## By name"), PAGE.index("## By other options")
    asked = [registry.BUILT_IN.keys(), {one.name for one in LISTED.by_setting}]
    for part, expected in zip((PAGE[slice(*names)], PAGE[names[1] :]), asked, strict=True):
        assert set(re.findall(r"^### (.*)$", part, re.M)) == set(expected)


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.name)
def test_what_is_said_of_it(one):
    text = sections(PAGE)[one.name]
    facts = dict(re.findall(r"^\* ([^:]+): (.*)$", text, re.M))
    expected = {
        "Paper": one.paper,
        "Options": f"`{options_of(one)}`",
        "A client keeps": (f"{one.keeps or 'nothing'}. Sent besides: {one.sends or 'nothing'}."),
        "Engines": ", ".join(one.engines),
    }
    if one.name in registry.BUILT_IN:
        expected["Robust means that go with it"] = robust_means(one)
    assert facts == expected
    what, equation, when, *_ = text.split("\n\n")
    assert what and equation.startswith("    ") and when.startswith("When: ")


def robust_means(one):
    """The values of the setting `robust` that are not refused with an algorithm, in words."""
    every = [info.value for info in BY_SETTING.values() if info.setting == "robust"]
    needed = {"norm-bounding": {"clip_norm": 1.0}, "centred-clipping": {"clip_norm": 1.0}}
    able = []
    for value in every:
        given = {"algorithm": one.name, "robust": value, **one.needs}
        try:
            registry.check(config.load(given | needed.get(value, {})))
        except ConfigError as error:
            assert "does not go with `algorithm`" in str(error)
        else:
            able.append(value)
    return "all" if able == every else ", ".join(able) or "none"


def test_what_goes_with_all_or_with_fed_avg_alone():
    for one in LISTED.by_name:
        plain = {"algorithm": one.name, **one.needs}
        for more in ({"prox_mu": 0.1}, {"server_optimizer": "adam"}, {"mean": "clients"}):
            registry.check(config.load(plain | more))
        for more in ({"agnostic_to": "zone"}, {"buffer_size": 2}):
            refused = one.name != registry.PLAIN
            try:
                registry.check(config.load(plain | more))
            except ConfigError:
                assert refused
            else:
                assert not refused, (one.name, more)


def test_the_two_senses_of_agnostic():
    (words,) = re.findall(r'^\*\*Two senses of "agnostic".\*\*(.*?)\n\n', PAGE, re.M | re.S)
    assert "Mohri et al. 2019" in words and "Jia et al. 2018" in words
    assert "--algorithm agnostic-fl" in words and "--agnostic-to" in words


def test_pages_that_speak_of_algorithms_lead_there():
    for page in ("method", "faults", "availability", "recipes", "python", "agnostic-federated"):
        text = (DOCS / f"{page}.md").read_text("utf-8")
        assert re.search(r"\(algorithms\.md[#)]", text), page
    assert "(docs/algorithms.md)" in (DOCS.parent / "README.md").read_text("utf-8")
