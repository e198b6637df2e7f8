"""How much of the public code is annotated, counted without mypy."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fedgru"


def functions(tree, inside_class=False):
    """Public functions and methods of a module, those of public classes too."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node, inside_class=True)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            is_method = inside_class and not any(
                isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
            )
            yield node, is_method


def is_annotated(function, is_method):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    named = named[1:] if is_method else named
    named += [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return function.returns is not None and all(a.annotation is not None for a in named)


def test_the_counting():
    source = """
def whole(a: int, *, b: str = "") -> None: ...
def half(a, b: int) -> None: ...
def no_return(a: int): ...
class Public:
    def method(self, a: int) -> int: ...
    @staticmethod
    def bare(a) -> int: ...
class _Private:
    def method(self, a): ...
"""
    found = {f.name: is_annotated(f, m) for f, m in functions(ast.parse(source))}
    assert found == {
        "whole": True,
        "half": False,
        "no_return": False,
        "method": True,
        "bare": False,
    }


def test_95_of_100_public_functions_are_annotated():
    missing, count = [], 0
    for file in sorted(PACKAGE.rglob("*.py")):
        for function, is_method in functions(ast.parse(file.read_text("utf-8"))):
            count += 1
            if not is_annotated(function, is_method):
                missing.append(f"{file.relative_to(PACKAGE)}:{function.lineno} {function.name}")
    assert count > 500 and len(missing) <= 0.05 * count, missing
