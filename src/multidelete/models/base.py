"""The contract of every model: ``f = head ∘ fuse ∘ encode``, three separate calls over batches of pairs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from multidelete.models.graph import Graph
from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.files import write_atomically

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
MASK = "channel_mask"  # the submodule of a model that is trained with a mask


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


@dataclass(frozen=True)
class Subgraphs:
    """Neighbourhoods of a batch of node pairs; the pair stands in the first two places.

    Args:
        nodes: Rows of the graph's nodes, ``(B, L)``; -1 where there is none.
        features: What is known of each node, ``(B, L, FEATURES)``.
        adjacency: 1 where an edge is visible, ``(B, L, L)``.
        mask: 1 on real nodes, ``(B, L)``.
    """

    nodes: Tensor
    features: Tensor
    adjacency: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Subgraphs:
        """The same subgraphs on another device."""
        return Subgraphs(*(each.to(device) for each in (self.nodes, self.features, self.adjacency, self.mask)))


ModalityInput = Tensor | Tokens | Subgraphs | Encoding


@dataclass(frozen=True)
class Batch:
    """B pairs, ready for a model.

    Args:
        inputs: Per modality the raw input (images: uint8 ``(B, 3, H, W)``, or ``(B, n, 3, H, W)`` for n pictures in an
            example; texts: :class:`Tokens`; graphs: :class:`Subgraphs`) or, where the encoder is frozen and its outputs
            were computed before, an :class:`Encoding`.
        rows: Per modality the rows in the dataset, ``(B,)``.
        examples: Example of each modality's row, ``(B,)``; a pair is a true pair where they are the same.
        generator: Randomness of this step (hard negatives); without one the choice is deterministic.
        labels: Class of each text, ``(B,)``; None in retrieval. Of a mismatched pair it says nothing.
        groups: Row of the mask that each example is seen through, ``(B,)``; None: whole, as ever but in training.
    """

    inputs: dict[str, ModalityInput]
    rows: dict[str, Tensor]
    examples: dict[str, Tensor]
    generator: torch.Generator | None = None
    labels: Tensor | None = None
    groups: Tensor | None = None

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
        tokens_after: The layer of a text encoder whose token states are read; the last by default. The one vector is
            that of the last layer in any case: a sentence as a whole is best told there, and its words before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    freeze: bool = False
    pooling: Literal["first", "mean", "pooler"] | None = None
    tokens_after: int | None = Field(default=None, ge=1)

    def model_post_init(self, _: Any) -> None:
        """Refuse an encoder that is given twice or not at all."""
        if self.pretrained is None and self.config is None:
            raise ValueError("an encoder needs 'pretrained' (a folder or hub id) or 'config' (with 'model_type')")

    def for_tokenizer(self, tokenizer: Any) -> Self:
        """The configuration of a text encoder that reads this tokenizer's ids; a pretrained one stays as it is."""
        if self.pretrained is not None:
            return self
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
        ids |= {"eos_token_id": tokenizer.sep_token_id, "vocab_size": len(tokenizer)}
        return self.model_copy(update={"config": {**(self.config or {}), **ids}})


def small_encoder(
    model_type: str, layers: int, pooling: Literal["pooler"] | None = None, **fields: Any
) -> EncoderConfig:
    """An encoder of width 128 with random weights, as the architectures have it by default."""
    size = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 256}
    return EncoderConfig(pooling=pooling, config={"model_type": model_type, **size, **fields})


class MaskConfig(BaseModel):
    """The mask that an original is trained with for ERM-KTP.

    Args:
        classes: Its rows; the last one is D_f's.
        request: Hash of the deletion request that it is made for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int = Field(ge=2)
    request: str


class DataFacts(Protocol):
    """What a model needs to know of a dataset; :class:`multidelete.Dataset` has it."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def modalities(self) -> tuple[str, str]:
        """``vision`` or ``graph``, and ``text``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty in retrieval."""

    @property
    def images_per_example(self) -> int:
        """Pictures in an example; 0 where a graph takes their place."""

    @property
    def graph(self) -> Graph | None:
        """The graph, if there is one."""


class ModelConfig(BaseModel):
    """What every architecture's configuration has in common.

    Args:
        image_size: Side of the square that an image becomes, in pixels.
        image_mean: Mean of each channel that is taken off pixels in [0, 1].
        image_std: Deviation of each channel that they are divided by.
        max_text_tokens: Longer texts are cut.
        labels: Names of the classes that the head tells apart; none: it tells matching pairs from others. Taken from
            the data when a model is trained.
        images: Pictures in an example; taken from the data as well.
        mask: A mask over the channels of the visual feature map; taken from how the model is trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image_size: int = Field(default=48, ge=1)
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_text_tokens: int = Field(default=40, ge=3)
    labels: tuple[str, ...] = ()
    images: int = Field(default=1, ge=1)
    mask: MaskConfig | None = None

    def for_dataset(self, dataset: DataFacts, *, labelled: bool) -> Self:
        """The configuration of a model that learns a task on this dataset.

        Args:
            dataset: The data.
            labelled: Whether the task is to tell the dataset's labels.
        """
        return self.model_copy(
            update={"labels": dataset.classes if labelled else (), "images": dataset.images_per_example or 1}
        )

    def check_dataset(self, dataset: DataFacts, model: Model) -> None:
        """Refuse data that a model of this configuration does not read.

        Raises:
            InputError: Other modalities, another number of pictures, or other classes.
        """
        if dataset.modalities != model.modalities:
            raise InputError(
                f"a model of kind '{model.name}' reads {' and '.join(model.modalities)}, "
                f"but dataset '{dataset.name}' holds {' and '.join(dataset.modalities)}"
            )
        if dataset.graph is None and dataset.images_per_example != self.images:
            raise InputError(
                f"this {model.name} model was made for {self.images} pictures in an example, "
                f"but dataset '{dataset.name}' has {dataset.images_per_example}"
            )
        if self.labels and dataset.classes != self.labels:
            given = ", ".join(dataset.classes) or "no labels"
            raise InputError(
                f"this {model.name} model tells {', '.join(self.labels)} apart, "
                f"but dataset '{dataset.name}' has {given}"
            )

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
    tasks: ClassVar[tuple[str, ...]]
    contrastive: ClassVar[bool] = True  # it has embeddings by whose similarity retrieval picks candidates
    shares_sides: ClassVar[bool] = False  # pairs that have a side in common are fused faster together
    matching: ClassVar[bool] = True  # the head sees more than the contrastive similarity does: re-ranking helps

    neighbourhood: int = 0  # nodes of a graph that it sees around a pair, the pair included

    config: ModelConfig
    tokenizer: Any

    @abstractmethod
    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """The backbone alone: the slow part, and the one that can be frozen."""

    @abstractmethod
    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """What follows the backbone in one modality: token states at the fusion's width, and the pooled vector."""

    @abstractmethod
    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """The fused representation ``f(I, T)`` of each pair, before the head, ``(B, D)``."""

    def fuse_pairs(self, encodings: Mapping[str, Encoding], rows: Mapping[str, Tensor]) -> Tensor:
        """:meth:`fuse` of pairs of rows, ``(B,)`` of each modality, ``(B, D)``.

        A model that ``shares_sides`` computes once what one side brings to all its pairs.
        """
        return self.fuse({modality: encodings[modality][rows[modality]] for modality in self.modalities})

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """Logits of the classes, ``(B, C)``; without classes C = 2, the last column is "these two match"."""

    def losses(self, batch: Batch) -> Tensor:
        """Training loss of each example, ``(B,)``, never reduced.

        With classes the cross-entropy of the head on the fused representation, else :meth:`pair_losses`.
        """
        encodings = self.encode(batch)
        if not self.config.labels:
            return self.pair_losses(batch, encodings)
        assert batch.labels is not None
        return F.cross_entropy(self.head(self.fuse(encodings)).float(), batch.labels, reduction="none")

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Training loss of each pair where the head tells matching pairs from others (retrieval), ``(B,)``."""
        raise NotImplementedError(f"{self.name} does no retrieval")

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

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at ``max_text_tokens``."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_text_tokens)
        return list(encoded["input_ids"])

    def frozen_parameters(self) -> Iterable[str]:
        """Names of parameters that no training and no method may change: those of the backbones that are frozen."""
        return [
            f"{modality}.{name}"
            for modality in self.modalities
            if self.backbone_frozen(modality)
            for name, _ in getattr(self, modality).named_parameters()
        ]

    def parameters_of(self, scope: str) -> dict[str, nn.Parameter]:
        """Named parameters that a method with this scope may change.

        Args:
            scope: ``all``, ``fusion`` (fusion module, heads and what follows), or one of the model's modalities.
                Encoders that the configuration freezes are in no scope.

        Raises:
            InputError: The model has no such scope, or nothing in it may change.
        """
        scopes = ("all", *self.parts)
        if scope not in scopes:
            raise InputError(
                f"'{scope}' is not a scope of a model of kind '{self.name}' (there are {', '.join(scopes)})"
                f"{did_you_mean(scope, scopes)}"
            )
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
        fields = read_config(folder)
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

    @torch.no_grad()
    def take_weights(self, source: Model) -> None:
        """Begin with the weights of another model, wherever name and shape agree; word vectors go by the word.

        Its heads are left where they answer another question, and of words that it never saw it knows nothing. A bias
        that it does not have beside a weight that it has begins as 0.

        Raises:
            InputError: Nothing agrees.
        """
        theirs = source.state_dict()
        words, known = self.tokenizer.get_vocab(), source.tokenizer.get_vocab()
        taken = 0
        for name, tensor in self.state_dict().items():
            if within(name, (MASK,)):  # made for another deletion
                continue
            weight = name.removesuffix("bias") + "weight"
            if name.endswith(".bias") and name not in theirs and weight in theirs:
                tensor.zero_()
            if name not in theirs or tensor.shape[1:] != theirs[name].shape[1:]:
                continue
            if tensor.dim() == 2 and len(tensor) == len(words) and len(theirs[name]) == len(known):
                both = [(row, known[word]) for word, row in words.items() if word in known]
                here, there = (torch.tensor(rows, device=tensor.device) for rows in zip(*both, strict=True))
                tensor[here] = theirs[name].to(tensor.device)[there]
            elif tensor.shape == theirs[name].shape:
                tensor.copy_(theirs[name])
            else:
                continue
            taken += 1
        if not taken:
            raise InputError(f"no weight of the {source.name} model that this one should start from fits it")

    @classmethod
    @abstractmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Model:
        """A new model: pretrained or seeded random encoders, seeded random rest.

        Args:
            config: A configuration of this architecture.
            texts: The dataset's texts, from which a tokenizer is made where the text encoder brings none.
            seed: Seed of the random weights.
            tokenizer: One to use instead.
        """


def read_config(folder: Path) -> dict[str, Any]:
    """What stands in the configuration file of a model's folder.

    Raises:
        InputError: The folder or the file is missing, or the file is damaged.
    """
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
