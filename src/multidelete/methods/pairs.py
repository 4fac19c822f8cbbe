"""Functions of pairs that several methods share: log-probabilities, divergence from a teacher, wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.samplers import RetainBatch
from multidelete.models.base import Model
from multidelete.models.inputs import Batch, Encoding, ModalityInput
from multidelete.training.engine import Engine
from multidelete.utils.randomness import derive, generator


def encoded(model: Model, batch: Batch) -> Batch:
    """Batch whose inputs are replaced by their encodings, so that several forward passes encode once."""
    encodings: Mapping[str, Encoding] = model.encode(batch)
    inputs: dict[str, ModalityInput] = dict(encodings)
    return replace(batch, inputs=inputs)


def label_log_probabilities(model: Model, logits: Tensor, batch: Batch) -> Tensor:
    """Log-probability of the true label of each true pair, ``(B,)``; in retrieval of a match.

    Args:
        model: Model that computed the logits.
        logits: Logits of the classes, or of "no match" and "match", ``(B, C)``.
        batch: The pairs.
    """
    logarithms = logits.float().log_softmax(-1)
    if not model.config.labels:
        return logarithms[:, -1]
    assert batch.labels is not None
    return logarithms.gather(1, batch.labels[:, None]).squeeze(1)


def label_log_odds(model: Model, logits: Tensor, batch: Batch) -> Tensor:
    """Log-odds of the true label of each true pair, ``(B,)``; in retrieval of a match. See :func:`true_label_log_odds`.

    Args:
        model: Model that computed the logits.
        logits: Logits of the classes, or of "no match" and "match", ``(B, C)``.
        batch: The pairs.
    """
    wide = logits.float()
    own = batch.labels if model.config.labels else torch.ones(len(wide), dtype=torch.long, device=wide.device)
    assert own is not None
    true = F.one_hot(own, wide.shape[1]).bool()
    return wide[true] - wide.masked_fill(true, -torch.inf).logsumexp(-1)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Mean over the pairs of :math:`\tau^2 \, KL(p_{teacher} \| p_{student})`, p the softmax of logits over tau.

    The factor makes the size of the gradient independent of the temperature (Hinton et al. 2015).

    Args:
        student: Logits, ``(B, C)``.
        teacher: Logits, ``(B, C)``.
        temperature: Tau.
    """
    now, target = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(now, target, reduction="batchmean", log_target=True)


def with_wrong_labels(model: Model, forget: Batch, retain: RetainBatch) -> Batch:
    """Pairs of D_f, each with a random wrong label, drawn at every step.

    With classes, it is one of the other classes. In retrieval, the label of an image is its text, and a wrong one is a
    text of another example in the batch, so that the true text is among the in-batch negatives. If the draw returns a
    text of the same example, a text of D_r replaces it. The new pairs count as true pairs.

    Args:
        model: Model, with or without classes.
        forget: Pairs of D_f.
        retain: Pairs of D_r; provides the step and the stream.
    """
    assert retain.stream is not None
    seed, step = retain.stream.seed, retain.step
    if classes := len(model.config.labels):
        assert forget.labels is not None
        others = torch.randint(1, classes, (len(forget),), generator=generator(seed, "wrong labels", step))
        return replace(forget, labels=(forget.labels + others.to(forget.labels.device)) % classes)
    randomness = np.random.default_rng(derive(seed, "wrong texts", step))
    other = retain.stream.inputs.modalities[0]
    examples = retain.stream.inputs.dataset.text_examples
    images, own = forget.rows[other].numpy(), forget.rows["text"].numpy()
    texts = own[randomness.permutation(len(own))]
    same = examples[texts] == images
    texts[same] = randomness.choice(retain.stream.retain, int(same.sum()))
    paired = retain.stream.inputs.batch({other: images, "text": texts}, forget.examples[other].device, forget.generator)
    return replace(paired, examples=dict.fromkeys(paired.examples, paired.examples["text"]))


def random_label_losses(student: Model, forget: Batch, retain: RetainBatch, weight: float) -> dict[str, Tensor]:
    """Task loss on D_f with random wrong labels, and the weighted task loss on D_r."""
    terms = {"forget": student.losses(with_wrong_labels(student, forget, retain)).mean()}
    if weight:
        terms["retain"] = weight * student.losses(retain).mean()
    return terms


def chunked_losses(
    model: Model, inputs: PairInputs, pairs: Rows, size: int, engine: Engine, seed: int, purpose: str
) -> tuple[Callable[[int], Tensor], int]:
    """Task losses of pairs in chunks, for :mod:`multidelete.numerics.gradients`.

    Args:
        model: The model.
        inputs: Inputs of the model.
        pairs: Text rows of the pairs.
        size: Maximum number of pairs in a chunk; in retrieval its pairs are the in-batch negatives.
        engine: Device and precision.
        seed: Seed of the order of the pairs and of the negatives.
        purpose: Purpose of the draws.

    Returns:
        A function that computes the losses of a chunk, ``(b,)``, and the number of chunks.
    """
    order = np.random.default_rng(derive(seed, purpose)).permutation(pairs)
    chunks = np.array_split(order, -(-len(order) // size))

    def losses(chunk: int) -> Tensor:
        rows = inputs.true_pairs(chunks[chunk])
        with engine.autocast():
            return model.losses(inputs.batch(rows, engine.device, generator(seed, purpose, chunk)))

    return losses, len(chunks)
