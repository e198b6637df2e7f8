"""What stands between data and a terminal: control characters are shown, never obeyed.

A name in a file of check-ins, in a run folder or from a client can hold an escape sequence, which
would colour, clear or retitle the terminal, or write to its clipboard; or a mark that reverses the
order in which the characters after it are shown.
"""

import logging
import re

_CONTROL = "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 and C1, but for the new line
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = "\u2028\u2029"
_HALF = "\ud800-\udfff"  # of a pair, as Python has bytes of a file name that are no UTF-8
_HIDDEN = re.compile(f"[{_CONTROL}{_DIRECTION}{_LINES}{_HALF}]")


def visible(text: str) -> str:
    r"""Return a text with each control character as an escape; new lines stay.

    Inside the strings of JSON, such an escape means the same character: JSON stays what it was.

    >>> print(visible("red \x1b[31m, one line\nand another"))
    red \u001b[31m, one line
    and another
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    r"""Return a text of data as `visible` does, new lines too: it cannot begin a line of its own.

    >>> print(in_one_line("Café\nTotal  100 %"))
    Café\u000aTotal  100 %
    """
    return visible(text).replace("\n", "\\u000a")


def encodable(text: str, encoding: str | None) -> str:
    r"""Return a text with escapes in place of the characters that an encoding does not have.

    Args:
        text: any.
        encoding: of the terminal; None is UTF-8.

    >>> print(encodable("Café \N{SLICE OF PIZZA}", "latin-1"))
    Café \ud83c\udf55
    """
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError:
        return "".join(_in_encoding(character, encoding or "utf-8") for character in text)


def _in_encoding(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
        return character
    except UnicodeEncodeError:
        units = character.encode("utf-16-be", "surrogatepass")
        pairs = (units[i : i + 2] for i in range(0, len(units), 2))
        return "".join(f"\\u{int.from_bytes(pair):04x}" for pair in pairs)


class VisibleFormatter(logging.Formatter):
    """Formats the lines of a log as `visible` does: it is read on a terminal too."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return visible(super().format(record))
