"""Reads folders of ``transformers``: classes, weights, processors, and what multidelete keeps in its own file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from multidelete.models.config import ModelConfig
from multidelete.models.encoders import word_tokenizer
from multidelete.models.processor import Processor
from multidelete.utils.errors import InputError, did_you_mean, reason

VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
OTHER_PROCESSOR = "name a folder or hub id that has one with --processor"
VOLATILE = ("_name_or_path", "transformers_version", "architectures", "dtype")  # facts of a file, not of a model
OWN_FILE = "multidelete.safetensors"  # a class head, an extra module, and how a recipe built the model


def class_in(fields: Mapping[str, Any]) -> str:
    """Class that a configuration file of ``transformers`` names."""
    named = fields.get("architectures") or [MODEL_MAPPING_NAMES.get(fields["model_type"], fields["model_type"])]
    return str(named[0])


def read_model(
    folder: Path, kind: Any, optional: str = r"$^", fields: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Read a model of ``transformers``, in the type in which it was stored.

    Args:
        folder: Its folder.
        kind: Its class.
        optional: Regular expression of weights that may be missing, and are random then.
        fields: Fields of another configuration, for a class with another head.

    Raises:
        InputError: It cannot be read, or weights are missing.
    """
    config = {"config": kind.config_class.from_dict(dict(fields))} if fields else {}
    with quiet(f"the model in '{folder}' cannot be loaded"):
        model, facts = kind.from_pretrained(
            folder,
            dtype=torch.float32 if fields else "auto",
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=bool(fields),
            **config,
        )
    for key, what in (("missing_keys", "is missing"), ("mismatched_keys", "has another shape")):
        names = [name if isinstance(name, str) else name[0] for name in facts[key]]
        if wrong := sorted(name for name in names if not re.match(optional, name)):
            raise InputError(f"the model in '{folder}' is incomplete: weight '{wrong[0]}' {what}")
    result: PreTrainedModel = model
    return result


def read_processor(folder: Path) -> Processor:
    """Read image processor and tokenizer of a folder.

    Raises:
        InputError: There is none, or it cannot be used.
    """
    if not has_tokenizer(folder):  # transformers would make up an empty one
        raise InputError(f"'{folder}' has no tokenizer: expected one of {', '.join(VOCABULARIES)}; {OTHER_PROCESSOR}")
    if not any((folder / name).is_file() for name in IMAGE_PROCESSORS):
        raise InputError(f"'{folder}' has no image processor: expected {IMAGE_PROCESSORS[0]}; {OTHER_PROCESSOR}")
    parts = []
    for auto, what in ((AutoImageProcessor, "image processor"), (AutoTokenizer, "tokenizer")):
        with quiet(f"'{folder}' has no usable {what}"):
            parts.append(auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    return Processor(*parts)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the vocabulary of a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def read_own(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Fields and weights that are no part of the model of ``transformers``; None if the model was not built here."""
    path = folder / OWN_FILE
    if not path.is_file():
        return None, {}
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kinds for damaged files
        raise InputError(f"{path} is damaged: {reason(error)}") from error


def fresh_processor(config: ModelConfig, texts: Sequence[str]) -> Processor:
    """Image processor that stretches to a square, and a tokenizer of the words of these texts."""
    from transformers import CLIPImageProcessorPil

    square = {"height": config.image_size, "width": config.image_size}
    images = CLIPImageProcessorPil(
        size=square, do_center_crop=False, image_mean=list(config.image_mean), image_std=list(config.image_std)
    )
    tokenizer = word_tokenizer(texts)
    tokenizer.model_max_length = config.max_text_tokens
    return Processor(images, tokenizer)


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a configuration without facts of the file that it comes from."""
    return {
        key: plain(value) if isinstance(value, dict) else value for key, value in fields.items() if key not in VOLATILE
    }


def check_fields(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Check that a configuration has these fields, as ``transformers`` accepts any.

    Raises:
        InputError: It has not.
    """
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{where}: there is no field '{key}'{did_you_mean(key, known)}")
        if isinstance(value, dict) and isinstance(known[key], dict) and known[key].keys() > {"model_type"}:
            for inner in value.keys() - known[key].keys():
                raise InputError(f"{where}.{key}: there is no field '{inner}'{did_you_mean(inner, known[key])}")


@contextmanager
def replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Context in which a module returns this output, so that a model continues from what was computed before."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def quiet(problem: str) -> Iterator[None]:
    """Context without messages of ``transformers``, whose errors become one sentence.

    Raises:
        InputError: Anything went wrong inside.
    """
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each architecture has its own way to fail
        raise InputError(f"{problem}: {reason(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def mean_of(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the token states that are not padding, ``(B, D)``."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
