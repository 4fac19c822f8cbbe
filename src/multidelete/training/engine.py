"""Device, precision, progress and callbacks of computations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from multidelete.training.callbacks import Callback
from multidelete.training.progress import ProgressReporter, default_progress
from multidelete.utils.errors import InputError


class Engine:
    """Device, precision, progress and callbacks.

    Args:
        precision: ``auto`` (bf16 if the device is fast with it), ``fp32`` or ``bf16``.
        progress: Progress bars; by default only in notebooks.
        resume: Resume from existing checkpoints.
        cache_gigabytes: Larger encodings are recomputed instead of cached on disk.
        callbacks: Callbacks of all training loops.
    """

    def __init__(
        self,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        progress: ProgressReporter | None = None,
        resume: bool = False,
        cache_gigabytes: float = 16.0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.accelerator = Accelerator(mixed_precision="no", cpu=None)
        if self.accelerator.num_processes > 1:
            raise InputError(
                f"this version runs in one process, not in {self.accelerator.num_processes}: "
                "start it without a launcher, or with --num_processes 1"
            )
        self.precision = precision
        self.progress = progress or default_progress()
        self.resume = resume
        self.cache_gigabytes = cache_gigabytes
        self.callbacks = tuple(callbacks)

    @property
    def device(self) -> torch.device:
        """Device chosen by accelerate: CUDA, MPS or CPU."""
        device: torch.device = self.accelerator.device
        return device

    def dtype(self) -> torch.dtype:
        """Data type of matrix products."""
        if self.precision == "fp32":
            return torch.float32
        if self.precision == "bf16" or (self.device.type == "cuda" and torch.cuda.is_bf16_supported()):
            return torch.bfloat16
        return torch.bfloat16 if self.device.type == "cpu" and _cpu_has_bf16() else torch.float32

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Context in which matrix products use :meth:`dtype`."""
        with contextlib.ExitStack() as stack:
            if self.dtype() != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype()))
                if self.device.type == "cpu":
                    # On a CPU the bf16 backward of fused attention takes five times as long as plain products.
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def synchronise(self) -> None:
        """Wait for pending work on the device, for correct timing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def device_key(self) -> str:
        """Device and precision, for cache keys."""
        return f"{self.device.type} {self.dtype()}"


def _cpu_has_bf16() -> bool:
    """Whether the CPU supports bf16 natively; otherwise it is emulated and slower than fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and any(
        getattr(torch.cpu, check)() for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
