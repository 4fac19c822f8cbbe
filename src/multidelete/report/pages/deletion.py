"""Page of a deletion record: ``deletion.html`` shows ``deletion.json`` to readers who know no machine learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multidelete.judgement.deletion import NUMBERS, read_record
from multidelete.report.pages.template import fill
from multidelete.runs.reader import Run
from multidelete.runs.seal import DELETION_FILE, digest_of
from multidelete.utils.files import write_file
from multidelete.utils.format import NONE, signed

if TYPE_CHECKING:
    from multidelete.judgement.verify import Answers

DELETION_PAGE = "deletion.html"
SHOWN_IDS = 6  # maximum number of ids on the page; the record contains all


SCOPES = {
    "all": "the whole model",
    "fusion": "the part that combines the halves of an item",
    "vision": "the part that reads pictures",
    "graph": "the part that reads the graph",
    "text": "the part that reads texts",
}


def write_deletion(folder: Path) -> Path | None:
    """Write the page of the record in a run's folder and return its path, or None if the run has no record."""
    if not (folder / DELETION_FILE).is_file():
        return None
    page = folder / DELETION_PAGE
    write_file(page, render(read_record(folder), digest_of(folder)))
    return page


def render(result: dict[str, Any], digest: str | None) -> str:
    """HTML page of a record.

    Args:
        result: Result of :func:`~multidelete.judgement.deletion.record`.
        digest: Digest of the run's seal, if there is one.
    """
    return fill(
        "deletion.html.j2",
        {"moment": _moment, "number": lambda value: NONE if value is None else signed(value)},
        **result,
        digest=digest,
        shown=_shown(result["deleted"]["ids"]),
        names=NUMBERS,
        scopes=SCOPES,
    )


def _shown(ids: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """First and last ids, at most ``SHOWN_IDS``; if all ids fit, the second part is empty."""
    half = SHOWN_IDS // 2
    return (ids, ()) if len(ids) <= SHOWN_IDS else (ids[:half], ids[-half:])


def _moment(text: str) -> str:
    """Time in readable form.

    >>> _moment("2025-05-04T12:00:07+00:00")
    '2025-05-04 12:00:07 UTC'
    """
    return text.replace("T", " ").replace("+00:00", " UTC")


def check_page(run: Run) -> Answers:
    """Check for :func:`multidelete.judgement.verify.verify` that the page matches the record."""
    from multidelete.judgement.verify import is_same_version  # imports torch, which pages do not need

    page = run.folder / DELETION_PAGE
    if not (run.folder / DELETION_FILE).is_file():
        return
    if not page.is_file():
        yield None, f"{DELETION_PAGE} is missing; 'multidelete report' writes it again"
    elif page.read_text(encoding="utf-8") != render(read_record(run.folder), digest_of(run.folder)):
        same = is_same_version(run)
        how = "was changed" if same else "was made by another version, or changed"
        yield False if same else None, f"{DELETION_PAGE} {how}; 'multidelete report' writes it again"
    else:
        yield True, f"{DELETION_PAGE} shows {DELETION_FILE}"


PAGE_CHECKS = {"deletion record": check_page}
