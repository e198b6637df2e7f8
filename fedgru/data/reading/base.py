"""The interface of a reader of check-in files: `Reader`, its options, its result `Reading`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedgru.core.errors import ConfigError
from fedgru.data.checkins import CheckIns
from fedgru.data.ledger import Ledger
from fedgru.data.reading.sources import Source


@dataclass(frozen=True)
class Reading:
    """A source file, read.

    Attributes:
        check_ins: its good rows, with the category names of the file in `category`
            (`fedgru.data.categories` replaces them by a scheme's categories).
        ledger: rows dropped, repaired or missing a value.
        source: facts about the file.
        num_rows: rows in the file, good and bad, without a header.
        time_layout: layout of its times, a key of `fedgru.data.reading.timestamps.LAYOUTS`.
        delimiter: the character between its fields.
        settings: the reader's settings, for the passport.
    """

    check_ins: CheckIns
    ledger: Ledger
    source: Source
    num_rows: int
    time_layout: str | None
    delimiter: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """An option of a reader, and its form on the command line.

    Attributes:
        name: its key in the options that `Reader.read` is called with.
        help: one sentence or two, for `--help`.
        type: type of its value: str, int, float, bool (a flag), or dict, which the command line
            takes as FIELD=NAME, any number of times.
        flag: its word on the command line, if that is not the name with hyphens for underscores.
        metavar: placeholder of the value in `--help`.
        multiple: whether it can be repeated; the value is then a tuple.
        required: whether it must be given.
        default: the value if it is not given.
    """

    name: str
    help: str
    type: type = str
    flag: str | None = None
    metavar: str | None = None
    multiple: bool = False
    required: bool = False
    default: Any = None


SKIP_BAD_ROWS = Option(
    "skip_bad_rows",
    "Drop and count bad rows instead of stopping at the first.",
    type=bool,
    default=False,
)


OFFSET = Option(
    "offset_min",
    "Minutes from UTC of the local clock, for every row.  [default: local time is UTC]",
    type=int,
    flag="--offset",
    metavar="MINUTES",
)


def _any_categories(options: Mapping[str, Any], categories: str) -> None:
    """Check nothing: for formats whose rows have categories."""


@dataclass(frozen=True)
class Reader:
    """A format of check-in files, and how to read it.

    fedgru's readers are in `fedgru.data.reading.registry.READERS`. Another package adds its own by
    an entry point of the group `fedgru.readers` with the reader's name.

    Attributes:
        name: FORMAT in `fedgru data import FORMAT`; `kind` of the source in the passport.
        help: one line.
        read: called as read(path, options) with a value for each of `options`; returns `Reading`.
        options: its options.
        details: more help, in paragraphs.
        example: lines of a command that works.
        categories: the default scheme of categories.
        check: called as check(options, categories) before the file is opened; raises a FedgruError
            if categories other than the default would have no effect.
        has_categories: whether its rows have categories; if not, `categories` other than the
            default is refused.
    """

    name: str
    help: str
    read: Callable[[Any, Mapping[str, Any]], Reading]
    options: tuple[Option, ...] = (SKIP_BAD_ROWS,)
    details: str = ""
    example: tuple[str, ...] = ()
    categories: str = "raw"
    check: Callable[[Mapping[str, Any], str], None] = _any_categories
    has_categories: bool = True

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each option: the one given, or its default.

        Raises:
            ConfigError: if one is not an option of this reader, or one is missing.
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                expected = ", ".join(known) or "none"
                raise ConfigError(
                    f"{name} is not an option of the format {self.name}, expected {expected}."
                )
        for name, option in known.items():
            if option.required and name not in given:
                raise ConfigError(f"{name} is missing: the format {self.name} needs it.")
        return {name: given.get(name, option.default) for name, option in known.items()}
