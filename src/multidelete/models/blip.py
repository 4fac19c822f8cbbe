"""BLIP: one text tower, used alone or with cross-attention to the image, and a matching head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from multidelete.models.config import EncoderConfig, ModelConfig, small_encoder
from multidelete.models.encoders import additive, build_backbone, build_tokenizer, describe, drawn_by_width, loading
from multidelete.models.image_text import ImageTextModel
from multidelete.models.inputs import Encoding, Subgraphs, Tokens, within
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import seeded

ENCODE_TOKEN = "[ENC]"  # replaces the class token in BLIP's image-grounded pass


class BlipConfig(ModelConfig):
    """Configuration of :class:`Blip`.

    Args:
        vision: Vision tower (``blip_vision_model``); both towers may be loaded from one BLIP folder or hub id.
        text: Text tower (``blip_text_model``), without its cross-attention, which belongs to the fusion.
        embedding_width: Width P of the contrastive embeddings; read from a BLIP folder if there is one.
        temperature: Initial value of the learned temperature of the contrastive loss.
    """

    vision: EncoderConfig = small_encoder("blip_vision_model", 4, image_size=48, patch_size=8)
    text: EncoderConfig = small_encoder("blip_text_model", 3, max_position_embeddings=64, is_decoder=False)
    embedding_width: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.07, gt=0)

    @field_validator("text")
    @classmethod
    def _without_cross_attention(cls, text: EncoderConfig) -> EncoderConfig:
        if text.config is None:
            return text
        if (kind := text.config.get("model_type")) != "blip_text_model":
            raise ValueError(f"the text tower of a blip model is a 'blip_text_model', not a {kind!r}")
        # transformers adds cross-attention to decoder towers; here it belongs to the fusion.
        return text.model_copy(update={"config": {**text.config, "is_decoder": False}})


class Blip(ImageTextModel):
    """Bootstrapped language-image pre-training [1]_, assembled from ``transformers`` parts.

    The text tower runs twice. The unimodal pass gives the contrastive embedding of a text; the grounded pass adds
    cross-attention to the image's tokens, and the first token's last state is the fused representation. The grounded
    pass starts from the word embeddings again, so ``tokens`` of a text's encoding is ``(B, L, 2D)``: the states of the
    unimodal pass, then the word embeddings. :meth:`fuse` reads the second half; comparisons of encodings
    (MultiDelete's unimodal term) use both.

    Scope ``fusion`` is the cross-attention, the head and the temperature. Self-attention and feed-forward layers are
    used in both passes and belong to scope ``text``: in scope ``fusion`` gradients flow through them, but they do not
    change.

    If the tokenizer has the token ``[ENC]``, it replaces the class token in the grounded pass, as in the paper;
    otherwise the class token is kept, as in ``transformers``. The losses are those of
    :class:`~multidelete.models.albef.Albef`, also without momentum queue. With classes the loss is only their
    cross-entropy, and there are no contrastive embeddings. Each of several images has its own grounded pass (for
    NLVR2, BLIP merges two images after each cross-attention).

    References:
        .. [1] Li et al., "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding
           and Generation", ICML 2022
    """

    name = "blip"
    config_class = BlipConfig
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": ("vision", "vision_projection"),
        "text": ("text", "text_projection"),
        "fusion": ("fusion", "matching_head", "class_head", "log_scale"),
    }
    config: BlipConfig

    def __init__(self, config: BlipConfig, tokenizer: Any, backbones: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(config, tokenizer, backbones)
        self.fusion = cross_attention(self.text, self.width("vision"))
        if not config.labels:
            for modality in self.modalities:
                self.add_module(f"{modality}_projection", nn.Linear(self.width(modality), config.embedding_width))
            self.log_scale = nn.Parameter(torch.tensor(1 / config.temperature).log())
        self.add_head(self.width("text"))
        self.encode_token: int | None = tokenizer.get_vocab().get(ENCODE_TOKEN)

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Blip:
        """See :meth:`Model.build`; cross-attention, projections and matching head are loaded from a BLIP folder.

        Raises:
            InputError: The folder has no complete text tower, or its sizes do not fit the configuration.
        """
        if config.text.pretrained is None:
            model = super().build(_for_drawing(config), texts, seed, tokenizer)
            assert isinstance(model, cls)
            return model
        with seeded(seed, "initial weights"):
            source = config.text.pretrained
            shared = config.vision.pretrained == source
            source_model = load_retrieval_model(source, both=shared)
            tokenizer = tokenizer or build_tokenizer(config.text, texts, "model.text")
            layers = source_model.text_encoder.encoder.layer
            crossings = [layer._modules.pop("crossattention", None) for layer in layers]
            source_model.text_encoder.config.is_decoder = False
            if shared:
                vision, fields = source_model.vision_model, describe(source_model.vision_model)
            else:
                vision, fields = build_backbone(_for_drawing(config).vision, "vision")
            update = {
                "vision": config.vision.model_copy(update={"config": fields}),
                "text": config.text.model_copy(update={"config": describe(source_model.text_encoder)}),
                "embedding_width": source_model.vision_proj.out_features,
            }
            model = cls(
                config.model_copy(update=update), tokenizer, {"vision": vision, "text": source_model.text_encoder}
            )
            model._take(source_model, crossings)
        model.eval().check_sizes()
        return model

    @torch.no_grad()
    def _take(self, source_model: Any, crossings: Sequence[nn.Module | None]) -> None:
        """Load the weights of the ``transformers`` retrieval model, except for its towers."""
        pairs: list[tuple[Any, Any]] = list(zip(self.fusion, crossings, strict=True))
        if not self.config.labels:
            pairs += [
                (self.vision_projection, source_model.vision_proj),
                (self.text_projection, source_model.text_proj),
            ]
            pairs += [(self.matching_head, source_model.itm_head)]
        for mine, theirs in pairs:
            if theirs is None:  # the tower was saved without cross-attention
                continue
            try:
                mine.load_state_dict(theirs.state_dict())
            except RuntimeError as error:
                raise InputError(
                    f"model.text.pretrained: '{self.config.text.pretrained}' does not fit the vision tower of "
                    "model.vision; give the same folder for both"
                ) from error

    def check_sizes(self) -> None:
        """See :meth:`ImageTextModel.check_sizes`; BLIP's vision tower would use wrong positions for smaller images.

        Raises:
            InputError: An encoder does not accept the configured sizes.
        """
        tower: Any = self.vision
        size = self.config.image_size
        if tower.config.model_type == "blip_vision_model" and tower.config.image_size != size:
            raise InputError(
                f"model.vision reads images of {tower.config.image_size} pixels; set image_size = "
                f"{tower.config.image_size} instead of {size}"
            )
        super().check_sizes()

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`; texts get ``(B, L, 2D)``: states of the unimodal pass, then word embeddings."""
        embedded = super().embed(modality, inputs)
        if not isinstance(inputs, Tokens):
            return embedded
        ids = inputs.ids
        if self.encode_token is not None:
            ids = torch.cat([ids.new_full((len(ids), 1), self.encode_token), ids[:, 1:]], dim=1)
        tower: Any = self.text
        return replace(embedded, tokens=torch.cat([embedded.tokens, tower.embeddings(ids)], dim=-1))

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; without classes ``pooled`` becomes the normalised contrastive embedding."""
        pooled = embedded.pooled
        if not self.config.labels:
            pooled = F.normalize(getattr(self, f"{modality}_projection")(pooled).float(), dim=-1)
        return Encoding(embedded.tokens, embedded.mask, pooled)

    def fuse_picture(self, text: Encoding, vision: Encoding) -> Tensor:
        """See :meth:`ImageTextModel.fuse_picture`; the first token of the grounded pass."""
        tower: Any = self.text
        states = text.tokens[..., self.width("text") :].contiguous()
        own = additive(text.mask)
        # Images have no padding, and adding zeros to every score takes time.
        other = None if vision.mask.all() else additive(vision.mask)
        layer: Any
        crossing: Any
        for depth, (layer, crossing) in enumerate(zip(tower.encoder.layer, self.fusion, strict=True), start=1):
            attended = layer.attention(states, own)[0]
            if depth == len(self.fusion):
                # Only the first token is read after the last layer; contiguous, see ALBEF's fusion encoder.
                attended = attended[:, :1].contiguous()
            # Its own forward ignores the mask of the image tokens.
            attended = crossing.output(crossing.self(attended, None, vision.tokens, other)[0], attended)
            states = layer.feed_forward_chunk(attended)
        return states[:, 0]


def cross_attention(tower: Any, width: int) -> nn.ModuleList:
    """Randomly initialised cross-attention to image tokens of this width, for each layer of a BLIP text tower."""
    from transformers.models.blip.modeling_blip_text import BlipTextAttention

    config = copy(tower.config)
    config.encoder_hidden_size = width
    result = nn.ModuleList(
        BlipTextAttention(config, is_cross_attention=True, layer_idx=i) for i in range(config.num_hidden_layers)
    )
    return result.apply(tower._init_weights)


def load_retrieval_model(source: str, *, both: bool) -> Any:
    """Load the BLIP retrieval model of ``transformers``; heads that are missing in the checkpoint are random.

    Args:
        source: Folder or hub id of a BLIP with a text encoder: retrieval, question answering or the base model.
        both: Whether the vision tower is required too.

    Raises:
        InputError: It cannot be loaded, or lacks a tower.
    """
    from transformers import BlipForImageTextRetrieval

    architecture: Any = BlipForImageTextRetrieval
    with loading(source, "model.text") as path:
        model, facts = architecture.from_pretrained(
            path,
            dtype=torch.float32,
            key_mapping={r"^text_model\.": "text_encoder."},  # name of the same tower in the base model
            output_loading_info=True,
        )
    towers = ("text_encoder", "vision_model") if both else ("text_encoder",)
    missing = sorted(name for name in facts["missing_keys"] if within(name, towers) and ".crossattention." not in name)
    if missing:
        raise InputError(
            f"model.text.pretrained: '{source}' has no complete BLIP encoder: weight '{missing[0]}' is missing; "
            "expected a BLIP for image-text retrieval, such as Salesforce/blip-itm-base-coco"
        )
    return model


def _for_drawing(config: BlipConfig) -> BlipConfig:
    """Configuration with fields that ``transformers`` sets wrongly by default for random towers."""
    vision, text = config.vision, config.text
    if vision.pretrained is None and vision.config and vision.config.get("model_type") == "blip_vision_model":
        # The default standard deviation is 1e-10.
        vision = vision.model_copy(update={"config": drawn_by_width(vision.config)})
    if text.pretrained is None and text.config:
        # The default separator is BERT's id, which a small vocabulary lacks; the tower does not use it.
        text = text.model_copy(update={"config": {"sep_token_id": None, **drawn_by_width(text.config)}})
    return config.model_copy(update={"vision": vision, "text": text})
