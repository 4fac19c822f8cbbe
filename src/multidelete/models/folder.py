"""Reads configuration, tokenizer and weights from a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from multidelete.models.lora import base_of, is_adapter
from multidelete.utils.errors import InputError, reason

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
CLIP_IN_SENTENCE_TRANSFORMERS = "0_CLIPModel"
OTHER_FORMATS = {
    "open_clip_config.json": "; it is of open_clip: multidelete convert makes a folder of its weights",
}


def model_folder(source: str | Path) -> Path:
    """The folder of a model; a hub id is downloaded, or taken from the cache of huggingface_hub.

    Raises:
        InputError: There is no such folder, and no such id can be had.
    """
    folder = Path(source)
    if folder.is_dir():
        return _clip_in(folder)
    if folder.is_file():
        raise InputError(f"'{source}' is a file, not a model folder; of a checkpoint, multidelete convert makes one")
    if not is_hub_id(source):
        raise InputError(f"there is no model folder '{source}'")
    try:
        return _clip_in(Path(snapshot_download(str(source))))
    except Exception as error:  # huggingface_hub and its transport raise many kinds
        raise InputError(
            f"there is no model folder '{source}', and the hub does not give it: {reason(error)}"
        ) from error


def is_hub_id(source: str | Path) -> bool:
    """Whether this may be the id of a model on the hub; "models/mine" is a path if there is a folder "models"."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))) and not Path(source).parent.exists()


def _clip_in(folder: Path) -> Path:
    """The folder of the CLIP in a folder of sentence-transformers; any other folder itself."""
    inner = folder / CLIP_IN_SENTENCE_TRANSFORMERS
    return inner if (folder / "modules.json").is_file() and (inner / CONFIG_FILE).is_file() else folder


def base_folder(folder: Path) -> Path:
    """The folder of the base of an adapter (peft); any other folder itself."""
    return model_folder(base_of(folder)) if is_adapter(folder) else folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration file of a model folder; of an adapter (peft) that of its base.

    Raises:
        InputError: The folder or the file is missing, or the file is damaged.
    """
    folder = base_folder(model_folder(folder))
    path = folder / CONFIG_FILE
    if not path.is_file():
        hint = next((hint for name, hint in OTHER_FORMATS.items() if (folder / name).is_file()), "")
        raise InputError(f"'{folder}' is not a model folder: it has no {CONFIG_FILE}{hint}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} is damaged: expected an object")
    return fields


def is_transformers(fields: Mapping[str, Any]) -> bool:
    """Whether a configuration file is one of ``transformers``."""
    return "model" not in fields and bool(fields.get("architectures") or fields.get("model_type"))


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        InputError: It is missing or damaged.
    """
    from transformers import AutoTokenizer

    # Without tokenizer.json, AutoTokenizer would look for a vocabulary elsewhere.
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"'{folder}' has no tokenizer.json: the model folder is incomplete")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise InputError(f"the tokenizer in '{folder}' cannot be used: {reason(error)}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model.

    Raises:
        InputError: The file is missing or damaged, does not fit the model, or has values that are not finite.
    """
    if not path.is_file():
        raise InputError(f"'{path.parent}' has no {path.name}: the model folder is incomplete")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = sorted(wanted.keys() - weights.keys())
    extra = sorted(weights.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & weights.keys() if wanted[name] != weights[name].shape)
    for names, what in ((missing, "lacks"), (extra, "has unknown"), (wrong, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} does not fit its {CONFIG_FILE}: it {what} weight '{names[0]}'{more}")
    broken = next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{path} is damaged: weight '{broken}' has values that are not finite")
    model.load_state_dict(weights)
