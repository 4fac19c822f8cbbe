"""A generated graph of genes and phenotypes, with sentences that state, deny or only mention their associations.

The phenotypes form a hierarchy of modules, branches and leaves. Most annotations of a gene lie in its own module; up to
two are noise and lie in other modules. An example is a pair of a gene and a leaf. It is true if both hold:

- the sentences *state* that the two are associated;
- the graph *supports* it: the leaf is in the gene's own module.

Half of the examples are true; in a quarter the graph does not support what the sentences state, and in a quarter the
sentences do not state what the graph supports. So the accuracy of the sentences alone, or of
the graph alone, is 75% at most.

The graph has the edge between gene and phenotype for some of the supported pairs, at random, and never for the others:
it has to be hidden from a model that classifies the pair, as ``Graph.neighbourhood`` does. The model can still see the
module, since at least four other annotations of the gene are in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS, Example
from multidelete.data.synthetic.scenes import check_counts, generator, one_of, split_minimums
from multidelete.models.graph import HIERARCHY, Graph
from multidelete.utils.errors import InputError
from multidelete.utils.registry import choose

STATED = (
    "{change} in {gene} cause {phenotype}",
    "{change} in {gene} lead to {phenotype}",
    "{change} in {gene} are associated with {phenotype}",
    "{change} in {gene} were found to underlie {phenotype}",
    "{gene} is a causal gene for {phenotype}",
    "loss of {gene} results in {phenotype}",
    "{phenotype} is caused by {change} in {gene}",
    "{phenotype} was linked to {change} in {gene}",
    "{phenotype} segregated with {change} in {gene}",
    "carriers of {change} in {gene} presented with {phenotype}",
)
DENIED = (
    "{change} in {gene} do not cause {phenotype}",
    "{change} in {gene} are not associated with {phenotype}",
    "no association was seen between {gene} and {phenotype}",
    "{change} in {gene} were excluded as a cause of {phenotype}",
    "{gene} is unlikely to play a role in {phenotype}",
    "{phenotype} was not linked to {change} in {gene}",
    "{phenotype} was absent from carriers of {change} in {gene}",
)
MENTIONED = (
    "{gene} was sequenced because of {phenotype}",
    "those with {phenotype} were screened for {change} in {gene}",
    "it is unknown whether {change} in {gene} cause {phenotype}",
    "whether {gene} has a role in {phenotype} remains to be studied",
    "{gene} and {phenotype} were studied independently",
)
# Openings, changes and ends are drawn independently of what the sentence states.
_OPENINGS = ("", "", "in this study, ", "we report that ", "here we note that ", "after exome sequencing, ")
_CHANGES = ("mutations", "variants", "deletions", "missense mutations", "nonsense variants", "biallelic mutations")
_ENDS = ("", "", " in two families", " in a large cohort", " in children", " in unrelated patients", " in mice")

_BLIND = ("@gene@", "@phenotype@")
_MARKS = {"blind": True, "plain": False}

_SYLLABLES = ("ba", "ce", "do", "fi", "ga", "ke", "lo", "mi", "na", "pe", "ro", "su", "ta", "ve", "zo")
_SUFFIXES = ("plasia", "trophy", "pathy", "penia", "megaly", "stenosis", "sclerosis")

_ROOT = "P0000"
_BRANCHES = 4  # of a module; they are the parents of its leaves
_LEAST_MODULE = 16  # phenotypes; in a smaller module, annotations would cover most of it
_ANNOTATIONS = (6, 10)  # of a gene in its own module, minimum and maximum
_NOISE = 2  # annotations of a gene in other modules, maximum
_SENTENCES = 3  # of an example, maximum

# The range of all pairs that a split is drawn from, independent of the sizes of the other splits.
_SHARES = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
# Of every four examples, in random order: (stated by the sentences, supported by the graph).
_BLOCK = ((True, True), (True, True), (True, False), (False, True))

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Modules of genes and phenotypes, with the graph.

    Args:
        genes: Module of each gene, by id.
        leaves: Module of each leaf of the hierarchy, by id.
        graph: The hierarchy and the annotations, including noise.
        supported: Pairs of a gene and a leaf of its own module, in the order in which examples use them.
        unsupported: Pairs of a gene and a leaf of another module, likewise; none is an edge of the graph.
    """

    genes: dict[str, int]
    leaves: dict[str, int]
    graph: Graph
    supported: tuple[Pair, ...]
    unsupported: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A pair of gene and phenotype with its sentences.

    Args:
        pair: Ids of gene and phenotype.
        stated: Whether the sentences state that the two are associated.
        supported: Whether the graph supports it.
        texts: The sentences.
    """

    pair: Pair
    stated: bool
    supported: bool
    texts: tuple[str, ...]

    @property
    def label(self) -> str:
        """Label of the pair: "true" if it is both stated and supported, else "false"."""
        return "true" if self.stated and self.supported else "false"


def genes(
    train: int = 2000,
    validation: int = 400,
    test: int = 400,
    genes: int = 240,
    phenotypes: int = 300,
    modules: int = 10,
    mark: str = "blind",
    seed: int = 0,
) -> Dataset:
    """A dataset of generated genes and phenotypes: a graph, and sentences that relate them or do not.

    The graph does not depend on the numbers of examples. A split does not depend on the size of the others, and a
    smaller split is a prefix of a larger one. No pair occurs twice.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples.
        genes: Number of genes in the graph.
        phenotypes: Number of phenotypes in the graph, at least 16 for each module.
        modules: Number of modules of phenotypes and genes.
        mark: "blind" replaces the two names by @gene@ and @phenotype@, "plain" keeps them.
        seed: Seed of the graph and the relations.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("genes", [*split_minimums(counts), ("seed", seed, 0)])
    knowledge = grow(genes, phenotypes, modules, seed)
    examples = [
        Example(f"{split}-{number:05d}", split, drawn.texts, labels=(drawn.label,) * len(drawn.texts), nodes=drawn.pair)
        for split, count in counts.items()
        for number, drawn in enumerate(draw_relations(knowledge, split, count, seed, mark))
    ]
    return Dataset("genes", examples, graph=knowledge.graph)


def grow(genes: int = 240, phenotypes: int = 300, modules: int = 10, seed: int = 0) -> Knowledge:
    """The graph, and all pairs that examples can use.

    Args:
        genes: Number of genes.
        phenotypes: Number of phenotypes.
        modules: Number of modules.
        seed: Seed of the generator, which is independent of those of the splits.
    """
    check_counts(
        "genes",
        [("modules", modules, 2), ("genes", genes, modules), ("phenotypes", phenotypes, _LEAST_MODULE * modules)],
    )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(SPLITS),)))
    parents, leaves, below = _hierarchy(phenotypes, modules, rng)
    edges = [(node, HIERARCHY, parent) for node, parent in parents.items()]
    module_of = {f"G{number:04d}": int(slot) % modules for number, slot in enumerate(rng.permutation(genes), start=1)}
    annotated: set[Pair] = set()
    for gene, module in module_of.items():
        elsewhere = [node for other, nodes in enumerate(below) if other != module for node in nodes]
        own = rng.permutation(len(below[module]))[: rng.integers(_ANNOTATIONS[0], _ANNOTATIONS[1] + 1)]
        noise = rng.integers(len(elsewhere), size=rng.integers(_NOISE + 1))
        phenotypes_of_gene = {below[module][index] for index in own} | {elsewhere[index] for index in noise}
        annotated.update((gene, node) for node in phenotypes_of_gene)
        edges.extend((gene, "annotated", node) for node in sorted(phenotypes_of_gene))
    pairs = {True: list[Pair](), False: list[Pair]()}
    for gene, module in module_of.items():
        for leaf, other in leaves.items():
            if module == other or (gene, leaf) not in annotated:
                pairs[module == other].append((gene, leaf))
    nodes = [_ROOT, *parents, *module_of]
    graph = Graph(
        nodes,
        ["gene" if node in module_of else "phenotype" for node in nodes],
        ["phenotypic abnormality", *_phenotype_names(len(parents), rng), *_gene_names(len(module_of), rng)],
        edges,
    )
    supported, unsupported = (
        tuple(pairs[is_supported][index] for index in rng.permutation(len(pairs[is_supported])))
        for is_supported in (True, False)
    )
    return Knowledge(module_of, leaves, graph, supported, unsupported)


def draw_relations(knowledge: Knowledge, split: str, count: int, seed: int = 0, mark: str = "blind") -> list[Relation]:
    """The first relations of a split.

    Args:
        knowledge: The graph and its pairs.
        split: One of ``SPLITS``.
        count: Number of relations.
        seed: Seed of the generators of all splits.
        mark: "blind" hides the names in the sentences, "plain" does not.
    """
    blind = choose(_MARKS, mark, "way to mark the mentions")
    supported, unsupported = (_share(pairs, split) for pairs in (knowledge.supported, knowledge.unsupported))
    most = len(_BLOCK) * min(len(supported) // 3, len(unsupported))
    if count > most:
        raise InputError(
            f"genes expects {split!r} to be at most {most:,} with {len(knowledge.genes):,} genes and these phenotypes, "
            f"got {count:,}; more genes or more phenotypes make room"
        )
    remaining = {True: iter(supported), False: iter(unsupported)}
    rng = generator(split, seed)
    drawn: list[Relation] = []
    while len(drawn) < count:
        for index in rng.permutation(len(_BLOCK)):
            stated, is_supported = _BLOCK[index]
            pair = next(remaining[is_supported])
            drawn.append(Relation(pair, stated, is_supported, _sentences(pair, stated, knowledge, blind, rng)))
    return drawn[:count]


def _hierarchy(
    count: int, modules: int, rng: np.random.Generator
) -> tuple[dict[str, str], dict[str, int], list[list[str]]]:
    """Parent of each phenotype, module of each leaf, and phenotypes that genes of each module can have."""
    parents: dict[str, str] = {}
    leaves: dict[str, int] = {}
    below: list[list[str]] = [[] for _ in range(modules)]
    # An id carries no information about the position in the hierarchy.
    ids = [f"P{number:04d}" for number in rng.permutation(count) + 1]
    for module in range(modules):
        top, *rest = ids[module::modules]
        branches, bottom = rest[:_BRANCHES], rest[_BRANCHES:]
        parents[top] = _ROOT
        parents.update(dict.fromkeys(branches, top))
        parents.update({leaf: branches[number % _BRANCHES] for number, leaf in enumerate(bottom)})
        leaves.update(dict.fromkeys(bottom, module))
        # Without the top: the edge of a gene to it would be hidden in every example.
        below[module] = rest
    return dict(sorted(parents.items())), dict(sorted(leaves.items())), below


def _share(pairs: Sequence[Pair], split: str) -> Sequence[Pair]:
    start, end = (int(part * len(pairs)) for part in _SHARES[split])
    return pairs[start:end]


def _sentences(
    pair: Pair, stated: bool, knowledge: Knowledge, blind: bool, rng: np.random.Generator
) -> tuple[str, ...]:
    """One to three different sentences; all of them state the association, or none."""
    graph = knowledge.graph
    gene, phenotype = _BLIND if blind else (graph.names[graph.row(node)] for node in pair)
    count = int(rng.integers(1, _SENTENCES + 1))
    texts: dict[str, None] = {}
    while len(texts) < count:
        kind = STATED if stated else (DENIED, MENTIONED)[int(rng.integers(2))]
        change, opening, end = (one_of(words, rng) for words in (_CHANGES, _OPENINGS, _ENDS))
        core = one_of(kind, rng).format(gene=gene, phenotype=phenotype, change=change)
        texts[f"{opening}{core}{end}"] = None
    return tuple(texts)


def _gene_names(count: int, rng: np.random.Generator) -> list[str]:
    """Unique symbols of three letters and a number."""
    letters = [chr(ord("A") + index) for index in range(26)]
    names: dict[str, None] = {}
    while len(names) < count:
        symbol = "".join(one_of(letters, rng) for _ in range(3))
        names[f"{symbol}{rng.integers(1, 20)}"] = None
    return list(names)


def _phenotype_names(count: int, rng: np.random.Generator) -> list[str]:
    """Unique names of two words: what is affected, and how."""
    names: dict[str, None] = {}
    while len(names) < count:
        where, how = (one_of(_SYLLABLES, rng) + one_of(_SYLLABLES, rng) for _ in range(2))
        names[f"{where}{one_of(('l', 'r'), rng)}ic {how}{one_of(_SUFFIXES, rng)}"] = None
    return list(names)
