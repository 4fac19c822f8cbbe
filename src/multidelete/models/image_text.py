"""What every image-text model shares: two backbones, and losses over the similarities of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multidelete.errors import InputError
from multidelete.models.base import Encoding, Model, ModelConfig, Tokens
from multidelete.models.encoders import (
    backbone_from_config,
    build_backbone,
    build_tokenizer,
    reason,
    run_text,
    run_vision,
    width_of,
)
from multidelete.randomness import seeded


class ImageTextModel(Model):
    """A vision and a text backbone from ``transformers``, each of which the configuration can freeze."""

    config: Any
    vision: nn.Module
    text: nn.Module
    log_scale: nn.Parameter

    def __init__(self, config: ModelConfig, tokenizer: Any, backbones: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        for modality in self.modalities:
            encoder = getattr(config, modality)
            backbone = (
                backbones[modality] if backbones else backbone_from_config(encoder.config or {}, f"model.{modality}")[0]
            )
            self.add_module(modality, backbone)
            if encoder.freeze:
                backbone.requires_grad_(False)

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> ImageTextModel:
        """See :meth:`Model.build`."""
        with seeded(seed, "initial weights"):
            tokenizer = tokenizer or build_tokenizer(config.text, texts, "model.text")
            if config.text.pretrained is None:
                ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
                ids |= {"eos_token_id": tokenizer.sep_token_id, "vocab_size": len(tokenizer)}
                sized = config.text.model_copy(update={"config": {**config.text.config, **ids}})
                config = config.model_copy(update={"text": sized})
            backbones, resolved = {}, {}
            for modality in cls.modalities:
                encoder = getattr(config, modality)
                backbones[modality], fields = build_backbone(encoder, modality)
                resolved[modality] = encoder.model_copy(update={"config": fields})
            model = cls(config.model_copy(update=resolved), tokenizer, backbones)
        model.eval().check_sizes()
        return model

    @torch.no_grad()
    def check_sizes(self) -> None:
        """Encode one blank image and one text of full length: sizes that do not fit show before anything is trained.

        Raises:
            InputError: An encoder does not take what the configuration would give it.
        """
        size, length = self.config.image_size, self.config.max_text_tokens
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        words = torch.zeros(1, length, dtype=torch.long)
        for modality, setting, inputs in (
            ("vision", f"image_size = {size}", blank),
            ("text", f"max_text_tokens = {length}", Tokens(words, torch.ones_like(words))),
        ):
            try:
                self.encode_one(modality, inputs)
            except Exception as error:  # each architecture has its own way to stumble
                raise InputError(f"model.{modality} does not work with {setting}: {reason(error)}") from error

    def width(self, modality: str) -> int:
        """Width of a backbone's token states."""
        return width_of(getattr(self, modality), f"model.{modality}")

    def frozen_parameters(self) -> Iterable[str]:
        """Parameters of the backbones that the configuration freezes."""
        return [
            f"{modality}.{name}"
            for modality in self.modalities
            if self.backbone_frozen(modality)
            for name, _ in getattr(self, modality).named_parameters()
        ]

    def contrastive_scale(self) -> float:
        """See :meth:`Model.contrastive_scale`; the learned temperature, capped as in the loss."""
        return float(self.log_scale.detach().exp().clamp(max=100))

    def embed(self, modality: str, inputs: Tensor | Tokens) -> Encoding:
        """See :meth:`Model.embed`."""
        encoder = getattr(self.config, modality)
        if isinstance(inputs, Tokens):
            return run_text(self.text, encoder, inputs)
        return run_vision(self.vision, encoder, normalise(inputs, self.config))


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """uint8 images ``(B, 3, H, W)`` as floats with the configuration's mean and deviation per channel."""
    mean = torch.tensor(config.image_mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(config.image_std, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def contrastive_logits(vision: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Similarities over the learned temperature, ``(B, B)``; the scale is capped at 100 as in CLIP."""
    return vision.float() @ text.float().T * log_scale.exp().clamp(max=100)


def contrastive_losses(similarity: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy to all true partners, mean of both directions, ``(B,)``."""
    targets = same.float()
    return 0.5 * (
        F.cross_entropy(similarity, targets / targets.sum(1, keepdim=True), reduction="none")
        + F.cross_entropy(similarity.T, targets.T / targets.T.sum(1, keepdim=True), reduction="none")
    )


def hard_negatives(similarity: Tensor, same: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """For each row a column of another unit, drawn by similarity, or the most similar without a generator.

    Returns:
        Columns, ``(B,)``, or None where some row has no column of another unit.
    """
    if same.all(1).any():
        return None
    scores = similarity.detach().masked_fill(same, -torch.inf)
    if generator is None:
        return scores.argmax(1)
    # Gumbel-max on the CPU's generator: the same draw on every device.
    uniform = torch.rand(scores.shape, generator=generator).to(scores.device)
    return (scores - (-uniform.clamp_min(1e-20).log()).log()).argmax(1)
