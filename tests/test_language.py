"""Plain technical English: words of a private language stand neither in identifiers nor in prose."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PROSE = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("recipes/**/*.toml"),
        *(path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".j2", ".toml")),
    ]
)
# Parts of identifiers, with what to write instead.
PARTS = {
    "anew": "again, retrained",
    "apart": "num_mismatched, change",
    "beside": "next to, additional",
    "came": "received",
    "claim": "property",
    "claims": "properties",
    "corpus": "dataset",
    "evidence": "membership",
    "judge": "validate, attacker",
    "judged": "validated, evaluated",
    "judges": "validates",
    "lap": "epoch",
    "place": "index, position, path",
    "placed": "resolved",
    "places": "indices",
    "said": "messages",
    "tell": "distinguish, report",
    "tells": "distinguishes",
    "told": "provenance, message",
    "unit": "example",
    "units": "examples",
    "whole": "image_or_graph, merged, total",
}
NAMES = {
    "find_or_make": "get_or_train",
    "rate_at": "lr_at",
    "Plan": "FitSettings",
    "Cycle": "EpochSampler",
    "pairs_alone": "what it does",
    "metrics_beside": "what it does",
    "valid": "validation",
    "mask_alone": "what it does",
}
WORDS = (
    r"judged?|judges|told|corpus|anew|nobody|claims|beside|evidence|by now|gone by|for nothing|"
    r"tells? [\w ,]{1,40} apart|what is asked|whole|lap|(?-i:The two\.)"
)
TITLES = re.compile(r"\.\. \[\d\]|Corpus (for|of)|Silver Standard Corpus|the whole (model|backbone|ViLT|BLIP)")


def parts_of(name: str) -> set[str]:
    """Words of an identifier, in lower case."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def mistakes(path: Path) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            wrong = sorted(parts_of(token.string) & PARTS.keys())
            instead = NAMES.get(token.string) or (PARTS[wrong[0]] if wrong else None)
            if instead:
                yield f"line {token.start[0]}: '{token.string}' (write: {instead})"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers(path: Path) -> None:
    assert list(mistakes(path)) == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = [
        f"line {number}: {line.strip()}"
        for number, line in enumerate(lines, start=1)
        if re.search(rf"\b({WORDS})(?!\w)", line, flags=re.I) and not TITLES.search(line)
    ]
    assert wrong == []


def test_the_checks_find_something(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("judged_whole = 1\nFitSettings = 2\nrate_at = 3\n")
    assert [mistake.split(" (")[0] for mistake in mistakes(path)] == ["line 1: 'judged_whole'", "line 3: 'rate_at'"]
    assert re.search(rf"\b({WORDS})(?!\w)", "it tells classes apart")
