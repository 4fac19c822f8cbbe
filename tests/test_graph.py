"""The graph: what may be seen around a pair, and that nothing in it gives the answer away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import tiny
from multidelete.data.batches import Neighbourhoods
from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.requests import resolve
from multidelete.models.graph import EDGES, NODES, Graph
from multidelete.utils.errors import InputError

#        root
#       /    \
#      a      b
#     / \      \
#    a1  a2     b1
#    |
#   a11
TREE = [("a", "root"), ("b", "root"), ("a1", "a"), ("a2", "a"), ("b1", "b"), ("a11", "a1")]


def tree(*annotations: tuple[str, str]) -> Graph:
    terms = ["root", "a", "b", "a1", "a2", "b1", "a11"]
    edges = [(low, "is_a", high) for low, high in TREE] + [(gene, "annotated", term) for gene, term in annotations]
    return Graph(["g", "h", *terms], ["gene"] * 2 + ["term"] * 7, ["G", "H", *terms], edges)


def seen(graph: Graph, first: str, second: str, size: int = 20) -> tuple[list[str], set[frozenset[str]]]:
    """Nodes and edges of a neighbourhood, by id."""
    result = graph.neighbourhood(graph.row(first), graph.row(second), size)
    names = [graph.nodes[row] for row in result.nodes]
    return names, {frozenset((names[one], names[other])) for one, other in result.edges}


def test_ancestors_and_descendants() -> None:
    graph = tree()
    named = {name: graph.row(name) for name in graph.nodes}
    assert graph.ancestors(named["a11"]) == {named["a1"], named["a"], named["root"]}
    assert graph.descendants(named["a"]) == {named["a1"], named["a2"], named["a11"]}
    assert graph.hidden(named["g"], named["a1"]) == {named[each] for each in ("a1", "a", "root", "a11")}


def test_a_circle_in_the_hierarchy_ends() -> None:
    graph = Graph("gab", ["x"] * 3, "gab", [("a", "is_a", "b"), ("b", "is_a", "a")])
    assert graph.ancestors(1) == {2}
    assert graph.descendants(1) == {2}


@pytest.mark.parametrize("annotated", ["a1", "a", "root", "a11"])
def test_no_edge_of_the_gene_to_the_term_its_ancestors_or_descendants_is_visible(annotated: str) -> None:
    names, edges = seen(tree(("g", annotated), ("g", "a2"), ("g", "b1"), ("h", "a1")), "g", "a1")
    assert names[:2] == ["g", "a1"]
    assert {frozenset(("g", "a2")), frozenset(("g", "b1")), frozenset(("h", "a1"))} <= edges
    assert frozenset(("a1", "a")) in edges
    assert frozenset(("g", annotated)) not in edges


def test_the_answer_changes_nothing_that_is_visible() -> None:
    others = (("g", "a2"), ("g", "b1"), ("h", "a1"), ("h", "a"))
    without = tree(*others)
    expected = without.neighbourhood(0, without.row("a1"), 20)
    for annotated in (("a1",), ("a",), ("a11", "root"), ("a1", "a", "root", "a11")):
        graph = tree(*others, *(("g", term) for term in annotated))
        result = graph.neighbourhood(0, graph.row("a1"), 20)
        np.testing.assert_array_equal(result.nodes, expected.nodes)
        np.testing.assert_array_equal(result.edges, expected.edges)
        np.testing.assert_array_equal(result.features, expected.features)


def leaky(count: int = 300) -> Dataset:
    """Relations whose label can be read off the graph, directly or through the hierarchy, and nowhere else."""
    rng = np.random.default_rng(0)
    terms = [f"t{number}" for number in range(60)]
    edges = [(term, "is_a", f"t{(number - 1) // 3}") for number, term in enumerate(terms) if number]
    helper = Graph(terms, ["term"] * 60, terms, edges)
    examples = []
    for number in range(count):
        gene, asked, label = f"g{number}", int(rng.integers(4, 60)), bool(rng.integers(2))
        near = sorted(helper.hidden(-1, asked))
        far = [row for row in range(60) if row not in near]
        if label:
            edges.append((gene, "annotated", terms[int(rng.choice(near))]))
        edges += [(gene, "annotated", terms[int(row)]) for row in rng.choice(far, 2, replace=False)]
        split = ("train", "train", "test")[number % 3]
        examples.append(Example(f"u{number}", split, ("words",), labels=(str(label),), nodes=(gene, terms[asked])))
    genes = [f"g{number}" for number in range(count)]
    graph = Graph([*genes, *terms], ["gene"] * count + ["term"] * 60, [*genes, *terms], edges)
    return Dataset("leaky", examples, graph=graph)


def test_a_label_that_stands_in_the_graph_cannot_be_read_from_what_is_visible() -> None:
    dataset = leaky()
    assert dataset.graph is not None
    assert dataset.labels is not None
    seen = Neighbourhoods.of(dataset, 24).take(np.arange(len(dataset)))

    def linear(rows: np.ndarray) -> float:
        train, test = (dataset.rows(split) for split in ("train", "test"))
        model = LogisticRegression(max_iter=2000).fit(rows[train], dataset.labels[train])
        return float(model.score(rows[test], dataset.labels[test]))

    # With the hidden edges the answer is one number: how many links the gene has to the term's own line.
    graph = dataset.graph
    linked = {(head, tail) for head, relation, tail in graph.edges if relation == "annotated"}
    counts = [
        [sum((gene, graph.nodes[row]) in linked for row in graph.hidden(graph.row(gene), graph.row(term)))]
        for gene, term in (example.nodes for example in dataset.examples)
    ]
    assert linear(np.array(counts)) == 1
    degrees = seen.adjacency.sum(-1)
    visible = torch.cat([seen.features.flatten(1), degrees, seen.adjacency[:, :2].flatten(1)], dim=1).numpy()
    assert linear(visible) < 0.62  # chance, with 100 test relations


def test_neighbours_that_share_the_terms_ancestry_come_first_and_room_is_used() -> None:
    graph = tree(("g", "b1"), ("g", "a2"), ("h", "a1"))
    names, _ = seen(graph, "g", "a1", size=4)
    assert names[2] == "a2"
    names, _ = seen(graph, "g", "a1")
    assert set(names) == {"g", "a1", "a2", "b1", "a", "a11", "h"}
    assert len(seen(graph, "g", "a1", size=2)[0]) == 2


def test_batches_are_padded_and_adjacency_is_symmetric() -> None:
    dataset = tiny.dataset_for("graph_text")
    assert dataset.graph is not None
    source = Neighbourhoods.of(dataset, 12)
    rows = np.array([5, 0, 17, 5])
    batch = source.take(rows)
    assert batch.nodes.shape == batch.mask.shape
    assert batch.adjacency.shape == (*batch.mask.shape, batch.mask.shape[1])
    assert torch.equal(batch.adjacency, batch.adjacency.transpose(1, 2))
    assert not batch.features[batch.mask == 0].any()
    assert not batch.adjacency[batch.mask == 0].any()
    for position, row in enumerate(rows):
        alone = dataset.graph.neighbourhood(*map(dataset.graph.row, dataset.examples[row].nodes), 12)
        assert batch.nodes[position][batch.mask[position] == 1].tolist() == alone.nodes.tolist()
        assert int(batch.adjacency[position].sum()) == 2 * len(alone.edges)


def test_hash_depends_on_every_edge() -> None:
    assert tree().hash == tree().hash
    assert tree().hash != tree(("g", "a")).hash


def test_a_graph_dataset_is_saved_and_loaded(tmp_path: Path) -> None:
    dataset = tiny.dataset_for("graph_text")
    dataset.save(tmp_path / "genes")
    loaded = Dataset.load(tmp_path / "genes")
    assert loaded.modalities == ("graph", "text")
    assert (loaded.hash, loaded.examples, loaded.classes) == (dataset.hash, dataset.examples, dataset.classes)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (NODES, "g\tgene", r"nodes.tsv, line 3: expected three fields \(id, kind, name\) with tabs between, got 2"),
        (NODES, "g\tgene\tG", r"nodes.tsv, line 3: node 'g' was already given in line 1"),
        (EDGES, "g\tannotated\tterm", r"edges.tsv, line 2: node 'term' is not in nodes.tsv; did you mean 'term1'"),
    ],
)
def test_bad_lines(tmp_path: Path, file: str, line: str, message: str) -> None:
    (tmp_path / NODES).write_text("g\tgene\tG\nterm1\tterm\tT\n")
    (tmp_path / EDGES).write_text("g\tannotated\tterm1\n")
    with (tmp_path / file).open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(InputError, match=message):
        Graph.load(tmp_path)


def test_bad_graphs() -> None:
    with pytest.raises(InputError, match="has the node 'a' twice"):
        Graph("aba", ["x"] * 3, "aba", [])
    with pytest.raises(InputError, match=r"edge 0 of the graph \(a is_a c\): node 'c' is not in the graph"):
        Graph("ab", ["x"] * 2, "ab", [("a", "is_a", "c")])
    examples = [Example("1", "train", ("words",), nodes=("g", "none"))]
    with pytest.raises(InputError, match="example 0: node 'none' is not in the graph"):
        Dataset("made", examples, graph=tree())


def test_relations_between_the_same_nodes_are_deleted_together() -> None:
    examples = [
        Example(f"{number}", "train", ("words",), labels=("x",), nodes=("g", term))
        for number, term in enumerate(("a", "b", "a", "a1", "a2"))
    ]
    dataset = Dataset("made", examples, graph=tree())
    with pytest.raises(InputError, match="ids names '0' but not '2', which is about the same two nodes; delete both"):
        resolve(dataset, ids=["0"])
    for seed in range(8):
        drawn = set(resolve(dataset, count=1, seed=seed).ids)
        assert drawn in ({"0", "2"}, {"1"}, {"3"}, {"4"})
