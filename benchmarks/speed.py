"""Speed as ratios against the plain way, both in one run: ``python benchmarks/speed.py``.

- MultiDelete-F on encodings computed once, against the same steps on raw images and texts;
- one fusion of many pairs grouped by text length, against one padded batch;
- a training step on pairs that share texts and images, against the same pairs each for itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from multidelete.data.batches import PairInputs
from multidelete.data.requests import resolve
from multidelete.data.samplers import ForgetRetainStream
from multidelete.data.synthetic.scenes import scenes
from multidelete.methods import MultiDelete, Teacher
from multidelete.models import albef
from multidelete.models.base import Model
from multidelete.models.inputs import Encoding
from multidelete.recipe import load
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs

REPEATS = 7


def median_seconds(work: Callable[[], object]) -> float:
    """Median of several runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def step_on_encodings() -> tuple[float, float]:
    """Seconds of a MultiDelete-F step with and without encodings computed once."""
    dataset = scenes(train=600, validation=20, test=20)
    engine = Engine(precision="fp32")
    model = albef.Albef.build(albef.AlbefConfig(), dataset.texts, 0)
    raw = PairInputs.of(dataset, model)
    frozen = frozen_inputs(engine, model, raw, "fusion")
    teacher = Teacher(model, frozen, engine)
    request = resolve(dataset, count=100)
    pairs = dataset.text_rows(request.forget), dataset.text_rows(request.retain)
    method = MultiDelete(scope="fusion")
    model.requires_grad_(False)
    for parameter in model.parameters_of("fusion").values():
        parameter.requires_grad_(True)

    def step(inputs: PairInputs) -> None:
        stream = ForgetRetainStream(inputs, *pairs, batch_size=64, retain_ratio=4, mismatched=0.0, seed=0)
        losses = method.losses(model, teacher, *stream.at(0, engine.device))
        torch.stack(list(losses.values())).sum().backward()
        model.zero_grad()

    return median_seconds(lambda: step(frozen)), median_seconds(lambda: step(raw))


def fusion_by_length() -> tuple[float, float]:
    """Seconds of the fusion of 384 pairs with lengths as in Flickr captions, grouped and padded."""
    size = albef.FusionConfig(width=256, heads=8)
    model = albef.Albef.build(albef.AlbefConfig(fusion=size), ["a caption"], 0)
    lengths = torch.from_numpy(np.random.default_rng(0).gamma(9, 14 / 9, 384).clip(5, 38).astype(np.int64))
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    text = Encoding(torch.randn(*mask.shape, 256), mask, torch.zeros(384, 1))
    vision = Encoding(torch.randn(384, 16, 256), torch.ones(384, 16, dtype=torch.long), torch.zeros(384, 1))

    def fuse() -> None:
        model.fuse({"vision": vision, "text": text}).sum().backward()

    grouped = median_seconds(fuse)
    chunk, albef.CHUNK = albef.CHUNK, 10**9
    padded = median_seconds(fuse)
    albef.CHUNK = chunk
    return grouped, padded


def step_on_shared_sides() -> tuple[float, float]:
    """Seconds of a training step of the demo with what sides of pairs bring computed once, and for every pair."""
    dataset = scenes(train=200, validation=20, test=20)
    recipe = load(Path(str(files("multidelete") / "demos/retrieval.toml")))
    assert recipe.model is not None
    model = recipe.architecture().build(recipe.model[1], dataset.texts, 0)
    inputs = PairInputs.of(dataset, model)
    batch = inputs.batch(inputs.true_pairs(np.arange(64)), torch.device("cpu"))
    model.requires_grad_(True)

    def step() -> None:
        model.losses(batch).mean().backward()
        model.zero_grad()

    shared = median_seconds(step)
    with patch.object(albef.Albef, "fuse_pairs", Model.fuse_pairs):
        return shared, median_seconds(step)


if __name__ == "__main__":
    for name, compare in (
        ("MultiDelete-F step, encodings once", step_on_encodings),
        ("fusion by length", fusion_by_length),
        ("training step, shared sides", step_on_shared_sides),
    ):
        ours, plain = compare()
        print(f"{name:<40}{1000 * ours:8.1f} ms   plain {1000 * plain:8.1f} ms   {plain / ours:5.2f} times faster")
