"""Small plots in text."""

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def spark_line(values: Sequence[float]) -> str:
    """Return one character per value, its height in proportion; a blank for 0.

    >>> spark_line([0, 1, 4, 8])
    ' ▁▄█'
    """
    top = max(values, default=0)
    return "".join(
        BLOCKS[max(0, round(len(BLOCKS) * value / top) - 1)] if value else " " for value in values
    )


def sums_of(values: Sequence[int], most: int) -> tuple[list[int], int]:
    """Return sums of successive values, at most so many, and how many values each one takes.

    >>> sums_of([1, 2, 3, 4, 5], 3)
    ([3, 7, 5], 2)
    """
    size = -(-len(values) // most) or 1
    return [sum(values[at : at + size]) for at in range(0, len(values), size)], size
