"""What encoders say of examples and texts alone, and what these are known to show: the material of probes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multidelete.training.inference import encode_all
from multidelete.utils.randomness import derive

if TYPE_CHECKING:
    from multidelete.data.batches import Encodings, PairInputs
    from multidelete.data.dataset import Dataset
    from multidelete.data.requests import Request
    from multidelete.models.base import Model
    from multidelete.training.engine import Engine

ASKED = 32  # things a probe may be asked about, before it is known which of them the features tell
LEAST = 5  # examples of the sample that show such a thing, and examples that do not


def unimodal(
    model: Model, inputs: PairInputs, request: Request, engine: Engine, *, count: int, affirms: str
) -> dict[str, dict[str, NDArray[Any]]]:
    """Features of each modality alone on a sample of D_r, to fit probes on, and of test, to apply them to.

    A feature is the mean of the token states that the fusion reads. The pooled vector is none: where no contrastive
    loss is trained, nothing trains it. Stored in half precision, of which a linear probe loses nothing.

    What an example shows needs no label of its own: of a text it is its words, of pictures the words of the texts that
    are true of them, of two nodes what lies above them in the hierarchy. Asked about is what comes nearest to being
    shown by half of the sample.

    Args:
        model: In eval mode.
        inputs: What it reads.
        request: The splits.
        engine: Device and precision.
        count: Largest number of examples in a sample; one text of each is taken.
        affirms: Label of the texts that are true of their example; "" where all are.

    Returns:
        Of ``retain`` and ``test`` the sample, ``probed_example`` (ids) and ``probed_text`` (its place in the example),
        ``(N,)``, and for each modality that can be asked about anything ``<modality>_features`` ``(N, D)`` and
        ``<modality>_shows`` ``(N, C)``, which of ``<modality>_asked`` ``(C,)`` each example shows.
    """
    dataset = inputs.dataset
    result: dict[str, dict[str, NDArray[Any]]] = {}
    asked: dict[str, list[str]] = {}
    for split, examples in (("retain", request.retain), ("test", request.test)):
        rng = np.random.default_rng(derive(len(examples), "probed", split))
        told = (row for row in rng.permutation(examples).tolist() if shown(dataset, row, affirms))
        rows = np.sort(np.fromiter(islice(told, count), dtype=np.int64))
        places = rng.integers(dataset.text_counts[rows])
        texts = dataset.text_rows(rows)[np.cumsum(dataset.text_counts[rows]) - dataset.text_counts[rows] + places]
        result[split] = {"probed_example": np.array([dataset.examples[row].id for row in rows]), "probed_text": places}
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
    """What an example is known to show; empty where none of its texts is true of it."""
    example, graph = dataset.examples[row], dataset.graph
    if graph is not None:
        return {graph.names[above] for node in example.nodes for above in graph.ancestors(graph.row(node))}
    labels = example.labels if affirms else [affirms] * len(example.texts)
    true = [text for text, label in zip(example.texts, labels, strict=True) if label == affirms]
    return words(" ".join(true))


def words(text: str) -> set[str]:
    """The words of a text, without those of one or two letters.

    >>> sorted(words("A red disc at 45°, over the RED box"))
    ['box', 'disc', 'over', 'red', 'the']
    """
    return set(re.findall(r"[^\W\d_]{3,}", text.lower()))


def balanced(shows: Collection[set[str]]) -> list[str]:
    """What comes nearest to being shown by half of the examples, at most ``ASKED`` things, the nearest first."""
    counts = Counter(thing for each in shows for thing in each)
    usable = (thing for thing, count in counts.items() if LEAST <= count <= len(shows) - LEAST)
    return sorted(usable, key=lambda thing: (abs(counts[thing] - len(shows) / 2), thing))[:ASKED]


def mean_tokens(encodings: Encodings) -> NDArray[np.float16]:
    """Mean of the token states of each example, ``(N, D)``."""
    tokens = encodings.tokens
    means = np.add.reduceat(tokens.flat, tokens.offsets[:-1]) / np.diff(tokens.offsets)[:, None]
    edge = np.finfo(np.float16).max  # a model that was destroyed may have larger states; they are as good as this
    return np.clip(means, -edge, edge).astype(np.float16)
