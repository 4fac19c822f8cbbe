"""Errors that users can correct, with suggestions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 10  # problems shown in one message


class InputError(ValueError):
    """Error that the user can correct; the message says what was expected, what was received and what helps.

    The command line prints it without a traceback and exits with 2; in Python it is a ``ValueError``.
    """


def raise_all(problems: Sequence[str], what: str) -> None:
    """Raise the problems, if there are any: one line for each, at most ``SHOWN``, and the number of the others.

    Args:
        problems: One sentence each.
        what: What has the problems, in the plural: "lines".
    """
    if problems:
        more = len(problems) - SHOWN
        rest = [f"and {more:,} more wrong {what}"] if more > 0 else []
        raise InputError("\n".join([*problems[:SHOWN], *rest]))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """End of a message that suggests the closest option; empty if none is close.

    >>> did_you_mean("larning_rate", ["learning_rate", "epochs"])
    "; did you mean 'learning_rate'?"
    >>> did_you_mean("xyz", ["learning_rate", "epochs"])
    ''
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def reason(error: Exception) -> str:
    """Message of an error of another library, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "trust_remote_code" in str(error):
        return "it needs code that it brings along, and such code is never run"
    if len(lines) > 1 and lines[0].startswith("Validation error"):
        return lines[1].removeprefix("TypeError: ")
    informative = lines and not isinstance(error, KeyError)  # the text of a KeyError is only the key
    return lines[0] if informative else " ".join([type(error).__name__, *lines[:1]])
