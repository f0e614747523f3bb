"""A small table: for a terminal, in Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

UNBOUNDED = 100_000
"""Columns of a pipe or file: nothing is folded there."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under headers.

    Columns named in ``numbers`` are set flush right, and neither they nor those in ``whole`` are
    folded while others can be.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()
    whole: Sequence[str] = ()

    def text(self, width: int | None = None) -> str:
        """For a terminal of so many columns; cells that do not fit are folded, never cut.

        Args:
            width: None takes the terminal's ($COLUMNS, if it is set), and none for a pipe.
        """
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        width = width or terminal_width()
        table = RichTable(
            box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style=""
        )
        for name in self.headers:
            number = name in self.numbers
            table.add_column(
                Text(name),
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=number or name in self.whole,
            )
        for row in self.rows:
            table.add_row(*(Text(_printable(cell)) for cell in row))
        out = io.StringIO()
        Console(file=out, width=width, color_system=None, legacy_windows=False).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))

    def markdown(self) -> str:
        """As GitHub reads it."""
        rule = ["--:" if name in self.numbers else "---" for name in self.headers]
        rows = [self.headers, rule, *self.rows]
        return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows)

    def csv(self) -> str:
        """With a header line, quoted where it must be."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.headers)
        writer.writerows(self.rows)
        return out.getvalue().rstrip("\n")


def terminal_width() -> int:
    """Columns of the terminal that standard output is, else `UNBOUNDED`; $COLUMNS wins."""
    return shutil.get_terminal_size((UNBOUNDED, 24)).columns


def _escaped(text: str) -> str:
    return _printable(text).replace("|", "\\|").replace("\n", "<br>")


def _printable(text: str) -> str:
    """Without control characters, which could move a terminal's cursor; new lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
