"""Genes: labels are read off the words of the sentences and the edges of the graph."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS, Example
from multidelete.data.synthetic.genes import draw_relations, genes, grow
from multidelete.models.graph import Graph
from multidelete.utils.errors import InputError

# Words that only sentences have which do not state the association.
OTHERWISE = re.compile(
    r"\b(not|no|excluded|unlikely|absent|because of|screened|unknown|whether|independently|in separate)\b"
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return genes()


@pytest.fixture(scope="module")
def graph(dataset: Dataset) -> Graph:
    assert dataset.graph is not None
    return dataset.graph


def stated(example: Example) -> bool:
    answers = {OTHERWISE.search(text) is None for text in example.texts}
    assert len(answers) == 1, example.texts
    return answers.pop()


class Support:
    """Whether the visible edges support a pair."""

    def __init__(self, graph: Graph) -> None:
        self.parent = {head: tail for head, relation, tail in graph.edges if relation == "is_a"}
        self.annotations = defaultdict(set)
        for head, relation, tail in graph.edges:
            if relation != "is_a":
                self.annotations[head].add(tail)

    def line(self, node: str) -> list[str]:
        """A phenotype and its ancestors, the root last."""
        line = [node]
        while line[-1] in self.parent:
            line.append(self.parent[line[-1]])
        return line

    def siblings(self, gene: str, phenotype: str) -> int:
        """Visible annotations of the gene in the phenotype's module."""
        return sum(
            self.line(node)[-2] == self.line(phenotype)[-2]
            for node in self.annotations[gene]
            if node not in self.line(phenotype) and phenotype not in self.line(node)
        )


def test_labels_follow_from_sentences_and_visible_edges(dataset: Dataset, graph: Graph) -> None:
    support = Support(graph)
    assert dataset.classes == ("false", "true")
    kinds = {split: Counter[tuple[bool, bool]]() for split in SPLITS}
    for example in dataset.examples:
        siblings = support.siblings(*example.nodes)
        assert siblings >= 4 or siblings <= 2
        kind = (stated(example), siblings >= 4)
        assert set(example.labels) == {"true" if all(kind) else "false"}
        kinds[example.split][kind] += 1
    # Neither the sentences nor the graph alone can be right about more than three quarters.
    for split, count in (("train", 2000), ("validation", 400), ("test", 400)):
        assert kinds[split] == {(True, True): count / 2, (True, False): count / 4, (False, True): count / 4}


def test_own_edge_is_there_for_some_supported_pairs_and_never_for_others(dataset: Dataset, graph: Graph) -> None:
    support = Support(graph)
    own = {True: list[bool](), False: list[bool]()}
    for example in dataset.examples:
        gene, phenotype = example.nodes
        own[support.siblings(gene, phenotype) >= 4].append(phenotype in support.annotations[gene])
    assert 0.1 < np.mean(own[True]) < 0.5
    assert not any(own[False])


def test_neighbourhood_shows_what_supports_a_pair(dataset: Dataset, graph: Graph) -> None:
    support = Support(graph)
    for example in dataset.examples[:200]:
        gene, phenotype = example.nodes
        seen = graph.neighbourhood(graph.row(gene), graph.row(phenotype), 32)
        neighbours = [
            graph.nodes[seen.nodes[index]] for ends in seen.edges.tolist() if 0 in ends for index in ends if index
        ]
        assert phenotype not in neighbours
        near = sum(support.line(node)[-2] == support.line(phenotype)[-2] for node in neighbours)
        assert near >= 4 if support.siblings(gene, phenotype) >= 4 else near <= 2


def test_the_graph_is_a_hierarchy_of_modules_with_annotated_genes(graph: Graph) -> None:
    support = Support(graph)
    phenotypes = [node for node, kind in zip(graph.nodes, graph.kinds, strict=True) if kind == "phenotype"]
    annotated = [node for node, kind in zip(graph.nodes, graph.kinds, strict=True) if kind == "gene"]
    assert (len(phenotypes), len(annotated)) == (301, 240)
    assert {support.line(node)[-1] for node in phenotypes} == {phenotypes[0]}
    assert Counter(len(support.line(node)) for node in phenotypes) == {1: 1, 2: 10, 3: 40, 4: 250}
    assert len(set(graph.names)) == len(graph.names)
    assert set(support.annotations) == set(annotated)
    for gene in annotated:
        modules = Counter(support.line(node)[-2] for node in support.annotations[gene])
        [(_, own), *noise] = modules.most_common()
        assert 6 <= own <= 10
        assert sum(count for _, count in noise) <= 2


def test_sentences(dataset: Dataset) -> None:
    lengths = Counter(len(example.texts) for example in dataset.examples)
    assert set(lengths) == {1, 2, 3}
    assert min(lengths.values()) > 0.28 * len(dataset)
    for example in dataset.examples:
        assert len(set(example.texts)) == len(example.texts)
        for text in example.texts:
            assert text.count("@gene@") == text.count("@phenotype@") == 1
            assert not re.search(r"[{}A-Z]", text)
    assert len(set(dataset.texts)) > 1000


def test_plain_sentences_name_the_pair() -> None:
    dataset = genes(train=40, validation=0, test=0, mark="plain")
    graph = dataset.graph
    assert graph is not None
    for example, blind in zip(dataset.examples, genes(train=40, validation=0, test=0).examples, strict=True):
        gene, phenotype = (graph.names[graph.row(node)] for node in example.nodes)
        assert example.texts == tuple(
            text.replace("@gene@", gene).replace("@phenotype@", phenotype) for text in blind.texts
        )


def test_one_side_alone_is_not_enough(dataset: Dataset) -> None:
    def lines(split: str, of: str) -> tuple[list[str], list[str]]:
        examples = [dataset.examples[row] for row in dataset.rows(split)]
        pairs = [(example, text) for example in examples for text in example.texts]
        inputs = [text if of == "text" else " ".join(example.nodes) for example, text in pairs]
        return inputs, [example.labels[0] for example, _ in pairs]

    accuracy = {}
    for of in ("text", "nodes"):
        inputs, labels = lines("train", of)
        bag = CountVectorizer(ngram_range=(1, 2)).fit(inputs)
        model = LogisticRegression(max_iter=300).fit(bag.transform(inputs), labels)
        inputs, labels = lines("test", of)
        accuracy[of] = model.score(bag.transform(inputs), labels)
    assert 0.7 < accuracy["text"] < 0.79
    # The identity of gene and phenotype predicts nothing without the graph.
    assert accuracy["nodes"] < 0.6


def test_no_pair_occurs_twice_even_across_splits(dataset: Dataset) -> None:
    pairs = [example.nodes for example in dataset.examples]
    assert len(set(pairs)) == len(pairs) == 2800


def test_a_split_does_not_depend_on_any_count() -> None:
    small, large = genes(train=5, validation=3, test=4), genes(train=40, validation=20, test=4)
    assert small.graph is not None
    assert large.graph is not None
    assert small.graph.hash == large.graph.hash
    for split in SPLITS:
        few, many = small.rows(split), large.rows(split)[: len(small.rows(split))]
        assert [small.examples[row] for row in few] == [large.examples[row] for row in many]
    assert small.examples[2].id == "train-00002"


def test_same_seed_same_graph_and_relations() -> None:
    one, same, other = (genes(train=20, validation=2, test=2, seed=seed) for seed in (3, 3, 4))
    assert one.hash == same.hash
    assert one.graph is not None
    assert other.graph is not None
    assert one.graph.edges != other.graph.edges
    assert [example.texts for example in one.examples] != [example.texts for example in other.examples]


def test_sizes() -> None:
    knowledge = grow(genes=31, phenotypes=50, modules=3, seed=1)
    assert len(knowledge.graph) == 31 + 50 + 1
    assert sorted(Counter(knowledge.genes.values()).values()) == [10, 10, 11]
    assert sorted(Counter(knowledge.leaves.values()).values()) == [11, 12, 12]
    support = Support(knowledge.graph)
    assert all(support.siblings(*pair) >= 4 for pair in knowledge.supported)
    assert all(support.siblings(*pair) <= 2 for pair in knowledge.unsupported)
    for split, most in (("train", 232), ("validation", 116), ("test", 116)):
        relations = draw_relations(knowledge, split, most // 2)
        assert len({relation.pair for relation in relations}) == most // 2


def test_a_split_can_be_drawn_to_its_end() -> None:
    knowledge = grow(genes=20, phenotypes=32, modules=2)
    most = {}
    for split in SPLITS:
        with pytest.raises(InputError, match=f"{split!r} to be at most .* with 20 genes") as error:
            draw_relations(knowledge, split, 10_000)
        most[split] = int(re.findall(r"at most (\d+)", str(error.value))[0])
    # Leaves of each module: 16 phenotypes less its top and four branches.
    assert most == {"train": 110 // 3 * 4, "validation": 55 // 3 * 4, "test": 55 // 3 * 4}
    drawn = {split: {each.pair for each in draw_relations(knowledge, split, count)} for split, count in most.items()}
    assert {split: len(pairs) for split, pairs in drawn.items()} == most
    for one, other in combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


def test_two_thousand_relations_take_seconds() -> None:
    start = time.process_time()
    assert len(genes()) == 2800
    assert time.process_time() - start < 15  # well below a second; a slow and busy machine may take longer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "genes expects 'train' to be an integer of at least 1, got 0"),
        ({"seed": -1}, "genes expects 'seed' to be an integer of at least 0, got -1"),
        ({"modules": 1}, "genes expects 'modules' to be an integer of at least 2, got 1"),
        ({"genes": 9}, "genes expects 'genes' to be an integer of at least 10, got 9"),
        ({"phenotypes": 100}, "genes expects 'phenotypes' to be an integer of at least 160, got 100"),
        ({"mark": "hidden"}, "hidden.*blind, plain"),
        (
            {"train": 5000},
            "genes expects 'train' to be at most 4,000 with 240 genes and these phenotypes, got 5,000; "
            "more genes or more phenotypes make room",
        ),
    ],
)
def test_bad_option(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        genes(**options)
