"""Visual entailment: does an image entail a hypothesis, contradict it, or leave it open?"""

from __future__ import annotations

from typing import ClassVar

from multidelete.tasks.classification import Classification


class Entailment(Classification):
    """Three classes: entailment, neutral, contradiction; an example is an image with its hypotheses [1]_.

    References:
        .. [1] Xie et al., "Visual Entailment: A Novel Task for Fine-Grained Image Understanding", 2019 (SNLI-VE)
    """

    name: ClassVar[str] = "entailment"
    classes: ClassVar[frozenset[str]] = frozenset({"contradiction", "entailment", "neutral"})
    affirms: ClassVar[str] = "entailment"
