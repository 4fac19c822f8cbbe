"""Numbers and durations as text."""

from __future__ import annotations


def signed(value: float, digits: int = 1, *, plus: bool = False) -> str:
    """A number with a proper minus sign, optionally with a plus sign; never "−0.0".

    >>> signed(-1.26), signed(-0.01), signed(2, plus=True)
    ('−1.3', '0.0', '+2.0')
    """
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def duration(seconds: float, sd: float | None = None) -> str:
    """A duration in a suitable unit.

    >>> duration(0.42), duration(34.2), duration(336, 12), duration(9000)
    ('0.42 s', '34 s', '5.6 ± 0.2 min', '2.5 h')
    """
    size, example = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 2 * s or s == 1)
    value = seconds / size
    digits = 2 if value < 1 else 1 if value < 10 else 0
    spread = "" if sd is None else f" ± {sd / size:.{digits}f}"
    return f"{value:.{digits}f}{spread} {example}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with about two digits.

    >>> percent(0.0613), percent(1.25)
    ('6.1 %', '125 %')
    """
    return f"{100 * fraction:.{0 if fraction >= 0.0995 else 1}f} %"


NONE = "–"
