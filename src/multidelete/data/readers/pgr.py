"""PGR: sentences that state a relation of a gene and a phenotype, or not (Sousa et al., 2019)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import ExampleBuilder, file_in, truth, tsv_lines
from multidelete.data.unusable import Unusable
from multidelete.models.graph import EDGES, NODES, Graph
from multidelete.utils.registry import choose

# Newest first: where two releases disagree, the newer is right.
RELEASES = {"all": ("train_2019.tsv", "train.tsv"), "2019": ("train_2019.tsv",), "2018": ("train.tsv",)}
COLUMNS = (
    "FILE_ID",
    "SENTENCE",
    "GENE",
    "PHENOTYPE",
    "GENE_ID",
    "PHENOTYPE_ID",
    "GENE_START_POSITION",
    "GENE_END_POSITION",
    "PHENOTYPE_START_POSITION",
    "PHENOTYPE_END_POSITION",
    "RELATION",
)
# Unusable lines of the official files, listed so that any other such line is an error. The current ontology lacks these
# terms (heterogeneous, hypotrichosis, somatic mutation, psychomotor impairment) ...
REMOVED_TERMS = frozenset({"HP:0001425", "HP:0001006", "HP:0001428", "HP:0025356"})
# ... and sentences annotated with the gene TEAD1 under the name AA do not mention it.
NOT_MENTIONED = ("NCBI:7003", "AA")

_TRAIN_END, _VALIDATION_END = 0.8, 0.9


@dataclass(frozen=True, slots=True)
class _Line:
    """A usable line: a sentence with its mentions of a gene and a phenotype, and whether it relates them."""

    where: str
    article: str
    sentence: str
    mentions: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]  # of the mentions in the sentence, as (start, end)
    nodes: tuple[str, str]
    label: str

    @property
    def key(self) -> tuple[str, ...]:
        """Lines with the same key are duplicates."""
        return self.article, self.sentence, *self.mentions


def holds_pgr(root: Path) -> bool:
    """Whether a folder has the nodes and a training file of PGR."""
    return (root / NODES).is_file() and any((root / name).is_file() for name in RELEASES["all"])


@reader(layout="train*.tsv with nodes.tsv", detects=holds_pgr, files=("train*.tsv",))
def pgr(root: str | Path, release: str = "all", mark: str = "blind", unusable: str = "error", seed: int = 0) -> Dataset:
    """Gene-phenotype relations (PGR): an example is a gene and a phenotype in an article, with the sentences on both.

    Its id is "article:gene:phenotype", as "19223546:NCBI:79574:HP:0002664". Duplicates across releases are read once.
    Where two releases disagree about a pair, the newer label is used (labels follow the ontology of their time).
    Articles are split 80/10/10 by a hash of their number, so that the split of an article is the same in every release.

    Args:
        root: Folder with ``train.tsv`` (2018), ``train_2019.tsv``, ``nodes.tsv`` and ``edges.tsv``.
        release: "all", "2018" or "2019".
        mark: "blind" replaces the two mentions by @gene@ and @phenotype@, "plain" keeps the sentence.
        unusable: "error" or "drop": treatment of lines whose gene or phenotype is not in the graph or not in the
            sentence. Those known in the official files are always dropped.
        seed: Seed of the split.
    """
    blind = choose({"blind": True, "plain": False}, mark, "way to mark the mentions")
    left_out = Unusable(unusable)
    root = Path(root)
    names = choose(RELEASES, release, "release")
    hint = "; release='2018' or release='2019' reads one file alone" if len(names) > 1 else ""
    paths = [file_in(root, name, hint=hint) for name in names]
    for name in (NODES, EDGES):
        file_in(root, name)
    graph = Graph.load(root)

    builder = ExampleBuilder()
    newest_lines: dict[tuple[str, str], _Line] = {}
    done: set[tuple[str, ...]] = set()
    texts_seen: set[tuple[str, str]] = set()  # (example, text)
    for path in paths:
        first_lines: dict[tuple[str, str], _Line] = {}
        own: set[tuple[str, ...]] = set()
        for line in _usable_lines(path, graph, builder.unusable, left_out):
            own.add(line.key)
            first = first_lines.setdefault(line.nodes, line)
            if first.label != line.label:
                pair = " and ".join(line.nodes)
                builder.unusable.add(
                    line.where, f"the relation of {pair} is {line.label!r} here, but {first.label!r} in {first.where}"
                )
            example = f"{line.article}:{':'.join(line.nodes)}"
            text = _blinded(line) if blind else line.sentence
            if line.key in done or (example, text) in texts_seen:
                continue
            texts_seen.add((example, text))
            label = newest_lines.get(line.nodes, line).label
            split = _split(line.article, seed)
            builder.add(line.where, Example(example, split, (text,), labels=(label,), nodes=line.nodes))
        newest_lines = {**first_lines, **newest_lines}
        done |= own
    return Dataset("pgr", builder.examples, graph=graph, notes=left_out.notes)


def _usable_lines(path: Path, graph: Graph, wrong: Unusable, left_out: Unusable) -> Iterator[_Line]:
    """The usable lines of a file; others are noted as wrong, or as left out if they may be."""
    known = frozenset(graph.nodes)
    for where, row in tsv_lines(path, COLUMNS):
        if isinstance(row, str):
            wrong.add(where, row)
            continue
        label = truth(row["RELATION"])
        problem = None if label else f"unknown relation {row['RELATION']!r}, expected 'True' or 'False'"
        for column in COLUMNS[:6]:
            if not row[column].strip():
                problem = problem or f"the column {column!r} is blank"
        for column in COLUMNS[6:10]:
            if not re.fullmatch(r"[0-9]{1,9}", row[column]):
                problem = problem or f"{column!r} must be an integer, got {row[column]!r}"
        if problem is not None:
            wrong.add(where, problem)
        if problem is not None or label is None:
            continue

        gene, phenotype = f"NCBI:{row['GENE_ID']}", row["PHENOTYPE_ID"].replace("_", ":")
        mentions = row["GENE"], row["PHENOTYPE"]
        if (phenotype in REMOVED_TERMS and phenotype not in known) or (gene, row["GENE"]) == NOT_MENTIONED:
            continue
        gene_span, phenotype_span = (_span(row, which) for which in ("GENE", "PHENOTYPE"))
        unknown = [node for node in (gene, phenotype) if node not in known]
        if not unknown and gene_span and phenotype_span and not _overlap(gene_span, phenotype_span):
            spans = (gene_span, phenotype_span)
            yield _Line(where, row["FILE_ID"], row["SENTENCE"], mentions, spans, (gene, phenotype), label)
        else:
            if unknown:
                # The search for a similar id is slow, and only the first problem is shown in full.
                quick = wrong or left_out
                problem = f"node {unknown[0]!r} is not in the graph" if quick else graph.unknown(unknown[0])
            elif gene_span is None or phenotype_span is None:
                mention = mentions[0 if gene_span is None else 1]
                problem = f"the sentence does not mention {mention!r}, neither at the given position nor elsewhere"
            else:
                problem = f"the mentions {mentions[0]!r} and {mentions[1]!r} overlap in the sentence"
            hint = "" if left_out.drop else "; unusable='drop' leaves such lines out"
            (left_out if left_out.drop else wrong).add(where, f"{problem}{hint}")


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _span(row: dict[str, str], which: str) -> tuple[int, int] | None:
    """Start and end of a mention in its sentence: as given, else of its first occurrence, else None."""
    sentence, mention = row["SENTENCE"], row[which]
    start, end = int(row[f"{which}_START_POSITION"]), int(row[f"{which}_END_POSITION"])
    if sentence[start:end] == mention:
        return start, end
    match = re.search(re.escape(mention), sentence) or re.search(re.escape(mention), sentence, re.IGNORECASE)
    return match.span() if match else None


def _blinded(line: _Line) -> str:
    """The sentence with its mentions replaced by "@gene@" and "@phenotype@"."""
    text = line.sentence
    # From the end, so that earlier positions stay valid.
    for (start, end), word in sorted(zip(line.spans, ("@gene@", "@phenotype@"), strict=True), reverse=True):
        text = text[:start] + word + text[end:]
    return text


def _split(article: str, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{article}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < _TRAIN_END else "validation" if share < _VALIDATION_END else "test"
