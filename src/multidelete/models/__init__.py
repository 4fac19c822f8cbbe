"""Registry of model architectures; other packages add theirs by the entry point ``multidelete.models``."""

from multidelete.models.albef import Albef
from multidelete.models.base import Model
from multidelete.models.blip import Blip
from multidelete.models.clip import Clip
from multidelete.models.config import ModelConfig
from multidelete.models.graph_text import GraphTextModel
from multidelete.models.inputs import Batch, Encoding, Tokens
from multidelete.models.vilt import Vilt
from multidelete.utils.registry import with_entry_points

MODELS: dict[str, type[Model]] = with_entry_points(
    "multidelete.models",
    {
        "albef": Albef,
        "blip": Blip,
        "clip": Clip,
        "vilt": Vilt,
        "graph_text": GraphTextModel,
    },
)

__all__ = [
    "MODELS",
    "Albef",
    "Batch",
    "Blip",
    "Clip",
    "Encoding",
    "GraphTextModel",
    "Model",
    "ModelConfig",
    "Tokens",
    "Vilt",
]
