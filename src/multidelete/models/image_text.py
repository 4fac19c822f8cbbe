"""Base class of image-text models: several images per example, heads, and losses over the similarities of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multidelete.models.base import Model
from multidelete.models.inputs import Batch, Encoding, Subgraphs, Tokens

LARGEST_SCALE = 100.0  # of a learned temperature, as in CLIP


class ImageTextModel(Model):
    """Base class of models of images and texts.

    The token states of an example's images are concatenated; each image is fused with the text, and the results are
    concatenated before the class head.
    """

    config: Any
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking", "labels", "several_images"})

    def scale(self) -> Tensor:
        """Inverse temperature of the contrastive loss, a scalar."""
        return torch.ones(())

    @property
    def contrastive(self) -> bool:
        """See :meth:`Model.contrastive`; a model with classes is not trained to have them."""
        return not self.config.labels

    def contrastive_scale(self) -> float:
        """See :meth:`Model.contrastive_scale`."""
        return float(self.scale().detach())

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`."""
        if isinstance(inputs, Tokens):
            return self.embed_texts(inputs)
        assert isinstance(inputs, Tensor)
        count = self.config.images
        if count == 1:
            return self.embed_images(inputs)
        each = self.embed_images(inputs.flatten(0, 1))  # (B · n, K, D)
        return replace(
            each,
            tokens=each.tokens.unflatten(0, (-1, count)).flatten(1, 2),
            mask=each.mask.unflatten(0, (-1, count)).flatten(1, 2),
            pooled=each.pooled.unflatten(0, (-1, count)).mean(1),
        )

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; nothing by default, where projections belong to the fusion."""
        return replace(embedded, stage="encoded")

    def embed_images(self, images: Tensor) -> Encoding:
        """Token states and pooled vectors of prepared images, one each."""
        raise NotImplementedError

    def embed_texts(self, texts: Tokens) -> Encoding:
        """Token states and pooled vectors of texts."""
        raise NotImplementedError

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; fuses the text with each of n images and concatenates the results, as ViLT for NLVR2.

        The papers of ALBEF and BLIP interleave cross-attention to both images instead.

        Returns:
            ``(B, n · D)``.
        """
        text, vision, count = encodings["text"], encodings["vision"], self.config.images
        images = zip(vision.tokens.chunk(count, 1), vision.mask.chunk(count, 1), strict=True)
        fused = [
            self.fuse_image(text, replace(vision, tokens=tokens, mask=mask), number)
            for number, (tokens, mask) in enumerate(images)
        ]
        return torch.cat(fused, dim=-1)

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """Fused representation of texts and the images of this number, ``(B, D)``."""
        raise NotImplementedError

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

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Contrastive + matching loss of each pair, ``(B,)``; hard negatives as in ALBEF.

        Without contrastive embeddings there is only the matching loss, with negatives that are drawn uniformly, and
        without a matching head only the contrastive loss.
        """
        same = batch.examples["vision"][:, None] == batch.examples["text"][None, :]  # (B, B): every caption of an image
        if not self.contrastive:
            return self.matching_losses(batch, encodings, torch.zeros(same.shape, device=same.device), same)
        similarity = self.scale() * similarities(self, encodings)
        losses = contrastive_losses(similarity, same)
        return losses + self.matching_losses(batch, encodings, similarity, same) if self.matching else losses

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


def similarities(model: Model, encoded: Mapping[str, Encoding]) -> Tensor:
    """Cosines of every image with every text, ``(B, B)``; with several vectors of an image the largest."""
    vision, text = (model.embedding(modality, encoded[modality]).float() for modality in ("vision", "text"))
    return cosines_of(vision, text)


def cosines_of(vision: Tensor, text: Tensor) -> Tensor:
    """Cosines of embeddings of images, ``(B, P)`` or ``(B, Q, P)``, and of texts, ``(C, P)``; ``(B, C)``."""
    cosines = vision @ text.T  # (B, C), or (B, Q, C)
    return cosines.amax(1) if cosines.dim() == 3 else cosines


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
