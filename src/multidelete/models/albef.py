"""ALBEF: two encoders aligned by contrast, a cross-attention fusion encoder, and a matching head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from multidelete.models.base import Batch, EncoderConfig, Encoding, ModelConfig
from multidelete.models.image_text import ImageTextModel, contrastive_logits, contrastive_losses, hard_negatives

CHUNK = 64  # pairs that are fused together on a CPU


class FusionConfig(BaseModel):
    """Size of the cross-attention fusion encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def model_post_init(self, _: Any) -> None:
        """Refuse a width that the heads cannot share."""
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.heads} heads; expected a multiple")


class AlbefConfig(ModelConfig):
    """Configuration of :class:`Albef`.

    Args:
        vision: Vision encoder.
        text: Text encoder.
        fusion: Fusion encoder; text tokens attend to each other and to the image's tokens.
        embedding_width: Width P of the contrastive embeddings.
        temperature: Initial temperature of the contrastive loss; it is learned.
    """

    vision: EncoderConfig = EncoderConfig(
        config={
            "model_type": "vit",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "image_size": 48,
            "patch_size": 8,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )
    text: EncoderConfig = EncoderConfig(
        config={
            "model_type": "bert",
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )
    fusion: FusionConfig = FusionConfig()
    embedding_width: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class Albef(ImageTextModel):
    """Align before fuse [1]_, assembled from ``transformers`` parts.

    Encoders give token states; a linear map takes them to the fusion's width where the widths differ; BERT layers
    with cross-attention fuse text tokens with image tokens; the first fused token is the fused representation.
    Training loss of a pair: contrastive (both directions, every pair of one unit is a positive) + matching (the pair,
    and one in-batch hard negative for its image and one for its text). Without ALBEF's momentum queue: a queue would
    carry embeddings of deleted pairs inside the checkpoint.

    References:
        .. [1] Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum
           Distillation", NeurIPS 2021
    """

    name = "albef"
    config_class = AlbefConfig
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": ("vision", "vision_adapter", "vision_projection"),
        "text": ("text", "text_adapter", "text_projection"),
        "fusion": ("fusion", "matching_head", "log_scale"),
    }
    config: AlbefConfig

    def __init__(self, config: AlbefConfig, tokenizer: Any, backbones: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(config, tokenizer, backbones)
        for modality in self.modalities:
            width = self.width(modality)
            self.add_module(f"{modality}_adapter", _adapter(width, config.fusion.width))
            self.add_module(f"{modality}_projection", nn.Linear(width, config.embedding_width))
        self.fusion = FusionEncoder(config.fusion)
        self.matching_head = nn.Linear(config.fusion.width, 2)
        self.log_scale = nn.Parameter(torch.tensor(1 / config.temperature).log())

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; ``pooled`` becomes the unit-length contrastive embedding."""
        tokens = getattr(self, f"{modality}_adapter")(embedded.tokens)
        pooled = F.normalize(getattr(self, f"{modality}_projection")(embedded.pooled).float(), dim=-1)
        return Encoding(tokens, embedded.mask, pooled)

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; the first token of the fusion encoder."""
        text, vision = encodings["text"], encodings["vision"]
        if len(text) < 2 * CHUNK or text.mask.device.type != "cpu":
            return self.fusion(text, vision)  # type: ignore[no-any-return]
        # On a CPU padding costs as much as words do: texts of similar length go together, cut to their longest.
        order = text.mask.sum(1).argsort(stable=True)
        parts = [self.fusion(text[rows].cut(), vision[rows]) for rows in order.split(CHUNK)]
        return torch.cat(parts)[order.argsort()]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of "does not match" and "matches", ``(B, 2)``."""
        return self.matching_head(fused)  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> Tensor:
        """Contrastive + matching loss of each pair, ``(B,)``."""
        encodings = self.encode(batch)
        vision, text = encodings["vision"], encodings["text"]
        similarity = contrastive_logits(self.embedding("vision", vision), self.embedding("text", text), self.log_scale)
        same = batch.units["vision"][:, None] == batch.units["text"][None, :]  # (B, B): every caption of the image
        contrastive = contrastive_losses(similarity, same)

        # Hard negatives: the likelier the wrong partner, the likelier it is drawn (ALBEF, section 3.2).
        negative_text = hard_negatives(similarity, same, batch.generator)
        negative_vision = hard_negatives(similarity.T, same.T, batch.generator)
        if negative_text is None or negative_vision is None:  # the whole batch is one unit: no wrong partner in it
            matched = F.cross_entropy(
                self.head(self.fuse(encodings)).float(), same.new_ones(len(batch)).long(), reduction="none"
            )
            return contrastive + matched
        own = torch.arange(len(batch), device=similarity.device)
        fused = self.fuse(
            {
                "vision": vision[torch.cat([own, own, negative_vision])],
                "text": text[torch.cat([own, negative_text, own])],
            }
        )
        labels = torch.cat([own.new_ones(len(batch)), own.new_zeros(2 * len(batch))])
        matching = F.cross_entropy(self.head(fused).float(), labels, reduction="none")
        return contrastive + matching.view(3, -1).mean(0)


class FusionEncoder(nn.Module):
    """BERT layers in which text tokens attend to each other, in both directions, and to the image's tokens."""

    def __init__(self, size: FusionConfig) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertLayer

        config = BertConfig(
            hidden_size=size.width,
            num_attention_heads=size.heads,
            intermediate_size=size.expansion * size.width,
            hidden_dropout_prob=size.dropout,
            attention_probs_dropout_prob=size.dropout,
            is_decoder=True,  # transformers gives cross-attention to decoders only ...
            add_cross_attention=True,
            # BERT's 0.02 belongs to its width of 768; a narrow layer with it starts almost dead.
            initializer_range=0.02 * (768 / size.width) ** 0.5,
        )
        config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(size.layers))
        layer: Any
        for layer in self.layers:
            layer.attention.self.is_causal = False  # ... and a fusion encoder reads both ways
        self.apply(lambda module: _initialise(module, config.initializer_range))

    def forward(self, text: Encoding, vision: Encoding) -> Tensor:
        """First fused token of each pair, ``(B, D)``, from ``(B, L, D)`` text and ``(B, K, D)`` image states."""
        own = text.mask[:, None, None, :].bool()  # (B, 1, 1, L)
        # Images have no padding: without a mask, attention takes its fast path.
        other = None if vision.mask.all() else vision.mask[:, None, None, :].bool()
        states = text.tokens
        layer: Any
        for depth, layer in enumerate(self.layers):
            attended = layer.attention(states, own)[0]
            if depth == len(self.layers) - 1:
                # Only the first token is read after the last layer. A product of a strided view depends in its last
                # bit on where the weights lie in memory, so a loaded model would not quite equal the saved one.
                attended = attended[:, :1].contiguous()
            attended = layer.crossattention(attended, None, vision.tokens, other)[0]
            states = layer.feed_forward_chunk(attended)
        return states[:, 0]


def _adapter(width: int, fusion_width: int) -> nn.Module:
    if width == fusion_width:
        return nn.Identity()
    return nn.Sequential(nn.Linear(width, fusion_width), nn.LayerNorm(fusion_width))


def _initialise(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        nn.init.zeros_(module.bias)
