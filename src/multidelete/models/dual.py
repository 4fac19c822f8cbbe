"""Dual encoders of ``transformers``: CLIP, SigLIP, ALIGN and every other model of two towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from multidelete.models.inputs import Encoding, Tokens
from multidelete.models.processor import Processor
from multidelete.models.wrapped import Wrapped, WrappedConfig
from multidelete.utils.errors import InputError

PROJECTIONS = {"vision": ("visual_projection", "image_projection"), "text": ("text_projection",)}
TOWER = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}

SMALL_CLIP = {
    "projection_dim": 64,
    "logit_scale_init_value": 2.6592,  # the logarithm of 1 / 0.07
    "vision_config": {**TOWER, "num_hidden_layers": 4, "image_size": 48, "patch_size": 8},
    "text_config": {**TOWER, "num_hidden_layers": 3, "max_position_embeddings": 64},
}


class DualEncoderConfig(WrappedConfig):
    """Configuration of :class:`DualEncoder`; a small CLIP by default."""

    settings: dict[str, Any] = SMALL_CLIP


class DualEncoder(Wrapped):
    r"""A model with ``get_image_features`` and ``get_text_features``, trained with a contrastive loss [1]_.

    A dual encoder has no fusion network. Here

    - encoding ends with the pooled output of each tower, which its projection reads;
    - the fused representation is :math:`P \cdot v \odot t`, the element-wise product of the normalised embeddings,
      scaled so that its mean is their cosine similarity, ``(B, P)``;
    - the fusion module (scope ``fusion``) consists of both projections into the shared space, temperature and bias;
    - the pair score is the logistic function of cosine over temperature plus a learned bias (SigLIP's, 0 for CLIP).
      It has the same order as the cosine, so there is no re-ranking.

    References:
        .. [1] Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021;
           Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023
    """

    name = "dual_encoder"
    config_class = DualEncoderConfig
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking"})
    fusion_reads = "pooled"
    matching = False
    classes = (
        "CLIPModel",
        "SiglipModel",
        "Siglip2Model",
        "MetaClip2Model",
        "AltCLIPModel",
        "ChineseCLIPModel",
        "AlignModel",
        "FlavaModel",
        "GroupViTModel",
        "VisionTextDualEncoderModel",
    )

    def __init__(self, model: PreTrainedModel, processor: Processor, config: WrappedConfig) -> None:
        self._projections = {
            modality: next((name for name in names if hasattr(model, name)), None)
            for modality, names in PROJECTIONS.items()
        }
        self._own = [name for name, _ in model.named_parameters() if "." not in name]
        if not any(hasattr(model, name) for name in ("temperature", "logit_scale")):
            raise InputError(f"a {type(model).__name__} has no temperature of a contrastive loss: it is not supported")
        super().__init__(model, processor, config)

    @classmethod
    def adapts(cls, architecture: str) -> bool:
        """See :meth:`Wrapped.adapts`; every class with features of images and of texts."""
        kind = getattr(transformers, architecture, None)
        named = all(hasattr(kind, f"get_{what}_features") for what in ("image", "text"))
        return isinstance(kind, type) and named

    def names_of_scopes(self) -> Mapping[str, str]:
        """See :meth:`Wrapped.names_of_scopes`."""
        after = "|".join(
            [*(f"{name}\\b" for name in self._projections.values() if name), *(f"{n}$" for n in self._own)]
        )
        return {"vision": r"(vision|image)_model\.", "text": r"text_model\.", "fusion": after}

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`; width of the pooled vectors."""
        name = self._projections[modality]
        if name is None:
            return int(getattr(self.model.config, f"{modality}_config").hidden_size)
        weights = [weight for weight in getattr(self.model, name).parameters() if weight.dim() > 1]
        return int(weights[0].shape[1])

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        return self._features("vision", self.preparation.inputs(images))

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`."""
        masked = "attention_mask" in self.tokenizer.tokenizer.model_input_names
        # SigLIP was trained on texts padded to full length, and reads its last position whatever it is.
        full = not masked or str(self.config.settings["model_type"]).startswith("siglip")
        texts = self._full_length(texts) if full else texts
        mask = {"attention_mask": texts.mask} if masked else {}
        encoding = self._features("text", {"input_ids": texts.ids, **mask})
        return encoding if full else replace(encoding, mask=texts.mask)

    def _full_length(self, texts: Tokens) -> Tokens:
        """Texts padded to the length of the tokenizer, on its side."""
        length = self.config.max_text_tokens
        missing = (0, length - texts.ids.shape[1])
        ids, mask = F.pad(texts.ids, missing, value=self.tokenizer.pad_token_id), F.pad(texts.mask, missing)
        if self.tokenizer.tokenizer.padding_side == "left":
            order = (torch.arange(length, device=ids.device) + mask.sum(1, keepdim=True)) % length
            ids, mask = ids.gather(1, order), mask.gather(1, order)
        return Tokens(ids, mask)

    def _features(self, modality: str, inputs: Mapping[str, Tensor]) -> Encoding:
        """What the projection of a modality reads, as ``pooled``."""
        read: list[Tensor] = []
        name = self._projections[modality]
        handle = None
        if name is not None:
            handle = getattr(self.model, name).register_forward_pre_hook(lambda _, given: read.append(given[0]))
        model: Any = self.model
        try:
            outputs = (model.get_text_features if modality == "text" else model.get_image_features)(**inputs)
        finally:
            if handle is not None:
                handle.remove()
        pooled = read[0] if read else outputs.pooler_output
        states = outputs.last_hidden_state
        states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states  # a convolutional map (B, C, h, w)
        mask = states.new_ones(states.shape[:2], dtype=torch.long)
        return Encoding(states, mask, pooled[:, 0] if pooled.dim() == 3 else pooled, "embedded")

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`."""
        name = self._projections[modality]
        projected = encoding.pooled if name is None else getattr(self.model, name)(encoding.pooled)
        return F.normalize(projected.float(), dim=-1)

    def scale(self) -> Tensor:
        """See :meth:`ImageTextModel.scale`."""
        model: Any = self.model
        scale: Tensor = 1 / model.temperature if hasattr(model, "temperature") else model.logit_scale.exp()
        return scale.reshape(())

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; P times the element-wise product of the embeddings."""
        product = self.embedding("vision", encodings["vision"]) * self.embedding("text", encodings["text"])
        return product * product.shape[-1]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of "does not match" (0) and "matches" (scaled cosine + bias), ``(B, 2)``."""
        bias = getattr(self.model, "logit_bias", None)
        matches = fused.mean(-1) * self.scale() + (0 if bias is None else bias.reshape(()))
        return torch.stack([torch.zeros_like(matches), matches], -1)
