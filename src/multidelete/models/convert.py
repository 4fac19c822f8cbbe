"""Converts official checkpoints: ALBEF to :class:`~multidelete.models.albef.Albef`, CLIP to ``CLIPModel``."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from multidelete.models.albef import Albef, AlbefConfig, FusionConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.folder import model_folder, read_tokenizer
from multidelete.models.hub import quiet
from multidelete.models.inputs import within
from multidelete.models.open_clip import FIRST, HEAD_WIDTH, convert_clip
from multidelete.utils.errors import InputError, reason
from multidelete.utils.files import write_atomically

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
CLASSES = {"cls_head.0": "class_head.0", "cls_head.2": "class_head.2"}  # for one image (SNLI-VE)
# Momentum copies and queues are left out: queues hold embeddings of recent training examples, which may be deleted
# ones. The head of masked language modelling is not part of this model.
LEFT_OUT = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\."
    r"|(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$"
    r"|text_encoder\.cls\."
    r"|text_encoder\.(bert\.)?embeddings\.position_ids$"
)
BERT = "google-bert/bert-base-uncased"  # whose tokenizer the official checkpoints have
NEW = ("class_head",)  # missing in checkpoints that were not fine-tuned for classification


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


def convert(
    source: str | Path,
    out: str | Path,
    tokenizer: str | None = None,
    *,
    labels: Sequence[str] = (),
    image_size: int | None = None,
    quick_gelu: bool = False,
) -> None:
    """Convert an official checkpoint file to a model folder; sizes are read from the weights.

    Args:
        source: File of salesforce/ALBEF or LAVIS (``.pth``), of open_clip (``.pt``, ``.bin``, ``.safetensors``), or the
            state dict of OpenAI's CLIP; only tensors are loaded, no code.
        out: Folder to write: an ``albef``, or a ``CLIPModel`` of transformers.
        tokenizer: Folder or hub id of its tokenizer; BERT's or CLIP's by default.
        labels: Names of the classes, in the order of its class head, if it was fine-tuned for classification.
        image_size: Height and width of images in pixels, to which position embeddings of ALBEF are interpolated; by
            default its own.
        quick_gelu: Whether a CLIP was trained with the activation of OpenAI's.

    Raises:
        InputError: The file is missing or not such a checkpoint, or its head has another number of classes.
    """
    weights = read_checkpoint(source)
    if not any(name.removeprefix("module.") == FIRST for name in weights):
        albef_of(weights, tokenizer, labels, image_size).save_pretrained(out)
        return
    if labels or image_size:
        raise InputError("a CLIP has no class head and one image size; leave the labels and the image size out")
    parts = convert_clip(weights, tokenizer, quick_gelu=quick_gelu)
    with write_atomically(Path(out)) as folder, quiet(f"'{out}' cannot be written"):
        for part in parts:
            part.save_pretrained(folder)


def albef_of(
    weights: Mapping[str, Tensor],
    tokenizer: str | None = None,
    labels: Sequence[str] = (),
    image_size: int | None = None,
) -> Albef:
    """The model of an official ALBEF state dict; see :func:`convert`."""
    config = config_of(weights, labels, image_size)
    model = Albef.build(config, (), 0, tokenizer=read_tokenizer(model_folder(tokenizer or BERT)))
    assert isinstance(model, Albef)
    model.load_state_dict(from_lavis(weights, model.config), strict=False)
    return model.eval()


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights by name in a checkpoint file; only tensors are loaded, no code.

    Raises:
        InputError: The file is missing, or has none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint '{path}'")
    try:
        read = (
            load_file if path.suffix == ".safetensors" else partial(torch.load, map_location="cpu", weights_only=True)
        )
        content = read(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, SafetensorError) as error:
        raise InputError(f"'{path}' could not be read as weights: {reason(error)}") from error
    weights: Any = content
    if isinstance(content, dict):
        weights = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(
            f"'{path}' has no weights by name: expected a state dict, or one under 'model' or 'state_dict'"
        )
    return weights


def config_of(weights: Mapping[str, Tensor], labels: Sequence[str] = (), image_size: int | None = None) -> AlbefConfig:
    """Sizes of the model of an official checkpoint; its attention heads are 64 wide, as in all published ones.

    Raises:
        InputError: It is no checkpoint of ALBEF, or its class head does not fit the labels.
    """
    needed = {
        "patches": "visual_encoder.patch_embed.proj.weight",
        "positions": "visual_encoder.pos_embed",
        "mlp": "visual_encoder.blocks.0.mlp.fc1.weight",
    }
    if missing := [name for name in needed.values() if name not in weights]:
        raise InputError(
            f"this is no checkpoint of ALBEF or of a CLIP with a ViT: it lacks '{missing[0]}' and '{FIRST}'"
        )
    patches, positions, mlp = (weights[name] for name in needed.values())
    width, patch = len(patches), patches.shape[-1]
    size = image_size or round((positions.shape[1] - 1) ** 0.5) * patch
    bert = "text_encoder.bert." if any(name.startswith("text_encoder.bert.") for name in weights) else "text_encoder."
    layer = re.compile(re.escape(bert) + r"encoder\.layer\.(\d+)\.(crossattention)?")
    found = [match for name in weights if (match := layer.match(name))]
    fused = {match[1] for match in found if match[2]}
    blocks = {name.split(".")[2] for name in weights if name.startswith("visual_encoder.blocks.")}
    heads = max(1, width // HEAD_WIDTH)
    head = weights.get("cls_head.2.weight")
    if head is not None and len(head) != len(labels):
        raise InputError(f"the checkpoint has a head of {len(head)} classes: name them in its order (--labels A,B,...)")
    if head is None and labels:
        raise InputError("the checkpoint has no class head; leave the labels out, and train it by a recipe")
    sizes = {"hidden_size": width, "num_attention_heads": heads}
    vision = {"model_type": "vit", "image_size": size, "patch_size": patch, "layer_norm_eps": 1e-6, **sizes}
    vision |= {"num_hidden_layers": len(blocks), "intermediate_size": len(mlp)}
    text = {"model_type": "bert", "num_hidden_layers": len({match[1] for match in found}) - len(fused), **sizes}
    for field, name in (
        ("max_position_embeddings", "embeddings.position_embeddings.weight"),
        ("intermediate_size", "encoder.layer.0.intermediate.dense.weight"),
    ):
        if (tensor := weights.get(bert + name)) is not None:
            text[field] = len(tensor)
    projection = weights.get("vision_proj.weight")
    return albef_base(
        size,
        vision=EncoderConfig(config=vision),
        text=EncoderConfig(config=text),
        fusion=FusionConfig(layers=max(1, len(fused)), width=width, heads=heads, dropout=0.1),
        embedding_width=256 if projection is None else len(projection),
        labels=tuple(labels),
    )


def from_lavis(state_dict: Mapping[str, Tensor], config: AlbefConfig) -> dict[str, Tensor]:
    """Weights of :class:`Albef` from an official ALBEF state dict [1]_.

    Reads the names of the original repository (``text_encoder.bert.*`` for pretraining, ``text_encoder.*`` for
    fine-tuning) and of LAVIS. The first layers of its text encoder, as many as ``config.text`` has, become our text
    encoder; the following layers, which have cross-attention, our fusion encoder. Position embeddings of another image
    size are interpolated, as in the original before fine-tuning.

    Left out on purpose: momentum copies (``*_m``), the head of masked language modelling, and the queues
    (``image_queue``, ``text_queue``, ``idx_queue``): they hold embeddings of training data, which an unlearned model
    must not keep.

    Args:
        state_dict: Official weights by name.
        config: Sizes of the model; adapters are not supported, so all three widths must be equal.

    Returns:
        Weights by our names. With ``labels``, there are no projections, matching head and temperature; a class head is
        included if the checkpoint was fine-tuned for classification (SNLI-VE), else it keeps its initial values.

    Raises:
        InputError: Weights are missing, unknown, or of another shape than in the configuration.

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
    _refuse("lacks the weight for", [n for n in wanted if n not in weights and not within(n, NEW)])
    _refuse("is larger than the configuration: it has a weight for", [n for n in weights if n not in wanted])
    wrong = [name for name, tensor in weights.items() if tensor.shape != wanted[name]]
    if wrong:
        shapes = f"{tuple(weights[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]])}"
        _refuse(f"does not fit the configuration: shape {shapes} of the weight for", wrong)
    return weights


def _renamed(name: str, tensor: Tensor, depth: int) -> Iterable[tuple[str, Tensor]]:
    """Our names and tensors of one official weight; empty if it is unknown."""
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
    elif name == "temp":  # the official model divides by it; ours multiplies by the exponential of log_scale
        yield "log_scale", -tensor.reshape(()).log()


def resized_positions(positions: Tensor, count: int) -> Tensor:
    """Interpolate position embeddings of a class token and a square grid, ``(1, 1 + h², D)``, to ``count`` positions.

    >>> resized_positions(torch.ones(1, 1 + 4, 3), 1 + 9).shape
    torch.Size([1, 10, 3])
    """
    if positions.shape[1] == count:
        return positions
    first, grid = positions[:, :1], positions[:, 1:]
    before, after = (round((n - 1) ** 0.5) for n in (positions.shape[1], count))
    if before**2 != grid.shape[1] or after**2 != count - 1:
        return positions  # not a square: the caller refuses the shape
    square = grid.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(after, after), mode="bicubic", align_corners=False)
    return torch.cat([first, square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(f"the ALBEF checkpoint {what} '{names[0]}'{more}")
