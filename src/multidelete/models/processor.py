"""Pictures and texts as a model reads them: stretched to a square, or by the processor of a ``transformers`` folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from multidelete.utils.errors import InputError

EXACT = 1e-4  # largest error of normalised pixels that are kept as uint8
NARROW = ((128, 512), (512, 128))  # the most room that a picture with its own aspect ratio takes


class Preparation(Protocol):
    """Makes the uint8 array that is kept of a picture in RGB."""

    @property
    def key(self) -> str:
        """Everything that the result depends on, for the cache."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result: height, width and channels, or rows and columns."""

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The prepared picture."""


@dataclass(frozen=True)
class Square:
    """Pictures stretched to a square of ``size`` pixels."""

    size: int

    @property
    def key(self) -> str:
        """See :class:`Preparation`."""
        return f"square {self.size}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """See :class:`Preparation`."""
        return self.size, self.size, 3

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """See :class:`Preparation`."""
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image)


class Processor:
    """Image processor and tokenizer of a folder, used for everything that the model reads.

    Pictures are resized and cropped by the image processor and kept as uint8. What it does to pixel values afterwards
    is the same affine map for every pixel of a channel, which :meth:`inputs` applies on the device. What is kept of a
    picture is one of

    - ``(H, W, 3)``, if all pictures get one size;
    - ``(H, W, 4)``, if each keeps its aspect ratio (ViLT): the fourth channel is 255 on the picture, 0 on padding;
    - ``(1 + N, P)``, if pictures become at most N patches (SigLIP 2): the first row holds the height and the width of
      the grid of patches, two bytes each.

    Args:
        image_processor: A ``transformers`` image processor.
        tokenizer: A ``transformers`` tokenizer.

    Raises:
        InputError: Pixel values of the image processor are no affine map of uint8 values.
    """

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
        given = self._processed(noise)
        black, white = (self._processed(np.full((64, 64, 3), v, np.uint8))["pixel_values"] for v in (0, 255))
        values, self.patches = given["pixel_values"], "spatial_shapes" in given
        if self.patches:
            self.offset, self.scale = black[:1], (white[:1] - black[:1]) / 255  # (1, P)
            self.shape: tuple[int, ...] = (1 + values.shape[0], values.shape[1])
            values = values[given["pixel_attention_mask"].astype(bool)]
        else:
            self.offset, self.scale = black[:, :1, :1], (white[:, :1, :1] - black[:, :1, :1]) / 255  # (3, 1, 1)
            narrow = [self._processed(np.zeros((*size, 3), np.uint8))["pixel_values"].shape for size in NARROW]
            sizes = {values.shape[1:], black.shape[1:], *(shape[1:] for shape in narrow)}
            self.shape = (*map(max, zip(*sizes, strict=True)), 3 if len(sizes) == 1 else 4)
        restored = self._rounded(values) * self.scale + self.offset
        if float(np.abs(values - restored).max()) > EXACT:
            raise InputError(
                f"the image processor {type(image_processor).__name__} changes pixel values in a way "
                "that is not supported (expected resizing and cropping, then scaling of each channel)"
            )

    @property
    def one_size(self) -> bool:
        """Whether all pictures get the same size."""
        return self.shape[-1] == 3 and not self.patches

    @property
    def key(self) -> str:
        """Everything that decoded pictures depend on, for the cache."""
        settings = json.dumps(self.image_processor.to_dict(), sort_keys=True, default=str)
        return f"{type(self.image_processor).__name__} {settings}"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """What is kept of a picture, of :attr:`shape`."""
        given = self._processed(np.asarray(image.convert("RGB")))
        pixels = self._rounded(given["pixel_values"])
        if self.patches:
            grid = given["spatial_shapes"].astype(">u2").view(np.uint8)
            return np.concatenate([np.resize(grid, (1, self.shape[1])), pixels])
        if self.one_size:
            return pixels.transpose(1, 2, 0)
        kept = np.zeros(self.shape, np.uint8)
        height, width = pixels.shape[1:]
        if height > kept.shape[0] or width > kept.shape[1]:
            raise InputError(f"{image.width} x {image.height} pixels are too narrow for the model's image processor")
        kept[:height, :width, :3], kept[:height, :width, 3] = pixels.transpose(1, 2, 0), 255
        return kept

    def inputs(self, kept: Tensor, *, crop: bool = True) -> dict[str, Tensor]:
        """Arguments of the model for pictures as they were kept.

        Args:
            kept: ``(B, channels, H, W)`` or ``(B, 1 + N, P)``.
            crop: Whether to drop the padding that all pictures of the batch have.
        """
        scale, offset = (torch.from_numpy(each).to(kept.device) for each in (self.scale, self.offset))
        if self.patches:
            grid = kept[:, 0, :4].long()
            shapes = torch.stack([grid[:, 0] * 256 + grid[:, 1], grid[:, 2] * 256 + grid[:, 3]], dim=1)
            mask = torch.arange(kept.shape[1] - 1, device=kept.device) < shapes.prod(1, keepdim=True)
            values = (kept[:, 1:].float() * scale + offset) * mask[..., None]
            return {"pixel_values": values, "pixel_attention_mask": mask.long(), "spatial_shapes": shapes}
        values = kept[:, :3].float() * scale + offset
        if self.one_size:
            # On a CPU convolutions are twice as fast in channels_last format.
            return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}
        mask = kept[:, 3] > 0
        height, width = mask.shape[1:]
        if crop:
            height, width = int(mask.any(2).sum(1).max()), int(mask.any(1).sum(1).max())
        values = (values * mask[:, None])[..., :height, :width]
        return {"pixel_values": values, "pixel_mask": mask[:, :height, :width].long()}

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens."""
        return list(self.tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def get_vocab(self) -> dict[str, int]:
        """Ids of the tokens."""
        return dict(self.tokenizer.get_vocab())

    def save_pretrained(self, folder: Path) -> None:
        """Write both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _processed(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        given = self.image_processor(images=image, return_tensors="np", input_data_format="channels_last")
        return {name: np.asarray(value[0]) for name, value in given.items()}

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        rounded: NDArray[np.uint8] = np.clip(np.rint((values - self.offset) / self.scale), 0, 255).astype(np.uint8)
        return rounded
