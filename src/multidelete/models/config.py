"""Configurations of models and encoders."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from multidelete.models.graph import Graph


class EncoderConfig(BaseModel):
    """Encoder from a pretrained folder or hub id, or from a configuration with random weights.

    Args:
        pretrained: Folder or hub id that ``transformers.AutoModel`` can load.
        config: Fields of a ``transformers`` configuration, with ``model_type`` (``{"model_type": "vit", ...}``).
        freeze: Freeze the weights, in training and under every method.
        pooling: How token states are pooled into one vector: the first token by default, or the mean if there is no
            class token (convolutional encoders); "pooler" is the encoder's own pooled output (CLIP, SigLIP).
        tokens_after: Layer of a text encoder whose token states the fusion reads; by default the last. The pooled
            vector always comes from the last layer, which represents the sentence best.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    freeze: bool = False
    pooling: Literal["first", "mean", "pooler"] | None = None
    tokens_after: int | None = Field(default=None, ge=1)

    def model_post_init(self, _: Any) -> None:
        """Require exactly one of ``pretrained`` and ``config``."""
        if self.pretrained is None and self.config is None:
            raise ValueError("an encoder needs 'pretrained' (a folder or hub id) or 'config' (with 'model_type')")

    def for_tokenizer(self, tokenizer: Any) -> Self:
        """Copy with the vocabulary size and special tokens of a tokenizer; pretrained encoders are not changed."""
        if self.pretrained is not None:
            return self
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
        ids |= {"eos_token_id": tokenizer.sep_token_id, "vocab_size": len(tokenizer)}
        return self.model_copy(update={"config": {**(self.config or {}), **ids}})


def small_encoder(
    model_type: str, layers: int, pooling: Literal["pooler"] | None = None, **fields: Any
) -> EncoderConfig:
    """Encoder of width 128 with random weights, the default of the architectures."""
    size = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 256}
    return EncoderConfig(pooling=pooling, config={"model_type": model_type, **size, **fields})


class DataFacts(Protocol):
    """Properties of a dataset that models need; :class:`multidelete.Dataset` has them."""

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
        """Number of images per example; 0 for graphs."""

    @property
    def graph(self) -> Graph | None:
        """Knowledge graph, if any."""


class ModelConfig(BaseModel):
    """Fields common to the configurations of all architectures.

    Args:
        image_size: Height and width to which images are resized, in pixels.
        image_mean: Mean of each channel, subtracted from pixels in [0, 1].
        image_std: Standard deviation of each channel, by which pixels are divided.
        max_text_tokens: Texts are truncated to this length.
        labels: Class names; empty if the head classifies matching and other pairs. Set from the data before training.
        images: Number of images per example. Set from the data before training.
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
        """Configuration of a model for a task on this dataset.

        Args:
            dataset: The data.
            labelled: Whether the task predicts the dataset's labels.
        """
        return self.model_copy(
            update={"labels": dataset.classes if labelled else (), "images": dataset.images_per_example or 1}
        )

    def canonical(self, exclude: Collection[str] = ()) -> str:
        """Canonical JSON of the configuration, for hashing."""
        return json.dumps(self.model_dump(mode="json", exclude=set(exclude)), sort_keys=True)
