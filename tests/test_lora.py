"""LoRA: adapters come out as adapters, any gradient method runs as LoRA on any model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import multidelete
import tiny
import zoo
from conftest import Ended
from multidelete import FineTune, InputError, Model, MultiDelete, Retrain
from multidelete.methods import METHODS
from multidelete.models.lora import LowRank
from multidelete.models.wrapped import Wrapped
from multidelete.training.original import TrainSettings

LAYERS = ["q_proj", "v_proj", "query", "value", "visual_projection", "text_projection"]
QUICK = {"epochs": 1, "min_steps": 3, "batch_size": 6, "retain_ratio": 2, "evaluations": 0}


def adapter_of(name: str, folder: Path, dtype: torch.dtype = torch.float32, base: str | None = None) -> Path:
    """Folders ``base`` and ``adapter`` as peft writes them."""
    zoo.write(name, folder / "base", dtype)
    model = copy.deepcopy(zoo.parts(name)[0]).to(dtype)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=LAYERS))
    for key, parameter in adapted.named_parameters():
        if ".lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base") if base is None else base
    adapted.to(dtype).save_pretrained(folder / "adapter")
    return folder / "adapter"


def processor_of(name: str) -> Any:
    return SimpleNamespace(image_processor=zoo.parts(name)[1], tokenizer=zoo.parts(name)[2])


@pytest.mark.parametrize("name", ["clip", "vision_text", "blip", "vilt"])
def test_an_adapter_comes_out_as_an_adapter_and_its_base_is_not_touched(name: str, tmp_path: Path) -> None:
    folder = adapter_of(name, tmp_path)
    base = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    before = load_file(folder / "adapter_model.safetensors")
    outcome = multidelete.unlearn(
        folder,
        tiny.dataset(),
        3,
        MultiDelete(stop="lowest", **QUICK),
        retrain=False,
        engine=tiny.engine(),
        out=tmp_path / "run",
    )
    written = tmp_path / "run" / "model"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in written.iterdir()}
    assert not list(written.glob("model*.safetensors"))
    assert "after the deletion of 3" in (written / "README.md").read_text()
    after = load_file(written / "adapter_model.safetensors")
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert base == {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    again = Model.from_pretrained(written)
    theirs = type(zoo.parts(name)[0]).from_pretrained(tmp_path / "base")
    reloaded = peft.PeftModel.from_pretrained(theirs, written)
    assert isinstance(outcome.model, Wrapped)
    for key, value in reloaded.get_base_model().state_dict().items():
        assert torch.equal(value, again.state_dict()[f"model.{key}"])
        assert torch.equal(value, outcome.model.state_dict()[f"model.{key}"])


def test_only_the_adapter_in_the_scope_changes(tmp_path: Path) -> None:
    model = Model.from_pretrained(adapter_of("clip", tmp_path))
    result = MultiDelete(scope="fusion", stop="lowest", **QUICK)(model, tiny.data_for(model), tiny.engine())
    moved = tiny.changed(tiny.weights(model), tiny.weights(result.model))
    assert moved
    assert all("_projection.lora_" in name for name in moved)
    text = model.parameters_of("text")
    assert text
    assert all("text_model" in name and ".lora_" in name for name in text)


def test_merged_the_model_is_one_of_transformers_with_the_same_scores(tmp_path: Path) -> None:
    folder = adapter_of("clip", tmp_path)
    arguments: Any = {"retrain": False, "engine": tiny.engine(), "out": tmp_path / "run", "merge": True}
    outcome = multidelete.unlearn(folder, tiny.dataset(), 3, MultiDelete(stop="lowest", **QUICK), **arguments)
    written = tmp_path / "run" / "model"
    theirs = transformers.AutoModel.from_pretrained(written)
    assert type(theirs) is transformers.CLIPModel
    assert theirs.state_dict().keys() == zoo.parts("clip")[0].state_dict().keys()
    metrics = multidelete.evaluate(written, tiny.dataset(), list(outcome.request.ids), engine=tiny.engine())
    found = outcome.rows[1]["metrics"]
    assert metrics["test_score"] == pytest.approx(found["test_score"])
    assert metrics["forget_auc"] == pytest.approx(found["forget_auc"], abs=1e-3)


def test_the_type_of_an_adapter_is_kept(tmp_path: Path) -> None:
    folder = adapter_of("clip", tmp_path, torch.float16)
    Model.from_pretrained(folder).save_pretrained(tmp_path / "again")
    before, after = (load_file(each / "adapter_model.safetensors") for each in (folder, tmp_path / "again"))
    assert all(torch.equal(before[key], after[key]) and after[key].dtype == torch.float16 for key in before)


def test_retrain_starts_from_the_base_with_a_new_adapter(tmp_path: Path) -> None:
    folder = adapter_of("clip", tmp_path)
    seen: dict[str, Model] = {}

    class Watched(Retrain):
        def unlearn(self, student: Model, original: Model, data: Any, engine: Any) -> Any:
            seen["fresh"] = data.initial_model(original)
            return super().unlearn(student, original, data, engine)

    model = Model.from_pretrained(folder)
    assert isinstance(model, Wrapped)
    data = tiny.data_for(model, training=TrainSettings(epochs=0.5, batch_size=24), start=tmp_path / "base")
    result = Watched()(model, data, tiny.engine())
    fresh, base = seen["fresh"].state_dict(), zoo.parts("clip")[0].state_dict()
    for name, value in model.model.state_dict().items():
        if ".lora_B" in name:
            assert not fresh[f"model.{name}"].any()
        elif ".lora_" not in name:
            plain = name.replace(".base_layer", "")
            assert torch.equal(fresh[f"model.{name}"], base[plain])
            assert torch.equal(result.model.state_dict()[f"model.{name}"], value)
    assert any(".lora_B" in name for name in tiny.changed(fresh, tiny.weights(result.model)))


@pytest.mark.parametrize("trainable", [True, False])  # peft loads adapters for inference by default
def test_a_model_of_peft_in_memory(trainable: bool, tmp_path: Path) -> None:
    folder = adapter_of("clip", tmp_path)
    model = peft.PeftModel.from_pretrained(copy.deepcopy(zoo.parts("clip")[0]), folder, is_trainable=trainable)
    before = copy.deepcopy(model.state_dict())
    outcome = multidelete.unlearn(
        model,
        tiny.dataset(),
        3,
        MultiDelete(stop="lowest", **QUICK),
        engine=tiny.engine(),
        processor=processor_of("clip"),
    )
    assert isinstance(outcome.model, peft.PeftModel)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    moved = {key for key, value in outcome.model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".lora_" in key for key in moved)
    assert {name for name, each in outcome.model.named_parameters() if each.requires_grad} == {
        key for key in before if ".lora_" in key
    }


@pytest.mark.parametrize("name", ["albef", "dual_encoder", "blip", "vilt", "bridgetower"])
def test_a_method_as_lora_gives_a_plain_model_with_low_rank_changes(name: str) -> None:
    model = tiny.original(name)
    method = MultiDelete(lora=LowRank(rank=2), stop="lowest", learning_rate=1e-2, **QUICK)
    result = method(model, tiny.data_for(model), tiny.engine())
    before, after = tiny.weights(model), tiny.weights(result.model)
    moved = tiny.changed(before, after)
    assert before.keys() == after.keys()
    assert not result.model.adapter
    assert moved
    for key in moved:
        assert before[key].dim() == 2
        assert int(torch.linalg.matrix_rank((after[key] - before[key]).double(), rtol=1e-4)) <= 2
    assert tiny.weights(model).keys() == before.keys()


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if "lora" in kind.model_fields])
def test_every_gradient_method_runs_as_lora(method: str) -> None:
    model = tiny.original("albef")
    kind: Any = METHODS[method]
    settings = {**QUICK, "evaluations": 1, **({"stop": "lowest"} if method == "multidelete" else {})}
    result = kind(scope="fusion", lora=LowRank(targets=("query", "matching_head")), **settings)(
        model, tiny.data_for(model), tiny.engine()
    )
    moved = tiny.changed(tiny.weights(model), tiny.weights(result.model))
    assert moved
    assert all(name.endswith(("query.weight", "matching_head.weight")) for name in moved)


def test_lora_resumes_and_is_repeatable() -> None:
    model = tiny.original("albef")
    method = FineTune(lora=LowRank(rank=2), **QUICK)
    one, other = (tiny.weights(method(model, tiny.data_for(model), tiny.engine()).model) for _ in "ab")
    assert not tiny.changed(one, other)


def test_wrong_combinations(tmp_path: Path) -> None:
    model = tiny.original("albef")
    for targets, sentence in (
        ("q_proj", "scope 'fusion' of this albef model has no layer 'q_proj'; it has .*query"),
        (("value", "qury"), "has no layer 'qury'; it has .*; did you mean 'query'"),
    ):
        with pytest.raises(InputError, match=f"method.lora.targets: .*{sentence}"):
            MultiDelete(scope="fusion", lora=LowRank(targets=targets)).check(model)
    adapted = Model.from_pretrained(adapter_of("clip", tmp_path))
    with pytest.raises(InputError, match="the model is an adapter of peft, in which every method works; leave"):
        MultiDelete(lora=LowRank()).check(adapted)
    fields = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    for change, sentence in (
        ({"peft_type": "IA3"}, "of an adapter of type 'IA3'; supported is LORA"),
        ({"base_model_name_or_path": ""}, "does not name its base; write its folder or hub id"),
        ({"base_model_name_or_path": "nowhere"}, "there is no model folder 'nowhere'"),
    ):
        (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**fields, **change}))
        with pytest.raises(InputError, match=sentence):
            Model.from_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json is damaged: expected peft_type"):
        Model.from_pretrained(tmp_path / "adapter")


def test_the_base_may_be_named_from_the_folder_of_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter_of("clip", tmp_path, base="../base")
    monkeypatch.chdir(tmp_path / "base")
    model = Model.from_pretrained(folder)
    model.save_pretrained(tmp_path / "elsewhere/again")
    assert not tiny.changed(tiny.weights(model), tiny.weights(Model.from_pretrained(tmp_path / "elsewhere/again")))


def test_commands(
    tmp_path: Path, photos: Path, terminal: Callable[[str], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter_of("clip", tmp_path, base="base")
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    quick = "method.epochs=1 method.min_steps=2 method.evaluations=0 membership.shadow=false"
    quick += " train.epochs=0.2 train.batch_size=16"
    ended = terminal(f"unlearn --model adapter --data photos --forget 3 --out one {quick}")
    assert ended.code == 0, ended.err
    assert "Retrain" in ended.out  # from the base of the adapter
    assert terminal("verify one").code == 0
    for page in ("deletion.html", "model/README.md"):
        assert (
            f"which was trained from {'`' if page.endswith('md') else ''}{tmp_path / 'base'}"
            in (tmp_path / "one" / page).read_text()
        )
    ended = terminal(f"unlearn --model adapter --data photos --forget 3 --no-retrain --merge --out two {quick}")
    assert ended.code == 0, ended.err
    assert (tmp_path / "two/model/model.safetensors").is_file()
    ended = terminal(f"unlearn --model base --data photos --forget 3 --merge --out three {quick}")
    assert ended.errors == [
        "the command line: 'merge' (--merge) is for an adapter of peft, which the model is not; leave it out"
    ]
    ended = terminal(f"unlearn --model base --data photos --forget 3 --out three {quick} 'method.lora={{rank=4}}'")
    assert ended.code == 0, ended.err
    row = json.loads((tmp_path / "three/results.json").read_text())["rows"][-1]
    assert row["settings"]["lora"] == {"rank": 4, "alpha": None, "targets": "all-linear"}
    ended = terminal("unlearn --model base --data photos --forget 3 --method ssd --out four 'method.lora={rank=4}'")
    assert len(ended.errors) == 1
    assert "method 'ssd' does not follow gradients of a loss, so it cannot run as LoRA" in ended.err
    assert np.isfinite(row["metrics"]["test_score"])


def test_commands_on_a_damaged_adapter(
    tmp_path: Path, photos: Path, terminal: Callable[[str], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("adapter").mkdir()
    for content, sentence in (
        ("{", "is damaged: expected peft_type"),
        ('{"peft_type": "IA3", "base_model_name_or_path": "b"}', "IA3"),
    ):
        Path("adapter/adapter_config.json").write_text(content)
        for command in (
            f"unlearn --model adapter --data {photos} --forget 3 --out one",
            f"evaluate adapter --data {photos}",
        ):
            ended = terminal(command)
            assert (ended.code, len(ended.errors)) == (2, 1), ended.err
            assert sentence in ended.err
