"""Base class of models: ``f = head ∘ fuse ∘ encode``, three separate calls on batches of pairs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from multidelete.models.config import DataFacts, ModelConfig
from multidelete.models.extras import EXTRA, add_extra
from multidelete.models.folder import (
    CONFIG_FILE,
    FORMAT,
    WEIGHTS_FILE,
    is_transformers,
    load_weights,
    model_folder,
    read_config,
    read_tokenizer,
)
from multidelete.models.inputs import Batch, Encoding, ModalityInput, Subgraphs, Tokens, unadapted, within
from multidelete.models.processor import Preparation, Square
from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.files import write_atomically


class Model(nn.Module, ABC):
    """Model of two modalities whose encoders, fusion and head can be called separately.

    Subclasses define :attr:`name`, :attr:`config_class` and the abstract methods. ``parts`` maps each scope except
    ``all`` to names of submodules and parameters.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    parts: ClassVar[dict[str, tuple[str, ...]]]
    modalities: ClassVar[tuple[str, ...]] = ("vision", "text")
    adapter: frozenset[str] = frozenset()  # names of the parameters of an adapter (peft): no others change then
    provides: ClassVar[frozenset[str]]  # modalities, "ranking", "labels", "several_images"; see :class:`Task`
    fusion_reads: ClassVar[Literal["tokens", "pooled"]] = "tokens"  # which part of an encoding the fusion reads
    embedding_reads: ClassVar[Literal["tokens", "pooled"]] = "pooled"  # which part of an encoding `embedding` reads
    shares_sides: ClassVar[bool] = False  # fuse_pairs is faster for pairs with a common side
    matching: ClassVar[bool] = True  # the head sees more than the contrastive similarity, so that re-ranking helps

    sequence_first: ClassVar[str] = r"$^"  # regular expression of modules that work on (L, B, D), not (B, L, D)

    neighbourhood: int = 0  # number of graph nodes visible around a pair, including the pair

    config: ModelConfig
    tokenizer: Any

    @property
    def preparation(self) -> Preparation:
        """How pictures are resized and cropped; stretched to a square of ``config.image_size`` by default."""
        return Square(self.config.image_size)

    def noised(self, images: Tensor, deviations: float, generator: torch.Generator) -> Tensor:
        """Images with normal noise, in standard deviations of the configuration, before normalisation."""
        deviation = 255 * torch.tensor(self.config.image_std, device=images.device).view(3, 1, 1)
        return images.float() + deviations * deviation * torch.randn(images.shape, generator=generator).to(
            images.device
        )

    @abstractmethod
    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """Run the backbone, the slow part, which can be frozen."""

    @abstractmethod
    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """Project the backbone's output: token states to the fusion's width, and the pooled vector."""

    @abstractmethod
    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """Fused representation ``f(I, T)`` of each pair, before the head, ``(B, D)``."""

    def fuse_pairs(self, encodings: Mapping[str, Encoding], rows: Mapping[str, Tensor]) -> Tensor:
        """:meth:`fuse` for pairs given by rows, ``(B,)`` per modality; returns ``(B, D)``.

        Models with ``shares_sides`` compute once what pairs with a common side share.
        """
        return self.fuse({modality: encodings[modality][rows[modality]] for modality in self.modalities})

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """Logits of the classes, ``(B, C)``; without classes C = 2, and the last column means "match"."""

    def losses(self, batch: Batch) -> Tensor:
        """Training loss of each example, ``(B,)``, never reduced.

        With classes: cross-entropy of the head on the fused representation; otherwise :meth:`pair_losses`.
        """
        encodings = self.encode(batch)
        if not self.config.labels:
            return self.pair_losses(batch, encodings)
        assert batch.labels is not None
        return F.cross_entropy(self.head(self.fuse(encodings)).float(), batch.labels, reduction="none")

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Training loss of each pair in retrieval, ``(B,)``."""
        raise NotImplementedError(f"{self.name} does no retrieval")

    def encode_one(self, modality: str, inputs: ModalityInput) -> Encoding:
        """Encode one modality from raw inputs, backbone outputs or finished encodings."""
        if not isinstance(inputs, Encoding):
            inputs = self.embed(modality, inputs)
        encoding = inputs if inputs.stage == "encoded" else self.project(modality, inputs)
        if self.config.extra is None:
            return encoding
        changed: Encoding = self.get_submodule(EXTRA)(modality, encoding)
        return changed

    def encode(self, batch: Batch) -> dict[str, Encoding]:
        """Encode all modalities of a batch."""
        return {modality: self.encode_one(modality, inputs) for modality, inputs in batch.inputs.items()}

    def fused(self, batch: Batch) -> Tensor:
        """``f(I, T)`` of each pair of the batch, ``(B, D)``."""
        return self.fuse(self.encode(batch))

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """Unit vectors whose inner products are the contrastive similarities, ``(B, P)``.

        A model may give several of each image, ``(B, Q, P)``; the largest of their inner products counts.
        """
        return encoding.pooled

    @property
    def fine_tuned(self) -> bool:
        """Whether the model was trained elsewhere, so that only the result of its training is known."""
        return False

    @property
    def contrastive(self) -> bool:
        """Whether the model has contrastive embeddings; their similarity preselects candidates in retrieval."""
        return True

    def contrastive_scale(self) -> float:
        """Inverse temperature of the contrastive loss."""
        return 1.0

    def encoding_width(self, modality: str) -> int:
        """Width of the encodings that the fusion reads, for extra modules."""
        raise NotImplementedError(f"a {self.name} model takes no extra module")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, truncated to ``max_text_tokens``."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_text_tokens)
        return list(encoded["input_ids"])

    def check_dataset(self, dataset: DataFacts) -> None:
        """Check that the model fits a dataset.

        Raises:
            InputError: The modalities, the number of images or the classes differ.
        """
        if dataset.modalities != self.modalities:
            raise InputError(
                f"a model of kind '{self.name}' reads {' and '.join(self.modalities)}, "
                f"but dataset '{dataset.name}' has {' and '.join(dataset.modalities)}"
            )
        config = self.config
        if dataset.graph is None and dataset.images_per_example != config.images:
            raise InputError(
                f"this {self.name} model needs {config.images} images per example, "
                f"but dataset '{dataset.name}' has {dataset.images_per_example}"
            )
        if config.labels and dataset.classes != config.labels:
            given = ", ".join(dataset.classes) or "no labels"
            raise InputError(
                f"this {self.name} model classifies {', '.join(config.labels)}, "
                f"but dataset '{dataset.name}' has {given}"
            )

    def frozen_parameters(self) -> Iterable[str]:
        """Names of the parameters of frozen backbones, which training and methods must not change."""
        return [
            f"{modality}.{name}"
            for modality in self.modalities
            if self.backbone_frozen(modality)
            for name, _ in getattr(self, modality).named_parameters()
        ]

    def parameters_of(self, scope: str) -> dict[str, nn.Parameter]:
        """Named parameters that a method with this scope may change.

        Args:
            scope: ``all``, ``fusion`` (fusion module, heads, temperature), or one of the model's modalities. Frozen
                encoders are in no scope.

        Raises:
            InputError: The model has no such scope, or all its parameters are frozen.
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
            if name not in frozen
            and (not self.adapter or name in self.adapter)
            and (scope == "all" or within(name, self.parts[scope]))
        }
        if not chosen:
            raise InputError(f"scope '{scope}' of this {self.name} model is frozen: nothing could be changed")
        return chosen

    def backbone_frozen(self, modality: str) -> bool:
        """Whether the configuration freezes this modality's backbone."""
        return bool(getattr(getattr(self.config, modality, None), "freeze", False))

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen backbones stay in evaluation mode."""
        super().train(mode)
        for modality in self.modalities:
            if self.backbone_frozen(modality):
                getattr(self, modality).eval()
        return self

    # -- folders ------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the tokenizer into a folder, atomically."""
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
    def from_pretrained(cls, folder: str | Path, processor: Any = None) -> Model:
        """Load a model that :meth:`save_pretrained` wrote.

        Args:
            folder: Folder, or hub id.
            processor: For a folder of ``transformers`` without one, where its image processor and tokenizer are.

        Raises:
            InputError: The folder is missing, damaged, of another format or not a model folder.
        """
        from multidelete.models import MODELS

        folder = model_folder(folder)
        fields = read_config(folder)
        if is_transformers(fields):
            from multidelete.models.wrapped import Wrapped

            if not issubclass(cls, Wrapped) and not issubclass(Wrapped, cls):
                raise InputError(f"{folder} holds a model of transformers, not '{cls.name}'; load it with Model")
            return (cls if issubclass(cls, Wrapped) else Wrapped).load(folder, fields, processor)
        if processor is not None:
            raise InputError(f"'{folder}' is no model of transformers, so it takes no processor; leave it out")
        name = fields.pop("model", None)
        if name not in MODELS:
            known = ", ".join(MODELS)
            raise InputError(
                f"{folder / CONFIG_FILE} is not of a multidelete model: 'model' is {name!r}, expected one of {known}"
            )
        if (written := fields.pop("format", None)) != FORMAT:
            raise InputError(f"{folder / CONFIG_FILE} has format {written!r}; this version reads format {FORMAT}")
        architecture = MODELS[name]
        if not issubclass(architecture, cls):
            raise InputError(f"{folder} holds a model of kind '{name}', not '{cls.name}'; load it with Model")
        try:
            config = architecture.config_class.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InputError(f"{folder / CONFIG_FILE} is damaged: '{field}': {first['msg']}") from error
        tokenizer = read_tokenizer(folder)
        try:
            model = architecture(config, tokenizer)
            add_extra(model, config.extra)
        except InputError as error:
            raise InputError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
        load_weights(model, folder / WEIGHTS_FILE)
        return model.eval()

    # -- building -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def take_weights(self, source: Model) -> None:
        """Copy weights with equal name and shape from another model; rows of word embeddings are matched by word.

        Unknown words and heads of other classes keep their initial weights. A bias that the source lacks is set to 0 if
        the source has the weight.

        Raises:
            InputError: No weight fits.
        """
        theirs = source.state_dict()
        words, known = self.tokenizer.get_vocab(), source.tokenizer.get_vocab()
        taken = 0
        for full, tensor in self.state_dict().items():
            if within(full, (EXTRA,)):  # trained together with the other model, perhaps for another deletion
                continue
            name = full if full in theirs or ".lora_" in full else unadapted(full)
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
            raise InputError(f"no weight of the {source.name} model fits: this model cannot start from it")

    @classmethod
    @abstractmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Model:
        """Build a new model with pretrained or random encoders; all other weights are random.

        Args:
            config: Configuration of this architecture.
            texts: Texts of the dataset, for the vocabulary if the text encoder has no tokenizer.
            seed: Seed of the random weights.
            tokenizer: Tokenizer to use instead.
        """


def same_weights(first: Model, second: Model) -> bool:
    """Whether two models of one kind have bit-equal weights and buffers."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)
