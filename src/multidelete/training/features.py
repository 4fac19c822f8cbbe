"""Encodings and fused outputs that are computed once and cached on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multidelete.data.batches import TOGETHER, Constant, Encodings, PairInputs, Ragged, Rows, Source, by_length
from multidelete.models.base import Model
from multidelete.models.extras import EXTRA
from multidelete.models.inputs import Encoding, iterate_rows, within
from multidelete.training.engine import Engine
from multidelete.training.inference import encode_all
from multidelete.utils.cache import cache_dir, has_entry, new_entry
from multidelete.utils.keys import cache_key, weights_hash


def encode_once(
    engine: Engine,
    model: Model,
    inputs: PairInputs,
    modality: str,
    *,
    embedded: bool = False,
    what: str | None = None,
    on_demand: bool = False,
) -> Source | None:
    """:func:`encode_all` over the dataset, cached on disk and memory-mapped.

    Args:
        engine: Device, precision, progress, limit of the cache.
        model: Model in eval mode.
        inputs: Model inputs of the dataset.
        modality: Modality to encode.
        embedded: Stop after the backbone.
        what: Label of the progress bar; None shows no bar.
        on_demand: Encode rows only when they are asked for, if there are more than ``TOGETHER``. The encoding part of
            the model must then stay as it is.

    Returns:
        The encodings, or None if they need more than ``engine.cache_gigabytes``.
    """
    if isinstance(inputs.sources[modality], Constant):
        first = np.zeros(1, np.int64)
        return Constant(encode_all(engine, model, inputs, modality, first, embedded=embedded))
    key = _encoding_key(engine, model, inputs, modality, embedded)
    folder = cache_dir() / "encodings" / key
    if not has_entry(folder):
        if not embedded and model.backbone_frozen(modality):  # the backbone's outputs may be cached already
            backbone = encode_once(engine, model, inputs, modality, embedded=True, what=what, on_demand=on_demand)
            inputs = inputs if backbone is None else inputs.with_sources({modality: backbone})
        if _estimated_gigabytes(engine, model, inputs, modality, embedded) > engine.cache_gigabytes:
            return None
        if on_demand and inputs.count(modality) > TOGETHER:
            return EncodedRows(engine, model, inputs, modality, embedded, folder.with_name(f"{key}-rows"))
        _write(folder, encode_all(engine, model, inputs, modality, embedded=embedded, what=what))
    return _read(folder, embedded)


class EncodedRows:
    """Encodings of the rows that were asked for; what is computed at once is a folder in the cache.

    Args:
        engine: Device and precision.
        model: Model in eval mode.
        inputs: Model inputs of the dataset.
        modality: Modality to encode.
        embedded: Stop after the backbone.
        folder: Folder in the cache.
    """

    def __init__(
        self, engine: Engine, model: Model, inputs: PairInputs, modality: str, embedded: bool, folder: Path
    ) -> None:
        self._engine, self._model, self._inputs = engine, model, inputs
        self._modality, self._embedded, self._folder = modality, embedded, folder
        self.stage = "embedded" if embedded else "encoded"
        self._parts: dict[str, Encodings] = {}
        self._part = np.full(inputs.count(modality), -1)  # of each row, or -1
        self._index = np.zeros(inputs.count(modality), dtype=np.int64)  # of each row in its part

    def fetch(self, rows: Rows) -> None:
        """Encode those of these rows that are not in the cache."""
        if (self._part[rows] >= 0).all():
            return
        for path in sorted(self._folder.glob("[!.]*")):  # others may have encoded them meanwhile
            self._add(path)
        missing = np.unique(rows[self._part[rows] < 0])
        if len(missing):
            path = self._folder / cache_key("rows", missing.tobytes().hex(), code=())
            done = encode_all(self._engine, self._model, self._inputs, self._modality, missing, embedded=self._embedded)
            _write(path, done, missing)
            self._add(path)

    def lengths(self, rows: Rows) -> Rows:
        """Number of tokens of these rows."""
        self.fetch(rows)
        result = np.empty(len(rows), dtype=np.int64)
        for part, own in self._by_part(rows):
            result[own] = part.lengths(self._index[rows[own]])
        return result

    def select(self, rows: Rows) -> Encodings:
        """The encodings of these rows, in memory."""
        self.fetch(rows)
        selected = [(part.select(self._index[rows[own]]), own) for part, own in self._by_part(rows)]
        order = np.argsort(np.concatenate([own for _, own in selected]))
        return Encodings.join([part for part, _ in selected]).select(order)

    def take(self, rows: Rows) -> Encoding:
        """Encodings of these rows, padded to the longest."""
        return self.select(rows).take(np.arange(len(rows)))

    def _by_part(self, rows: Rows) -> Iterator[tuple[Encodings, Rows]]:
        """Each part that contains some of these rows, and where they are among them."""
        parts = list(self._parts.values())
        for number in np.unique(self._part[rows]):
            yield parts[number], np.flatnonzero(self._part[rows] == number)

    def _add(self, path: Path) -> None:
        if path.name in self._parts or not has_entry(path):
            return
        rows = np.load(path / "rows.npy")
        self._part[rows], self._index[rows] = len(self._parts), np.arange(len(rows))
        self._parts[path.name] = _read(path, self._embedded)


def _write(folder: Path, done: Encodings, rows: Rows | None = None) -> None:
    with new_entry(folder) as part:
        np.save(part / "tokens.npy", done.tokens.flat)
        np.save(part / "offsets.npy", done.tokens.offsets)
        np.save(part / "pooled.npy", done.pooled)
        if done.mask is not None:
            np.save(part / "mask.npy", done.mask)
        if rows is not None:
            np.save(part / "rows.npy", rows)


def _read(folder: Path, embedded: bool) -> Encodings:
    return Encodings(
        Ragged(np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "offsets.npy")),
        np.load(folder / "pooled.npy"),
        "embedded" if embedded else "encoded",
        np.load(folder / "mask.npy") if (folder / "mask.npy").is_file() else None,
    )


def frozen_inputs(
    engine: Engine, model: Model, inputs: PairInputs, scope: str, *, on_demand: bool = False
) -> PairInputs:
    """Replace inputs by precomputed encodings where training in this scope cannot change them.

    Modalities outside the scope get their encodings, those with a frozen backbone the backbone's outputs. See
    :func:`encode_once` for ``on_demand``.
    """
    moving = model.parameters_of(scope)
    sources = {}
    for modality in model.modalities:
        fixed = not any(within(name, model.parts[modality]) for name in moving)
        if fixed or model.backbone_frozen(modality):
            sources[modality] = encode_once(
                engine, model, inputs, modality, embedded=not fixed, what=f"encoding {modality}", on_demand=on_demand
            )
    return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})


def encoded_inputs(engine: Engine, model: Model, inputs: PairInputs) -> PairInputs:
    """Replace the inputs of all modalities by encodings that are computed once, for a model that does not change."""
    sources = {m: encode_once(engine, model, inputs, m, what=f"encoding {m}", on_demand=True) for m in model.modalities}
    return inputs.with_sources({modality: source for modality, source in sources.items() if source is not None})


@torch.no_grad()
def fused_once(engine: Engine, model: Model, inputs: PairInputs, text_rows: Rows, batch_size: int = 512) -> Fused:
    """Fused representations of true pairs, cached on disk and memory-mapped.

    Args:
        engine: Device, precision, progress.
        model: Model in eval mode.
        inputs: Model inputs of the dataset.
        text_rows: Pairs, one text row each, sorted.
        batch_size: Number of pairs per batch.
    """
    weights = weights_hash(model.state_dict())
    config = model.config.canonical()
    rows_hash = text_rows.tobytes().hex()
    key = cache_key(
        "fused", weights, config, inputs.hash, rows_hash, engine.device_key(), code=(__name__, type(model).__module__)
    )
    folder = cache_dir() / "fused" / key
    if not has_entry(folder):
        inputs.fetch(inputs.true_pairs(text_rows))
        order = by_length(inputs.sources["text"], text_rows)
        values = None
        advance = engine.progress.start("teacher outputs", len(order))
        for part in iterate_rows(len(order), batch_size):
            index = order[part]
            with engine.autocast():
                fused = (
                    model.fused(inputs.batch(inputs.true_pairs(text_rows[index]), engine.device)).float().cpu().numpy()
                )
            if values is None:
                values = np.empty((len(order), fused.shape[1]), dtype=np.float32)
            values[index] = fused
            advance(len(index))
        engine.progress.finish()
        assert values is not None
        with new_entry(folder) as entry:
            np.save(entry / "fused.npy", values)
    return Fused(np.load(folder / "fused.npy", mmap_mode="r"), text_rows)


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
    """Fused representations of true pairs.

    Args:
        values: ``(P, D)``, memory-mapped.
        rows: Text row of each, sorted, ``(P,)``.
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    rows: Rows
