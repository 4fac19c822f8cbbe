"""Knowledge graphs, and the neighbourhood of a node pair that a model may see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multidelete.utils.errors import InputError, did_you_mean

NODES, EDGES = "nodes.tsv", "edges.tsv"
HIERARCHY = "is_a"
FEATURES = 5  # of each node of a neighbourhood, see Neighbourhood

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbourhood:
    """Visible nodes and edges around a node pair; the pair comes first.

    Args:
        nodes: Rows of the graph's nodes, ``(L,)``.
        edges: Visible edges, as indices into ``nodes``, ``(E, 2)``.
        features: For each node: is it the first of the pair, is it the second, is it in the hierarchy, the Jaccard
            similarity of its ancestors and the second node's, and log(1 + visible degree) / 5, ``(L, FEATURES)``.
    """

    nodes: Rows
    edges: Rows
    features: NDArray[np.float32]


class Graph:
    """Nodes of several kinds, with a hierarchy (``is_a``) over some of them and other relations between nodes.

    Annotations propagate along the hierarchy: a node linked to a term is also linked to its ancestors. Whether two
    nodes are related can thus be read from the edge between them and from edges to the other's ancestors and
    descendants. :meth:`neighbourhood` hides all of them.

    Args:
        nodes: Unique ids.
        kinds: Kind of each node.
        names: Name of each node.
        edges: (head id, relation, tail id); ``is_a`` points from a term to a more general one.

    Raises:
        InputError: An id is used twice, or an edge has an unknown id.
    """

    def __init__(
        self, nodes: Sequence[str], kinds: Sequence[str], names: Sequence[str], edges: Sequence[tuple[str, str, str]]
    ) -> None:
        self.nodes, self.kinds, self.names = tuple(nodes), tuple(kinds), tuple(names)
        self.edges = tuple(edges)
        self._row = {node: row for row, node in enumerate(self.nodes)}
        if len(self._row) != len(self.nodes):
            twice = next(node for row, node in enumerate(self.nodes) if self._row[node] != row)
            raise InputError(f"the graph has the node {twice!r} twice; expected each id once")
        for number, (head, relation, tail) in enumerate(self.edges):
            for node in (head, tail):
                if node not in self._row:
                    raise InputError(f"edge {number} of the graph ({head} {relation} {tail}): {self.unknown(node)}")
        ends = np.array([(self._row[head], self._row[tail]) for head, _, tail in self.edges], dtype=np.int64)
        ends = ends.reshape(-1, 2)
        upward = np.array([relation == HIERARCHY for _, relation, _ in self.edges], dtype=bool)
        self._around = _neighbours(np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0), len(self.nodes))
        self._above = _neighbours(ends[upward], len(self.nodes))
        self._below = _neighbours(ends[upward][:, ::-1], len(self.nodes))
        self._closures: dict[tuple[int, bool], frozenset[int]] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"Graph(nodes={len(self.nodes):,}, edges={len(self.edges):,})"

    @cached_property
    def hash(self) -> str:
        """SHA-256 over nodes and edges in order."""
        facts = [self.nodes, self.kinds, self.names, self.edges]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def row(self, node: str) -> int:
        """Row of the node with this id."""
        if node not in self._row:
            raise InputError(f"the graph: {self.unknown(node)}")
        return self._row[node]

    def unknown(self, node: str) -> str:
        """Message that there is no such node."""
        return f"node {node!r} is not in the graph{did_you_mean(node, self._row)}"

    def pair_problem(self, pair: Sequence[str]) -> str | None:
        """Message about an invalid pair of node ids, or None."""
        if len(pair) != 2:
            return f"expected two nodes of the graph that the texts are about, got {len(pair)}"
        return next((self.unknown(node) for node in pair if node not in self._row), None)

    def ancestors(self, row: int) -> frozenset[int]:
        """Rows of all nodes above a node in the hierarchy."""
        return self._closure(row, up=True)

    def descendants(self, row: int) -> frozenset[int]:
        """Rows of all nodes below a node in the hierarchy."""
        return self._closure(row, up=False)

    def hidden(self, first: int, second: int) -> frozenset[int]:
        """Rows whose edges to ``first`` would reveal whether it is related to ``second``."""
        return frozenset({second}) | self.ancestors(second) | self.descendants(second)

    def neighbourhood(self, first: int, second: int, size: int) -> Neighbourhood:
        """Visible neighbourhood of a pair, without the edges that reveal the answer.

        Each node's neighbours fill half of ``size``. Neighbours of the first node are sorted by similarity to the
        second; those of the second begin with its hierarchy. Ties are broken by row, so the result is deterministic.

        Args:
            first: Row of the entity (gene).
            second: Row of the term (phenotype).
            size: Maximum number of nodes, including the pair.
        """
        hidden = self.hidden(first, second)
        around = self._around[first].tolist()
        own = [row for row in around if row not in hidden]
        others = [row for row in self._around[second].tolist() if row != first]
        shared = {row: self._similarity(row, second) for row in {second, *own, *others}}
        # Python's sort is stable, so ties keep the order of the rows.
        own.sort(key=lambda row: -shared[row])
        others.sort(key=lambda row: (row not in hidden, -shared[row]))
        room = size - 2
        half = max(room // 2, room - len(others))
        chosen = dict.fromkeys([first, second, *own[:half]])
        for row in others:
            if len(chosen) >= size:
                break
            chosen[row] = None
        nodes = np.fromiter(chosen, dtype=np.int64)
        index = {row: number for number, row in enumerate(chosen)}
        edges = [
            (index[row], index[other])
            for row in chosen
            for other in self._around[row].tolist()
            if row < other and other in index and not self._reveals(row, other, first, hidden)
        ]
        cut = hidden.intersection(around)  # these lose their edge to the first node, which reduces their degree
        degrees = np.array([len(self._around[row]) - (row in cut) for row in chosen], dtype=np.float32)
        degrees[0] = len(own)
        features = np.zeros((len(nodes), FEATURES), dtype=np.float32)
        features[0, 0] = features[1, 1] = 1
        features[:, 2] = [len(self._above[row]) + len(self._below[row]) > 0 for row in chosen]
        features[1:, 3] = [shared[row] for row in chosen if row != first]
        features[:, 4] = np.log1p(degrees) / 5
        return Neighbourhood(nodes, np.array(edges, dtype=np.int64).reshape(-1, 2), features)

    @staticmethod
    def _reveals(row: int, other: int, first: int, hidden: frozenset[int]) -> bool:
        return (row == first and other in hidden) or (other == first and row in hidden)

    def _similarity(self, row: int, term: int) -> float:
        """Jaccard similarity of the ancestors of two nodes, each including the node itself."""
        one, other = self.ancestors(row) | {row}, self.ancestors(term) | {term}
        common = len(one & other)
        return common / (len(one) + len(other) - common)

    def _closure(self, row: int, *, up: bool) -> frozenset[int]:
        key = (row, up)
        if key not in self._closures:
            step = self._above if up else self._below
            result: set[int] = set()
            waiting = step[row].tolist()
            while waiting:
                reached = waiting.pop()
                if reached not in result:
                    result.add(reached)
                    waiting += step[reached].tolist()
            self._closures[key] = frozenset(result - {row})
        return self._closures[key]

    def save(self, folder: Path) -> None:
        """Write ``nodes.tsv`` (id, kind, name) and ``edges.tsv`` (head, relation, tail)."""
        lines = ("\t".join(fields) + "\n" for fields in zip(self.nodes, self.kinds, self.names, strict=True))
        (folder / NODES).write_text("".join(lines), encoding="utf-8")
        (folder / EDGES).write_text("".join("\t".join(edge) + "\n" for edge in self.edges), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Graph:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: A file is missing, or a line does not have three fields or has an unknown node.
        """
        nodes = _read_tsv(folder / NODES, "id, kind, name")
        edges = _read_tsv(folder / EDGES, "head, relation, tail")
        known: dict[str, int] = {}
        for number, (node, _, _) in enumerate(nodes, start=1):
            if node in known:
                first = known[node]
                raise InputError(f"{folder / NODES}, line {number}: node {node!r} was already given in line {first}")
            known[node] = number
        for number, (head, _, tail) in enumerate(edges, start=1):
            for node in (head, tail):
                if node not in known:
                    hint = did_you_mean(node, known)
                    raise InputError(f"{folder / EDGES}, line {number}: node {node!r} is not in {NODES}{hint}")
        ids, kinds, names = zip(*nodes, strict=True) if nodes else ((), (), ())
        return cls(ids, kinds, names, edges)


def _read_tsv(path: Path, fields: str) -> list[tuple[str, str, str]]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; expected tab-separated lines of {fields}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        parts = line.split("\t")
        if len(parts) != 3 or not parts[0]:
            raise InputError(
                f"{path}, line {number}: expected three fields ({fields}) with tabs between, got {len(parts)}"
            )
        rows.append((parts[0], parts[1], parts[2]))
    return rows


def _neighbours(ends: Rows, count: int) -> list[Rows]:
    """Sorted rows of the neighbours of each node."""
    order = np.lexsort((ends[:, 1], ends[:, 0])) if len(ends) else np.empty(0, dtype=np.int64)
    heads, tails = ends[order, 0], ends[order, 1]
    return np.split(tails, np.searchsorted(heads, np.arange(1, count)))
