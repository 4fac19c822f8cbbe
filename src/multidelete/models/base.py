"""The contract of every model: ``f = head ∘ fuse ∘ encode``, three separate calls over batches of pairs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from multidelete.data.files import write_atomically
from multidelete.errors import InputError, did_you_mean

SCOPES = ("all", "fusion", "vision", "text")
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Tokens:
    """Token ids of a batch of texts: ``ids`` and ``mask``, both ``(B, L)``; the mask is 1 on real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Encoding:
    """What one encoder says of a batch.

    Args:
        tokens: Token states, ``(B, L, D)``.
        mask: 1 on real tokens, ``(B, L)``.
        pooled: One vector of each example, ``(B, P)``.
        stage: ``"embedded"`` straight from the backbone, ``"encoded"`` when the model's own projections are done.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    stage: Literal["embedded", "encoded"] = "encoded"

    def __getitem__(self, rows: Tensor) -> Encoding:
        """Encodings of some rows: this is how another pairing is made without a second encoding."""
        return replace(self, tokens=self.tokens[rows], mask=self.mask[rows], pooled=self.pooled[rows])

    def cut(self) -> Encoding:
        """The same encodings without the places that are padding in all of them."""
        longest = int(self.mask.sum(1).max())
        return replace(self, tokens=self.tokens[:, :longest], mask=self.mask[:, :longest])

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device) -> Encoding:
        """The same encoding on another device."""
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device), pooled=self.pooled.to(device))


ModalityInput = Tensor | Tokens | Encoding


@dataclass(frozen=True)
class Batch:
    """B pairs, ready for a model.

    Args:
        inputs: Per modality the raw input (images: uint8 ``(B, 3, H, W)``; texts: :class:`Tokens`) or, where the
            encoder is frozen and its outputs were computed before, an :class:`Encoding`.
        rows: Per modality the rows in the corpus, ``(B,)``.
        units: Unit of each modality's row, ``(B,)``; a pair is a true pair where they are the same.
        generator: Randomness of this step (hard negatives); without one the choice is deterministic.
    """

    inputs: dict[str, ModalityInput]
    rows: dict[str, Tensor]
    units: dict[str, Tensor]
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


class EncoderConfig(BaseModel):
    """An encoder from a pretrained folder or hub id, or from a configuration with random weights.

    Args:
        pretrained: Folder or hub id that ``transformers.AutoModel`` can load.
        config: Fields of a ``transformers`` configuration, with ``model_type`` (``{"model_type": "vit", ...}``).
        freeze: Keep the weights as they are, in training and under every method.
        pooling: How token states become one vector; by default the first token, or the mean where there is no
            class token (convolutional encoders); "pooler" takes the encoder's own pooled output (CLIP, SigLIP).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    freeze: bool = False
    pooling: Literal["first", "mean", "pooler"] | None = None

    def model_post_init(self, _: Any) -> None:
        """Refuse an encoder that is given twice or not at all."""
        if self.pretrained is None and self.config is None:
            raise ValueError("an encoder needs 'pretrained' (a folder or hub id) or 'config' (with 'model_type')")


class ModelConfig(BaseModel):
    """What every architecture's configuration has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image_size: int = Field(default=48, ge=1)
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_text_tokens: int = Field(default=40, ge=3)

    def canonical(self, include: set[str] | None = None) -> str:
        """The configuration as one text, the same whether it was written down just now or read from a folder."""
        return json.dumps(self.model_dump(mode="json", include=include), sort_keys=True)


class Model(nn.Module, ABC):
    """A model of two modalities whose encoders, fusion and head can be called one by one.

    Subclasses give :attr:`name`, :attr:`config_class` and the abstract methods. ``parts`` maps each scope but ``all``
    to the names of the submodules and parameters that it covers.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    parts: ClassVar[dict[str, tuple[str, ...]]]
    modalities: ClassVar[tuple[str, ...]] = ("vision", "text")
    matching: ClassVar[bool] = True  # the head sees more than the contrastive similarity does: re-ranking helps

    config: ModelConfig
    tokenizer: Any

    @abstractmethod
    def embed(self, modality: str, inputs: Tensor | Tokens) -> Encoding:
        """The backbone alone: the slow part, and the one that can be frozen."""

    @abstractmethod
    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """What follows the backbone in one modality: token states at the fusion's width, and the pooled vector."""

    @abstractmethod
    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """The fused representation ``f(I, T)`` of each pair, before the head, ``(B, D)``."""

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """Logits of the task, ``(B, C)``; for retrieval C = 2, the last column is "these two match"."""

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """Training loss of each example, ``(B,)``, never reduced."""

    def encode_one(self, modality: str, inputs: ModalityInput) -> Encoding:
        """Encodings of one modality from whatever stage the input is at."""
        if not isinstance(inputs, Encoding):
            inputs = self.embed(modality, inputs)
        return inputs if inputs.stage == "encoded" else self.project(modality, inputs)

    def encode(self, batch: Batch) -> dict[str, Encoding]:
        """Encodings of every modality of a batch."""
        return {modality: self.encode_one(modality, inputs) for modality, inputs in batch.inputs.items()}

    def fused(self, batch: Batch) -> Tensor:
        """``f(I, T)`` of each pair of the batch, ``(B, D)``."""
        return self.fuse(self.encode(batch))

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """Unit vectors whose inner products are the contrastive similarities, ``(B, P)``."""
        return encoding.pooled

    def contrastive_scale(self) -> float:
        """One over the temperature of the contrastive loss."""
        return 1.0

    def pair_scores(self, fused: Tensor) -> Tensor:
        """Log-odds that each pair matches, ``(B,)``: s(x) of the protocol is its logistic function."""
        logits = self.head(fused).float()
        return logits[:, 1] - logits[:, 0]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at ``max_text_tokens``."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_text_tokens)
        return list(encoded["input_ids"])

    def frozen_parameters(self) -> Iterable[str]:
        """Names of parameters that no training and no method may change."""
        return ()

    def parameters_of(self, scope: str) -> dict[str, nn.Parameter]:
        """Named parameters that a method with this scope may change.

        Args:
            scope: ``all``, ``fusion`` (fusion module, heads and what follows), ``vision`` or ``text``. Encoders that
                the configuration freezes are in no scope.

        Raises:
            InputError: The scope is unknown, or nothing in it may change.
        """
        if scope not in SCOPES:
            raise InputError(f"'{scope}' is not a scope{did_you_mean(scope, SCOPES)}; there are {', '.join(SCOPES)}")
        frozen = set(self.frozen_parameters())
        chosen = {
            name: parameter
            for name, parameter in self.named_parameters()
            if name not in frozen and (scope == "all" or within(name, self.parts[scope]))
        }
        if not chosen:
            raise InputError(f"scope '{scope}' of this {self.name} model is frozen: nothing could be changed")
        return chosen

    def backbone_frozen(self, modality: str) -> bool:
        """Whether the configuration freezes this modality's backbone."""
        return bool(getattr(self.config, modality).freeze)

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for frozen backbones, whose dropout and running statistics stay off."""
        super().train(mode)
        for modality in self.modalities:
            if self.backbone_frozen(modality):
                getattr(self, modality).eval()
        return self

    # -- folders ------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the tokenizer into a folder, all or nothing."""
        with write_atomically(Path(folder)) as part:
            fields = {"model": self.name, "format": FORMAT, **self.config.model_dump(mode="json")}
            (part / CONFIG_FILE).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()},
                part / WEIGHTS_FILE,
                metadata={"format": "pt"},
            )
            self.tokenizer.save_pretrained(part)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Model:
        """Load a model that :meth:`save_pretrained` wrote.

        Raises:
            InputError: The folder is missing, foreign, damaged or of another format.
        """
        from multidelete.models import MODELS

        folder = Path(folder)
        fields = _read_config(folder)
        name = fields.pop("model", None)
        if name not in MODELS:
            known = ", ".join(MODELS)
            raise InputError(
                f"{folder / CONFIG_FILE} is not of a multidelete model: 'model' is {name!r}, expected one of {known}"
            )
        if (written := fields.pop("format", None)) != FORMAT:
            raise InputError(f"{folder / CONFIG_FILE} has format {written!r}; this version reads format {FORMAT}")
        architecture = MODELS[name]
        try:
            config = architecture.config_class.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"{folder / CONFIG_FILE} is damaged: '{place}': {first['msg']}") from error
        tokenizer = _read_tokenizer(folder)
        try:
            model = architecture(config, tokenizer)
        except InputError as error:
            raise InputError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
        _load_weights(model, folder / WEIGHTS_FILE)
        return model.eval()

    # -- building -----------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Model:
        """A new model: pretrained or seeded random encoders, seeded random rest.

        Args:
            config: A configuration of this architecture.
            texts: The corpus' texts, from which a tokenizer is made where the text encoder brings none.
            seed: Seed of the random weights.
            tokenizer: One to use instead.
        """


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"there is no model folder '{folder}'")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"'{folder}' is not a model folder: it has no {CONFIG_FILE}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} is damaged: expected an object")
    return fields


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    # A folder without tokenizer.json would send AutoTokenizer off to look for a vocabulary elsewhere.
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"'{folder}' has no tokenizer.json: the model folder is incomplete")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise InputError(f"the tokenizer in '{folder}' is damaged: {error}") from error


def _load_weights(model: nn.Module, path: Path) -> None:
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
        raise InputError(f"{path} is of no use: weight '{broken}' holds values that are not finite")
    model.load_state_dict(weights)


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight is, or lies in, one of these parts of a model.

    >>> within("text.layer.0.weight", ("text",)), within("text_adapter.weight", ("text",))
    (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def iterate_rows(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
