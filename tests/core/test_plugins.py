"""fedgru/core/plugins: objects that a setting names, by MODULE:NAME or by an entry point."""

import sys

import pytest

from fedgru.core import plugins
from fedgru.core.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("far_"):
            del sys.modules[name]


def test_a_module_of_the_current_folder_needs_no_installation(here):
    (here / "far_module.py").write_text("import far_other\nclass Outer:\n    inner = far_other.x\n")
    (here / "far_other.py").write_text("x = 3\n")
    path = list(sys.path)
    assert plugins.load_named("far_module:Outer.inner", "fedgru.models", "model") == 3
    assert sys.path == path  # only for that import


def test_a_module_inside_a_package(here):
    (here / "far_package").mkdir()
    (here / "far_package/__init__.py").write_text("")
    (here / "far_package/part.py").write_text("x = 4\n")
    assert plugins.import_object("far_package.part:x", "model") == 4


def put_package(here, monkeypatch, lines):
    info = here / "site/far_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[fedgru.models]", *lines, ""]))
    (here / "site/far_models.py").write_text("wide = 5\n")
    monkeypatch.syspath_prepend(here / "site")


def test_an_entry_point_by_its_name(here, monkeypatch):
    put_package(here, monkeypatch, ["wide = far_models:wide"])
    assert plugins.load_named("wide", "fedgru.models", "model") == 5
    with pytest.raises(ConfigError) as error:
        plugins.load_named("wied", "fedgru.models", "model")
    assert str(error.value) == (
        "`model` is wied, expected MODULE:NAME, such as my_module:name, or the name of an entry "
        "point fedgru.models of an installed package (one of wide). Did you mean wide?"
    )


def test_an_entry_point_that_cannot_be_loaded(here, monkeypatch):
    put_package(here, monkeypatch, ["wide = far_models:gone"])
    with pytest.raises(ConfigError) as error:
        plugins.load_named("wide", "fedgru.models", "model")
    assert str(error.value) == (
        "far_models:gone of the package far-package (fedgru.models) cannot be loaded: "
        "AttributeError: module 'far_models' has no attribute 'gone'. Upgrade the package, or "
        "uninstall it."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "wide",
            "`model` is wide, expected MODULE:NAME, such as my_module:name, or the name of an "
            "entry point fedgru.models of an installed package (there is none).",
        ),
        ("far module:x", "`model` is far module:x, expected MODULE:NAME, such as my_module:name."),
        ("far_module:", "`model` is far_module:, expected MODULE:NAME, such as my_module:name."),
        (
            "far_modle:build",
            "`model` is far_modle:build, but there is no module far_modle, neither in the folder "
            "HERE nor installed. Did you mean far_module?",
        ),
        (
            "far_module.part:build",
            "`model` is far_module.part:build, but there is no module far_module.part, neither in "
            "the folder HERE nor installed. Did you mean far_module?",
        ),
        (
            "far_module:biuld",
            "`model` is far_module:biuld, but far_module has no biuld. Did you mean build?",
        ),
        ("far_module:zzz", "`model` is far_module:zzz, but far_module has no zzz."),
        (
            "far_needs:build",
            "`model` is far_needs:build, but the module far_needs cannot be imported: "
            "ModuleNotFoundError: No module named 'far_nowhere' (far_needs.py, line 2).",
        ),
        (
            "far_raises:build",
            "`model` is far_raises:build, but the module far_raises cannot be imported: "
            "ZeroDivisionError: division by zero (far_raises.py, line 1).",
        ),
        (
            "far_typo:build",
            "`model` is far_typo:build, but the module far_typo cannot be imported: SyntaxError: "
            "invalid syntax (far_typo.py, line 1).",
        ),
    ],
)
def test_what_is_not_there(here, text, message):
    (here / "far_module.py").write_text("def build():\n    pass\n")
    (here / "far_needs.py").write_text("\nimport far_nowhere\n")
    (here / "far_raises.py").write_text("1 / 0\n")
    (here / "far_typo.py").write_text("x = = 1\n")
    with pytest.raises(ConfigError) as error:
        plugins.load_named(text, "fedgru.models", "model")
    assert str(error.value) == message.replace("HERE", str(here))
