"""Signals that are checked on validation while a method runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multidelete.metrics.classification import certainty, head_logits


def check_signals(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.floating[Any]]]:
    """Signals of true pairs, ``(P,)`` each; higher means "trained on".

    ``score``, the log-odds of the true label or of a match; ``certainty``; and with contrastive embeddings ``cosine``
    and the negative rank losses in both directions, ``i2t`` and ``t2i``.
    """
    found = {"score": arrays["score"], "certainty": certainty(head_logits(arrays))}
    return found | contrastive_signals(arrays)


def contrastive_signals(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.floating[Any]]]:
    """``cosine``, ``i2t`` and ``t2i`` of :func:`check_signals`; empty without contrastive embeddings."""
    signs = {"cosine": ("cosine", 1), "i2t": ("i2t_loss", -1), "t2i": ("t2i_loss", -1)}
    return {
        name: sign * np.asarray(arrays[key], dtype=np.float64) for name, (key, sign) in signs.items() if key in arrays
    }
