"""Official ALBEF checkpoints as weights of :class:`~multidelete.models.albef.Albef`."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multidelete.models.albef import Albef, AlbefConfig, FusionConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.encoders import reason
from multidelete.models.inputs import within
from multidelete.utils.errors import InputError

# Official name -> ours. The ViT is timm's, with one matrix for query, key and value; the BERT is transformers'.
VIT = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
VIT_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
QKV = ("q_proj", "k_proj", "v_proj")
RETRIEVAL = {"vision_proj": "vision_projection", "text_proj": "text_projection", "itm_head": "matching_head"}
CLASSES = {"cls_head.0": "class_head.0", "cls_head.2": "class_head.2"}  # of one picture (SNLI-VE)
# Momentum copies, and queues: the queues are embeddings of the last training examples, deleted ones among them, so
# that no unlearned model may carry them along. The head of masked language modelling is not part of this model.
LEFT_OUT = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\."
    r"|(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$"
    r"|text_encoder\.cls\."
    r"|text_encoder\.(bert\.)?embeddings\.position_ids$"
)
NEW = ("class_head",)  # what a checkpoint that was not fine-tuned to classify does not have


def albef_base(image_size: int = 384, **changes: Any) -> AlbefConfig:
    """Configuration of the published ALBEF: ViT-B/16, six text layers and six fusion layers of BERT-base.

    Args:
        image_size: Height and width of images in pixels; pretrained at 256, fine-tuned at 384.
        changes: Other fields of the configuration.
    """
    fields: dict[str, Any] = {
        "image_size": image_size,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "vision": EncoderConfig(config={"model_type": "vit", "image_size": image_size, "layer_norm_eps": 1e-6}),
        "text": EncoderConfig(config={"model_type": "bert", "num_hidden_layers": 6}),
        "fusion": FusionConfig(layers=6, width=768, heads=12, dropout=0.1),
        "embedding_width": 256,
        "max_text_tokens": 30,
    }
    return AlbefConfig(**{**fields, **changes})


def load_lavis(path: str | Path, config: AlbefConfig, tokenizer: Any, seed: int = 0) -> Albef:
    """An :class:`Albef` with the weights of an official checkpoint file.

    Args:
        path: A ``.pth`` file of salesforce/ALBEF or LAVIS; only tensors are read from it, never code.
        config: Its sizes (:func:`albef_base`), and the task's ``labels`` and ``images``.
        tokenizer: The tokenizer it was trained with (``bert-base-uncased``).
        seed: Seed of what the checkpoint does not have: a class head for a new task.

    Raises:
        InputError: The file is missing or not such a checkpoint, or does not fit the configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint '{path}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"'{path}' could not be read as weights alone: {reason(error)}") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(f"'{path}' holds no weights by name: expected a state dict, or one under 'model'")
    model = Albef.build(config, (), seed, tokenizer=tokenizer)
    assert isinstance(model, Albef)
    model.load_state_dict(from_lavis(weights, model.config), strict=False)
    return model


def from_lavis(state_dict: Mapping[str, Tensor], config: AlbefConfig) -> dict[str, Tensor]:
    """Weights of :class:`Albef` from an official ALBEF state dict [1]_.

    Names of the original repository (``text_encoder.bert.*`` while pretraining, ``text_encoder.*`` when fine-tuned)
    and of LAVIS are both read. The text encoder's first layers, as many as ``config.text`` has, are our text encoder;
    the layers after them, which have cross-attention, are our fusion encoder. Position embeddings of another image
    size are interpolated, as the original does before fine-tuning.

    Left out on purpose: momentum copies (``*_m``), the head of masked language modelling, and the queues
    (``image_queue``, ``text_queue``, ``idx_queue``), because queues hold embeddings of training data: an unlearned
    model that carried them along would carry what it was to forget.

    Args:
        state_dict: The official weights by name.
        config: Sizes of the model they are for; adapters must not be needed, so all three widths are the same.

    Returns:
        Weights by our names. A configuration with ``labels`` has no use for projections, matching head and
        temperature; its class head is among them where the checkpoint was fine-tuned to classify (SNLI-VE), else it
        belongs to the new task and keeps its initial values.

    Raises:
        InputError: Weights are missing, unknown, or of another shape than the configuration says.

    References:
        .. [1] Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum
           Distillation", NeurIPS 2021, https://github.com/salesforce/ALBEF;
           Li et al., "LAVIS: A One-stop Library for Language-Vision Intelligence", ACL 2023
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in Albef(config, None).state_dict().items()}
    depth = len({match[1] for name in wanted if (match := re.match(r"text\.encoder\.layer\.(\d+)\.", name))})
    weights: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state_dict.items():
        if LEFT_OUT.match(name):
            continue
        ours = dict(_renamed(name, tensor, depth))
        if not ours:
            unknown.append(name)
        weights |= ours
    _refuse("has unknown weight", unknown)
    if config.labels:
        unused = (*RETRIEVAL.values(), "log_scale")
        weights = {name: tensor for name, tensor in weights.items() if not within(name, unused)}
    name = "vision.embeddings.position_embeddings"
    if name in weights and name in wanted:
        weights[name] = resized_positions(weights[name], wanted[name][1])
    _refuse("lacks what would be weight", [n for n in wanted if n not in weights and not within(n, NEW)])
    _refuse("is larger than the configuration: it has what would be weight", [n for n in weights if n not in wanted])
    wrong = [name for name, tensor in weights.items() if tensor.shape != wanted[name]]
    if wrong:
        shapes = f"{tuple(weights[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]])}"
        _refuse(f"does not fit the configuration: shape {shapes} of what would be weight", wrong)
    return weights


def _renamed(name: str, tensor: Tensor, depth: int) -> Iterable[tuple[str, Tensor]]:
    """Our names and tensors of one official weight; none where it is unknown."""
    module, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"visual_encoder\.blocks\.(\d+)\.(.+)", module):
        layer = f"vision.layers.{match[1]}"
        if match[2] == "attn.qkv":
            for part, piece in zip(QKV, tensor.chunk(3), strict=True):
                yield f"{layer}.attention.{part}.{kind}", piece
        elif match[2] in VIT_BLOCK:
            yield f"{layer}.{VIT_BLOCK[match[2]]}.{kind}", tensor
    elif name.startswith("visual_encoder."):
        inner = name.removeprefix("visual_encoder.")
        if inner in VIT:
            yield f"vision.{VIT[inner]}", tensor
        elif (stem := inner.removesuffix(f".{kind}")) in VIT:
            yield f"vision.{VIT[stem]}.{kind}", tensor
    elif match := re.fullmatch(r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.(.+)", name):
        number = int(match[1])
        where = f"text.encoder.layer.{number}" if number < depth else f"fusion.layers.{number - depth}"
        yield f"{where}.{match[2]}", tensor
    elif match := re.fullmatch(r"text_encoder\.(?:bert\.)?(embeddings\..+)", name):
        yield f"text.{match[1]}", tensor
    elif module in RETRIEVAL | CLASSES:
        yield f"{(RETRIEVAL | CLASSES)[module]}.{kind}", tensor
    elif name == "temp":  # the official model divides by it; ours multiplies by the exponential of its scale
        yield "log_scale", -tensor.reshape(()).log()


def resized_positions(positions: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid and a class token, ``(1, 1 + h², D)``, for ``count`` places.

    >>> resized_positions(torch.ones(1, 1 + 4, 3), 1 + 9).shape
    torch.Size([1, 10, 3])
    """
    if positions.shape[1] == count:
        return positions
    first, grid = positions[:, :1], positions[:, 1:]
    before, after = (round((n - 1) ** 0.5) for n in (positions.shape[1], count))
    if before**2 != grid.shape[1] or after**2 != count - 1:
        return positions  # not a square: the shape is refused as any other that does not fit
    square = grid.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(after, after), mode="bicubic", align_corners=False)
    return torch.cat([first, square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(f"the ALBEF checkpoint {what} '{names[0]}'{more}")
