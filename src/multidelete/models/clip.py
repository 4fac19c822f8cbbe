"""CLIP and SigLIP: a dual encoder whose fused representation is the element-wise product of the two embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from multidelete.models.config import EncoderConfig, ModelConfig, small_encoder
from multidelete.models.encoders import load_pretrained
from multidelete.models.image_text import ImageTextModel, contrastive_logits, contrastive_losses
from multidelete.models.inputs import Batch, Encoding, Subgraphs, Tokens


class ClipConfig(ModelConfig):
    """Configuration of :class:`Clip`.

    Args:
        vision: Vision tower; both towers may be loaded from one folder of a CLIP or SigLIP model.
        text: Text tower.
        embedding_width: Width P of the shared space.
        temperature: Initial value of the learned temperature of the contrastive loss.
    """

    vision: EncoderConfig = small_encoder("clip_vision_model", 4, pooling="pooler", image_size=48, patch_size=8)
    text: EncoderConfig = small_encoder("clip_text_model", 3, pooling="pooler", max_position_embeddings=64)
    embedding_width: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class Clip(ImageTextModel):
    r"""Dual encoder trained with a contrastive loss [1]_.

    A dual encoder has no fusion network. Here

    - the fused representation is :math:`P \cdot v \odot t`, the element-wise product of the normalised embeddings,
      scaled so that its mean is their cosine similarity, ``(B, P)``;
    - the fusion module (scope ``fusion``) consists of both projections into the shared space and the temperature;
    - the pair score is the logistic function of cosine over temperature plus a learned bias (SigLIP's, 0 for CLIP).
      It has the same order as the cosine, so there is no re-ranking.

    References:
        .. [1] Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021;
           Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023
    """

    name = "clip"
    provides = frozenset({"vision", "text", "ranking"})
    fusion_reads = "pooled"
    config_class = ClipConfig
    matching = False
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": ("vision",),
        "text": ("text",),
        "fusion": ("vision_projection", "text_projection", "log_scale", "bias"),
    }
    config: ClipConfig

    def __init__(self, config: ClipConfig, tokenizer: Any, backbones: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(config, tokenizer, backbones)
        for modality in self.modalities:
            projection = nn.Linear(self.width(modality), config.embedding_width, bias=False)
            self.add_module(f"{modality}_projection", projection)
        self.log_scale = nn.Parameter(torch.tensor(1 / config.temperature).log())
        self.bias = nn.Parameter(torch.zeros(()))

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Clip:
        """See :meth:`Model.build`; projections and temperature are loaded if both towers come from one folder."""
        source = config.vision.pretrained
        dual: Any = load_pretrained(source, "model.vision") if source and source == config.text.pretrained else None
        if dual is not None:
            width = (
                int(dual.config.projection_dim)
                if hasattr(dual, "visual_projection")
                else dual.config.text_config.hidden_size
            )
            config = config.model_copy(update={"embedding_width": width})
        model = super().build(config, texts, seed, tokenizer)
        assert isinstance(model, cls)
        if dual is not None:
            model._take_projections(dual)
        return model

    @torch.no_grad()
    def _take_projections(self, dual: Any) -> None:
        for modality, name in (("vision", "visual_projection"), ("text", "text_projection")):
            weight = getattr(self, f"{modality}_projection").weight
            if hasattr(dual, name):
                weight.copy_(getattr(dual, name).weight)
            else:  # SigLIP compares the towers' outputs directly
                weight.copy_(torch.eye(*weight.shape))
        self.log_scale.copy_(dual.logit_scale.reshape(()))
        if hasattr(dual, "logit_bias"):
            self.bias.copy_(dual.logit_bias.reshape(()))

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`."""
        tower: Any = self.text
        if isinstance(inputs, Tokens) and tower.config.model_type.startswith("siglip"):
            # SigLIP pools the last position, even if it is padding, so all texts must be padded to the same length.
            missing = self.config.max_text_tokens - inputs.ids.shape[1]
            ids = F.pad(inputs.ids, (0, missing), value=self.tokenizer.pad_token_id)
            inputs = Tokens(ids, torch.ones_like(ids))
        return super().embed(modality, inputs)

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; a tower's output is its encoding, the projections belong to the fusion."""
        return replace(embedded, stage="encoded")

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`."""
        return F.normalize(getattr(self, f"{modality}_projection")(encoding.pooled).float(), dim=-1)

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; P times the element-wise product of the embeddings."""
        product = self.embedding("vision", encodings["vision"]) * self.embedding("text", encodings["text"])
        return product * product.shape[-1]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of "does not match" (0) and "matches" (scaled cosine + bias), ``(B, 2)``."""
        matches = fused.mean(-1) * self.log_scale.exp().clamp(max=100) + self.bias
        return torch.stack([torch.zeros_like(matches), matches], -1)

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Contrastive loss of each pair, both directions, ``(B,)``."""
        vision, text = (self.embedding(m, encodings[m]) for m in self.modalities)
        same = batch.examples["vision"][:, None] == batch.examples["text"][None, :]  # (B, B)
        return contrastive_losses(contrastive_logits(vision, text, self.log_scale), same)
