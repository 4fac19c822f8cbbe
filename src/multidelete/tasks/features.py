"""Inputs of linear probes: unimodal features of encoders, and attributes of examples and texts as targets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multidelete.training.inference import encode_all
from multidelete.utils.randomness import derive

if TYPE_CHECKING:
    from multidelete.data.batches import Encodings, PairInputs
    from multidelete.data.dataset import Dataset, Rows
    from multidelete.models.base import Model
    from multidelete.training.engine import Engine

ASKED = 32  # candidate attributes for a probe
LEAST = 5  # minimum number of positive and of negative examples of a candidate in the sample


def unimodal(
    model: Model, inputs: PairInputs, evaluated: Mapping[str, Rows], engine: Engine, *, count: int, affirms: str
) -> dict[str, dict[str, NDArray[Any]]]:
    """Unimodal features and attributes on a sample of D_r, to fit probes on, and of test, to apply them to.

    The features are the mean token states, which the fusion reads. The pooled vector is not used: it is untrained
    without a contrastive loss. Half precision is enough for a linear probe.

    The attributes need no extra labels: the words of a text; for images, the words of the texts that are true of them;
    for two nodes, their ancestors in the hierarchy. Candidates are those closest to a prevalence of one half.

    Args:
        model: Model in eval mode.
        inputs: Inputs of the model.
        evaluated: Text rows of the pairs that are evaluated, by split.
        engine: Device and precision.
        count: Maximum number of examples in a sample; one text of each is taken.
        affirms: Label of the texts that are true of their example; "" if all are.

    Returns:
        For ``retain`` and ``test``, ``probed_example`` (ids) and ``probed_text`` (index within the example), ``(N,)``;
        for each modality with candidates also ``<modality>_features`` ``(N, D)``, ``<modality>_asked`` ``(C,)``, the
        candidates, and ``<modality>_shows`` ``(N, C)``, which candidates each example has.
    """
    dataset = inputs.dataset
    result: dict[str, dict[str, NDArray[Any]]] = {}
    asked: dict[str, list[str]] = {}
    # Of an example that is deleted in part, neither picture nor texts are plain examples of D_r.
    none = np.empty(0, dtype=np.int64)
    retain, forget, test = (dataset.example_rows(evaluated.get(name, none)) for name in ("retain", "forget", "test"))
    splits = {"retain": np.setdiff1d(retain, forget), "test": test}
    if not len(test):  # probes are applied to test
        return {}
    for split, examples in splits.items():
        rng = np.random.default_rng(derive(len(examples), "probed", split))
        usable = (row for row in rng.permutation(examples).tolist() if shown(dataset, row, affirms))
        rows = np.sort(np.fromiter(islice(usable, count), dtype=np.int64))
        numbers = rng.integers(dataset.text_counts[rows])
        texts = dataset.text_rows(rows)[np.cumsum(dataset.text_counts[rows]) - dataset.text_counts[rows] + numbers]
        result[split] = {"probed_example": np.array([dataset.examples[row].id for row in rows]), "probed_text": numbers}
        for modality, chosen, shows in (
            (dataset.modalities[0], rows, [shown(dataset, row, affirms) for row in rows]),
            ("text", texts, [words(dataset.texts[row]) for row in texts]),
        ):
            if modality not in asked:
                asked[modality] = balanced(shows)
            if asked[modality] and len(chosen):
                result[split] |= {
                    f"{modality}_features": mean_tokens(encode_all(engine, model, inputs, modality, chosen)),
                    f"{modality}_shows": np.array([[thing in each for thing in asked[modality]] for each in shows]),
                    f"{modality}_asked": np.array(asked[modality]),
                }
    return result


def shown(dataset: Dataset, row: int, affirms: str) -> set[str]:
    """Attributes of an example; empty if none of its texts is true of it."""
    example, graph = dataset.examples[row], dataset.graph
    if graph is not None:
        return {graph.names[above] for node in example.nodes for above in graph.ancestors(graph.row(node))}
    labels = example.labels if affirms else [affirms] * len(example.texts)
    true = [text for text, label in zip(example.texts, labels, strict=True) if label == affirms]
    return words(" ".join(true))


def words(text: str) -> set[str]:
    """Lower-case words of a text with at least three letters.

    >>> sorted(words("A red disc at 45°, over the RED box"))
    ['box', 'disc', 'over', 'red', 'the']
    """
    return set(re.findall(r"[^\W\d_]{3,}", text.lower()))


def balanced(shows: Collection[set[str]]) -> list[str]:
    """Attributes sorted by how close their prevalence is to one half, at most ``ASKED``."""
    counts = Counter(thing for each in shows for thing in each)
    usable = (thing for thing, count in counts.items() if LEAST <= count <= len(shows) - LEAST)
    return sorted(usable, key=lambda thing: (abs(counts[thing] - len(shows) / 2), thing))[:ASKED]


def mean_tokens(encodings: Encodings) -> NDArray[np.float16]:
    """Mean of the token states of each example, ``(N, D)``."""
    tokens = encodings.tokens
    means = np.add.reduceat(tokens.flat, tokens.offsets[:-1]) / np.diff(tokens.offsets)[:, None]
    edge = np.finfo(np.float16).max  # a destroyed model may exceed the range of fp16
    return np.clip(means, -edge, edge).astype(np.float16)
