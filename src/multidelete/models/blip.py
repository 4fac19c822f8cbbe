"""BLIP and BLIP-2 of ``transformers`` for image-text retrieval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from multidelete.models.hub import mean_of
from multidelete.models.inputs import Encoding, Tokens
from multidelete.models.wrapped import Wrapped, WrappedConfig
from multidelete.utils.errors import InputError

TOWER = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
SMALL_BLIP = {
    "image_text_hidden_size": 64,
    "vision_config": {**TOWER, "num_hidden_layers": 4, "image_size": 48, "patch_size": 8},
    "text_config": {**TOWER, "num_hidden_layers": 3, "max_position_embeddings": 64, "encoder_hidden_size": 128},
}
SMALL_BLIP2 = {
    "image_text_hidden_size": 64,
    "num_query_tokens": 8,
    "use_qformer_text_input": True,
    "vision_config": {**TOWER, "num_hidden_layers": 4, "image_size": 48, "patch_size": 8},
    "qformer_config": {**TOWER, "num_hidden_layers": 3, "max_position_embeddings": 64, "encoder_hidden_size": 128},
}


class BlipConfig(WrappedConfig):
    """Configuration of :class:`Blip`; small by default."""

    settings: dict[str, Any] = SMALL_BLIP


class Blip(Wrapped):
    """Bootstrapped language-image pre-training [1]_.

    The text tower runs twice. The unimodal pass gives the contrastive embedding of a text; the grounded pass adds
    cross-attention to the image's tokens, and the first token's last state is the fused representation. The grounded
    pass starts from the word embeddings again, so ``tokens`` of a text's encoding is ``(B, L, 2D)``: the states of the
    unimodal pass, then the word embeddings. The fusion reads the second half; comparisons of encodings (MultiDelete's
    unimodal term) use both.

    Scope ``fusion`` is the cross-attention, the matching head and both projections. Self-attention and feed-forward
    layers are used in both passes and belong to scope ``text``: in scope ``fusion`` gradients flow through them, but
    they do not change. The class of ``transformers`` has no temperature; it is the constant of its configuration.
    As in ``transformers``, the class token is not replaced by ``[ENC]`` in the grounded pass.

    The losses are those of :class:`~multidelete.models.albef.Albef`, also without momentum queue. With classes the loss
    is only their cross-entropy, by a class head of ours. Each of several images has its own grounded pass (for NLVR2,
    BLIP merges two images after each cross-attention).

    References:
        .. [1] Li et al., "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding
           and Generation", ICML 2022
    """

    name = "blip"
    config_class = BlipConfig
    classes = ("BlipForImageTextRetrieval",)
    heads = r"(vision_proj|text_proj|itm_head)\."
    names: ClassVar[dict[str, str]] = {
        "vision": r"vision_model\.",
        "text": r"text_encoder\.(?!.*crossattention)",
        "fusion": r"(vision_proj|text_proj|itm_head)\.|.*crossattention",
    }

    def names_of_scopes(self) -> Mapping[str, str]:
        """See :meth:`Wrapped.names_of_scopes`; with classes, projections and matching head are not used."""
        return {**self.names, "fusion": ".*crossattention"} if self.config.labels else self.names

    def check_sizes(self) -> None:
        """See :meth:`Wrapped.check_sizes`; the vision tower would use wrong positions for smaller images.

        Raises:
            InputError: The model does not accept the configured sizes.
        """
        size = self.model.config.vision_config.image_size
        if self.preparation.shape[:2] != (size, size):
            raise InputError(f"this {self.name} model reads images of {size} pixels; set image_size = {size}")
        super().check_sizes()

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`."""
        return int(getattr(self.model.config, f"{modality}_config").hidden_size)

    def fused_width(self) -> int:
        """See :meth:`Wrapped.fused_width`."""
        return self.encoding_width("text")

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        model: Any = self.model
        states = model.vision_model(**self.preparation.inputs(images)).last_hidden_state
        return Encoding(states, states.new_ones(states.shape[:2], dtype=torch.long), states[:, 0], "embedded")

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`; ``(B, L, 2D)``: states of the unimodal pass, then word embeddings."""
        tower: Any = self.model.text_encoder
        states = tower(input_ids=texts.ids, attention_mask=texts.mask).last_hidden_state
        tokens = torch.cat([states, tower.embeddings(input_ids=texts.ids)], dim=-1)
        return Encoding(tokens, texts.mask, states[:, 0], "embedded")

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`."""
        return F.normalize(getattr(self.model, f"{modality}_proj")(encoding.pooled).float(), dim=-1)

    def scale(self) -> Tensor:
        """See :meth:`ImageTextModel.scale`."""
        return torch.tensor(math.exp(self.model.config.logit_scale_init_value))

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """See :meth:`ImageTextModel.fuse_image`; the first token of the grounded pass."""
        tower: Any = self.model.text_encoder
        grounded = tower(
            encoder_embeds=text.tokens[..., self.encoding_width("text") :],
            attention_mask=text.mask,
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask,
        )
        return grounded.last_hidden_state[:, 0]  # type: ignore[no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        """See :meth:`ImageTextModel.head`."""
        model: Any = self.model
        logits: Tensor = (self.class_head if self.config.labels else model.itm_head)(fused)
        return logits


class Blip2Config(WrappedConfig):
    """Configuration of :class:`Blip2`; small by default."""

    settings: dict[str, Any] = SMALL_BLIP2


class Blip2(Wrapped):
    """BLIP-2 for image-text matching [1]_: queries read an image, alone or together with a text.

    Encoding ends with the vision tower and with the word embeddings. The fusion is the Q-Former, its queries,
    projections and matching head; the fused representation is the mean of the last states of the queries. The
    contrastive similarity is the largest of the queries' cosines with the text. The class of ``transformers`` has no
    temperature; it is the initial value of BLIP-2's.

    References:
        .. [1] Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large
           Language Models", ICML 2023
    """

    name = "blip2"
    config_class = Blip2Config
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking"})
    embedding_reads = "tokens"
    text_settings = "qformer_config"
    classes = ("Blip2ForImageTextRetrieval",)
    heads = r"(vision_projection|text_projection|itm_head)\."
    names: ClassVar[dict[str, str]] = {
        "vision": r"vision_model\.",
        "text": r"embeddings\.",
        "fusion": r"query_tokens|qformer\.|(vision_projection|text_projection|itm_head)\.",
    }

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`."""
        name = "vision_config" if modality == "vision" else "qformer_config"
        return int(getattr(self.model.config, name).hidden_size)

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        model: Any = self.model
        states = model.vision_model(**self.preparation.inputs(images)).last_hidden_state
        return Encoding(states, states.new_ones(states.shape[:2], dtype=torch.long), states[:, 0], "embedded")

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`; the word embeddings."""
        model: Any = self.model
        states = model.embeddings(input_ids=texts.ids)
        return Encoding(states, texts.mask, mean_of(states, texts.mask), "embedded")

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`; of an image one vector for each query, ``(B, Q, P)``."""
        model: Any = self.model
        if modality == "vision":
            seen = model.qformer(
                query_embeds=model.query_tokens.expand(len(encoding), -1, -1),
                encoder_hidden_states=encoding.tokens,
                encoder_attention_mask=encoding.mask,
            )
            projected = model.vision_projection(seen.last_hidden_state)
        else:
            read = model.qformer(query_embeds=encoding.tokens, query_length=0, attention_mask=encoding.mask)
            projected = model.text_projection(read.last_hidden_state[:, 0])
        return F.normalize(projected.float(), dim=-1)

    def scale(self) -> Tensor:
        """See :meth:`ImageTextModel.scale`."""
        return torch.tensor(1 / 0.07)

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """See :meth:`ImageTextModel.fuse_image`; the mean of the queries' last states."""
        model: Any = self.model
        queries = model.query_tokens.expand(len(text), -1, -1)
        count = queries.shape[1]
        fused = model.qformer(
            query_embeds=torch.cat([queries, text.tokens], dim=1),
            query_length=count,
            attention_mask=torch.cat([text.mask.new_ones(len(text), count), text.mask], dim=1),
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask,
        )
        return fused.last_hidden_state[:, :count].mean(1)  # type: ignore[no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        """See :meth:`ImageTextModel.head`."""
        model: Any = self.model
        return model.itm_head(fused)  # type: ignore[no-any-return]
