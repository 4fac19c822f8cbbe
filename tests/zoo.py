"""Small models of transformers with random weights, saved as a hub download has them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import tiny
from multidelete.models.encoders import word_tokenizer

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE = {"image_size": 32, "patch_size": 8}


def text(kind: Any, **fields: Any) -> dict[str, Any]:
    size = {"vocab_size": 99, "max_position_embeddings": 40, "pad_token_id": 0, **SIZE}
    return kind(**{**size, **fields}).to_dict()  # type: ignore[no-any-return]


def pair(config: Any, text_config: dict[str, Any], vision_config: Any, **fields: Any) -> Any:
    return config(text_config=text_config, vision_config=vision_config.to_dict(), projection_dim=24, **fields)


def clip() -> Any:
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    return hf.CLIPModel(pair(hf.CLIPConfig, text(hf.CLIPTextConfig, **ids), hf.CLIPVisionConfig(**IMAGE, **SIZE)))


def metaclip2() -> Any:
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    vision = hf.MetaClip2VisionConfig(**IMAGE, **SIZE)
    return hf.MetaClip2Model(pair(hf.MetaClip2Config, text(hf.MetaClip2TextConfig, **ids), vision))


def siglip() -> Any:
    ids = {"bos_token_id": 2, "eos_token_id": 3, "projection_size": 32, "max_position_embeddings": 16}
    vision = hf.SiglipVisionConfig(**IMAGE, **SIZE).to_dict()
    return hf.SiglipModel(hf.SiglipConfig(text_config=text(hf.SiglipTextConfig, **ids), vision_config=vision))


def altclip() -> Any:
    words = text(hf.AltCLIPTextConfig, project_dim=28, max_position_embeddings=60)
    return hf.AltCLIPModel(pair(hf.AltCLIPConfig, words, hf.AltCLIPVisionConfig(**IMAGE, **SIZE)))


def chinese_clip() -> Any:
    vision = hf.ChineseCLIPVisionConfig(**IMAGE, **SIZE)
    return hf.ChineseCLIPModel(pair(hf.ChineseCLIPConfig, text(hf.ChineseCLIPTextConfig), vision))


def align() -> Any:
    vision = hf.AlignVisionConfig(
        image_size=32,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=24,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 3],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 6],
        depthwise_padding=[],
    )
    return hf.AlignModel(pair(hf.AlignConfig, text(hf.AlignTextConfig), vision))


def flava() -> Any:
    image = hf.FlavaImageConfig(**IMAGE, vocab_size=99, **SIZE).to_dict()
    both = hf.FlavaMultimodalConfig(**SIZE).to_dict()
    config = {"text_config": text(hf.FlavaTextConfig), "image_config": image, "multimodal_config": both}
    return hf.FlavaModel(hf.FlavaConfig(**config, projection_dim=24, hidden_size=32))


def groupvit() -> Any:
    vision = hf.GroupViTVisionConfig(
        **{**IMAGE, **SIZE, "num_hidden_layers": 3},
        depths=[1, 1, 1],
        num_group_tokens=[8, 4, 0],
        num_output_groups=[8, 4, 4],
    )
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    words = text(hf.GroupViTTextConfig, **ids)
    return hf.GroupViTModel(pair(hf.GroupViTConfig, words, vision, projection_intermediate_dim=48))


def vision_text() -> Any:
    words, vision = hf.BertConfig(**text(hf.BertConfig)), hf.ViTConfig(**IMAGE, **SIZE)
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision, words, projection_dim=24)
    return hf.VisionTextDualEncoderModel(config)


def siglip2() -> Any:
    ids = {"bos_token_id": 2, "eos_token_id": 3, "projection_size": 32, "max_position_embeddings": 16}
    vision = hf.Siglip2VisionConfig(**{**SIZE, "patch_size": 8, "num_patches": 16}).to_dict()
    return hf.Siglip2Model(hf.Siglip2Config(text_config=text(hf.Siglip2TextConfig, **ids), vision_config=vision))


def blip() -> Any:
    words = text(hf.BlipTextConfig, encoder_hidden_size=32, sep_token_id=3, bos_token_id=2)
    vision = hf.BlipVisionConfig(**IMAGE, **SIZE, initializer_range=0.1).to_dict()
    config = hf.BlipConfig(text_config=words, vision_config=vision, image_text_hidden_size=24)
    return hf.BlipForImageTextRetrieval(config)


def blip2() -> Any:
    vision = hf.Blip2VisionConfig(**IMAGE, **SIZE, initializer_range=0.1).to_dict()
    words = text(hf.Blip2QFormerConfig, encoder_hidden_size=32, use_qformer_text_input=True)
    config = hf.Blip2Config(
        vision_config=vision,
        qformer_config=words,
        image_text_hidden_size=24,
        num_query_tokens=4,
        image_token_index=None,
    )
    model = hf.Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens)
    return model


def vilt(kind: Any = hf.ViltForImageAndTextRetrieval, **fields: Any) -> Any:
    size = {**SIZE, **IMAGE, "vocab_size": 99, "max_position_embeddings": 40, "initializer_range": 0.1}
    model = kind(hf.ViltConfig(**{**size, **fields}))
    torch.nn.init.normal_(model.vilt.embeddings.position_embeddings)
    return model


def vilt_classes() -> Any:
    return vilt(hf.ViltForImagesAndTextClassification, num_images=1, id2label=dict(enumerate(CLASSES)))


def bridgetower() -> Any:
    words = {**text(hf.RobertaConfig, max_position_embeddings=50), "model_type": "bridgetower_text_model"}
    vision = {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "share_layernorm": True}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.BridgeTowerConfig(
        text_config=words, vision_config=vision, **size, share_cross_modal_transformer_layers=True
    )
    return hf.BridgeTowerForImageAndTextRetrieval(config)


def clipseg() -> Any:
    words = text(hf.CLIPSegTextConfig, bos_token_id=2, eos_token_id=3)
    return hf.CLIPSegModel(pair(hf.CLIPSegConfig, words, hf.CLIPSegVisionConfig(**IMAGE, **SIZE)))


def owlvit() -> Any:
    words = text(hf.OwlViTTextConfig, bos_token_id=2, eos_token_id=3)
    return hf.OwlViTModel(pair(hf.OwlViTConfig, words, hf.OwlViTVisionConfig(**IMAGE, **SIZE)))


def blip_model() -> Any:
    words = text(hf.BlipTextConfig, encoder_hidden_size=32, bos_token_id=2, eos_token_id=3, sep_token_id=4)
    return hf.BlipModel(pair(hf.BlipConfig, words, hf.BlipVisionConfig(**IMAGE, **SIZE), image_text_hidden_size=24))


CLASSES = ("contradiction", "entailment", "neutral")
DUAL: dict[str, Callable[[], Any]] = {
    "clip": clip,
    "metaclip2": metaclip2,
    "siglip": siglip,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
    "align": align,
    "flava": flava,
    "groupvit": groupvit,
    "vision_text": vision_text,
    "siglip2": siglip2,
}
OTHERS: dict[str, Callable[[], Any]] = {"blip_model": blip_model, "clipseg": clipseg, "owlvit": owlvit}
PAIRS = {"blip": blip, "blip2": blip2, "vilt": vilt, "vilt_classes": vilt_classes, "bridgetower": bridgetower}
ZOO = DUAL | PAIRS


@cache
def parts(name: str) -> tuple[Any, Any, Any]:
    """A model of this family, an image processor and a tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (ZOO | OTHERS)[name]().eval()
    tokenizer = word_tokenizer(tiny.dataset().texts)
    if name.startswith("siglip"):
        tokenizer.model_input_names, tokenizer.model_max_length = ["input_ids"], 16
    if name in ("clip", "metaclip2"):  # shortest edge, then a crop
        images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    elif name == "siglip2":  # at most 16 patches
        images = hf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    elif name.startswith("vilt"):  # keeps the aspect ratio
        images = hf.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    elif name == "bridgetower":
        images = hf.BridgeTowerImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"shortest_edge": 32}, size_divisor=8
        )
    else:
        images = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)
    return model, images, tokenizer


def write(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder that a hub download of this family would be."""
    for part in (copy.deepcopy(parts(name)[0]).to(dtype), *parts(name)[1:]):
        part.save_pretrained(folder)
    return folder
