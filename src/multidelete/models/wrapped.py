"""Models of ``transformers``, wrapped as they are: what goes in comes out as the same class, in the same format."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import transformers
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from multidelete.models.config import DataFacts, ModelConfig
from multidelete.models.encoders import drawn_by_width
from multidelete.models.extras import add_extra
from multidelete.models.folder import base_folder, model_folder, read_config
from multidelete.models.hub import (
    OWN_FILE,
    check_fields,
    class_in,
    fresh_processor,
    has_tokenizer,
    plain,
    quiet,
    read_model,
    read_own,
    read_processor,
)
from multidelete.models.image_text import ClassHead, ImageTextModel
from multidelete.models.inputs import Tokens, unadapted
from multidelete.models.lora import adapter_names, base_model, fresh_adapter, read_adapter
from multidelete.models.processor import Processor
from multidelete.models.supported import supported
from multidelete.utils.errors import InputError, reason
from multidelete.utils.files import write_atomically
from multidelete.utils.randomness import seeded

OWN_FIELDS = ("pretrained", "freeze", "labels", "images", "extra")


class WrappedConfig(ModelConfig):
    """Configuration of a wrapped model.

    Args:
        pretrained: Folder or hub id of a model to train further; its own image processor and tokenizer are used.
        settings: Otherwise, fields of its ``transformers`` configuration; weights are random.
        architecture: Class in ``transformers``.
        freeze: Modalities whose weights are frozen, in training and under every method.
        dtype: Type in which weights are stored, of an adapter if there is one; computation is in fp32.
        adapter: Settings of the adapter (peft), if there is one.
        fine_tuned: Whether the model was brought, so that it is unknown what its training started from.
    """

    pretrained: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    architecture: str = ""
    freeze: tuple[Literal["vision", "text"], ...] = ()
    dtype: str = "float32"
    adapter: dict[str, Any] | None = None
    fine_tuned: bool = False

    def for_dataset(self, dataset: DataFacts, *, labelled: bool) -> Self:
        """See :meth:`ModelConfig.for_dataset`."""
        fitted = super().for_dataset(dataset, labelled=labelled)
        return fitted.model_copy(update={"dtype": "float32", "fine_tuned": False})


class Wrapped(ImageTextModel):
    """A model of ``transformers``, or the peft model of one, unchanged inside.

    Subclasses say where encoding and fusion end, by calling parts of the model, and which parameters belong to which
    scope, by regular expressions of their names; other parameters are not used and belong to no scope.
    """

    config_class: ClassVar[type[ModelConfig]] = WrappedConfig
    classes: ClassVar[tuple[str, ...]]  # classes in transformers
    classifier: ClassVar[str] = ""  # the one with a class head, if any
    names: ClassVar[dict[str, str]]  # regular expression of each scope's parameters
    heads: ClassVar[str] = r"$^"  # regular expression of weights that a model to train further may lack
    text_settings: ClassVar[str] = "text_config"  # where a configuration has the size of the vocabulary
    varying_sizes: ClassVar[bool] = False  # reads images that keep their aspect ratio
    config: WrappedConfig
    peft: Any  # the peft model, if there is an adapter

    def __init__(self, model: Any, processor: Processor, config: WrappedConfig) -> None:
        super().__init__()
        # Kept outside of the modules, for its own way to be saved: the adapted layers are in the base.
        given, model = model, base_model(model)
        self.__dict__["peft"] = given if given is not model else None
        self.model, self.tokenizer = model.float(), processor
        self.adapter = adapter_names(self)
        if not (processor.one_size or processor.patches or self.varying_sizes):
            raise InputError(
                f"the image processor {type(processor.image_processor).__name__} does not bring all pictures to one "
                f"size, which a {type(model).__name__} needs"
            )
        text = getattr(model.config, self.text_settings, model.config)
        lengths = [processor.tokenizer.model_max_length, getattr(text, "max_position_embeddings", None)]
        shape = processor.shape
        size = round((shape[0] * shape[1] / 3) ** 0.5) if processor.patches else shape[0]
        update = {
            "architecture": type(model).__name__,
            "settings": plain(json.loads(model.config.to_json_string(use_diff=False))),
            "adapter": self.peft and json.loads(json.dumps(self.peft.active_peft_config.to_dict(), default=list)),
            "image_size": size,
            "max_text_tokens": min(length for length in lengths if length),
        }
        self.config = config.model_copy(update=update)
        if config.labels and not self.own_classes():
            self.class_head = ClassHead(config.images * self.fused_width(), len(config.labels))
        matching = r"model\.(?:{})"
        own = [name for name in self.state_dict() if name.startswith("class_head.")]
        names = list(dict.fromkeys(map(unadapted, self.state_dict())))
        self.parts = {  # type: ignore[misc]
            scope: tuple(name for name in names if re.match(matching.format(pattern), name))
            for scope, pattern in self.names_of_scopes().items()
        }
        self.parts["fusion"] += tuple(own)
        for name in self.frozen_parameters():
            self.get_parameter(name).requires_grad_(False)

    @classmethod
    def adapts(cls, architecture: str) -> bool:
        """Whether this is the adapter of a class of ``transformers``."""
        return architecture in cls.classes

    def names_of_scopes(self) -> Mapping[str, str]:
        """Regular expression of each scope's parameters, by their names in the wrapped model."""
        return self.names

    def own_classes(self) -> bool:
        """Whether the class of the wrapped model has a class head."""
        return type(self.model).__name__ == self.classifier

    def fused_width(self) -> int:
        """Width of the fused representation of one image, for a class head."""
        raise NotImplementedError(f"a {self.name} model has no class head")

    @property
    def fine_tuned(self) -> bool:
        """See :meth:`Model.fine_tuned`."""
        return self.config.fine_tuned

    @property
    def preparation(self) -> Processor:
        """See :meth:`Model.preparation`; the processor of the folder."""
        processor: Processor = self.tokenizer
        return processor

    def noised(self, images: Tensor, deviations: float, generator: torch.Generator) -> Tensor:
        """See :meth:`Model.noised`; padding and sizes of grids are not changed."""
        scale = torch.from_numpy(1 / self.preparation.scale).to(images.device)
        result = images.float()
        pixels = result[..., 1:, :] if self.preparation.patches else result[..., :3, :, :]
        pixels += deviations * scale * torch.randn(pixels.shape, generator=generator).to(images.device)
        return result

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Model.tokenize`."""
        encoded = self.tokenizer.tokenizer(list(texts), truncation=True, max_length=self.config.max_text_tokens)
        return list(encoded["input_ids"])

    # -- frozen parts -------------------------------------------------------------------------------------------

    def frozen_parameters(self) -> Iterable[str]:
        """See :meth:`Model.frozen_parameters`; parameters that the model does not use are frozen too."""
        moving = {name for scope in self.parts for name in self.parts[scope] if scope not in self.config.freeze}
        names = [name for name, _ in self.named_parameters() if name.startswith("model.")]
        return [name for name in names if unadapted(name) not in moving]

    def backbone_frozen(self, modality: str) -> bool:
        """See :meth:`Model.backbone_frozen`."""
        return modality in self.config.freeze

    def train(self, mode: bool = True) -> Self:
        """See :meth:`Model.train`; modules of frozen modalities only."""
        nn.Module.train(self, mode)
        frozen = {name for modality in self.config.freeze for name in self.parts[modality]}
        others = set(self.state_dict()) - frozen
        for prefix, module in self.named_modules() if frozen else ():
            inside = f"{prefix}."
            if any(n.startswith(inside) for n in frozen) and not any(n.startswith(inside) for n in others):
                nn.Module.train(module, False)
        return self

    # -- building -----------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> Wrapped:
        """See :meth:`Model.build`; ``tokenizer`` is the :class:`Processor` of another model.

        Raises:
            InputError: The folder or the settings do not describe a model of these classes.
        """
        labels = config.labels
        name = (labels and cls.classifier) or config.architecture or cls.classes[0]
        kind: Any = getattr(transformers, name, None)
        if not cls.adapts(name):
            raise InputError(f"model.architecture: a {cls.name} model is a {' or '.join(cls.classes)}, not a {name!r}")
        with seeded(seed, "initial weights"):
            if config.pretrained is not None:
                folder = model_folder(config.pretrained)
                fields = cls.fields_for(config, read_config(folder)) if labels else {}
                model = read_model(folder, kind, cls.heads, fields)
                processor = tokenizer or read_processor(folder)
                cls.after_reading(model, folder)
            else:
                processor, given = tokenizer, config.settings
                if tokenizer is None:
                    processor = fresh_processor(config, texts)
                    known = kind.config_class().to_dict()
                    given = cls.fields_for(config, cls.settings_for(config, processor.tokenizer, known))
                    check_fields(given, known, f"model.settings of a {cls.name} model")
                try:
                    model = kind(kind.config_class.from_dict(given))
                except Exception as error:  # the error depends on the architecture
                    raise InputError(f"model.settings does not describe a {name}: {reason(error)}") from error
                # transformers sets queries and positions of some classes to 0, so that all would look the same.
                for parameter in model.parameters():
                    if parameter.dim() > 1 and not parameter.any():
                        nn.init.trunc_normal_(parameter, std=0.02)
            built = cls(fresh_adapter(model, config.adapter) if config.adapter else model, processor, config)
        built.eval().check_sizes()
        return built

    @classmethod
    def fields_for(cls, config: WrappedConfig, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields of a configuration, with the classes and the number of images of the task."""
        return fields

    @classmethod
    def after_reading(cls, model: PreTrainedModel, folder: Path) -> None:
        """Change a model that was read to be trained further."""

    @classmethod
    def settings_for(cls, config: WrappedConfig, tokenizer: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a configuration with the vocabulary of a tokenizer, and weights that suit the width.

        Args:
            config: Configuration with the settings.
            tokenizer: The tokenizer.
            known: Default fields of the class.
        """
        fields = copy.deepcopy(config.settings)
        own = fields.setdefault(cls.text_settings, {}) if cls.text_settings else fields
        ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        ids |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        ids |= {"sep_token_id": tokenizer.sep_token_id}
        default = known[cls.text_settings] if cls.text_settings else known
        own |= {key: value for key, value in ids.items() if key in default}
        for key, value in fields.items():
            if isinstance(value, dict) and "hidden_size" in value and "initializer_range" in known[key]:
                fields[key] = drawn_by_width(value)
        return drawn_by_width(fields) if "hidden_size" in fields and "initializer_range" in known else fields

    @torch.no_grad()
    def check_sizes(self) -> None:
        """Encode one text of full length and a blank image, so that wrong sizes are detected before training.

        Raises:
            InputError: The model does not accept the configured sizes.
        """
        blank = torch.zeros(1, self.config.max_text_tokens, dtype=torch.long)
        shape = self.preparation.shape
        image = torch.full((1, *shape), 255, dtype=torch.uint8)
        image = image if self.preparation.patches else image.movedim(-1, 1)
        if self.preparation.patches:
            image[:, 0, :4] = torch.tensor([0, 1, 0, shape[0] - 1])
        for what, inputs in (
            (f"texts of {self.config.max_text_tokens} tokens", Tokens(blank, blank + 1)),
            (f"images of {shape[0]} x {shape[1]}", image),
        ):
            try:
                self.embed_texts(inputs) if isinstance(inputs, Tokens) else self.embed_images(inputs)
            except Exception as error:  # the error depends on the architecture
                raise InputError(f"a {self.config.architecture} does not read {what}: {reason(error)}") from error

    # -- folders ------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: Path, fields: Mapping[str, Any], processor: Any = None) -> Wrapped:
        """Load a folder that ``save_pretrained`` of ``transformers`` wrote.

        Args:
            folder: The folder.
            fields: Its configuration file, which names the class or its ``model_type``.
            processor: Image processor and tokenizer, or where they are, instead of those in the folder.

        Raises:
            InputError: The class is not supported, weights are missing, or there is no image processor or tokenizer.
        """
        architecture = class_in(fields)
        adapter = supported(architecture, f"'{folder}' holds a {architecture}")
        if not issubclass(adapter, cls):
            raise InputError(f"{folder} holds a {architecture} of transformers, not a '{cls.name}' model")
        base = base_folder(folder)
        model: Any = read_model(base, getattr(transformers, architecture))
        if not isinstance(processor, Processor):
            processor = read_processor(model_folder(processor or (folder if has_tokenizer(folder) else base)))
        own, weights = read_own(folder)
        config = adapter.config_for(architecture, model.config, own, model.dtype)
        if base != folder:
            with quiet(f"the adapter in '{folder}' cannot be loaded"):
                model, dtype = read_adapter(model, folder)
            config = config.model_copy(update={"dtype": dtype})
        result = adapter(model, processor, config)
        add_extra(result, result.config.extra)
        for name, tensor in weights.items():
            try:
                result.state_dict()[name].copy_(tensor)
            except (KeyError, RuntimeError) as error:
                raise InputError(f"{folder / OWN_FILE} does not fit the model: {reason(error)}") from error
        return result.eval()

    @classmethod
    def config_for(
        cls, architecture: str, config: Any, own: Mapping[str, Any] | None, dtype: torch.dtype = torch.float32
    ) -> WrappedConfig:
        """Configuration of a model of ``transformers``.

        Args:
            architecture: Its class.
            config: Its configuration.
            own: Result of :func:`read_own`.
            dtype: Type in which its weights are stored.
        """
        kind: Any = cls.config_class
        facts: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "settings": {}}
        if architecture == cls.classifier:
            facts |= {"labels": tuple(config.id2label[row] for row in range(config.num_labels))}
            facts |= {"images": int(getattr(config, "num_images", 1))}
        result: WrappedConfig = kind(**{**facts, "fine_tuned": own is None, **(own or {})})
        return result

    @classmethod
    def wrap(cls, model: Any, processor: Any) -> Wrapped:
        """Wrap a copy of a model in memory.

        Args:
            model: A model of ``transformers``, or the peft model of one; it is not changed.
            processor: A ``transformers`` processor with ``image_processor`` and ``tokenizer``.

        Raises:
            InputError: The class is not supported, or the processor is incomplete.
        """
        base = base_model(model)
        architecture = type(base).__name__
        adapter = supported(architecture, f"the model is a {architecture}")
        parts = [getattr(processor, name, None) for name in ("image_processor", "tokenizer")]
        if None in parts:
            raise InputError("processor= needs an image_processor and a tokenizer, as transformers' processors have")
        config = adapter.config_for(architecture, base.config, None, base.dtype)
        return adapter(copy.deepcopy(model), Processor(*parts), config).eval()

    def unwrapped(self) -> Any:
        """The model of ``transformers``, or of peft, in the type in which it came."""
        model: Any = copy.deepcopy(self.peft or self.model).to(getattr(torch, self.config.dtype))
        for name, parameter in base_model(model).named_parameters():
            parameter.requires_grad_(not self.adapter or f"model.{name}" in self.adapter)
        return model

    def merged(self) -> Wrapped:
        """A copy whose adapter is merged into the weights of its base; the model itself if it has no adapter."""
        if self.peft is None:
            return self
        model = copy.deepcopy(self.peft).merge_and_unload()
        return type(self)(model, self.preparation, self.config.model_copy(update={"adapter": None})).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what ``transformers`` writes for this class, in the type in which the weights came.

        A class head, an extra module and how a recipe built the model are in a file of their own.
        """
        own = self.config.dtype == "float32"  # of 150 million parameters a copy is 0.6 GB
        with write_atomically(Path(folder)) as part, quiet(f"'{folder}' cannot be written"):
            if self.peft is None:
                (self.model if own else self.unwrapped()).save_pretrained(part)
            else:
                (self.peft if own else self.unwrapped()).save_pretrained(part, save_embedding_layers=False)
                (part / "README.md").unlink()  # a template
            self.tokenizer.save_pretrained(part)
            ours = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in self.state_dict().items()
                if not name.startswith("model.")
            }
            if ours or not self.config.fine_tuned:
                fields = self.config.model_dump(mode="json", include=set(OWN_FIELDS))
                save_file(ours, part / OWN_FILE, metadata={"config": json.dumps(fields, sort_keys=True)})
