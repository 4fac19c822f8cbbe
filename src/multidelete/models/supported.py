"""The page of supported models, made of the adapters: ``python -m multidelete.models.supported``."""

from __future__ import annotations

import inspect
import re

from multidelete.models.wrapped import Wrapped, adapters

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

## Formats

- `model.safetensors`, sharded weights and `pytorch_model.bin` (only tensors are read), in float32, float16 or bfloat16:
  the unlearned model has the same class and type, and transformers loads it. Code in a folder is never run.
- An adapter of peft (LoRA, extra `peft`): the unlearned model is an adapter, or merged with `--merge`.
- A folder of sentence-transformers with `0_CLIPModel`: the unlearned model is the folder of its CLIP.
- An official checkpoint of ALBEF: `multidelete convert ALBEF.pth --out models/albef` makes an `albef` folder.
- Models that multidelete trained (`albef`, `graph_text`, and the above with a class head or built by a recipe).

## Where encoding and fusion end
"""
RETRIEVAL, LABELS, SEVERAL = "retrieval", "entailment", "reasoning"


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


if __name__ == "__main__":
    print(page(), end="")
