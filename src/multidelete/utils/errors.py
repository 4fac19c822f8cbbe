"""The errors a user can mend, and the hint that helps to mend them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user can mend: the text is one sentence that says what was expected, what came, what helps.

    The command line prints it without a traceback and exits with 2; in Python it is a ``ValueError``.
    """


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a sentence that names the closest option, or nothing where none is close.

    >>> did_you_mean("larning_rate", ["learning_rate", "epochs"])
    "; did you mean 'learning_rate'?"
    >>> did_you_mean("xyz", ["learning_rate", "epochs"])
    ''
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
