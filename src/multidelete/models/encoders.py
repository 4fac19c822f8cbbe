"""Vision and text backbones from ``transformers``: pretrained folders, hub ids or configurations."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multidelete.models.config import EncoderConfig, ModelConfig
from multidelete.models.inputs import Encoding, Tokens
from multidelete.utils.errors import InputError, did_you_mean, reason

UNMAPPED = {  # by model_type: towers that AutoModel does not know
    "siglip_text_model": "SiglipTextModel",
    "blip_vision_model": "BlipVisionModel",
    "blip_text_model": "BlipTextModel",
}


def build_backbone(encoder: EncoderConfig, modality: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a backbone, pretrained or with random weights; returns it with its complete configuration.

    Args:
        encoder: Configuration of the encoder.
        modality: ``vision`` or ``text``; the tower to take from the folder of a dual encoder (CLIP, SigLIP).

    Raises:
        InputError: The folder or the configuration does not describe an encoder that ``transformers`` knows.
    """
    where = f"model.{modality}"
    if encoder.pretrained is None:
        backbone, fields = backbone_from_config(encoder.config or {}, where, check=True)
    else:
        backbone = load_pretrained(encoder.pretrained, where)
        backbone = getattr(backbone, f"{modality}_model", backbone)
        fields = describe(backbone)
    there = fields.get("num_hidden_layers", getattr(backbone.config, "num_hidden_layers", 0))
    if encoder.tokens_after is not None and (modality != "text" or encoder.tokens_after > there):
        raise InputError(f"{where}.tokens_after = {encoder.tokens_after}: this encoder has {there} layers of text")
    return backbone, fields


def load_pretrained(source: str, where: str) -> nn.Module:
    """Load a pretrained model from a folder or hub id, in fp32."""
    from transformers import AutoConfig, AutoModel

    with loading(source, where) as path:
        # Training and unlearning need fp32 weights, even if they are stored in half precision.
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        fields = {"dtype": torch.float32, "trust_remote_code": False, **_without_pooler(config)}
        model: nn.Module = AutoModel.from_pretrained(path, **fields)
    return model


@contextmanager
def loading(source: str, where: str) -> Iterator[str]:
    """Yield the folder or id for ``transformers``; errors inside the block become one-line messages.

    Raises:
        InputError: The folder does not exist or cannot be loaded.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(source).expanduser()
    if not folder.is_dir() and source.startswith((".", "/", "~")):
        raise InputError(f"{where}.pretrained: there is no folder '{source}'")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # do not warn about unused heads of the pretraining task
    try:
        yield str(folder.resolve()) if folder.is_dir() else source
    except Exception as error:  # transformers raises many kinds of errors for invalid folders
        raise InputError(f"{where}.pretrained: '{source}' could not be loaded: {reason(error)}") from error
    finally:
        logging.set_verbosity(verbosity)


def backbone_from_config(
    fields: dict[str, Any], where: str, *, check: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a backbone with random weights from fields of a ``transformers`` configuration.

    Args:
        fields: Fields, with ``model_type``.
        where: Name of the setting, for messages.
        check: Refuse unknown fields; configurations of published models may have some.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    fields = dict(fields)
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        hint = did_you_mean(str(kind), CONFIG_MAPPING.keys())
        raise InputError(f"{where}.config: model_type {kind!r} is not one that transformers knows{hint}")
    # Configurations accept any field; only a default one shows which fields exist.
    known = AutoConfig.for_model(kind).to_dict()
    unknown = sorted(set(fields) - set(known))
    if unknown and check:
        hint = did_you_mean(unknown[0], known)
        raise InputError(f"{where}.config: a {kind} configuration has no field '{unknown[0]}'{hint}")
    try:
        config: Any = AutoConfig.for_model(kind, **fields)
        if kind in UNMAPPED:
            architecture = getattr(transformers, UNMAPPED[kind])
            backbone: nn.Module = architecture(config, **_no_pooling(architecture))
        else:
            backbone = AutoModel.from_config(config, **_without_pooler(config))
    except Exception as error:  # transformers raises many kinds of errors for invalid values
        raise InputError(f"{where}.config does not describe a {kind} encoder: {reason(error)}") from error
    return backbone, describe(backbone)


def drawn_by_width(fields: dict[str, Any]) -> dict[str, Any]:
    """Add an ``initializer_range`` that suits the width to the fields of a configuration, unless it has one.

    BERT's 0.02 is for width 768; narrow transformers with it hardly pass any signal.

    >>> drawn_by_width({"hidden_size": 192})["initializer_range"]
    0.04
    """
    return {"initializer_range": 0.02 * (768 / fields.get("hidden_size", 768)) ** 0.5, **fields}


def _without_pooler(config: Any) -> dict[str, bool]:
    """Keyword arguments that omit the unused pooling layer, for classes that have one."""
    from transformers import AutoModel

    mapping = AutoModel._model_mapping
    if type(config) not in mapping:
        return {}
    return _no_pooling(mapping[type(config)])


def _no_pooling(architecture: Any) -> dict[str, bool]:
    pools = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if pools else {}


def describe(backbone: nn.Module) -> dict[str, Any]:
    """Fields of a backbone's configuration that suffice to rebuild the architecture."""
    config: Any = backbone.config
    fields = dict(config.to_diff_dict())
    for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
        fields.pop(key, None)
    return {"model_type": config.model_type, **fields}


def width_of(backbone: nn.Module, where: str) -> int:
    """Width of the token states."""
    config: Any = backbone.config
    for key in ("hidden_size", "hidden_dim"):
        if isinstance(width := getattr(config, key, None), int):
            return width
    raise InputError(f"{where}: the width of a {config.model_type} encoder could not be found in its configuration")


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """Convert uint8 images ``(B, 3, H, W)`` to floats, normalised with the configuration's mean and deviation."""
    mean = torch.tensor(config.image_mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(config.image_std, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def run_vision(backbone: nn.Module, encoder: EncoderConfig, pixels: Tensor) -> Encoding:
    """Token states and pooled vector of normalised images, ``(B, 3, H, W)``."""
    # On a CPU convolutions are twice as fast in channels_last format.
    output: Any = backbone(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
    states = output.last_hidden_state
    pooling = encoder.pooling
    if states.dim() == 4:  # convolutional map (B, C, h, w): its h·w positions are the tokens
        states = states.flatten(2).transpose(1, 2)
        pooling = pooling or "mean"
    mask = states.new_ones(states.shape[:2], dtype=torch.long)
    return Encoding(states, mask, _pool(states, mask, pooling, output), "embedded")


def run_text(backbone: nn.Module, encoder: EncoderConfig, tokens: Tokens) -> Encoding:
    """Token states and pooled vector of tokenised texts."""
    output: Any = backbone(
        input_ids=tokens.ids, attention_mask=tokens.mask, output_hidden_states=encoder.tokens_after is not None
    )
    pooled = _pool(output.last_hidden_state, tokens.mask, encoder.pooling, output)
    states = output.last_hidden_state if encoder.tokens_after is None else output.hidden_states[encoder.tokens_after]
    return Encoding(states, tokens.mask, pooled, "embedded")


def additive(mask: Tensor) -> Tensor:
    """Additive attention mask, ``(B, 1, 1, L)``, from a mask ``(B, L)``, for layers without fused attention."""
    return (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def _pool(states: Tensor, mask: Tensor, pooling: str | None, output: Any) -> Tensor:
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
    if pooling == "pooler":
        return output.pooler_output  # type: ignore[no-any-return]
    return states[:, 0]


def build_tokenizer(encoder: EncoderConfig, texts: Sequence[str], where: str) -> Any:
    """Load the tokenizer of a pretrained text encoder, or build a word-level one from the dataset's texts."""
    from transformers import AutoTokenizer

    if encoder.pretrained is None:
        return word_tokenizer(texts)
    source = encoder.pretrained
    path = str(Path(source).resolve()) if Path(source).is_dir() else source
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise InputError(f"{where}.pretrained: '{source}' has no tokenizer: {reason(error)}") from error


def word_tokenizer(texts: Sequence[str]) -> Any:
    """Build a lower-casing word-level tokenizer over all words of the texts, in sorted order."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
