"""ViLT and BridgeTower of ``transformers``, in which words and patches meet after their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from multidelete.models.folder import read_config
from multidelete.models.hub import mean_of, read_model, replaced
from multidelete.models.inputs import Encoding, Tokens
from multidelete.models.wrapped import Wrapped, WrappedConfig

TOWER = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
IMAGE = {"image_size": 48, "patch_size": 8}
SMALL_VILT = {**TOWER, **IMAGE, "num_hidden_layers": 4, "max_position_embeddings": 64}
SMALL_BRIDGETOWER = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vision_config": {"hidden_size": 128, "num_hidden_layers": 3, **IMAGE},
    "text_config": {**TOWER, "num_hidden_layers": 3, "max_position_embeddings": 64},
}


class ViltConfig(WrappedConfig):
    """Configuration of :class:`Vilt`; small by default."""

    settings: dict[str, Any] = SMALL_VILT


class Vilt(Wrapped):
    """Vision-and-language transformer without convolution or region supervision [1]_.

    A single-stream model: encoding is only embedding (words, or linear patches, with positions); fusion is the rest:
    modality embeddings, transformer, norm, pooler and head. The pooled output is the fused representation. Each of n
    images is processed with the text in its own pass, and the n outputs are concatenated, ``(B, n * D)``, as in
    ViLT's classification of NLVR2, which is the class for tasks with labels.

    There is no contrastive embedding, so retrieval scores every pair with the head. ``pooled`` of an encoding is the
    mean of its tokens; the model does not use it.

    Training loss of a pair in retrieval: matching of the pair, one in-batch negative for its image and one for its
    text, drawn uniformly. The paper pretrains with the image replaced in half of the pairs, and fine-tunes retrieval
    with 15 sampled texts; we train like our other models, but without a similarity for sampling. All patches of an
    image are used (the paper samples 200 of a large one), in their order: ``transformers`` shuffles them, which
    changes nothing but the order of summation.

    References:
        .. [1] Kim et al., "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", ICML 2021
    """

    name = "vilt"
    config_class = ViltConfig
    contrastive = False
    varying_sizes = True
    text_settings = ""
    classes = ("ViltForImageAndTextRetrieval", "ViltForImagesAndTextClassification")
    classifier = "ViltForImagesAndTextClassification"
    heads = r"rank_output\.|classifier\.|.*token_type_embeddings"
    names: ClassVar[dict[str, str]] = {
        "vision": r"vilt\.embeddings\.(patch_embeddings|cls_token|position_embeddings)",
        "text": r"vilt\.embeddings\.text_embeddings\.",
        "fusion": r"vilt\.(encoder|layernorm|pooler|embeddings\.token_type_embeddings)\b|rank_output\.|classifier\.",
    }

    @classmethod
    def fields_for(cls, config: WrappedConfig, fields: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`Wrapped.fields_for`; each image has an embedding of its own."""
        if not config.labels:
            return fields
        return {
            **fields,
            "num_images": config.images,
            "modality_type_vocab_size": max(1 + config.images, fields.get("modality_type_vocab_size", 2)),
            "id2label": dict(enumerate(config.labels)),
            "label2id": {label: row for row, label in enumerate(config.labels)},
        }

    @classmethod
    @torch.no_grad()
    def after_reading(cls, model: PreTrainedModel, folder: Path) -> None:
        """See :meth:`Wrapped.after_reading`; further images start with the embedding of the first, as in ViLT."""
        types: Any = model.get_submodule("vilt.embeddings.token_type_embeddings")
        known = int(read_config(folder).get("modality_type_vocab_size", 2))
        if known < len(types.weight):
            source: Any = read_model(folder, transformers.ViltModel, ".*pooler")
            rows = source.embeddings.token_type_embeddings.weight.float()
            types.weight[:known], types.weight[known:] = rows, rows[1]

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`."""
        return int(self.model.config.hidden_size)

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        several = self.config.images > 1  # of which each then needs the same number of patches
        inputs = self.preparation.inputs(images, crop=not several)
        pixels = inputs["pixel_values"]
        seen = inputs.get("pixel_mask", pixels.new_ones(len(pixels), *pixels.shape[2:], dtype=torch.long))
        states, mask = patches(self.model.get_submodule("vilt.embeddings"), pixels, seen)
        if not several:
            first = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]
            states, mask = states.gather(1, first[..., None].expand(-1, -1, states.shape[2])), mask.gather(1, first)
        return Encoding(states, mask, mean_of(states, mask), "embedded")

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`."""
        states = self.model.get_submodule("vilt.embeddings.text_embeddings")(input_ids=texts.ids)
        return Encoding(states, texts.mask, mean_of(states, texts.mask), "embedded")

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """See :meth:`ImageTextModel.fuse_image`; the pooler's output."""
        model: Any = self.model
        with replaced(model.vilt.embeddings.text_embeddings, text.tokens):
            outputs = model.vilt(
                inputs_embeds=text.tokens,
                attention_mask=text.mask,
                image_embeds=vision.tokens,
                pixel_mask=vision.mask,
                image_token_type_idx=number + 1,
            )
        return outputs.pooler_output  # type: ignore[no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of the classes; without classes, of "does not match" (0) and "matches" (the score of a pair)."""
        model: Any = self.model
        if self.config.labels:
            return model.classifier(fused)  # type: ignore[no-any-return]
        score = model.rank_output(fused)
        return torch.cat([torch.zeros_like(score), score], dim=-1)


def patches(embeddings: Any, pixels: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Class token and patches of ViLT with their positions, ``(B, 1 + h · w, D)``, and their mask.

    ``ViltEmbeddings.visual_embed`` computes the same, in an order that it draws at random.

    Args:
        embeddings: Embeddings of a ViLT.
        pixels: Pixel values, ``(B, 3, H, W)``.
        seen: 1 on the image, 0 on padding, ``(B, H, W)``.
    """
    found = embeddings.patch_embeddings(pixels)  # (B, D, h, w)
    height, width = found.shape[2:]
    mask = F.interpolate(seen[:, None].float(), size=(height, width))[:, 0].long()
    grid = embeddings.config.image_size // embeddings.config.patch_size
    square = embeddings.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
    sizes = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], dim=1).tolist()
    of_size = {
        (h, w): F.pad(
            F.interpolate(square, size=(h, w), mode="bilinear", align_corners=True), (0, width - w, 0, height - h)
        )
        for h, w in {(h, w) for h, w in sizes}
    }
    positions = torch.cat([of_size[h, w] for h, w in sizes])  # (B, D, h, w)
    tokens = (found + positions).flatten(2).transpose(1, 2)
    first = (embeddings.cls_token + embeddings.position_embeddings[:, :1]).expand(len(pixels), -1, -1)
    states = embeddings.dropout(torch.cat([first, tokens], dim=1))
    return states, torch.cat([mask.new_ones(len(mask), 1), mask.flatten(1)], dim=1)


class BridgeTowerConfig(WrappedConfig):
    """Configuration of :class:`BridgeTower`; small by default."""

    settings: dict[str, Any] = SMALL_BRIDGETOWER


class BridgeTower(Wrapped):
    """Two towers with a bridge from each of their upper layers to a cross-modal encoder [1]_.

    Encoding is only embedding, as the towers run inside the forward pass of ``transformers``; their parameters belong
    to their modality nevertheless. The concatenated pooled outputs of both streams are the fused representation. There
    is no contrastive embedding, so retrieval scores every pair with the matching head.

    References:
        .. [1] Xu et al., "BridgeTower: Building Bridges Between Encoders in Vision-Language Representation Learning",
           AAAI 2023
    """

    name = "bridgetower"
    config_class = BridgeTowerConfig
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking"})
    contrastive = False
    classes = ("BridgeTowerForImageAndTextRetrieval",)
    heads = r"itm_score\."
    sequence_first = r"model\.bridgetower\.vision_model\.visual\.transformer\."
    names: ClassVar[dict[str, str]] = {
        "vision": r"bridgetower\.vision_model\.",
        "text": r"bridgetower\.text_model\.",
        "fusion": r"bridgetower\.(cross_modal|token_type)|itm_score\.",
    }

    def encoding_width(self, modality: str) -> int:
        """See :meth:`Model.encoding_width`."""
        return int(getattr(self.model.config, f"{modality}_config").hidden_size)

    def embed_images(self, images: Tensor) -> Encoding:
        """See :meth:`ImageTextModel.embed_images`."""
        model: Any = self.model
        pixels = self.preparation.inputs(images)["pixel_values"]
        states = model.bridgetower.vision_model.visual.forward_pre(pixels).transpose(0, 1)
        return Encoding(states, states.new_ones(states.shape[:2], dtype=torch.long), states[:, 0], "embedded")

    def embed_texts(self, texts: Tokens) -> Encoding:
        """See :meth:`ImageTextModel.embed_texts`."""
        states = self.model.get_submodule("bridgetower.text_model.embeddings")(input_ids=texts.ids)
        return Encoding(states, texts.mask, mean_of(states, texts.mask), "embedded")

    def fuse_image(self, text: Encoding, vision: Encoding, number: int = 0) -> Tensor:
        """See :meth:`ImageTextModel.fuse_image`; the pooled outputs of both streams, ``(B, 2D)``."""
        model: Any = self.model.bridgetower
        with replaced(model.text_model.embeddings, text.tokens):
            outputs = model(input_ids=text.mask, attention_mask=text.mask, image_embeds=vision.tokens)
        return outputs.pooler_output  # type: ignore[no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        """See :meth:`ImageTextModel.head`."""
        model: Any = self.model
        return model.itm_score(fused)  # type: ignore[no-any-return]
