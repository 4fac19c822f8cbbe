"""Graph-text classification: does a sentence state that two entities of a knowledge graph are related?"""

from __future__ import annotations

from typing import ClassVar

from multidelete.metrics.classification import f1
from multidelete.tasks.base import Predictions
from multidelete.tasks.classification import Classification


class GraphText(Classification):
    """Two classes, true and false; an example is a relation with its sentences [1]_. Also reports F1 of "true".

    References:
        .. [1] Sousa et al., "A Silver Standard Corpus of Human Phenotype-Gene Relations", NAACL 2019 (PGR)
    """

    name: ClassVar[str] = "graph_text"
    classes: ClassVar[frozenset[str]] = frozenset({"false", "true"})
    modalities: ClassVar[tuple[str, str]] = ("graph", "text")

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """See :meth:`Task.scores`."""
        scores, test = super().scores(predictions), predictions.get("test")
        return scores if test is None else {**scores, "test_f1": f1(test["logits"], test["label"], positive=1)}
