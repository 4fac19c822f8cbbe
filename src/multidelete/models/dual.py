"""Dual encoders of ``transformers``, wrapped as they are: CLIP, SigLIP, ALIGN and every other model of two towers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.encoders import reason
from multidelete.models.image_text import contrastive_losses
from multidelete.models.inputs import Batch, Encoding, Subgraphs, Tokens
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_atomically
from multidelete.utils.randomness import seeded

PROJECTIONS = {"vision": ("visual_projection", "image_projection"), "text": ("text_projection",)}
TOWERS = {"vision": ("vision_model", "image_model"), "text": ("text_model",)}
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
EXACT = 1e-4  # largest error of normalised pixels that are kept as uint8


class Processor:
    """Image processor and tokenizer of a folder, used for everything that the model reads.

    Pictures are resized and cropped by the image processor and kept as uint8. What it does to pixel values afterwards
    is the same affine map for every pixel of a channel, which :meth:`normalise` applies on the device.

    Args:
        image_processor: A ``transformers`` image processor.
        tokenizer: A ``transformers`` tokenizer.

    Raises:
        InputError: Pixel values of the image processor are no affine map of uint8 values.
    """

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        black, white = (self._processed(np.full((64, 64, 3), value, np.uint8)) for value in (0, 255))
        noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
        values = self._processed(noise)
        if black.ndim != 3 or values.shape != black.shape:
            raise InputError(
                f"the image processor {type(image_processor).__name__} does not bring all pictures to one size, "
                "which is not supported"
            )
        self.offset = black[:, :1, :1]  # (3, 1, 1)
        self.scale = (white[:, :1, :1] - self.offset) / 255
        self.shape = (black.shape[1], black.shape[2])
        restored = self._rounded(values) * self.scale + self.offset
        if float(np.abs(values - restored).max()) > EXACT:
            raise InputError(
                f"the image processor {type(image_processor).__name__} changes pixel values in a way "
                "that is not supported (expected resizing and cropping, then scaling of each channel)"
            )

    @property
    def key(self) -> str:
        """Everything that decoded pictures depend on, for the cache."""
        settings = json.dumps(self.image_processor.to_dict(), sort_keys=True, default=str)
        return f"{type(self.image_processor).__name__} {settings}"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The picture resized and cropped, ``(H, W, 3)``."""
        return self._rounded(self._processed(np.asarray(image.convert("RGB")))).transpose(1, 2, 0)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixel values of uint8 pictures, ``(B, 3, H, W)``."""
        scale, offset = (torch.from_numpy(each).to(images.device) for each in (self.scale, self.offset))
        return images.float() * scale + offset

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    def get_vocab(self) -> dict[str, int]:
        """Ids of the tokens."""
        return dict(self.tokenizer.get_vocab())

    def save_pretrained(self, folder: Path) -> None:
        """Write both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _processed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = self.image_processor(images=image, return_tensors="np", input_data_format="channels_last")
        return np.asarray(values["pixel_values"][0], dtype=np.float32)

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.clip(np.rint((values - self.offset) / self.scale), 0, 255).astype(np.uint8)


class DualEncoderConfig(ModelConfig):
    """Configuration of a wrapped model.

    Args:
        architecture: Its class in ``transformers``.
        settings: Its configuration.
        dtype: Type in which its weights are stored; computation is in fp32.
    """

    architecture: str
    settings: dict[str, Any]
    dtype: str = "float32"


class DualEncoder(Model):
    """A ``transformers`` model with ``get_image_features`` and ``get_text_features``, unchanged inside.

    Encoding ends with the pooled output of each tower; projections, temperature and bias are the fusion, as in
    :class:`Clip`. The fused representation is P times the element-wise product of the embeddings.
    """

    name: ClassVar[str] = "dual_encoder"
    config_class: ClassVar[type[ModelConfig]] = DualEncoderConfig
    provides: ClassVar[frozenset[str]] = frozenset({"vision", "text", "ranking"})
    fusion_reads = "pooled"
    matching: ClassVar[bool] = False
    config: DualEncoderConfig

    def __init__(self, model: PreTrainedModel, processor: Processor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.tokenizer = model.float(), processor
        text = getattr(model.config, "text_config", model.config)
        lengths = [processor.tokenizer.model_max_length, getattr(text, "max_position_embeddings", None)]
        self.config = DualEncoderConfig(
            architecture=type(model).__name__,
            settings=json.loads(model.config.to_json_string(use_diff=False)),
            dtype=str(dtype).removeprefix("torch."),
            image_size=processor.shape[0],
            max_text_tokens=min(length for length in lengths if length),
        )
        self._projections = {m: self._first(names) for m, names in PROJECTIONS.items()}
        own = [name for name, _ in model.named_parameters() if "." not in name]
        self.parts = {  # type: ignore[misc]
            **{modality: tuple(f"model.{name}" for name in names) for modality, names in TOWERS.items()},
            "fusion": tuple(f"model.{name}" for name in [*filter(None, self._projections.values()), *own]),
        }

    def _first(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if hasattr(self.model, name)), None)

    @property
    def preparation(self) -> Processor:
        """See :meth:`Model.preparation`; the processor of the folder."""
        processor: Processor = self.tokenizer
        return processor

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> DualEncoder:
        """See :meth:`Model.build`; the same architecture with random weights."""
        assert isinstance(tokenizer, Processor)
        architecture = getattr(transformers, config.architecture)
        with seeded(seed, "initial weights"):
            model = architecture(architecture.config_class.from_dict(config.settings))
        return cls(model, tokenizer, getattr(torch, config.dtype)).eval()

    @classmethod
    def load(cls, folder: Path, fields: Mapping[str, Any]) -> DualEncoder:
        """Load a folder that ``save_pretrained`` of ``transformers`` wrote.

        Args:
            folder: The folder.
            fields: Its configuration file, which names the class or its ``model_type``.

        Raises:
            InputError: The class is not supported, weights are missing, or there is no image processor or tokenizer.
        """
        named = fields.get("architectures") or [MODEL_MAPPING_NAMES.get(fields["model_type"], fields["model_type"])]
        architecture = str(named[0])
        kind: Any = getattr(transformers, architecture, None)
        check_supported(kind, f"'{folder}' holds a {architecture}")
        with quiet(f"the model in '{folder}' cannot be loaded"):
            model, facts = kind.from_pretrained(folder, dtype="auto", output_loading_info=True, local_files_only=True)
        for key, what in (("missing_keys", "is missing"), ("mismatched_keys", "has another shape")):
            if facts[key]:
                first = sorted(map(str, facts[key]))[0]
                raise InputError(f"the model in '{folder}' is incomplete: weight '{first}' {what}")
        if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make up an empty one
            raise InputError(f"'{folder}' has no tokenizer: expected one of {', '.join(VOCABULARIES)}")
        parts = []
        for auto, what in ((AutoImageProcessor, "image processor"), (AutoTokenizer, "tokenizer")):
            with quiet(f"'{folder}' has no usable {what}"):
                parts.append(auto.from_pretrained(folder, local_files_only=True))
        return cls(model, Processor(*parts), model.dtype).eval()

    @classmethod
    def wrap(cls, model: PreTrainedModel, processor: Any) -> DualEncoder:
        """Wrap a copy of a model in memory.

        Args:
            model: The model; it is not changed.
            processor: A ``transformers`` processor with ``image_processor`` and ``tokenizer``.

        Raises:
            InputError: The class is not supported, or the processor is incomplete.
        """
        check_supported(type(model), f"the model is a {type(model).__name__}")
        parts = [getattr(processor, name, None) for name in ("image_processor", "tokenizer")]
        if None in parts:
            raise InputError("processor= needs an image_processor and a tokenizer, as transformers' processors have")
        return cls(copy.deepcopy(model), Processor(*parts), model.dtype).eval()

    def unwrapped(self) -> PreTrainedModel:
        """The model of ``transformers``, in the type in which it came."""
        model: PreTrainedModel = copy.deepcopy(self.model).to(getattr(torch, self.config.dtype))
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what ``transformers`` writes for this class, in the type in which the weights came."""
        own = self.config.dtype == "float32"  # of 150 million parameters a copy is 0.6 GB
        with write_atomically(Path(folder)) as part, quiet(f"'{folder}' cannot be written"):
            (self.model if own else self.unwrapped()).save_pretrained(part)
            self.tokenizer.save_pretrained(part)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Model.tokenize`; a model without an attention mask reads texts padded to full length."""
        padding = {} if self._masked else {"padding": "max_length"}
        length = self.config.max_text_tokens
        encoded = self.tokenizer.tokenizer(list(texts), truncation=True, max_length=length, **padding)
        return list(encoded["input_ids"])

    @property
    def _masked(self) -> bool:
        # SigLIP was trained on texts padded to full length, and reads its last position whatever it is.
        siglip = str(self.config.settings["model_type"]).startswith("siglip")
        return not siglip and "attention_mask" in self.tokenizer.tokenizer.model_input_names

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`; ``pooled`` is what the projection reads."""
        read: list[Tensor] = []
        name = self._projections[modality]
        handle = None
        if name is not None:
            handle = getattr(self.model, name).register_forward_pre_hook(lambda _, given: read.append(given[0]))
        model: Any = self.model
        try:
            if isinstance(inputs, Tokens):
                mask = {"attention_mask": inputs.mask} if self._masked else {}
                outputs = model.get_text_features(input_ids=inputs.ids, **mask)
            else:
                assert isinstance(inputs, Tensor)
                outputs = model.get_image_features(pixel_values=self.tokenizer.normalise(inputs))
        finally:
            if handle is not None:
                handle.remove()
        pooled = read[0] if read else outputs.pooler_output
        states = outputs.last_hidden_state
        states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states  # a convolutional map (B, C, h, w)
        tokens = (
            inputs.mask if isinstance(inputs, Tokens) and self._masked else states.new_ones(states.shape[:2]).long()
        )
        return Encoding(states, tokens, pooled[:, 0] if pooled.dim() == 3 else pooled, "embedded")

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`; the projections belong to the fusion."""
        return Encoding(embedded.tokens, embedded.mask, embedded.pooled)

    def embedding(self, modality: str, encoding: Encoding) -> Tensor:
        """See :meth:`Model.embedding`."""
        name = self._projections[modality]
        projected = encoding.pooled if name is None else getattr(self.model, name)(encoding.pooled)
        return F.normalize(projected.float(), dim=-1)

    def _scale(self) -> Tensor:
        model: Any = self.model
        scale: Tensor = 1 / model.temperature if hasattr(model, "temperature") else model.logit_scale.exp()
        return scale.reshape(())

    def contrastive_scale(self) -> float:
        """See :meth:`Model.contrastive_scale`."""
        return float(self._scale().detach())

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; P times the element-wise product of the embeddings."""
        product = self.embedding("vision", encodings["vision"]) * self.embedding("text", encodings["text"])
        return product * product.shape[-1]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of "does not match" (0) and "matches" (scaled cosine + bias), ``(B, 2)``."""
        bias = getattr(self.model, "logit_bias", None)
        matches = fused.mean(-1) * self._scale() + (0 if bias is None else bias.reshape(()))
        return torch.stack([torch.zeros_like(matches), matches], -1)

    def pair_losses(self, batch: Batch, encodings: Mapping[str, Encoding]) -> Tensor:
        """Contrastive loss of each pair, both directions, ``(B,)``."""
        vision, text = (self.embedding(m, encodings[m]) for m in self.modalities)
        same = batch.examples["vision"][:, None] == batch.examples["text"][None, :]
        return contrastive_losses(vision @ text.T * self._scale(), same)


def check_supported(kind: Any, what: str) -> None:
    """Refuse a class that is no dual encoder of ``transformers``.

    Raises:
        InputError: It has no ``get_image_features`` or no ``get_text_features``.
    """
    if not (isinstance(kind, type) and hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
        raise InputError(
            f"{what}, which is not supported; supported are the dual encoders of transformers (CLIPModel, SiglipModel, "
            "MetaClip2Model, AltCLIPModel, ChineseCLIPModel, AlignModel, FlavaModel, GroupViTModel, "
            "VisionTextDualEncoderModel) and models that multidelete trained"
        )


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
