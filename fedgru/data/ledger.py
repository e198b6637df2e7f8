"""The ledger of an import: how many rows were dropped or changed, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import nsmallest
from typing import Any, Literal, TypeAlias, get_args

from fedgru.core.types import AnyInts

Kind: TypeAlias = Literal["dropped", "repaired", "missing", "kept"]
KINDS = get_args(Kind)
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Line:
    """One reason and the rows it concerns.

    Attributes:
        kind: "dropped" (the row is removed), "repaired" (the row is changed), "missing" (a value
            is missing, the row stays) or "kept" (unusual, but not changed).
        reason: in plain words.
        rows: how many rows.
        examples: the first few row numbers, counted from 1 as in the source file.
    """

    kind: str
    reason: str
    rows: int
    examples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Ledger:
    """The lines of one import, in the order in which the steps happened.

    >>> ledger = Ledger().add("dropped", "user is empty", [9, 4]).add("missing", "no place", [])
    >>> ledger.lines
    (Line(kind='dropped', reason='user is empty', rows=2, examples=(4, 9)),)
    >>> ledger.rows("dropped"), ledger.rows("missing")
    (2, 0)
    """

    lines: tuple[Line, ...] = ()

    def add(self, kind: str, reason: str, row_nums: Sequence[int] | AnyInts) -> "Ledger":
        """Return this ledger with one more line; unchanged if `row_nums` is empty.

        Args:
            kind: one of `KINDS`.
            reason: in plain words.
            row_nums: int [rows], numbers of the affected rows, in any order.
        """
        if len(row_nums) == 0:
            return self
        examples = tuple(int(row) for row in nsmallest(MAX_EXAMPLES, row_nums))
        return Ledger((*self.lines, Line(kind, reason, len(row_nums), examples)))

    def __add__(self, other: "Ledger") -> "Ledger":
        """Return the lines of this ledger and then those of another one."""
        return Ledger((*self.lines, *other.lines))

    def rows(self, kind: str) -> int:
        """Return the rows in all lines of one kind; a row with two missing values counts twice."""
        return sum(line.rows for line in self.lines if line.kind == kind)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the lines as a list for JSON; `Ledger.from_list` reads it."""
        return [{**asdict(line), "examples": list(line.examples)} for line in self.lines]

    @classmethod
    def from_list(cls, lines: Iterable[Mapping[str, Any]]) -> "Ledger":
        return cls(tuple(Line(**{**line, "examples": tuple(line["examples"])}) for line in lines))
