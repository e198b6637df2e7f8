"""Names that a terminal or a spreadsheet would obey, and a folder in which everything has them."""

import csv
import random
import re
from datetime import UTC, datetime
from pathlib import Path

NAMES = [
    '=HYPERLINK("http://example.org";"x")',
    "\x1b]0;title\x07\x1b[31mred\x1b[2J",
    "\x1b]52;c;cm0gLXJm\x07",
    "@SUM(1+1)",
    "u\u202egnp.exe",
    "\x9b2Jeight bits",
    "-2+3+cmd|' /C calc'!A0",
    "two\nlines",
    "café \U0001f355",
]
# everything that a terminal obeys, or that reverses what is shown
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_PIECES = [
    *("\x1b[2J", "\x1b]0;t\x07", "\x1b]8;;http://x\x1b\\", "\x9d0;t\x9c", "\x9b5A", "\x07", "\x08"),
    *("\u202e", "\u2066", "\u061c", "\u2028", "\r", "\n", "\t", "\x7f", "\x1bc"),
    *("=", "+", "-", "@", "'", '"', ",", ";", "|", "\\u001b", "\uff1d", "1", "a", "é", " ", "<b>"),
]
FIELDS = ("user", "venue", "category", "latitude", "longitude", "time")
COLUMNS = [word for name in FIELDS for word in ("--column", f"{name}={name}")]
COLUMNS += ["--categories", "raw"]


def draw(draws: random.Random) -> str:
    """Return a name of up to six pieces; readers take spaces off at both ends."""
    while True:
        name = "".join(draws.choice(_PIECES) for _ in range(draws.randint(1, 6))).strip()
        if name:
            return name


def write_check_ins(file: Path, names: list[str], each: int = 40) -> None:
    """Write a CSV in which users, venues and categories have these names."""
    draws = random.Random(1)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(FIELDS)
        for number, user in enumerate(names):
            time_s = 1_400_000_000 + number
            for _ in range(each):
                time_s += draws.randint(3600, 20000)
                when = datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                at = (40.7 + draws.random() / 10, -74 + draws.random() / 10)
                rows.writerow([user, draws.choice(names), draws.choice(names), *at, when])
