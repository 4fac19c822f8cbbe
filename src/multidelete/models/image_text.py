"""Base class of image-text models: two backbones, and losses over the similarities of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.encoders import (
    backbone_from_config,
    build_backbone,
    build_tokenizer,
    reason,
    run_text,
    run_vision,
    width_of,
)
from multidelete.models.inputs import Batch, Encoding, Subgraphs, Tokens
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import seeded


class ImageTextModel(Model):
    """Base class of models with a vision and a text backbone from ``transformers``; each can be frozen.

    The token states of an example's images are concatenated.
    """

    config: Any
    vision: nn.Module
    text: nn.Module
    log_scale: nn.Parameter
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking", "labels", "several_images"})

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
            config = config.model_copy(update={"text": config.text.for_tokenizer(tokenizer)})
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
        """Encode one blank image and one text of full length, so that wrong sizes are detected before training.

        Raises:
            InputError: An encoder does not accept the configured sizes.
        """
        size, length = self.config.image_size, self.config.max_text_tokens
        several = (self.config.images,) if self.config.images > 1 else ()
        blank = torch.zeros(1, *several, 3, size, size, dtype=torch.uint8)
        words = torch.zeros(1, length, dtype=torch.long)
        for modality, setting, inputs in (
            ("vision", f"image_size = {size}", blank),
            ("text", f"max_text_tokens = {length}", Tokens(words, torch.ones_like(words))),
        ):
            try:
                self.encode_one(modality, inputs)
            except Exception as error:  # the error depends on the architecture
                raise InputError(f"model.{modality} does not work with {setting}: {reason(error)}") from error

    def width(self, modality: str) -> int:
        """Width of a backbone's token states."""
        return width_of(getattr(self, modality), f"model.{modality}")

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`."""
        return self.width(modality)

    def contrastive_scale(self) -> float:
        """See :meth:`Model.contrastive_scale`; learned, and capped as in the loss."""
        return float(self.log_scale.detach().exp().clamp(max=100))

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`."""
        encoder = getattr(self.config, modality)
        if isinstance(inputs, Tokens):
            return run_text(self.text, encoder, inputs)
        assert isinstance(inputs, Tensor)
        if inputs.dim() == 4:
            return run_vision(self.vision, encoder, normalise(inputs, self.config))
        count = inputs.shape[1]
        each = run_vision(self.vision, encoder, normalise(inputs.flatten(0, 1), self.config))  # (B · n, K, D)
        return replace(
            each,
            tokens=each.tokens.unflatten(0, (-1, count)).flatten(1, 2),
            mask=each.mask.unflatten(0, (-1, count)).flatten(1, 2),
            pooled=each.pooled.unflatten(0, (-1, count)).mean(1),
        )

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; fuses the text with each of n images and concatenates the results, as ViLT for NLVR2.

        The papers of ALBEF and BLIP interleave cross-attention to both images instead.

        Returns:
            ``(B, n · D)``.
        """
        text, vision, count = encodings["text"], encodings["vision"], self.config.images
        if count == 1:
            return self.fuse_picture(text, vision)
        tokens, mask = (
            each.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1) for each in (vision.tokens, vision.mask)
        )  # (n · B, K, D) and (n · B, K)
        again = torch.arange(len(text), device=mask.device).repeat(count)
        fused = self.fuse_picture(text[again], replace(vision, tokens=tokens, mask=mask, pooled=tokens[:, 0]))
        return torch.cat(fused.chunk(count), dim=-1)

    def add_head(self, width: int, extra_width: int = 0) -> None:
        """Add the head: for classes, or for matching.

        Args:
            width: Width of the fused representation of one image.
            extra_width: Width of additional inputs of a class head.
        """
        if self.config.labels:
            self.class_head = ClassHead(self.config.images * width + extra_width, len(self.config.labels))
        else:
            self.matching_head = nn.Linear(width, 2)

    def head(self, fused: Tensor) -> Tensor:
        """Logits of the classes, or of "does not match" and "matches", ``(B, C)``."""
        logits: Tensor = (self.class_head if self.config.labels else self.matching_head)(fused)
        return logits

    def fuse_picture(self, text: Encoding, vision: Encoding) -> Tensor:
        """Fused representation of texts and single images, ``(B, D)``."""
        raise NotImplementedError

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Contrastive + matching loss of each pair, ``(B,)``; hard negatives as in ALBEF."""
        vision, text = encodings["vision"], encodings["text"]
        similarity = contrastive_logits(self.embedding("vision", vision), self.embedding("text", text), self.log_scale)
        same = (
            batch.examples["vision"][:, None] == batch.examples["text"][None, :]
        )  # (B, B): every caption of the image
        return contrastive_losses(similarity, same) + self.matching_losses(batch, encodings, similarity, same)

    def matching_losses(
        self, batch: Batch, encodings: Mapping[str, Encoding], similarity: Tensor, same: Tensor
    ) -> Tensor:
        """Matching loss over each pair, one negative text for its image and one negative image for its text, ``(B,)``.

        Args:
            batch: True pairs.
            encodings: Encodings of the batch.
            similarity: Similarities by which negatives are drawn, ``(B, B)`` (ALBEF, section 3.2).
            same: Which entries are true pairs, ``(B, B)``.
        """
        negative_text = hard_negatives(similarity, same, batch.generator)
        negative_vision = hard_negatives(similarity.T, same.T, batch.generator)
        if negative_text is None or negative_vision is None:  # all pairs belong to one example: no negatives
            return F.cross_entropy(
                self.head(self.fuse(encodings)).float(), same.new_ones(len(batch)).long(), reduction="none"
            )
        own = torch.arange(len(batch), device=similarity.device)
        rows = {"vision": torch.cat([own, own, negative_vision]), "text": torch.cat([own, negative_text, own])}
        fused = self.fuse_pairs(encodings, rows)
        labels = torch.cat([own.new_ones(len(batch)), own.new_zeros(2 * len(batch))])
        matching = F.cross_entropy(self.head(fused).float(), labels, reduction="none")
        return matching.view(3, -1).mean(0)


class ClassHead(nn.Sequential):
    """Class head with one hidden layer, as in ALBEF."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """Convert uint8 images ``(B, 3, H, W)`` to floats, normalised with the configuration's mean and deviation."""
    mean = torch.tensor(config.image_mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(config.image_std, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def contrastive_logits(vision: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Similarities divided by the learned temperature, ``(B, B)``; the scale is capped at 100 as in CLIP."""
    return vision.float() @ text.float().T * log_scale.exp().clamp(max=100)


def contrastive_losses(similarity: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy to all true partners, mean of both directions, ``(B,)``."""
    targets = same.float()
    return 0.5 * (
        F.cross_entropy(similarity, targets / targets.sum(1, keepdim=True), reduction="none")
        + F.cross_entropy(similarity.T, targets.T / targets.T.sum(1, keepdim=True), reduction="none")
    )


def hard_negatives(similarity: Tensor, same: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """For each row a column of another example: drawn by similarity, or without a generator the most similar.

    Returns:
            Columns, ``(B,)``, or None if some row has no column of another example.
    """
    if same.all(1).any():
        return None
    scores = similarity.detach().masked_fill(same, -torch.inf)
    if generator is None:
        return scores.argmax(1)
    # Gumbel-max with a CPU generator gives the same draws on every device.
    uniform = torch.rand(scores.shape, generator=generator).to(scores.device)
    return (scores - (-uniform.clamp_min(1e-20).log()).log()).argmax(1)
