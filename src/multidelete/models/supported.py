"""Supported classes of ``transformers``, and the page about them (``make docs/supported-models.md``)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from multidelete.models.hub import class_in, read_own
from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.models.wrapped import Wrapped

HEAD = """\
# Supported models

Made by `make docs/supported-models.md` of the adapters in `src/multidelete/models`.

`--model` and `multidelete.load` take a folder of transformers with its image processor and tokenizer, or a hub id, of a
class below; `multidelete.unlearn` also takes the model itself with `processor=`. Another class needs an
[adapter of your own](own-model.md).

| class of transformers | model in recipes | tasks |
|---|---|---|
"""
FORMATS = """\

Any other class with `get_image_features`, `get_text_features` and a temperature is a `dual_encoder` too (tried:
`BlipModel`, `CLIPSegModel`, `OwlViTModel`).

## Formats

- `model.safetensors`, sharded weights and `pytorch_model.bin` (only tensors are read), in float32, float16 or bfloat16:
  the unlearned model has the same class and type, and transformers loads it. Code in a folder is never run.
- An adapter of peft (LoRA, extra `peft`): the unlearned model is an adapter, or merged with `--merge`.
- A folder of sentence-transformers with `0_CLIPModel`: the unlearned model is the folder of its CLIP.
- An official checkpoint: `multidelete convert FILE --out FOLDER` makes an `albef` of one of ALBEF (salesforce/ALBEF,
  LAVIS), and a `CLIPModel` of transformers of one of open_clip with a ViT, or of its training (`epoch_32.pt`).
- Models that multidelete trained (`albef`, `graph_text`, and the above with a class head or built by a recipe).

## Where encoding and fusion end
"""
RETRIEVAL, LABELS, SEVERAL = "retrieval", "entailment", "reasoning"


def adapters() -> list[type[Wrapped]]:
    """All adapters."""
    from multidelete.models import MODELS
    from multidelete.models.wrapped import Wrapped

    return [kind for kind in MODELS.values() if issubclass(kind, Wrapped)]


def supported(architecture: str, what: str) -> type[Wrapped]:
    """Adapter of a class of ``transformers``.

    Raises:
        InputError: It is not supported.
    """
    adapter = next((kind for kind in adapters() if kind.adapts(architecture)), None)
    if adapter is None:
        known = ", ".join(name for kind in adapters() for name in kind.classes)
        raise InputError(
            f"{what}, which is not supported; supported are {known} of transformers, models "
            "that multidelete trained, and any other by an adapter of your own (docs/own-model.md)"
        )
    return adapter


def described(folder: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of ``transformers`` holds: ``model`` and its configuration, as far as no weights are needed.

    Raises:
        InputError: The class is not supported.
    """
    architecture = class_in(fields)
    adapter = supported(architecture, f"'{folder}' holds a {architecture}")
    config = getattr(transformers, architecture).config_class.from_dict(dict(fields))
    own, _ = read_own(folder)
    return {"model": adapter.name, **adapter.config_for(architecture, config, own).model_dump()}


def page() -> str:
    """The page in Markdown."""
    rows, sections = "", ""
    for kind in adapters():
        for name in kind.classes:
            rows += f"| `{name}` | `{kind.name}` | {', '.join(tasks_of(kind, name))} |\n"
        text = inspect.cleandoc(kind.__doc__ or "").split("References:")[0].strip()
        text = re.sub(r" \[\d\]_", "", text)
        text = re.sub(r":\w+:`~?(.*?)`", r"`\1`", text).replace("``", "`")
        sections += f"\n### `{kind.name}`\n\n{text}\n"
    return HEAD + rows + FORMATS + sections


def tasks_of(kind: type[Wrapped], name: str) -> list[str]:
    """Tasks of a class: a class with another head is only for those of its head."""
    labelled = [LABELS, SEVERAL] if "several_images" in kind.provides else [LABELS]
    if name == kind.classifier:
        return labelled
    by_recipe = [f"{task} (a head of ours, by a recipe)" for task in labelled]
    return [RETRIEVAL, *(by_recipe if "labels" in kind.provides and not kind.classifier else [])]
