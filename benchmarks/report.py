"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Return the console; wide enough for our tables where the output is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=130)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None
) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or name == "value" else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)
