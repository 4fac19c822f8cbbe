"""Architectures: the table is the registry, and packages add to it by the entry point ``multidelete.models``."""

from multidelete.models.albef import Albef
from multidelete.models.base import Batch, Encoding, Model, ModelConfig, Tokens
from multidelete.models.clip import Clip
from multidelete.registry import with_entry_points

MODELS: dict[str, type[Model]] = with_entry_points("multidelete.models", {"albef": Albef, "clip": Clip})

__all__ = ["MODELS", "Albef", "Batch", "Clip", "Encoding", "Model", "ModelConfig", "Tokens"]
