"""Training that starts from another model's weights: what is taken, and that Retrain starts there too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from multidelete.data.batches import PairInputs
from multidelete.data.requests import resolve
from multidelete.methods import Retrain, UnlearningData
from multidelete.models import MODELS
from multidelete.recipe import load
from multidelete.store.models import TRAINING_FILE, get_or_train_original, save_model
from multidelete.tasks import TASKS
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError

SETTINGS = """
precision = "fp32"
retrain = false
task = "{task}"
data = {{reader = "{reader}", train = 40, validation = 12, test = 12, size = 24}}
forget = {{count = 3}}
train = {{epochs = 1, batch_size = 32}}
{start}

[model]
name = "albef"
image_size = 24
embedding_width = 8
fusion = {{layers = 1, width = 16, heads = 2}}
vision.config = {{model_type = "vit", hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2, {vit}}}
text.config = {{model_type = "bert", hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2, {bert}}}
"""
VIT = "intermediate_size = 16, image_size = 24, patch_size = 8"
BERT = "intermediate_size = 16, max_position_embeddings = 64"


def recipe(path: Path, task: str, reader: str, start: str = "") -> Path:
    start = f"start = {json.dumps(start)}" if start else ""
    path.write_text(SETTINGS.format(task=task, reader=reader, start=start, vit=VIT, bert=BERT))
    return path


def fresh(width: int = 16) -> tiny.Model:
    dataset = tiny.dataset_for("entailment")
    config = tiny.albef(width=width).for_dataset(dataset, labelled=True)
    return MODELS["albef"].build(config, dataset.texts, 7)


def test_weights_are_taken_by_name_and_word_vectors_by_word() -> None:
    source, model = tiny.original("albef"), fresh()
    before = tiny.weights(model)
    model.take_weights(source)
    theirs, ours = source.state_dict(), model.state_dict()
    words, known = model.tokenizer.get_vocab(), source.tokenizer.get_vocab()
    assert words != known
    table = next(name for name in ours if name.endswith("word_embeddings.weight"))
    shared = [word for word in words if word in known]
    assert len(shared) > 20
    for word, row in words.items():
        expected = theirs[table][known[word]] if word in known else before[table][row]
        assert torch.equal(ours[table][row], expected)
    heads = {name for name in ours if name.startswith("class_head")}
    assert heads
    for name, tensor in ours.items():
        if name != table:
            assert torch.equal(tensor, before[name] if name in heads else theirs[name])


def test_a_model_of_other_sizes_has_nothing_to_take() -> None:
    with pytest.raises(InputError, match="no weight of the albef model fits: this model cannot start from it"):
        fresh(width=32).take_weights(tiny.original("albef"))


def test_retrain_starts_where_the_original_did(tmp_path: Path) -> None:
    tiny.original("albef").save_pretrained(tmp_path / "start")
    dataset = tiny.dataset_for("entailment")
    original = tiny.original_for("entailment", "albef")
    inputs = PairInputs.of(dataset, original)
    data = UnlearningData(resolve(dataset, count=4), inputs, TASKS["entailment"](), start=tmp_path / "start")
    begun = data.initial_model(original)
    by_hand = MODELS["albef"].build(original.config, (), 0, tokenizer=original.tokenizer)
    assert tiny.changed(tiny.weights(by_hand), begun.state_dict())
    by_hand.take_weights(tiny.original("albef"))
    assert not tiny.changed(tiny.weights(by_hand), begun.state_dict())
    settings = tiny.TRAINING.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 0.1})
    still = UnlearningData(data.request, inputs, data.task, settings, start=data.start)
    result = Retrain()(original, still, tiny.engine()).model
    for name, tensor in result.state_dict().items():
        torch.testing.assert_close(tensor, begun.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_a_recipe_starts_from_the_original_of_a_neighbouring_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipes").mkdir()
    recipe(tmp_path / "recipes" / "first.toml", "retrieval", "scenes")
    path = recipe(tmp_path / "recipes" / "second.toml", "entailment", "premises", "first.toml")
    monkeypatch.chdir(tmp_path)
    loaded = load(path)
    trained = get_or_train_original(loaded, loaded.dataset(), Engine("fp32"))
    assert trained.training is not None
    first = load(tmp_path / "recipes" / "first.toml")
    original = get_or_train_original(first, first.dataset(), Engine("fp32"))
    assert trained.training.start == tmp_path / "cache" / "models" / original.key
    alone = load(recipe(tmp_path / "alone.toml", "entailment", "premises"))
    assert get_or_train_original(alone, alone.dataset(), Engine("fp32")).key != trained.key
    save_model(trained.model, tmp_path / "saved", trained.training)
    assert original.key in (tmp_path / "saved" / TRAINING_FILE).read_text()


def test_a_start_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.toml", "entailment", "premises", "frist.toml")
    with pytest.raises(
        InputError,
        match=r"'start' \(--base\) is the folder or hub id of a model, or a recipe \(TOML\); there is no 'frist",
    ):
        load(path)
