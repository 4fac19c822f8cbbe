"""The only loops: ``fit`` takes optimiser steps, ``encode_all`` and ``pair_logits`` compute without gradients."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from multidelete.data.batches import Constant, Encodings, PairInputs, Ragged, Rows, Source, by_length
from multidelete.models.base import Encoding, Model, iterate_rows, within
from multidelete.utils.cache import cache_dir
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_atomically, write_file
from multidelete.utils.randomness import seeded

CHECKPOINT_FILE = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 20.0
SHARED_BYTES = (
    1 << 28
)  # of the encodings of examples whose pairs are fused at a time, where more of them make it faster
CACHED_PIXELS = 1 << 20  # 20 pictures of 224 px: of more the activations leave the cache, and each takes twice as long

Losses = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class FitSettings:
    """How ``fit`` walks.

    Args:
        steps: Optimiser steps.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to zero, or constant.
        weight_decay: AdamW's, on matrices only, never on norms and biases.
        warmup: Share of the steps.
        schedule: What follows the warm-up.
        clip: Largest norm of the gradient.
        evaluations: How many evenly spaced checkpoints are judged on validation; the best is kept. 0 keeps the last.
        stop_at: Criterion of a checkpoint after which no more steps are taken.
        seed: Seed of dropout.
        factors: Parameters whose rate is a multiple of that of the others; they do not decay.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    evaluations: int = 0
    stop_at: float = math.inf
    seed: int = 0
    lr_multipliers: dict[str, float] = field(default_factory=dict)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))

    def validation_steps(self) -> set[int]:
        """Numbers of steps after which a checkpoint is judged on validation."""
        return {round((i + 1) * self.steps / self.evaluations) for i in range(self.evaluations)} - {0}


@dataclass
class TrainingHistory:
    """What happened in one ``fit``: a line for each step, a line for each checkpoint judged."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    update_seconds: float = 0.0
    selection_seconds: float = 0.0


class ProgressReporter:
    """Where long work reports to; this one is silent. The command line shows bars with the time left."""

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """Begin a piece of work of ``total`` steps; the returned call advances it."""
        return lambda done: None

    def say(self, sentence: str) -> None:
        """One sentence for the user."""

    def finish(self) -> None:
        """The last piece of work that was started is done."""


@dataclass(frozen=True)
class Fused:
    """Fused representations by text row.

    Args:
        values: ``(T, D)``, memory-mapped.
        has: Which rows were computed, ``(T,)``.
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    has: np.ndarray[Any, np.dtype[np.bool_]]


class Engine:
    """Device, precision, progress and the loops.

    Args:
        precision: ``auto`` is bf16 on a GPU, and on a CPU with bf16 instructions for wide models; ``fp32``; ``bf16``.
        progress: Where progress is reported.
        resume: Continue from checkpoints that are found.
        cache_gigabytes: Encodings larger than this are computed again each time rather than kept on disk.
    """

    def __init__(
        self,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        progress: ProgressReporter | None = None,
        resume: bool = False,
        cache_gigabytes: float = 16.0,
    ) -> None:
        self.accelerator = Accelerator(mixed_precision="no", cpu=None)
        if self.accelerator.num_processes > 1:
            raise InputError(
                f"this version runs in one process, not in {self.accelerator.num_processes}: "
                "start it without a launcher, or with --num_processes 1"
            )
        self.precision = precision
        self.progress = progress or ProgressReporter()
        self.resume = resume
        self.cache_gigabytes = cache_gigabytes

    @property
    def device(self) -> torch.device:
        """Where models run: CUDA, MPS or CPU, found by accelerate."""
        device: torch.device = self.accelerator.device
        return device

    def dtype(self) -> torch.dtype:
        """Type of matrix products."""
        if self.precision == "fp32":
            return torch.float32
        if self.precision == "bf16" or (self.device.type == "cuda" and torch.cuda.is_bf16_supported()):
            return torch.bfloat16
        return torch.bfloat16 if self.device.type == "cpu" and _cpu_has_bf16() else torch.float32

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in the engine's precision."""
        with contextlib.ExitStack() as stack:
            if self.dtype() != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype()))
                if self.device.type == "cpu":
                    # The fused attention's bf16 backward takes five times as long as plain products on a CPU.
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read after it tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # -- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        model: Model,
        parameters: Mapping[str, Tensor],
        losses: Losses,
        fit_settings: FitSettings,
        *,
        what: str,
        training: bool,
        validate: Callable[[], dict[str, float]] | None = None,
        folder: Path | None = None,
    ) -> TrainingHistory:
        """Take optimiser steps on the sum of the named losses, until ``fit_settings.steps`` or ``stop_at``.

        Args:
            model: Changed in place; its device must be the engine's.
            parameters: What the optimiser holds. Everything else stands still.
            losses: Named loss terms of a step, scalars, summed.
            fit_settings: Steps, learning rates, selection.
            what: Name for progress and messages.
            training: Training mode (dropout, running statistics); unlearning runs without.
            validate: Scores on validation of the model as it is, with the key ``criterion``, higher is better.
            folder: Where checkpoints are kept while this runs; without it a killed run starts again.

        Returns:
            The history; ``model`` holds the last step's weights, or the best judged ones.

        Raises:
            InputError: The loss is not finite, or a checkpoint belongs to another run.
        """
        _set_mode(model, parameters, training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in parameters)
        state = _FitState.fresh(model, parameters, fit_settings)
        checkpoint = folder / CHECKPOINT_FILE if folder else None
        if checkpoint and self.resume and checkpoint.exists():
            state.restore(checkpoint, self.device)
            self.progress.say(f"{what}: continues at step {state.step} of {fit_settings.steps}")
        validation_steps = fit_settings.validation_steps() if validate else set()
        advance = self.progress.start(what, fit_settings.steps)
        advance(state.step)
        saved = time.monotonic()
        with _deferred_interrupt() as interrupted:
            while state.step < fit_settings.steps and state.best_criterion < fit_settings.stop_at:
                self._step(model, losses, fit_settings, state, what)
                advance(1)
                if validate and state.step in validation_steps:
                    self._validate(validate, state)
                    _set_mode(model, parameters, training)
                if checkpoint and (time.monotonic() - saved > CHECKPOINT_SECONDS or interrupted()):
                    state.save(checkpoint)
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
        self.progress.finish()
        state.take_best()
        if not all(bool(tensor.isfinite().all()) for tensor in parameters.values()):
            raise InputError(
                f"{what}: the weights are not finite after step {state.step}; "
                "a smaller learning rate or fewer epochs usually helps"
            )
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        return state.history

    def _step(self, model: Model, losses: Losses, fit_settings: FitSettings, state: _FitState, what: str) -> None:
        self.synchronise()
        began = time.perf_counter()
        rate = fit_settings.lr_at(state.step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate * group["lr_multiplier"]
        with seeded(fit_settings.seed, "step", state.step), self.autocast():
            terms = losses(state.step)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not torch.isfinite(total):
            shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            raise InputError(
                f"{what}: the loss became {float(total.detach())} at step {state.step + 1} ({shown}); "
                "a smaller learning rate or fewer epochs usually helps"
            )
        state.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(list(state.parameters.values()), fit_settings.clip)
        state.optimiser.step()
        self.synchronise()
        state.step += 1
        state.history.update_seconds += time.perf_counter() - began
        values["total"] = float(total.detach())
        state.history.lines.append({"step": state.step, "losses": values, "learning_rate": rate})

    def _validate(self, validate: Callable[[], dict[str, float]], state: _FitState) -> None:
        began = time.perf_counter()
        state.model.eval()
        scores = validate()
        if scores["criterion"] > state.best_criterion:
            state.keep_best(scores["criterion"])
        state.history.lines.append({"step": state.step, "validation": scores})
        state.history.selection_seconds += time.perf_counter() - began

    # -- prediction ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_all(
        self,
        model: Model,
        inputs: PairInputs,
        modality: str,
        rows: Rows | None = None,
        *,
        embedded: bool = False,
        batch_size: int | None = None,
        what: str | None = None,
    ) -> Encodings:
        """Encodings of rows of one modality, in memory.

        Args:
            model: In eval mode.
            inputs: What it reads.
            modality: Which encoder.
            rows: Which rows; all by default. The result has one entry for each, in this order.
            embedded: Stop after the backbone.
            batch_size: Rows at a time; by default as many as suit the encoder.
            what: Name for progress; silent without.
        """
        chosen = np.arange(inputs.count(modality)) if rows is None else rows
        source = inputs.sources[modality]
        if isinstance(source, Constant):
            single = inputs.with_sources({modality: source.inner})
            one = self.encode_all(model, single, modality, np.zeros(1, np.int64), embedded=embedded)
            return one.select(np.zeros_like(chosen))
        if isinstance(source, Encodings) and (source.stage == "encoded" or embedded):
            return source.select(chosen)
        # Texts of similar length share a batch, so that little is spent on padding.
        order = by_length(source, chosen)
        tokens: list[Any] = [None] * len(chosen)
        pooled: list[Any] = [None] * len(chosen)
        advance = self.progress.start(what, len(chosen)) if what else None
        stage = "embedded" if embedded else "encoded"
        for part in iterate_rows(len(chosen), batch_size or self._rows_at_a_time(model, modality)):
            indices = order[part]
            given = source.take(chosen[indices]).to(self.device)
            with self.autocast():
                done = model.embed(modality, given) if embedded else model.encode_one(modality, given)  # type: ignore[arg-type]
            lengths = done.mask.sum(1).tolist()
            states, vectors = done.tokens.float().cpu().numpy(), done.pooled.float().cpu().numpy()
            for i, index in enumerate(indices):
                tokens[index], pooled[index] = states[i, : lengths[i]], vectors[i]
            if advance:
                advance(len(indices))
        if advance:
            self.progress.finish()
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64)
        return Encodings(Ragged(np.concatenate(tokens), offsets), np.stack(pooled), stage)

    def _rows_at_a_time(self, model: Model, modality: str) -> int:
        """Rows that an encoder is given together: on a CPU pictures so few that they stay in the processor's cache."""
        if modality != "vision" or self.device.type != "cpu":
            return 256
        return min(256, max(4, CACHED_PIXELS // (model.config.images * model.config.image_size**2)))

    def encode_once(
        self,
        model: Model,
        inputs: PairInputs,
        modality: str,
        *,
        embedded: bool = False,
        what: str | None = None,
    ) -> Source | None:
        """:meth:`encode_all` over the whole dataset, kept on disk under a hash of weights and data, memory-mapped.

        Returns:
            None where they would be larger than ``cache_gigabytes``.
        """
        if isinstance(inputs.sources[modality], Constant):
            first = np.zeros(1, np.int64)
            return Constant(self.encode_all(model, inputs, modality, first, embedded=embedded))
        key = self._encoding_key(model, inputs, modality, embedded)
        folder = cache_dir() / "encodings" / key
        if not folder.is_dir():
            if not embedded and model.backbone_frozen(modality):  # the slow part may have been done for another model
                backbone = self.encode_once(model, inputs, modality, embedded=True, what=what)
                inputs = inputs if backbone is None else inputs.with_sources({modality: backbone})
            if self._estimated_gigabytes(model, inputs, modality, embedded) > self.cache_gigabytes:
                return None
            done = self.encode_all(model, inputs, modality, embedded=embedded, what=what)
            with write_atomically(folder) as part:
                np.save(part / "tokens.npy", done.tokens.flat)
                np.save(part / "offsets.npy", done.tokens.offsets)
                np.save(part / "pooled.npy", done.pooled)
        return Encodings(
            Ragged(np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "offsets.npy")),
            np.load(folder / "pooled.npy"),
            "embedded" if embedded else "encoded",
        )

    def frozen_inputs(self, model: Model, inputs: PairInputs, scope: str) -> PairInputs:
        """The inputs with everything computed beforehand that no step in this scope can change.

        Where a modality's encoder does not move, its encodings; where its backbone is frozen, the backbone's outputs.
        """
        moving = model.parameters_of(scope)
        sources = {}
        for modality in model.modalities:
            fixed = not any(within(name, model.parts[modality]) for name in moving)
            if fixed or model.backbone_frozen(modality):
                sources[modality] = self.encode_once(
                    model, inputs, modality, embedded=not fixed, what=f"encoding {modality} once"
                )
        return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})

    def encoded_inputs(self, model: Model, inputs: PairInputs) -> PairInputs:
        """The inputs with the outputs of every encoder of a model that does not change."""
        sources = {m: self.encode_once(model, inputs, m, what=f"encoding {m} once") for m in model.modalities}
        return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})

    @torch.no_grad()
    def fused_once(self, model: Model, inputs: PairInputs, text_rows: Rows, batch_size: int = 512) -> Fused:
        """Fused representations of true pairs, kept on disk under a hash of weights and data, memory-mapped.

        Args:
            model: In eval mode.
            inputs: What it reads.
            text_rows: The pairs, one text row each.
            batch_size: Pairs at a time.
        """
        has = np.zeros(inputs.count("text"), dtype=bool)
        has[text_rows] = True
        weights = weights_hash(model.state_dict())
        key = digest(weights, model.config.canonical(), inputs.hash, text_rows.tobytes().hex(), self._device_key())
        path = cache_dir() / "fused" / f"{key}.npy"
        if not path.is_file():
            order = text_rows[by_length(inputs.sources["text"], text_rows)]
            values = None
            advance = self.progress.start("teacher's outputs once", len(order))
            for part in iterate_rows(len(order), batch_size):
                rows = order[part]
                with self.autocast():
                    fused = model.fused(inputs.batch(inputs.true_pairs(rows), self.device)).float().cpu().numpy()
                if values is None:
                    values = np.zeros((len(has), fused.shape[1]), dtype=np.float32)
                values[rows] = fused
                advance(len(rows))
            self.progress.finish()
            assert values is not None
            buffer = io.BytesIO()
            np.save(buffer, values)
            write_file(path, buffer.getvalue())
        return Fused(np.load(path, mmap_mode="r"), has)

    def _device_key(self) -> str:
        return f"{self.device.type} {self.dtype()}"

    def _encoding_key(self, model: Model, inputs: PairInputs, modality: str, embedded: bool) -> str:
        parts = (modality,) if embedded else model.parts[modality]
        weights = {name: tensor for name, tensor in model.state_dict().items() if within(name, parts)}
        # Whatever the encoders read; what only the fusion has need not be the same.
        read = {"image_size", "image_mean", "image_std", "max_text_tokens", "neighbourhood", modality}
        settings = model.config.canonical(read)
        return digest(weights_hash(weights), inputs.hash, settings, modality, embedded, self._device_key())

    @torch.no_grad()
    def _estimated_gigabytes(self, model: Model, inputs: PairInputs, modality: str, embedded: bool) -> float:
        sample = np.arange(min(8, inputs.count(modality)))
        done = self.encode_all(model, inputs, modality, sample, embedded=embedded)
        return done.tokens.flat.nbytes / len(sample) * inputs.count(modality) / 1e9

    @torch.no_grad()
    def pair_logits(
        self,
        model: Model,
        image_or_graph: Encodings,
        text: Encodings,
        pairs: tuple[Rows, Rows],
        *,
        batch_size: int = 512,
        what: str | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The head's logits of each pair, ``(P, C)``.

        Args:
            model: In eval mode.
            image_or_graph: Encodings of examples (images, graphs).
            text: Encodings of texts.
            pairs: Rows into the two, ``(P,)`` each.
            batch_size: Pairs at a time; more of them where the model computes once what their sides have in common.
            what: Name for progress; silent without.
        """
        examples, texts = pairs
        order = by_length(text, texts)
        if model.shares_sides:
            room = SHARED_BYTES * len(image_or_graph.pooled) // max(1, image_or_graph.tokens.flat.nbytes)
            batch_size = min(max(batch_size, room), 8 * batch_size)
        logits = np.empty((len(examples), max(2, len(model.config.labels))), dtype=np.float32)
        advance = self.progress.start(what, len(examples)) if what else None
        for part in iterate_rows(len(examples), batch_size):
            indices = order[part]
            encodings, rows = {}, {}
            for modality, side, chosen in zip(model.modalities, (image_or_graph, text), (examples, texts), strict=True):
                own, of_pairs = np.unique(chosen[indices], return_inverse=True)
                encodings[modality] = side.take(own).to(self.device)
                rows[modality] = torch.from_numpy(of_pairs).to(self.device)
            with self.autocast():
                fused = model.fuse_pairs(encodings, rows)
                logits[indices] = model.head(fused).float().cpu().numpy()
            if advance:
                advance(len(indices))
        if advance:
            self.progress.finish()
        return logits

    @torch.no_grad()
    def embeddings(self, model: Model, modality: str, encodings: Encodings) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors whose inner products are the contrastive similarities, ``(N, P)``."""
        pooled = torch.from_numpy(encodings.pooled).to(self.device)
        nothing = pooled.new_zeros(len(pooled), 0)
        with self.autocast():
            return model.embedding(modality, Encoding(nothing, nothing, pooled)).float().cpu().numpy()


def _set_mode(model: Model, parameters: Mapping[str, Tensor], training: bool) -> None:
    """Training mode where something moves; dropout and running statistics of the rest stand still with it."""
    model.train(training)
    for parts in model.parts.values():
        if not any(within(name, parts) for name in parameters):
            for part in parts:
                if isinstance(module := getattr(model, part, None), nn.Module):
                    module.eval()


def _cpu_has_bf16() -> bool:
    """Whether bf16 products are faster than fp32 ones here; without the instructions they are emulated."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and any(
        getattr(torch.cpu, check)() for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def digest(*parts: Any) -> str:
    """A hash of values that have a stable text."""
    return hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).hexdigest()[:32]


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names and values of tensors."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of the step that is being taken, so that a checkpoint of it can be written."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: seen.set())
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _FitState:
    """Everything that a step depends on: what is not here cannot change the outcome of a resumed run."""

    def __init__(
        self, model: Model, parameters: dict[str, Tensor], optimiser: torch.optim.AdamW, fit_settings: FitSettings
    ):
        self.model, self.parameters, self.optimiser, self.fit_settings = model, parameters, optimiser, fit_settings
        self.step = 0
        self.history = TrainingHistory()
        self.best: dict[str, Tensor] = {}
        self.best_criterion = float("-inf")
        self.best_step = 0

    @classmethod
    def fresh(cls, model: Model, parameters: Mapping[str, Tensor], fit_settings: FitSettings) -> _FitState:
        alike = [p for name, p in parameters.items() if name not in fit_settings.lr_multipliers]
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in alike if p.dim() > 1],
                "weight_decay": fit_settings.weight_decay,
                "lr_multiplier": 1.0,
            },
            {"params": [p for p in alike if p.dim() <= 1], "weight_decay": 0.0, "lr_multiplier": 1.0},
        ]
        for name, lr_multiplier in fit_settings.lr_multipliers.items():
            groups.append({"params": [parameters[name]], "weight_decay": 0.0, "lr_multiplier": lr_multiplier})
        # Of many small weights the loop over them takes longer than their sums do.
        fused = all(parameter.device.type == "cpu" for parameter in parameters.values())
        optimiser = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=fit_settings.learning_rate, betas=(0.9, 0.999), fused=fused or None
        )
        return cls(model, dict(parameters), optimiser, fit_settings)

    def moving(self) -> dict[str, Tensor]:
        """Trained parameters and buffers (running statistics)."""
        return {**{n: p.detach() for n, p in self.parameters.items()}, **dict(self.model.named_buffers())}

    def keep_best(self, criterion: float) -> None:
        self.best_criterion, self.best_step = criterion, self.step
        self.best = {name: tensor.clone() for name, tensor in self.moving().items()}

    @torch.no_grad()
    def take_best(self) -> None:
        if not self.best:
            return
        for name, tensor in self.moving().items():
            tensor.copy_(self.best[name])
        for line in self.history.lines:
            if "validation" in line and line["step"] == self.best_step:
                line["selected"] = True

    def save(self, path: Path) -> None:
        """Write all of it, atomically."""
        tensors = {f"model.{n}": t for n, t in self.moving().items()}
        tensors |= {f"best.{n}": t for n, t in self.best.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{key}.{name}"] = value
        facts = {
            "fit_settings": asdict(self.fit_settings),
            "step": self.step,
            "best_criterion": self.best_criterion,
            "best_step": self.best_step,
            "history": asdict(self.history),
        }
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        write_file(path, save(copies, {"facts": json.dumps(facts)}))

    @torch.no_grad()
    def restore(self, path: Path, device: torch.device) -> None:
        """Take over what :meth:`save` wrote.

        Raises:
            InputError: It was written under another plan or for other parameters, or it is damaged.
        """
        content = path.read_bytes()
        try:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            facts = json.loads(header["__metadata__"]["facts"])
            tensors = load(content)
        except (ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to start this part again") from error
        current = self.moving()
        fits = all(f"model.{n}" in tensors and tensors[f"model.{n}"].shape == t.shape for n, t in current.items())
        if facts["fit_settings"] != json.loads(json.dumps(asdict(self.fit_settings))) or not fits:
            raise InputError(f"{path} is the checkpoint of a run with other settings; remove it or start elsewhere")
        for name, tensor in current.items():
            tensor.copy_(tensors[f"model.{name}"])
        self.best = {n.removeprefix("best."): t.to(device) for n, t in tensors.items() if n.startswith("best.")}
        for name, parameter in self.parameters.items():
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"optimiser.{k}.{name}" in tensors]
            if keys:
                self.optimiser.state[parameter] = {
                    k: tensors[f"optimiser.{k}.{name}"].to("cpu" if k == "step" else device) for k in keys
                }
        self.step, self.best_step = facts["step"], facts["best_step"]
        self.best_criterion = facts["best_criterion"]
        self.history = TrainingHistory(**facts["history"])
