"""ViLT: one transformer over word and patch embeddings, without separate encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from multidelete.models.base import Model
from multidelete.models.config import EncoderConfig, ModelConfig, small_encoder
from multidelete.models.encoders import (
    additive,
    backbone_from_config,
    build_tokenizer,
    describe,
    drawn_by_width,
    loading,
)
from multidelete.models.image_text import ImageTextModel, normalise
from multidelete.models.inputs import Batch, Encoding, Subgraphs, Tokens, within
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import seeded


class ViltConfig(ModelConfig):
    """Configuration of :class:`Vilt`.

    Args:
        encoder: Backbone (``vilt``), or its folder or hub id; if it is frozen, only the head is trained. Pooling is
            always ViLT's pooler.
    """

    encoder: EncoderConfig = small_encoder("vilt", 4, image_size=48, patch_size=8, max_position_embeddings=64)

    @field_validator("encoder")
    @classmethod
    def _is_vilt(cls, encoder: EncoderConfig) -> EncoderConfig:
        if encoder.config is not None and (kind := encoder.config.get("model_type")) != "vilt":
            raise ValueError(f"the encoder of a vilt model is a 'vilt', not a {kind!r}")
        if encoder.pooling not in (None, "pooler"):
            raise ValueError(f"a vilt model has its own pooler; pooling = '{encoder.pooling}' does not fit it")
        return encoder


class Vilt(ImageTextModel):
    """Vision-and-language transformer without convolution or region supervision [1]_, from ``transformers`` parts.

    A single-stream model: encoding is only embedding (words, or linear patches, with positions); fusion is the rest:
    modality embeddings, transformer, norm and pooler, whose output is the fused representation. Each of n images is
    processed with the text in its own pass, and the n outputs are concatenated, ``(B, n * D)``, as in ViLT for NLVR2.

    There is no contrastive embedding, so retrieval scores every pair with the head. ``pooled`` of an encoding is the
    mean of its tokens; the model does not use it.

    Training loss of a pair in retrieval: matching of the pair, one in-batch negative for its image and one for its
    text, drawn uniformly. The paper pretrains with the image replaced in half of the pairs, and fine-tunes retrieval
    with 15 sampled texts; we train like our other models, but without a similarity for sampling. All patches of an
    image are used (the paper samples 200 of a large one).

    References:
        .. [1] Kim et al., "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", ICML 2021
    """

    name = "vilt"
    config_class = ViltConfig
    contrastive = False
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": ("vision",),
        "text": ("text",),
        "fusion": ("fusion", "matching_head", "class_head"),
    }
    config: ViltConfig
    fusion: SingleStream

    def __init__(self, config: ViltConfig, tokenizer: Any, backbone: Any = None) -> None:
        Model.__init__(self)  # both modalities come from one backbone
        self.config, self.tokenizer = config, tokenizer
        if backbone is None:
            backbone = _fresh_backbone(config.encoder)
        self.vision = PatchEmbeddings(backbone)
        self.text = backbone.embeddings.text_embeddings
        self.fusion = SingleStream(backbone, config.images)
        self.requires_grad_(not config.encoder.freeze)
        self.add_head(backbone.config.hidden_size)

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Vilt:
        """See :meth:`Model.build`."""
        with seeded(seed, "initial weights"):
            encoder = config.encoder
            tokenizer = tokenizer or build_tokenizer(encoder, texts, "model.encoder")
            if encoder.pretrained is None:
                ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
                fields = {**drawn_by_width(encoder.config), **ids}
                backbone = _fresh_backbone(encoder.model_copy(update={"config": fields}), check=True)
            else:
                backbone = load_backbone(encoder.pretrained)
            resolved = encoder.model_copy(update={"config": describe(backbone)})
            model = cls(config.model_copy(update={"encoder": resolved}), tokenizer, backbone)
        model.eval().check_sizes()
        return model

    def width(self, modality: str) -> int:
        """Width of the token states, the same in both modalities."""
        return self.fusion.token_types.shape[-1]

    def backbone_frozen(self, modality: str) -> bool:
        """See :meth:`Model.backbone_frozen`; both modalities belong to one backbone."""
        return self.config.encoder.freeze

    def frozen_parameters(self) -> Iterable[str]:
        """See :meth:`Model.frozen_parameters`; a frozen backbone includes the transformer."""
        if not self.config.encoder.freeze:
            return []
        return [name for name, _ in self.named_parameters() if within(name, ("vision", "text", "fusion"))]

    def train(self, mode: bool = True) -> Self:
        """See :meth:`Model.train`; a frozen backbone includes the transformer."""
        super().train(mode)
        if self.config.encoder.freeze:
            self.fusion.eval()
        return self

    def contrastive_scale(self) -> float:
        """See :meth:`Model.contrastive_scale`; not used."""
        return 1.0

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`; the tokens of n images are concatenated, ``(B, n * K, D)``."""
        if isinstance(inputs, Tokens):
            states, mask = self.text(input_ids=inputs.ids), inputs.mask
        else:
            assert isinstance(inputs, Tensor)
            pixels = normalise(inputs, self.config).flatten(0, -4)  # (B * n, 3, H, W)
            states = self.vision(pixels).reshape(len(inputs), -1, self.width(modality))
            mask = states.new_ones(states.shape[:2], dtype=torch.long)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return Encoding(states, mask, (states * weights).sum(1) / weights.sum(1), "embedded")

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; there are no projections."""
        return replace(embedded, stage="encoded")

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; the pooler's output for each image, ``(B, n * D)``."""
        return self.fusion(encodings["text"], encodings["vision"], self.config.images)  # type: ignore[no-any-return]

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Matching loss of each pair, ``(B,)``; negatives from other examples are drawn uniformly."""
        same = batch.examples["vision"][:, None] == batch.examples["text"][None, :]  # (B, B)
        return self.matching_losses(batch, encodings, torch.zeros(same.shape, device=same.device), same)


class PatchEmbeddings(nn.Module):
    """Linear patch embeddings, class token and positions of a ViLT backbone."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        embeddings = backbone.embeddings
        self.patches: nn.Conv2d = embeddings.patch_embeddings.projection
        self.cls_token: nn.Parameter = embeddings.cls_token
        self.position_embeddings: nn.Parameter = embeddings.position_embeddings
        self.dropout = nn.Dropout(embeddings.dropout.p)
        self.grid = backbone.config.image_size // backbone.config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens of normalised images ``(B, 3, H, W)``: ``(B, 1 + h * w, D)``."""
        patches = self.patches(pixels)  # (B, D, h, w)
        positions: Tensor = self.position_embeddings
        if (size := patches.shape[2:]) != (self.grid, self.grid):
            square = positions[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
            square = F.interpolate(square, size=size, mode="bilinear", align_corners=True)
            positions = torch.cat([positions[:, :1], square.flatten(2).transpose(1, 2)], dim=1)
        first = self.cls_token.expand(len(pixels), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.dropout(tokens + positions)  # type: ignore[no-any-return]


class SingleStream(nn.Module):
    """Transformer of ViLT over embedded words and patches.

    Args:
        backbone: ViLT that provides transformer, norm and pooler.
        images: Number of images with their own modality embedding.
    """

    def __init__(self, backbone: Any, images: int) -> None:
        super().__init__()
        types: Tensor = backbone.embeddings.token_type_embeddings.weight.detach()
        # Further images start with the embedding of the first, as in ViLT's fine-tuning on NLVR2.
        missing = max(0, 1 + images - len(types))
        self.token_types = nn.Parameter(torch.cat([types, types[1:2].repeat(missing, 1)]))  # text, first image, ...
        self.layers: nn.ModuleList = backbone.encoder.layer
        self.layernorm: nn.Module = backbone.layernorm
        self.pooler: nn.Module = backbone.pooler

    def forward(self, text: Encoding, vision: Encoding, images: int) -> Tensor:
        """Pooled outputs, ``(B, n * D)``, for words ``(B, L, D)`` and patches ``(B, n * K, D)`` of n images."""
        words = text.tokens + self.token_types[0]
        pictures = zip(vision.tokens.chunk(images, dim=1), vision.mask.chunk(images, dim=1), strict=True)
        outputs = []
        for number, (patches, seen) in enumerate(pictures, start=1):
            states = torch.cat([words, patches + self.token_types[number]], dim=1)
            mask = additive(torch.cat([text.mask, seen], dim=1))
            layer: Any
            for layer in self.layers:
                states = layer(states, mask)[0]
            outputs.append(self.pooler(self.layernorm(states)))
        return torch.cat(outputs, dim=-1)


def load_backbone(source: str) -> Any:
    """Load a ViLT with its pooler from a folder or hub id.

    Raises:
        InputError: It cannot be loaded, or is not a ViLT.
    """
    from transformers import ViltModel

    architecture: Any = ViltModel
    with loading(source, "model.encoder") as path:
        model, facts = architecture.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(facts["missing_keys"]):
        raise InputError(
            f"model.encoder.pretrained: '{source}' has no complete ViLT: weight '{missing[0]}' is missing; "
            "expected one such as dandelin/vilt-b32-mlm"
        )
    return model


def _fresh_backbone(encoder: EncoderConfig, *, check: bool = False) -> Any:
    from transformers.models.vilt.modeling_vilt import ViltPooler

    backbone: Any = backbone_from_config(encoder.config or {}, "model.encoder", check=check)[0]
    backbone.pooler = ViltPooler(backbone.config).apply(backbone._init_weights)
    # transformers initialises these to zero, so that all positions would look the same.
    for parameter in (backbone.embeddings.cls_token, backbone.embeddings.position_embeddings):
        nn.init.trunc_normal_(parameter, std=backbone.config.initializer_range)
    return backbone
