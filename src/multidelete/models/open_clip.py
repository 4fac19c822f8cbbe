"""Converts checkpoints of open_clip and of OpenAI's CLIP to the class and the folder of ``transformers``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from multidelete.models.folder import model_folder
from multidelete.models.hub import quiet
from multidelete.utils.errors import InputError

FIRST = "visual.conv1.weight"  # a checkpoint of a CLIP with a ViT has it
TOKENIZER = "openai/clip-vit-base-patch32"
HEAD_WIDTH = 64  # of ALBEF, and of all published CLIPs but two, of which transformers has folders

# Official name -> that of transformers, for both towers and for their blocks.
OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.proj": "visual_projection.weight",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TRANSPOSED = ("visual.proj", "text_projection")
LEFT_OUT = ("attn_mask", "input_resolution", "context_length", "vocab_size")  # constants of OpenAI's files


def clip_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ``CLIPModel`` from those of open_clip, ``CLIP`` and ``CustomTextCLIP`` with a ViT [1]_.

    Raises:
        InputError: A weight is unknown: the architecture is another one.

    References:
        .. [1] https://github.com/mlfoundations/open_clip
    """
    weights: dict[str, Tensor] = {}
    for full, tensor in state_dict.items():
        name = full.removeprefix("module.").removeprefix("text.")  # of a parallel training, and of CustomTextCLIP
        if name in LEFT_OUT:
            continue
        named = dict(_renamed(name, tensor))
        if not named:
            raise InputError(
                f"the CLIP checkpoint has unknown weight '{full}'; supported are a ViT and CLIP's own text tower"
            )
        weights |= named
    return weights


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in ``transformers`` of one weight; empty if it is unknown."""
    if match := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name):
        layer = f"{'vision' if match[1] else 'text'}_model.encoder.layers.{match[2]}"
        module, _, kind = match[3].rpartition(".")
        if module in BLOCK:
            yield f"{layer}.{BLOCK[module]}.{kind}", tensor
        elif match[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}.self_attn.{part}_proj.{match[3].removeprefix('attn.in_proj_')}", piece
    elif name in OUTSIDE:
        yield OUTSIDE[name], tensor.T if name in TRANSPOSED else tensor.reshape(()) if name == "logit_scale" else tensor
    else:
        module, _, kind = name.rpartition(".")
        if module in OUTSIDE and kind in ("weight", "bias"):
            yield f"{OUTSIDE[module]}.{kind}", tensor


def clip_config(weights: Mapping[str, Tensor], *, quick_gelu: bool = False) -> CLIPConfig:
    """Configuration of a model with these weights.

    Args:
        weights: Result of :func:`clip_weights`.
        quick_gelu: Whether it was trained with the activation of OpenAI's CLIP.
    """

    def shape(name: str) -> Sequence[int]:
        if name not in weights:
            raise InputError(f"the CLIP checkpoint lacks the weight for '{name}'")
        return weights[name].shape

    def tower(name: str) -> dict[str, Any]:
        layers = {key.split(".")[3] for key in weights if key.startswith(f"{name}_model.encoder.layers.")}
        inner, width = shape(f"{name}_model.encoder.layers.0.mlp.fc1.weight")
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "hidden_act": "quick_gelu" if quick_gelu else "gelu",
        }

    patch = shape("vision_model.embeddings.patch_embedding.weight")[-1]
    positions = shape("vision_model.embeddings.position_embedding.weight")[0]
    words = shape("text_model.embeddings.token_embedding.weight")[0]
    vision = {"patch_size": patch, "image_size": round((positions - 1) ** 0.5) * patch, **tower("vision")}
    text = {
        "vocab_size": words,
        "max_position_embeddings": shape("text_model.embeddings.position_embedding.weight")[0],
        "bos_token_id": words - 2,  # of CLIP's vocabulary; the state of the last token is pooled
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
        **tower("text"),
    }
    dimension = shape("text_projection.weight")[0]
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=dimension)


def convert_clip(
    state_dict: Mapping[str, Tensor], tokenizer: str | None = None, *, quick_gelu: bool = False
) -> tuple[Any, Any, Any]:
    """The model of a checkpoint, its image processor and its tokenizer.

    Args:
        state_dict: Weights of open_clip or of OpenAI's CLIP, with a ViT.
        tokenizer: Folder or hub id of the tokenizer; CLIP's by default.
        quick_gelu: See :func:`clip_config`.

    Raises:
        InputError: The architecture is another one, or weights are missing.
    """
    weights = clip_weights(state_dict)
    config: Any = clip_config(weights, quick_gelu=quick_gelu)
    model: Any = CLIPModel(config)
    wanted = {name for name, _ in model.named_parameters()}
    if missing := sorted(wanted - weights.keys()) or sorted(weights.keys() - wanted):
        raise InputError(f"the CLIP checkpoint does not fit CLIPModel: weight '{missing[0]}'")
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)
    folder = model_folder(tokenizer or TOKENIZER)
    with quiet(f"'{folder}' has no usable tokenizer"):
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    words.model_max_length = config.text_config.max_position_embeddings
    size = config.vision_config.image_size
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return model.eval(), images, words
