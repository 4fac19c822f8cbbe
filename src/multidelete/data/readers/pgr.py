"""PGR: does a sentence say that a gene and a phenotype are related (Sousa et al., 2019)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.graph import EDGES, NODES, Graph
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import Gathered, file_in, truth, tsv_lines
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
# What cannot be used in the official files, by name, so that any other such line is still an error. Today's ontology
# lacks these terms (heterogeneous, hypotrichosis, somatic mutation, psychomotor impairment) ...
GONE = frozenset({"HP:0001425", "HP:0001006", "HP:0001428", "HP:0025356"})
# ... and where the gene TEAD1 is found by the name AA, the sentence does not mention it.
NOT_MENTIONED = ("NCBI:7003", "AA")

_TRAIN, _VALID = 0.8, 0.9  # where the splits end


@dataclass(frozen=True, slots=True)
class _Question:
    """A line of the dataset: does this sentence relate this gene and this phenotype?"""

    where: str
    article: str
    sentence: str
    mentions: tuple[str, str]
    places: tuple[tuple[int, int], tuple[int, int]]  # of the mentions in the sentence, as (start, end)
    nodes: tuple[str, str]
    label: str

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two lines duplicates."""
        return self.article, self.sentence, *self.mentions


def holds_pgr(root: Path) -> bool:
    """Whether a folder looks like this dataset."""
    return (root / NODES).is_file() and any((root / name).is_file() for name in RELEASES["all"])


@reader(layout="train*.tsv with nodes.tsv", detects=holds_pgr)
def pgr(root: str | Path, release: str = "all", mark: str = "blind", unusable: str = "error", seed: int = 0) -> Dataset:
    """Gene-phenotype relations (PGR): an example is a gene and a phenotype in an article, with the sentences on both.

    Its id is "article:gene:phenotype", as "19223546:NCBI:79574:HP:0002664". What two releases share is read once.
    Where they disagree about a pair, the newer one is right: the labels were looked up in the ontology of their time.
    Articles are split 80/10/10, each by its own number, so that its split is the same in every release.

    Args:
        root: Folder with ``train.tsv`` (2018), ``train_2019.tsv``, ``nodes.tsv`` and ``edges.tsv``.
        release: "all", "2018" or "2019".
        mark: "blind" writes @gene@ and @phenotype@ in place of the two mentions, "plain" leaves the sentence as it is.
        unusable: What to do with a line whose gene or phenotype is not in the graph or not in the sentence:
            "error" or "drop". The few in the official files are left out in any case.
        seed: Another seed splits the articles in another way.
    """
    blind = choose({"blind": True, "plain": False}, mark, "way to mark the mentions")
    drop = choose({"error": False, "drop": True}, unusable, "way to treat unusable lines")
    root = Path(root)
    names = choose(RELEASES, release, "release")
    hint = "; release='2018' or release='2019' reads one file alone" if len(names) > 1 else ""
    paths = [file_in(root, name, hint=hint) for name in names]
    for name in (NODES, EDGES):
        file_in(root, name)
    graph = Graph.load(root)

    gathered = Gathered()
    answers: dict[tuple[str, str], _Question] = {}
    done: set[tuple[str, ...]] = set()
    told: set[tuple[str, str]] = set()  # (example, text)
    for path in paths:
        own_answers: dict[tuple[str, str], _Question] = {}
        own: set[tuple[str, ...]] = set()
        for question in _questions(path, graph, gathered.problems, drop):
            own.add(question.key)
            first = own_answers.setdefault(question.nodes, question)
            if first.label != question.label:
                pair = " and ".join(question.nodes)
                gathered.problems.append(
                    f"{question.where}: the relation of {pair} is {question.label!r} here, but {first.label!r} in "
                    f"{first.where}"
                )
            example = f"{question.article}:{':'.join(question.nodes)}"
            text = _blinded(question) if blind else question.sentence
            if question.key in done or (example, text) in told:
                continue
            told.add((example, text))
            label = answers.get(question.nodes, question).label
            split = _split(question.article, seed)
            gathered.add(question.where, Example(example, split, (text,), labels=(label,), nodes=question.nodes))
        answers = {**own_answers, **answers}
        done |= own
    return Dataset("pgr", gathered.examples, graph=graph)


def _questions(path: Path, graph: Graph, problems: list[str], drop: bool) -> Iterator[_Question]:
    """The usable lines of a file; what is wrong with the others goes to ``problems``."""
    known = frozenset(graph.nodes)
    for where, row in tsv_lines(path, COLUMNS):
        if isinstance(row, str):
            problems.append(f"{where}: {row}")
            continue
        label = truth(row["RELATION"])
        problem = None if label else f"unknown relation {row['RELATION']!r}, expected 'True' or 'False'"
        for column in COLUMNS[:6]:
            if not row[column].strip():
                problem = problem or f"the column {column!r} is blank"
        for column in COLUMNS[6:10]:
            if not re.fullmatch(r"[0-9]{1,9}", row[column]):
                problem = problem or f"{column!r} must be a whole number, got {row[column]!r}"
        if problem is not None or label is None:
            problems.append(f"{where}: {problem}")
            continue

        gene, phenotype = f"NCBI:{row['GENE_ID']}", row["PHENOTYPE_ID"].replace("_", ":")
        mentions = row["GENE"], row["PHENOTYPE"]
        if (phenotype in GONE and phenotype not in known) or (gene, row["GENE"]) == NOT_MENTIONED:
            continue
        places = [_place(row, which) for which in ("GENE", "PHENOTYPE")]
        unknown = [node for node in (gene, phenotype) if node not in known]
        if not unknown and places[0] and places[1] and not _overlap(places[0], places[1]):
            question = (where, row["FILE_ID"], row["SENTENCE"], mentions, (places[0], places[1]), (gene, phenotype))
            yield _Question(*question, label)
        elif not drop:
            if unknown:
                # The search for a similar id takes long, and the first problem alone is shown.
                problem = graph.unknown(unknown[0]) if not problems else f"node {unknown[0]!r} is not in the graph"
            elif None in places:
                mention = mentions[places.index(None)]
                problem = f"the sentence does not mention {mention!r}, neither at the given position nor elsewhere"
            else:
                problem = f"the mentions {mentions[0]!r} and {mentions[1]!r} overlap in the sentence"
            problems.append(f"{where}: {problem}; unusable='drop' leaves such lines out")


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _place(row: dict[str, str], which: str) -> tuple[int, int] | None:
    """Start and end of a mention in its sentence: as given, else where its words first stand, else None."""
    sentence, mention = row["SENTENCE"], row[which]
    start, end = int(row[f"{which}_START_POSITION"]), int(row[f"{which}_END_POSITION"])
    if sentence[start:end] == mention:
        return start, end
    result = re.search(re.escape(mention), sentence) or re.search(re.escape(mention), sentence, re.IGNORECASE)
    return result.span() if result else None


def _blinded(question: _Question) -> str:
    """The sentence with "@gene@" and "@phenotype@" in place of the two mentions."""
    text = question.sentence
    # From the end, so that the places before it stay right.
    for (start, end), word in sorted(zip(question.places, ("@gene@", "@phenotype@"), strict=True), reverse=True):
        text = text[:start] + word + text[end:]
    return text


def _split(article: str, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{article}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < _TRAIN else "validation" if share < _VALID else "test"
