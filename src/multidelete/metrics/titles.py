"""Display names of the membership attacks."""

from __future__ import annotations

ATTACKS = {
    "loss": "loss",
    "confidence": "confidence",
    "entropy": "entropy",
    "modified_entropy": "modified entropy",
    "cosine": "cosine",
    "i2t": "i2t loss",
    "t2i": "t2i loss",
    "svc": "SVC",
    "lira": "LiRA",
    "rmia": "RMIA",
    "u_lira": "U-LiRA",
}
