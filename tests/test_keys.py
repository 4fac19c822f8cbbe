"""Keys of the cache: an entry is found again only while everything that it depends on is the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

import tiny
from multidelete.models import Model
from multidelete.models.config import EncoderConfig
from multidelete.recipe import Recipe, validate
from multidelete.store.models import get_or_train_original, pretrained_hash
from multidelete.training.features import encode_once
from multidelete.training.original import train
from multidelete.utils import keys
from multidelete.utils.keys import cache_key, code_version, folder_hash, weights_hash


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of four modules: top imports middle, middle imports low, aside stands alone."""
    folder = tmp_path / "keyed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "top.py").write_text("from keyed import middle\n\n\ndef f():\n    return middle.g()\n")
    (folder / "middle.py").write_text(
        '"""Middle."""\nfrom .low import h\n\n\ndef g():\n    """One."""\n    return h()\n'
    )
    (folder / "low.py").write_text("def h():\n    return 1\n")
    (folder / "aside.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "keyed"]:
        del sys.modules[name]


def version(*modules: str) -> str:
    """The version as another process would compute it."""
    for function in (keys.code_version, keys._path_of, keys._read):
        function.cache_clear()
    return code_version(*modules)


def test_a_version_changes_with_the_code_that_is_imported(package: Path) -> None:
    first = version("keyed.top")
    (package / "aside.py").write_text("X = 2\n")
    assert version("keyed.top") == first
    (package / "low.py").write_text("def h():\n    return 2\n")
    assert version("keyed.top") != first


def test_prose_and_format_do_not_change_a_version(package: Path) -> None:
    first = version("keyed.top")
    (package / "middle.py").write_text('"""Other."""\nfrom .low import h\ndef g():  # why\n    return (h())\n')
    assert version("keyed.top") == first


def test_what_trains_is_in_the_version_of_an_original() -> None:
    modules = keys._closure([train.__module__])
    for name in ("training.loop", "data.samplers", "data.batches", "models.base", "utils.randomness"):
        assert f"multidelete.{name}" in modules
    assert not any(name.startswith("multidelete.report") for name in modules)


def test_keys_differ_by_kind_parts_libraries_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (train.__module__,)
    first = cache_key("model", 1, "a", code=code)
    assert cache_key("model", 1, "a", code=code) == first
    others = [
        cache_key("outcome", 1, "a", code=code),
        cache_key("model", 2, "a", code=code),
        cache_key("model", 1, "a", code=()),
    ]
    monkeypatch.setattr(keys, "version", lambda library: "0")
    others.append(cache_key("model", 1, "a", code=code))
    assert len({first, *others}) == 5


def test_weights_of_another_shape_or_type_have_another_hash() -> None:
    weight = torch.zeros(2, 3)
    assert len({weights_hash({"w": each}) for each in (weight, weight.T, weight.int(), weight + 1)}) == 4
    assert weights_hash({"w": weight}) == weights_hash({"w": weight.clone()})


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A pretrained BERT whose weights are in ``pytorch_model.bin`` alone."""
    folder = tmp_path / "encoder"
    config = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tiny.original("albef").tokenizer.save_pretrained(folder)
    torch.save(AutoModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_every_file_of_a_pretrained_folder_counts(encoder: Path) -> None:
    config: Any = tiny.albef().model_copy(update={"text": EncoderConfig(pretrained=str(encoder))})
    seen = {pretrained_hash(config)}
    for name in ("pytorch_model.bin", "config.json", "tokenizer.json"):
        path = encoder / name
        path.write_bytes(path.read_bytes() + b" ")
        seen.add(pretrained_hash(config))
    assert len(seen) == 4
    (encoder / "README.md").write_text("nothing of the model")
    assert pretrained_hash(config) in seen


def test_changed_weights_at_the_same_path_train_another_original(encoder: Path, tmp_path: Path) -> None:
    def trained() -> str:
        return get_or_train_original(recipe, recipe.dataset(), tiny.engine()).key

    fields = tiny.albef().model_dump(mode="json", exclude={"extra", "labels", "images"})
    recipe: Recipe = validate(
        {
            "precision": "fp32",
            "data": {"reader": "scenes", "train": 30, "validation": 6, "test": 6, "size": 24},
            "forget": {"count": 3},
            "train": {"epochs": 1, "batch_size": 30},
            "model": {"name": "albef", **fields, "text": {"pretrained": str(encoder), "freeze": True}},
        },
        "here",
    )
    first = trained()
    assert trained() == first
    shutil.copytree(encoder, tmp_path / "before")
    weights = torch.load(encoder / "pytorch_model.bin")
    torch.save({name: tensor + 0.1 for name, tensor in weights.items()}, encoder / "pytorch_model.bin")
    assert trained() != first


@pytest.mark.usefixtures("cache_of_its_own")
def test_encodings_of_other_code_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = tiny.original("dual_encoder")
    inputs = tiny.data_for(model).inputs
    encode_once(tiny.engine(), model, inputs, "text")
    with monkeypatch.context() as patch:
        patch.setattr("multidelete.training.features.encode_all", lambda *_, **__: pytest.fail("computed again"))
        encode_once(tiny.engine(), model, inputs, "text")
    monkeypatch.setattr(keys, "code_version", lambda *modules: "another")
    computed = []
    monkeypatch.setattr("multidelete.training.features.encode_all", lambda *_, **__: computed.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encode_once(tiny.engine(), model, inputs, "text")
    assert computed == [1]


def test_a_folder_hash_is_of_contents(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "copy")
    assert folder_hash(tmp_path / "copy") == folder_hash(encoder)
