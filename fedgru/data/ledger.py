"""What happened to rows on the way in: how many were dropped or repaired, and why."""

from dataclasses import asdict, dataclass
from heapq import nsmallest

KINDS = ("dropped", "repaired", "missing", "kept")
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Line:
    """One reason and the rows it concerns.

    Attributes:
        kind: "dropped" (the row is gone), "repaired" (the row was changed), "missing" (a value
            is not there, the row stays) or "kept" (odd, counted, and left as it is).
        reason: in plain words.
        rows: how many rows.
        examples: the first few row numbers, counted from 1 as in the source file.
    """

    kind: str
    reason: str
    rows: int
    examples: tuple[int, ...] = ()

    def __post_init__(self):
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

    def add(self, kind, reason, row_nums):
        """This ledger with one more line; unchanged if `row_nums` is empty.

        Args:
            kind: one of `KINDS`.
            reason: in plain words.
            row_nums: int [rows], numbers of the rows concerned, in any order.
        """
        if len(row_nums) == 0:
            return self
        examples = tuple(int(row) for row in nsmallest(MAX_EXAMPLES, row_nums))
        return Ledger((*self.lines, Line(kind, reason, len(row_nums), examples)))

    def rows(self, kind):
        """Rows of all lines of one kind, a row with two missing values counting twice."""
        return sum(line.rows for line in self.lines if line.kind == kind)

    def to_list(self):
        """The lines as JSON has them; `Ledger.from_list` is the way back."""
        return [{**asdict(line), "examples": list(line.examples)} for line in self.lines]

    @classmethod
    def from_list(cls, lines):
        return cls(tuple(Line(**{**line, "examples": tuple(line["examples"])}) for line in lines))
