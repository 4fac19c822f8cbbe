"""Encodings, logits and embeddings without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from multidelete.data.batches import Constant, Encoded, Encodings, PairInputs, Ragged, Rows, by_length
from multidelete.models.base import Model
from multidelete.models.inputs import Encoding, iterate_rows
from multidelete.training.engine import Engine

SHARED_BYTES = 1 << 28  # maximum size of example encodings per batch, for models that share computations
CACHED_PIXELS = 1 << 20  # 20 images of 224 px; with more, activations leave the cache, and an image takes twice as long


@torch.no_grad()
def encode_all(
    engine: Engine,
    model: Model,
    inputs: PairInputs,
    modality: str,
    rows: Rows | None = None,
    *,
    embedded: bool = False,
    batch_size: int | None = None,
    what: str | None = None,
) -> Encodings:
    """Encode rows of one modality, in memory.

    Args:
        engine: Device, precision, progress.
        model: Model in eval mode.
        inputs: Model inputs of the dataset.
        modality: Modality to encode.
        rows: Rows to encode, in the order of the result; all by default.
        embedded: Stop after the backbone.
        batch_size: Rows per batch; the default depends on the encoder.
        what: Label of the progress bar; None shows no bar.
    """
    chosen = np.arange(inputs.count(modality)) if rows is None else rows
    source = inputs.sources[modality]
    if isinstance(source, Constant):
        single = inputs.with_sources({modality: source.inner})
        one = encode_all(engine, model, single, modality, np.zeros(1, np.int64), embedded=embedded)
        return one.select(np.zeros_like(chosen))
    if isinstance(source, Encodings | Encoded) and (source.stage == "encoded" or embedded):
        return source.select(chosen)
    inputs.fetch({modality: chosen})
    # Texts of similar length share a batch, to reduce padding.
    order = by_length(source, chosen)
    tokens: list[Any] = [None] * len(chosen)
    pooled: list[Any] = [None] * len(chosen)
    masks: list[Any] = [None] * len(chosen)
    several = modality == "vision" and model.config.images > 1  # there may be padding after each image
    advance = engine.progress.start(what, len(chosen)) if what else None
    stage = "embedded" if embedded else "encoded"
    for part in iterate_rows(len(chosen), batch_size or _rows_at_a_time(engine, model, modality)):
        indices = order[part]
        given = source.take(chosen[indices]).to(engine.device)
        with engine.autocast():
            done = model.embed(modality, given) if embedded else model.encode_one(modality, given)  # type: ignore[arg-type]
        lengths, seen = done.mask.sum(1).tolist(), done.mask.cpu().numpy()
        states, vectors = done.tokens.float().cpu().numpy(), done.pooled.float().cpu().numpy()
        for i, index in enumerate(indices):
            if several:
                lengths[i], masks[index] = seen.shape[1], seen[i]
            tokens[index], pooled[index] = states[i, : lengths[i]], vectors[i]
        if advance:
            advance(len(indices))
    if advance:
        engine.progress.finish()
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64)
    mask = np.stack(masks) if several and not all(each.all() for each in masks) else None
    return Encodings(Ragged(np.concatenate(tokens), offsets), np.stack(pooled), stage, mask)


def _rows_at_a_time(engine: Engine, model: Model, modality: str) -> int:
    """Batch size of an encoder; on a CPU, batches of images are small enough for the processor's cache."""
    if modality != "vision" or engine.device.type != "cpu":
        return 256
    return min(256, max(4, CACHED_PIXELS // (model.config.images * model.config.image_size**2)))


@torch.no_grad()
def pair_logits(
    engine: Engine,
    model: Model,
    image_or_graph: Encodings,
    text: Encodings,
    pairs: tuple[Rows, Rows],
    *,
    batch_size: int = 512,
    what: str | None = None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits of the head for each pair, ``(P, C)``.

    Args:
        engine: Device, precision, progress.
        model: Model in eval mode.
        image_or_graph: Encodings of examples (images, graphs).
        text: Encodings of texts.
        pairs: Rows of both encodings, ``(P,)`` each.
        batch_size: Pairs per batch; larger for models that share computations between pairs with a common side.
        what: Label of the progress bar; None shows no bar.
    """
    examples, texts = pairs
    order = by_length(text, texts)
    if model.shares_sides:
        room = SHARED_BYTES * len(image_or_graph.pooled) // max(1, image_or_graph.tokens.flat.nbytes)
        batch_size = min(max(batch_size, room), 8 * batch_size)
    logits = np.empty((len(examples), max(2, len(model.config.labels))), dtype=np.float32)
    advance = engine.progress.start(what, len(examples)) if what else None
    for part in iterate_rows(len(examples), batch_size):
        indices = order[part]
        encodings, rows = {}, {}
        for modality, side, chosen in zip(model.modalities, (image_or_graph, text), (examples, texts), strict=True):
            own, of_pairs = np.unique(chosen[indices], return_inverse=True)
            encodings[modality] = side.take(own).to(engine.device)
            rows[modality] = torch.from_numpy(of_pairs).to(engine.device)
        with engine.autocast():
            fused = model.fuse_pairs(encodings, rows)
            logits[indices] = model.head(fused).float().cpu().numpy()
        if advance:
            advance(len(indices))
    if advance:
        engine.progress.finish()
    return logits


@torch.no_grad()
def embeddings(
    engine: Engine, model: Model, modality: str, encodings: Encodings
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors whose inner products are the contrastive similarities, ``(N, P)``, or ``(N, Q, P)`` of images."""
    if model.embedding_reads == "pooled":  # token states may be on disk
        pooled = torch.from_numpy(encodings.pooled).to(engine.device)
        nothing = pooled.new_zeros(len(pooled), 0)
        with engine.autocast():
            return model.embedding(modality, Encoding(nothing, nothing, pooled)).float().cpu().numpy()
    parts = []
    for part in iterate_rows(len(encodings.pooled), 256):
        given = encodings.take(np.arange(part.start, part.stop)).to(engine.device)
        with engine.autocast():
            parts.append(model.embedding(modality, given).float().cpu().numpy())
    return np.concatenate(parts)
