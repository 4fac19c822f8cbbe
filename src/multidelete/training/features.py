"""Encodings and fused outputs that are computed once and cached on disk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from multidelete.data.batches import Constant, Encodings, PairInputs, Ragged, Rows, Source, by_length
from multidelete.models.base import Model
from multidelete.models.extras import EXTRA
from multidelete.models.inputs import iterate_rows, within
from multidelete.training.engine import Engine
from multidelete.training.inference import encode_all
from multidelete.utils.cache import cache_dir
from multidelete.utils.files import write_atomically, write_file
from multidelete.utils.keys import cache_key, weights_hash


def encode_once(
    engine: Engine,
    model: Model,
    inputs: PairInputs,
    modality: str,
    *,
    embedded: bool = False,
    what: str | None = None,
) -> Source | None:
    """:func:`encode_all` over the dataset, cached on disk and memory-mapped.

    Returns:
        The encodings, or None if they need more than ``engine.cache_gigabytes``.
    """
    if isinstance(inputs.sources[modality], Constant):
        first = np.zeros(1, np.int64)
        return Constant(encode_all(engine, model, inputs, modality, first, embedded=embedded))
    key = _encoding_key(engine, model, inputs, modality, embedded)
    folder = cache_dir() / "encodings" / key
    if not folder.is_dir():
        if not embedded and model.backbone_frozen(modality):  # the backbone's outputs may be cached already
            backbone = encode_once(engine, model, inputs, modality, embedded=True, what=what)
            inputs = inputs if backbone is None else inputs.with_sources({modality: backbone})
        if _estimated_gigabytes(engine, model, inputs, modality, embedded) > engine.cache_gigabytes:
            return None
        done = encode_all(engine, model, inputs, modality, embedded=embedded, what=what)
        with write_atomically(folder) as part:
            np.save(part / "tokens.npy", done.tokens.flat)
            np.save(part / "offsets.npy", done.tokens.offsets)
            np.save(part / "pooled.npy", done.pooled)
            if done.mask is not None:
                np.save(part / "mask.npy", done.mask)
    return Encodings(
        Ragged(np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "offsets.npy")),
        np.load(folder / "pooled.npy"),
        "embedded" if embedded else "encoded",
        np.load(folder / "mask.npy") if (folder / "mask.npy").is_file() else None,
    )


def frozen_inputs(engine: Engine, model: Model, inputs: PairInputs, scope: str) -> PairInputs:
    """Replace inputs by precomputed encodings where training in this scope cannot change them.

    Modalities outside the scope get their encodings, those with a frozen backbone the backbone's outputs.
    """
    moving = model.parameters_of(scope)
    sources = {}
    for modality in model.modalities:
        fixed = not any(within(name, model.parts[modality]) for name in moving)
        if fixed or model.backbone_frozen(modality):
            sources[modality] = encode_once(
                engine, model, inputs, modality, embedded=not fixed, what=f"encoding {modality}"
            )
    return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})


def encoded_inputs(engine: Engine, model: Model, inputs: PairInputs) -> PairInputs:
    """Replace the inputs of all modalities by precomputed encodings, for a model that does not change."""
    sources = {m: encode_once(engine, model, inputs, m, what=f"encoding {m}") for m in model.modalities}
    return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})


@torch.no_grad()
def fused_once(engine: Engine, model: Model, inputs: PairInputs, text_rows: Rows, batch_size: int = 512) -> Fused:
    """Fused representations of true pairs, cached on disk and memory-mapped.

    Args:
        engine: Device, precision, progress.
        model: Model in eval mode.
        inputs: Model inputs of the dataset.
        text_rows: Pairs, one text row each.
        batch_size: Number of pairs per batch.
    """
    has = np.zeros(inputs.count("text"), dtype=bool)
    has[text_rows] = True
    weights = weights_hash(model.state_dict())
    config = model.config.canonical()
    rows_hash = text_rows.tobytes().hex()
    key = cache_key(
        "fused", weights, config, inputs.hash, rows_hash, engine.device_key(), code=(__name__, type(model).__module__)
    )
    path = cache_dir() / "fused" / f"{key}.npy"
    if not path.is_file():
        order = text_rows[by_length(inputs.sources["text"], text_rows)]
        values = None
        advance = engine.progress.start("teacher outputs", len(order))
        for part in iterate_rows(len(order), batch_size):
            rows = order[part]
            with engine.autocast():
                fused = model.fused(inputs.batch(inputs.true_pairs(rows), engine.device)).float().cpu().numpy()
            if values is None:
                values = np.zeros((len(has), fused.shape[1]), dtype=np.float32)
            values[rows] = fused
            advance(len(rows))
        engine.progress.finish()
        assert values is not None
        buffer = io.BytesIO()
        np.save(buffer, values)
        write_file(path, buffer.getvalue())
    return Fused(np.load(path, mmap_mode="r"), has)


def _encoding_key(engine: Engine, model: Model, inputs: PairInputs, modality: str, embedded: bool) -> str:
    parts = (modality,) if embedded else (*model.parts[modality], EXTRA)
    weights = {name: tensor for name, tensor in model.state_dict().items() if within(name, parts)}
    # A backbone's outputs serve models that differ only after the backbone.
    others = {each for each in model.modalities if each != modality}
    settings = model.config.canonical(exclude=others | (model.config.after_backbone if embedded else frozenset()))
    return cache_key(
        "encoding",
        weights_hash(weights),
        inputs.hash,
        settings,
        modality,
        embedded,
        engine.device_key(),
        code=(__name__, type(model).__module__),
    )


@torch.no_grad()
def _estimated_gigabytes(engine: Engine, model: Model, inputs: PairInputs, modality: str, embedded: bool) -> float:
    sample = np.arange(min(8, inputs.count(modality)))
    done = encode_all(engine, model, inputs, modality, sample, embedded=embedded)
    return done.tokens.flat.nbytes / len(sample) * inputs.count(modality) / 1e9


@dataclass(frozen=True)
class Fused:
    """Fused representations by text row.

    Args:
        values: ``(T, D)``, memory-mapped.
        has: Which rows were computed, ``(T,)``.
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    has: np.ndarray[Any, np.dtype[np.bool_]]
