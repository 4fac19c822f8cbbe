"""Registry of model architectures; other packages add theirs by the entry point ``multidelete.models``."""

from multidelete.models.albef import Albef
from multidelete.models.base import Model
from multidelete.models.blip import Blip, Blip2
from multidelete.models.config import ModelConfig
from multidelete.models.dual import DualEncoder
from multidelete.models.encoders import normalise, word_tokenizer
from multidelete.models.graph_text import GraphTextModel
from multidelete.models.image_text import ImageTextModel
from multidelete.models.inputs import Batch, Encoding, Tokens
from multidelete.models.single_stream import BridgeTower, Vilt
from multidelete.models.wrapped import Wrapped
from multidelete.utils.registry import with_entry_points

MODELS: dict[str, type[Model]] = with_entry_points(
    "multidelete.models",
    {
        "albef": Albef,
        "graph_text": GraphTextModel,
        "dual_encoder": DualEncoder,
        "blip": Blip,
        "blip2": Blip2,
        "vilt": Vilt,
        "bridgetower": BridgeTower,
    },
)

__all__ = [
    "MODELS",
    "Albef",
    "Batch",
    "Blip",
    "Blip2",
    "BridgeTower",
    "DualEncoder",
    "Encoding",
    "GraphTextModel",
    "ImageTextModel",
    "Model",
    "ModelConfig",
    "Tokens",
    "Vilt",
    "Wrapped",
    "normalise",
    "word_tokenizer",
]
