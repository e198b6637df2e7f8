"""Arrays in tuples: the same function for each of them."""

from collections.abc import Callable, Iterator
from typing import Any


def map_arrays(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of the same form, of what a function returns for each array.

    Args:
        function: of an array, and of the arrays in the same place of the other trees.
        tree: an array; None, which stays None; or a NamedTuple of trees.
        others: trees of the same form.
    """
    if tree is None:
        return None
    if isinstance(tree, tuple):
        places = zip(tree, *others, strict=True)
        return type(tree)(*(map_arrays(function, *place) for place in places))
    return function(tree, *others)


def arrays_in(tree: Any) -> Iterator[Any]:
    """Yield the arrays of a tree."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from arrays_in(part)
    elif tree is not None:
        yield tree
