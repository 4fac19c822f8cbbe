"""Rows of a file that cannot be used: named all at once, or left out and counted."""

from __future__ import annotations

from collections.abc import Iterator

from multidelete.utils.errors import raise_all
from multidelete.utils.registry import choose

FEW = 3  # sentences of a kind that notes repeat


class Unusable:
    """Collects what is wrong with the rows of files.

    Args:
        treatment: "error" or "drop": whether they are an error, or left out.
        what: What they are, in the plural: "lines".

    Attributes:
        drop: Whether they are left out.

    Raises:
        InputError: Unknown treatment.
    """

    def __init__(self, treatment: str = "error", what: str = "lines") -> None:
        self.drop = choose({"error": False, "drop": True}, treatment, f"way to treat unusable {what}")
        self.what = what
        self._positions: dict[str, list[str]] = {}  # of each problem

    def __bool__(self) -> bool:
        return bool(self._positions)

    def add(self, where: str, problem: str) -> None:
        """Note a row that cannot be used.

        Args:
            where: Its position: "pairs.csv, line 3".
            problem: What is wrong with it; said once for all rows with the same problem.
        """
        self._positions.setdefault(problem, []).append(where)

    @property
    def sentences(self) -> list[str]:
        """One for each problem, with the positions that have it."""
        return [f"{positions[0]}: {problem}{_also(positions)}" for problem, positions in self._positions.items()]

    def check(self) -> None:
        """Raise an error for what was noted, unless it is left out.

        Raises:
            InputError: Rows cannot be used; up to ten problems are named.
        """
        if not self.drop:
            raise_all(self.sentences, self.what)

    @property
    def notes(self) -> list[str]:
        """What was left out, for the notes of a dataset."""
        return [*counted(self.sentences, self.what, "left out: ")] if self.drop else []


def _also(positions: list[str]) -> str:
    """The other positions of a problem; those in the same file without its name."""
    if len(positions) == 1:
        return ""
    file = positions[0].rpartition(", ")[0] + ", "
    others = [position.removeprefix(file) for position in positions[1:]]
    shown = others if len(others) <= FEW + 1 else others[:FEW]
    more = f" and {len(others) - len(shown):,} more" if len(shown) < len(others) else ""
    return f" (also {', '.join(shown)}{more})"


def counted(sentences: list[str], what: str, start: str = "") -> Iterator[str]:
    """The first sentences, and the number of the others."""
    yield from (f"{start}{each}" for each in sentences[:FEW])
    if len(sentences) > FEW:
        yield f"{start}and {len(sentences) - FEW:,} more {what}"
