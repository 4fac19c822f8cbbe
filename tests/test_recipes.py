"""Committed recipes: each is validated, and those of published sizes take a training step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from multidelete.data.batches import PairInputs
from multidelete.models.config import EncoderConfig
from multidelete.models.wrapped import WrappedConfig
from multidelete.recipe import load
from multidelete.training.original import TrainSettings, train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
PUBLISHED = [path for path in RECIPES if path.parent.name == "published"]

BASE = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 3072}
# The architectures behind the hub ids, one layer deep.
SHALLOW: dict[str, dict[str, dict[str, Any]]] = {
    "google/vit-base-patch16-384": {"vision": {"model_type": "vit", "image_size": 384, "patch_size": 16, **BASE}},
    "google-bert/bert-base-uncased": {"text": {"model_type": "bert", **BASE}},
    "dmis-lab/biobert-base-cased-v1.2": {"text": {"model_type": "bert", **BASE}},
}


VISION = {"image_size": 384, "patch_size": 16, **BASE}
SETTINGS: dict[str, dict[str, Any]] = {
    "Salesforce/blip-itm-base-coco": {"vision_config": VISION, "text_config": {**BASE, "encoder_hidden_size": 768}},
    "dandelin/vilt-b32-mlm": {"image_size": 384, "patch_size": 32, **BASE},
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes").with_suffix(""))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 12
    assert len(PUBLISHED) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_every_recipe_is_complete_and_documented(path: Path) -> None:
    recipe = load(path)
    assert recipe.model is not None
    assert recipe.task.provides() <= recipe.architecture().provides
    head = re.match(r"(# .*\n)+", path.read_text(encoding="utf-8"))
    assert head is not None
    for word in ("# Paper: ", "# Run: ", "# Expect: "):
        assert word in head[0]
    assert f"multidelete unlearn {path.relative_to(ROOT)}" in head[0]


def shallow(config: Any) -> Any:
    """The configuration with one randomly initialised layer instead of each hub id."""
    if isinstance(config, WrappedConfig):
        assert config.pretrained is not None
        settings = SETTINGS[config.pretrained]
        return config.model_copy(update={"pretrained": None, "settings": settings, "image_size": 384})
    fields = {}
    for modality in ("vision", "text"):
        encoder = getattr(config, modality, None)
        if isinstance(encoder, EncoderConfig) and encoder.pretrained:
            fields[modality] = encoder.model_copy(
                update={"pretrained": None, "config": SHALLOW[encoder.pretrained][modality]}
            )
    assert fields
    if hasattr(config, "fusion"):
        fields["fusion"] = config.fusion.model_copy(update={"layers": 1})
    return config.model_copy(update=fields)


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_published_sizes_take_a_step(path: Path) -> None:
    recipe = load(path)
    assert recipe.model is not None
    dataset = tiny.dataset_for(recipe.task.name)
    config = shallow(recipe.model[1]).for_dataset(dataset, labelled=recipe.task.labelled)
    model = recipe.architecture().build(config, dataset.texts, 0)
    before = tiny.weights(model)
    inputs = PairInputs.of(dataset, model)
    rows = dataset.text_rows(dataset.rows("train"))[:4]
    settings = TrainSettings(epochs=1, batch_size=4, learning_rate=1e-3, warmup=0)
    history = train(model, inputs, rows, settings, tiny.engine(), seed=0, what="one step")
    assert len(history.lines) == 1
    moved = tiny.changed(before, model.state_dict())
    for part in model.parts:
        assert moved & model.parameters_of(part).keys()
    batch = inputs.batch(inputs.true_pairs(rows[:2]), torch.device("cpu"))
    with torch.no_grad():
        logits = model.head(model.fused(batch))
    assert logits.shape == (2, max(2, len(dataset.classes if recipe.task.labelled else ())))
    assert bool(logits.isfinite().all())
