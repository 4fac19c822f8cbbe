"""Configurations of models and encoders."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from multidelete.models.graph import Graph


class EncoderConfig(BaseModel):
    """An encoder from a pretrained folder or hub id, or from a configuration with random weights.

    Args:
        pretrained: Folder or hub id that ``transformers.AutoModel`` can load.
        config: Fields of a ``transformers`` configuration, with ``model_type`` (``{"model_type": "vit", ...}``).
        freeze: Keep the weights as they are, in training and under every method.
        pooling: How token states become one vector; by default the first token, or the mean where there is no
            class token (convolutional encoders); "pooler" takes the encoder's own pooled output (CLIP, SigLIP).
        tokens_after: The layer of a text encoder whose token states are read; the last by default. The one vector is
            that of the last layer in any case: a sentence as a whole is best told there, and its words before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    freeze: bool = False
    pooling: Literal["first", "mean", "pooler"] | None = None
    tokens_after: int | None = Field(default=None, ge=1)

    def model_post_init(self, _: Any) -> None:
        """Refuse an encoder that is given twice or not at all."""
        if self.pretrained is None and self.config is None:
            raise ValueError("an encoder needs 'pretrained' (a folder or hub id) or 'config' (with 'model_type')")

    def for_tokenizer(self, tokenizer: Any) -> Self:
        """The configuration of a text encoder that reads this tokenizer's ids; a pretrained one stays as it is."""
        if self.pretrained is not None:
            return self
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
        ids |= {"eos_token_id": tokenizer.sep_token_id, "vocab_size": len(tokenizer)}
        return self.model_copy(update={"config": {**(self.config or {}), **ids}})


def small_encoder(
    model_type: str, layers: int, pooling: Literal["pooler"] | None = None, **fields: Any
) -> EncoderConfig:
    """An encoder of width 128 with random weights, as the architectures have it by default."""
    size = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 256}
    return EncoderConfig(pooling=pooling, config={"model_type": model_type, **size, **fields})


class DataFacts(Protocol):
    """What a model needs to know of a dataset; :class:`multidelete.Dataset` has it."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def modalities(self) -> tuple[str, str]:
        """``vision`` or ``graph``, and ``text``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty in retrieval."""

    @property
    def images_per_example(self) -> int:
        """Pictures in an example; 0 where a graph takes their place."""

    @property
    def graph(self) -> Graph | None:
        """The graph, if there is one."""


class ModelConfig(BaseModel):
    """What every architecture's configuration has in common.

    Args:
        image_size: Side of the square that an image becomes, in pixels.
        image_mean: Mean of each channel that is taken off pixels in [0, 1].
        image_std: Deviation of each channel that they are divided by.
        max_text_tokens: Longer texts are cut.
        labels: Names of the classes that the head tells apart; none: it tells matching pairs from others. Taken from
            the data when a model is trained.
        images: Pictures in an example; taken from the data as well.
        extra: Name and facts of an extra module that the model was trained with, see :class:`Extra`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    after_backbone: ClassVar[frozenset[str]] = frozenset(
        {"labels", "extra", "fusion", "embedding_width", "temperature"}
    )

    image_size: int = Field(default=48, ge=1)
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_text_tokens: int = Field(default=40, ge=3)
    labels: tuple[str, ...] = ()
    images: int = Field(default=1, ge=1)
    extra: dict[str, Any] | None = None

    def for_dataset(self, dataset: DataFacts, *, labelled: bool) -> Self:
        """The configuration of a model that learns a task on this dataset.

        Args:
            dataset: The data.
            labelled: Whether the task is to tell the dataset's labels.
        """
        return self.model_copy(
            update={"labels": dataset.classes if labelled else (), "images": dataset.images_per_example or 1}
        )

    def canonical(self, exclude: Collection[str] = ()) -> str:
        """The configuration as one text, the same whether it was written down just now or read from a folder."""
        return json.dumps(self.model_dump(mode="json", exclude=set(exclude)), sort_keys=True)
