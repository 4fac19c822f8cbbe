"""ALBEF: two encoders aligned by a contrastive loss, a cross-attention fusion encoder, and a matching head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from multidelete.models.config import EncoderConfig, ModelConfig, small_encoder
from multidelete.models.encoders import (
    backbone_from_config,
    build_backbone,
    build_tokenizer,
    load_pretrained,
    normalise,
    run_text,
    run_vision,
    width_of,
)
from multidelete.models.image_text import LARGEST_SCALE, ImageTextModel
from multidelete.models.inputs import Encoding, Tokens
from multidelete.utils.errors import InputError, reason
from multidelete.utils.randomness import seeded

CHUNK = 64  # pairs fused at a time on a CPU


class FusionConfig(BaseModel):
    """Size and initialisation of the cross-attention fusion encoder.

    Args:
        layers: Number of BERT layers.
        width: Hidden size D.
        heads: Number of attention heads.
        expansion: Width of the feed-forward networks, in multiples of D.
        dropout: Dropout probability.
        pretrained: Folder or hub id of a BERT whose last layers initialise these, except for cross-attention; random by
            default. In ALBEF the preceding layers are the text encoder (``text.tokens_after``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pretrained: str | None = None
    layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def model_post_init(self, _: Any) -> None:
        """Check that the width is a multiple of the number of heads."""
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.heads} heads; expected a multiple")


class AlbefConfig(ModelConfig):
    """Configuration of :class:`Albef`.

    Args:
        vision: Vision encoder.
        text: Text encoder.
        fusion: Fusion encoder; text tokens attend to each other and to the image's tokens.
        similarity: With classes, whether to append the contrastive similarity of image and text to the fused
            representation. A few labelled examples do not teach a fusion encoder what a model aligned on captions
            (``start``) already knows. Ours.
        embedding_width: Width P of the contrastive embeddings.
        temperature: Initial value of the learned temperature of the contrastive loss.
    """

    vision: EncoderConfig = small_encoder(
        "vit", 4, image_size=48, patch_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    text: EncoderConfig = small_encoder(
        "bert", 3, max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    fusion: FusionConfig = FusionConfig()
    similarity: bool = False
    embedding_width: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class Albef(ImageTextModel):
    """Align before fuse [1]_, assembled from ``transformers`` parts.

    Linear adapters project token states to the fusion's width if it differs; BERT layers with cross-attention fuse
    text tokens with image tokens; the first fused token is the fused representation. The fusion module (scope
    ``fusion``) includes the contrastive projections. Training loss of a pair:
    contrastive (both directions, every pair of one example is a positive) + matching (the pair, one in-batch hard
    negative for its image and one for its text). ALBEF's momentum queue is left out, because it would store
    embeddings of deleted pairs in the checkpoint. With classes (entailment, reasoning) the loss is only their
    cross-entropy, and there are contrastive embeddings only with ``similarity``.

    References:
        .. [1] Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum
           Distillation", NeurIPS 2021
    """

    name = "albef"
    shares_sides = True
    config_class = AlbefConfig
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": ("vision", "vision_adapter"),
        "text": ("text", "text_adapter"),
        "fusion": ("fusion", "vision_projection", "text_projection", "matching_head", "class_head", "log_scale"),
    }
    config: AlbefConfig
    vision: nn.Module
    text: nn.Module

    def __init__(self, config: AlbefConfig, tokenizer: Any, backbones: Mapping[str, nn.Module] | None = None) -> None:
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
            width = width_of(backbone, f"model.{modality}")
            self.add_module(f"{modality}_adapter", adapter(width, config.fusion.width))
            if self.contrastive:
                self.add_module(f"{modality}_projection", nn.Linear(width, config.embedding_width))
        self.fusion = FusionEncoder(config.fusion)
        self.add_head(config.fusion.width, extra_width=int(config.similarity))
        if self.contrastive:
            self.log_scale = nn.Parameter(torch.tensor(1 / config.temperature).log())

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Albef:
        """See :meth:`Model.build`; the fusion can be initialised from a BERT."""
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
        if config.fusion.pretrained is not None:
            model.fusion.begin_as(load_pretrained(config.fusion.pretrained, "model.fusion"))
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

    def scale(self) -> Tensor:
        """See :meth:`ImageTextModel.scale`; learned, and capped as in CLIP."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        return run_vision(self.vision, self.config.vision, normalise(images, self.config))

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`."""
        return run_text(self.text, self.config.text, texts)

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`; the fusion's width."""
        return self.config.fusion.width

    @property
    def contrastive(self) -> bool:
        """See :meth:`Model.contrastive`; with classes there are embeddings only with ``similarity``."""
        return not self.config.labels or self.config.similarity

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; token states get the fusion's width."""
        tokens = getattr(self, f"{modality}_adapter")(embedded.tokens)
        return Encoding(tokens, embedded.mask, embedded.pooled)

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`; the projections are part of how the modalities are related: of the fusion."""
        return F.normalize(getattr(self, f"{modality}_projection")(encoding.pooled).float(), dim=-1)

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`ImageTextModel.fuse`; the similarity is appended if the configuration requests it.

        Returns:
            ``(B, n · D)``, or ``(B, n · D + 1)``.
        """
        fused = super().fuse(encodings)
        if not (self.config.labels and self.config.similarity):
            return fused
        vision, text = (self.embedding(modality, encodings[modality]) for modality in ("vision", "text"))
        cosine = (vision * text).sum(-1, keepdim=True)
        return torch.cat([fused, (cosine * self.scale()).to(fused.dtype)], dim=-1)

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """See :meth:`ImageTextModel.fuse_image`; the first token of the fusion encoder."""
        if len(text) < 2 * CHUNK or text.mask.device.type != "cpu":
            return self.fusion(text, vision)  # type: ignore[no-any-return]
        # On a CPU padding costs as much as words: batch texts of similar length, without common padding.
        order = text.mask.sum(1).argsort(stable=True)
        parts = [self.fusion(text[rows].cut(), vision[rows]) for rows in order.split(CHUNK)]
        return torch.cat(parts)[order.argsort()]

    def fuse_pairs(self, encodings: Mapping[str, Encoding], rows: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Model.fuse_pairs`; with classes each text has only one image, so nothing is shared."""
        if self.config.labels:
            return super().fuse_pairs(encodings, rows)
        sides = (encodings["text"], encodings["vision"], rows["text"], rows["vision"])
        return self.fusion.of_pairs(*sides)


class FusionEncoder(nn.Module):
    """BERT layers with bidirectional self-attention of text tokens and cross-attention to image tokens."""

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
            is_decoder=True,  # transformers supports cross-attention only in decoders ...
            add_cross_attention=True,
            # BERT's 0.02 is for width 768; narrow layers with it hardly pass any signal.
            initializer_range=0.02 * (768 / size.width) ** 0.5,
        )
        config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(size.layers))
        layer: Any
        for layer in self.layers:
            layer.attention.self.is_causal = False  # ... but a fusion encoder is bidirectional
        self.apply(lambda module: _initialise(module, config.initializer_range))

    @torch.no_grad()
    def begin_as(self, bert: nn.Module) -> None:
        """Initialise from the last layers of a BERT; every layer first computes almost the same as in BERT.

        The output of cross-attention starts at 0. BERT has no layer norm after it; this one gets the mean and standard
        deviation of token states after the preceding layer norm.

        Raises:
            InputError: The model has no such layers or other sizes.
        """
        theirs: Any = getattr(getattr(bert, "encoder", None), "layer", ())
        given: Any = bert.config
        if given.model_type != "bert" or len(theirs) < len(self.layers):
            raise InputError(
                f"model.fusion.pretrained: expected a BERT of {len(self.layers)} layers or more, got one of type "
                f"{given.model_type} with {len(theirs)}"
            )
        sizes = (given.hidden_size, given.num_attention_heads, given.intermediate_size)
        first: Any = self.layers[0]
        own = first.attention.self
        if sizes != (own.all_head_size, own.num_attention_heads, first.intermediate.dense.out_features):
            raise InputError(
                f"model.fusion: the pretrained BERT needs width = {sizes[0]}, heads = {sizes[1]} and "
                f"expansion = {sizes[2] / sizes[0]:g}"
            )
        layer: Any
        for layer, source in zip(self.layers, theirs[-len(self.layers) :], strict=True):
            layer.load_state_dict(source.state_dict(), strict=False)
            before, after = layer.attention.output.LayerNorm, layer.crossattention.output
            after.dense.weight.zero_()
            after.dense.bias.zero_()
            deviation = (before.weight.square().mean() + before.bias.var(correction=0)).sqrt()
            after.LayerNorm.weight.fill_(deviation)
            after.LayerNorm.bias.fill_(before.bias.mean())

    def forward(self, text: Encoding, vision: Encoding) -> Tensor:
        """First fused token of each pair, ``(B, D)``, from ``(B, L, D)`` text and ``(B, K, D)`` image states."""
        own = text.mask[:, None, None, :].bool()  # (B, 1, 1, L)
        # Images have no padding; attention is faster without a mask.
        other = None if vision.mask.all() else vision.mask[:, None, None, :].bool()
        return self._first(text.tokens, own, self._shown(vision), other, begun=False)

    def of_pairs(self, text: Encoding, vision: Encoding, texts: Tensor, images: Tensor) -> Tensor:
        """Like :meth:`forward`, for pairs of rows, ``(B, D)``.

        The first layer's self-attention, which does not depend on the image, and the keys and values of the images are
        computed once per row. Pairs of one text share its dropout in the first self-attention, as in its encoder.
        """
        first: Any = self.layers[0].attention
        masks = text.mask[:, None, None, :].bool()
        begun = _attend(first, text.tokens, _keys_and_values(first.self, text.tokens), masks)  # (T, L, D)
        shown = self._shown(vision)
        lengths, everywhere = text.mask.sum(1)[texts], bool(vision.mask.all())
        order = lengths.argsort(stable=True)
        fused = []
        for part in order.split(CHUNK if begun.device.type == "cpu" else 8 * CHUNK):
            longest, of_text, of_image = int(lengths[part[-1]]), texts[part], images[part]
            other = None if everywhere else vision.mask[of_image, None, None].bool()
            # On a CPU the gradient of index_select is twice as fast as that of tensor indexing.
            states = begun[:, :longest].index_select(0, of_text)
            seen = [(keys.index_select(0, of_image), values.index_select(0, of_image)) for keys, values in shown]
            fused.append(self._first(states, masks[of_text, ..., :longest], seen, other, begun=True))
        return torch.cat(fused).index_select(0, order.argsort())

    def _shown(self, vision: Encoding) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of images in the cross-attention of each layer."""
        layers: list[Any] = list(self.layers)
        return [_keys_and_values(layer.crossattention.self, vision.tokens) for layer in layers]

    def _first(
        self, states: Tensor, own: Tensor, shown: Sequence[tuple[Tensor, Tensor]], other: Tensor | None, *, begun: bool
    ) -> Tensor:
        """First fused token of each pair, ``(B, D)``; the last layer computes no other token.

        Args:
            states: Token states of the text, ``(B, L, D)``.
            own: Mask of the text, ``(B, 1, 1, L)``.
            shown: Keys and values of the image in each layer.
            other: Mask of the image, ``(B, 1, 1, K)``; None means no padding.
            begun: Whether the states have passed the first layer's self-attention.
        """
        layer: Any
        for depth, (layer, seen) in enumerate(zip(self.layers, shown, strict=True)):
            # Products of strided views vary in the last bit with the memory layout of the weights: a loaded model would
            # not exactly equal the saved one.
            read = states[:, :1].contiguous() if depth == len(self.layers) - 1 else states
            if depth or not begun:
                read = _attend(layer.attention, read, _keys_and_values(layer.attention.self, states), own)
            read = _attend(layer.crossattention, read, seen, other)
            states = layer.feed_forward_chunk(read)
        return states[:, 0]


def _keys_and_values(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of token states in a BERT attention, ``(B, heads, L, D / heads)`` each."""
    heads = attention.num_attention_heads
    both = (attention.key(states), attention.value(states))
    keys, values = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in both)
    return keys, values


def _attend(block: Any, states: Tensor, seen: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Token states after a BERT attention block, for these keys and values."""
    attention = block.self
    queries = attention.query(states).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
    dropped = attention.dropout.p if attention.training else 0.0
    result = F.scaled_dot_product_attention(queries, *seen, attn_mask=mask, dropout_p=dropped)
    attended: Tensor = block.output(result.transpose(1, 2).flatten(2), states)
    return attended


def adapter(width: int, fusion_width: int) -> nn.Module:
    """Projection of token states to the fusion encoder's width; the identity if the widths are equal."""
    if width == fusion_width:
        return nn.Identity()
    return nn.Sequential(nn.Linear(width, fusion_width), nn.LayerNorm(fusion_width))


def _initialise(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        nn.init.zeros_(module.bias)
