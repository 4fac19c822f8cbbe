"""Models of transformers: scores are theirs, and what comes out is what went in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import multidelete
import tiny
import zoo
from multidelete import FineTune, InputError, Model, MultiDelete, NegGrad
from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.stores import Folder
from multidelete.methods import METHODS, Method
from multidelete.models import MODELS, Albef, Blip
from multidelete.models.processor import Processor
from multidelete.models.wrapped import Wrapped
from multidelete.tasks import Entailment, Retrieval

QUICK = {"epochs": 1, "min_steps": 3, "batch_size": 6, "retain_ratio": 2, "evaluations": 1}


def quick(method: type[Method], **settings: Any) -> Method:
    """A few steps, also where nothing is memorised."""
    return method(**QUICK, **settings, **({"stop": "lowest"} if method is MultiDelete else {}))


NOISE = np.random.default_rng(0)
SIZES = ((50, 70), (33, 90), (80, 40), (32, 32), (41, 47))  # height and width: none but one is a square


def pictures_in(folder: Path, *, labelled: bool) -> Dataset:
    """Pictures of many sizes in files, with two captions each."""
    examples = []
    for number in range(30):
        height, width = SIZES[number % len(SIZES)]
        pixels = NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 20 else "validation" if number < 25 else "test"
        texts = tiny.dataset().examples[number].texts[:2]
        labels = (zoo.CLASSES[number % 3], zoo.CLASSES[(number + 1) % 3]) if labelled else ()
        examples.append(Example(f"{split}-{number}", split, texts, (f"{number}.png",), labels=labels))
    return Dataset("photographs", examples, root=folder)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures_in(tmp_path_factory.mktemp("photographs"), labelled=False)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures_in(tmp_path_factory.mktemp("labelled"), labelled=True)


@pytest.fixture
def data(name: str, photographs: Dataset, labelled: Dataset) -> Dataset:
    """What a family is trained on."""
    return labelled if name == "vilt_classes" else photographs


@torch.no_grad()
def their_scores(name: str, dataset: Dataset, folder: Path, count: int = 20) -> dict[str, Tensor]:
    """Scores and cosines of true pairs as a user of transformers computes them, with all pictures in one batch."""
    model, images, _ = zoo.parts(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert isinstance(dataset.store, Folder)
    pictures = [Image.open(dataset.store.root / example.images[0]) for example in dataset.examples[:count]]
    texts = list(dataset.texts[: 2 * count])
    padding = {"padding": "max_length", "truncation": True} if name.startswith("siglip") else {"padding": True}
    words = {k: v for k, v in tokenizer(texts, return_tensors="pt", **padding).items() if k != "token_type_ids"}
    seen = images(images=pictures, return_tensors="pt")
    if name in zoo.DUAL | zoo.OTHERS:
        both = (model.get_image_features(**seen).pooler_output, model.get_text_features(**words).pooler_output)
        vision, text = (F.normalize(each[:, 0] if each.dim() == 3 else each, dim=-1) for each in both)
        cosines = (vision[:, None] * text.view(count, 2, -1)).sum(-1).flatten()
        scale = 1 / model.temperature if hasattr(model, "temperature") else model.logit_scale.exp()
        return {"cosine": cosines, "score": cosines * scale + (model.logit_bias if hasattr(model, "logit_bias") else 0)}
    given = {**words, **{key: value.repeat_interleave(2, 0) for key, value in seen.items()}}
    if name == "vilt":
        return {"score": model(**given).logits[:, 0]}
    if name == "vilt_classes":
        assert dataset.labels is not None
        logs = model(**{**given, "pixel_mask": given["pixel_mask"][:, None]}).logits.log_softmax(-1)
        true = logs[torch.arange(2 * count), torch.from_numpy(dataset.labels[: 2 * count])]
        return {"score": true - torch.log1p(-true.exp())}
    if name == "bridgetower":
        logits = model(**given).logits
        return {"score": logits[:, 1] - logits[:, 0]}
    flag, field = (
        ("use_itm_head", "itm_score") if name == "blip" else ("use_image_text_matching_head", "logits_per_image")
    )
    logits, cosines = (model(**given, **{flag: on})[field] for on in (True, False))
    return {"score": logits[:, 1] - logits[:, 0], "cosine": cosines.diagonal()}


def scores(model: Model, dataset: Dataset) -> dict[str, np.ndarray[Any, Any]]:
    """Scores and cosines of the true pairs of the training split."""
    request = tiny.resolve(dataset, count=3)
    inputs = tiny.PairInputs.of(dataset, model)
    task: Any = Entailment if dataset.classes else Retrieval
    found = task(probed=0).predict(model, inputs, request, tiny.engine())
    order = np.argsort(np.concatenate([request.forget, request.retain]), kind="stable")
    result = {}
    for key in {"score", "cosine"} & found["forget"].keys():
        rows = np.concatenate([found[split][key].reshape(-1, 2) for split in ("forget", "retain")])
        result[key] = rows[order].flatten()
    return result


def test_all_classes_that_are_named_are_tested() -> None:
    named = {name for kind in MODELS.values() if issubclass(kind, Wrapped) for name in kind.classes}
    assert {type(zoo.parts(name)[0]).__name__ for name in zoo.ZOO} == named


@pytest.mark.parametrize("name", zoo.ZOO | zoo.OTHERS)
def test_scores_are_those_of_transformers(name: str, data: Dataset, tmp_path: Path) -> None:
    model = Model.from_pretrained(zoo.write(name, tmp_path / "model"))
    assert isinstance(model, Wrapped)
    ours, theirs = scores(model, data), their_scores(name, data, tmp_path / "model")
    assert ours.keys() == theirs.keys()
    assert theirs["score"].std() > 1e-3
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [MultiDelete, FineTune, NegGrad, METHODS["scrub"]])
@pytest.mark.parametrize("name", zoo.ZOO)
def test_what_comes_out_is_of_the_same_class_and_scores_the_same(
    name: str, method: Any, data: Dataset, tmp_path: Path
) -> None:
    folder = zoo.write(name, tmp_path / "model")
    outcome = multidelete.unlearn(
        folder,
        data,
        3,
        quick(method, scope="all"),
        training=multidelete.TrainSettings() if method.needs_training else None,
        engine=tiny.engine(),
        out=tmp_path / "run",
    )
    out = tmp_path / "run" / "model"
    kind = type(zoo.parts(name)[0])
    loaded, facts = kind.from_pretrained(out, output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    assert type(loaded) is kind
    assert {path.name for path in out.iterdir()} == {"README.md", *(path.name for path in folder.iterdir())}
    assert "multidelete" not in (out / "config.json").read_text()
    assert tiny.changed(tiny.weights(zoo.parts(name)[0]), tiny.weights(loaded))
    again, ours = scores(Model.from_pretrained(out), data), scores(outcome.model, data)
    for key, values in ours.items():
        np.testing.assert_allclose(again[key], values, atol=1e-5)


@pytest.mark.parametrize("method", [MultiDelete, FineTune, NegGrad, METHODS["scrub"]])
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if not name.startswith("siglip")])
def test_scope_fusion_changes_nothing_else(name: str, method: Any, data: Dataset, tmp_path: Path) -> None:
    folder = zoo.write(name, tmp_path / "model")
    multidelete.unlearn(
        folder,
        data,
        3,
        quick(method, scope="fusion"),
        training=multidelete.TrainSettings() if method.needs_training else None,
        engine=tiny.engine(),
        out=tmp_path / "run",
    )
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "run" / "model"))
    moved = tiny.changed(before, after)
    fusion = Model.from_pretrained(folder).parts["fusion"]
    assert moved
    assert {f"model.{key}" for key in moved} <= set(fusion)
    if name in zoo.DUAL:
        assert all("_projection" in key or "." not in key for key in moved)


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_a_scope_that_no_loss_reaches_is_refused(name: str, photographs: Dataset, tmp_path: Path) -> None:
    folder = zoo.write(name, tmp_path / "model")
    with pytest.raises(InputError, match="the loss depends on no parameter of this scope"):
        multidelete.unlearn(folder, photographs, 3, quick(MultiDelete, scope="fusion"), engine=tiny.engine())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out(dtype: torch.dtype, photographs: Dataset, tmp_path: Path) -> None:
    folder = zoo.write("clip", tmp_path / "model", dtype)
    multidelete.unlearn(folder, photographs, 3, NegGrad(**QUICK), engine=tiny.engine(), out=tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert transformers.CLIPModel.from_pretrained(tmp_path / "run" / "model", dtype="auto").dtype == dtype


def test_a_model_in_memory_goes_in_and_comes_out(photographs: Dataset) -> None:
    model, images, tokenizer = zoo.parts("clip")
    processor = SimpleNamespace(image_processor=images, tokenizer=tokenizer)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    outcome = multidelete.unlearn(model, photographs, 3, NegGrad(**QUICK), engine=tiny.engine(), processor=processor)
    assert type(outcome.model) is type(model)
    assert tiny.changed(before, model.state_dict()) == set()
    assert tiny.changed(before, outcome.model.state_dict())
    metrics = multidelete.evaluate(model, photographs, 3, engine=tiny.engine(), processor=processor)
    assert metrics["test_score"] == outcome.before["test_score"]
    with pytest.raises(InputError, match="processor= needs an image_processor and a tokenizer"):
        multidelete.load(model)


def test_retrain_starts_from_the_base_and_not_from_the_model(photographs: Dataset, tmp_path: Path) -> None:
    """A model that knows D_f must never pass for Retrain."""
    base = zoo.write("clip", tmp_path / "base")
    settings = multidelete.TrainSettings(epochs=1, batch_size=10)
    memorised = multidelete.unlearn(
        base, photographs, 3, NegGrad(**QUICK), engine=tiny.engine(), out=tmp_path / "other"
    )
    assert memorised.retrained is None
    outcomes = [
        multidelete.unlearn(
            folder, photographs, 3, NegGrad(**QUICK), training=settings, base=base, engine=tiny.engine()
        )
        for folder in (base, tmp_path / "other" / "model")
    ]
    one, two = (outcome.retrained for outcome in outcomes)
    assert one is not None
    assert two is not None
    for key in ("test_score", "retain_score", "forget_score", "forget_auc", "forget_test_auc"):
        assert one[key] == two[key]
    assert outcomes[0].before != outcomes[1].before


def test_the_command_line_leaves_retrain_out_without_a_base(
    photographs: Dataset, terminal: Callable[[str], Any], tmp_path: Path
) -> None:
    photographs.save(tmp_path / "data")
    folder = zoo.write("clip", tmp_path / "clip")
    settings = "method.epochs=1 method.min_steps=2 method.batch_size=6 method.evaluations=1 precision=fp32"
    words = f"unlearn {settings} --model {folder} --data {tmp_path / 'data'} --forget 3 --method neggrad"
    ended = terminal(f"{words} --out {tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    assert "Retrain and membership attacks need --base" in ended.err
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "neggrad"]
    record = json.loads((tmp_path / "run" / "deletion.json").read_text())
    assert record["findings"]["forgetting"]["code"] == "forgetting_unknown"
    assert terminal(f"verify {tmp_path / 'run'}").code == 0
    based = terminal(f"{words} --base {folder} train.epochs=1 train.batch_size=10 --out {tmp_path / 'based'}")
    assert based.code == 0, based.err
    rows = json.loads((tmp_path / "based" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "retrain", "neggrad"]


# -- what is refused ----------------------------------------------------------------------------------------------


def test_other_classes_are_refused_with_those_that_are_supported(tmp_path: Path) -> None:
    transformers.BertModel(transformers.BertConfig(vocab_size=9, **zoo.SIZE)).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match=r"holds a BertModel, which is not supported; .*CLIPModel, SiglipModel"):
        Model.from_pretrained(tmp_path / "bert")
    zoo.write("clip", tmp_path / "clip")
    with pytest.raises(InputError, match="'albef'"):
        Albef.from_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="holds a CLIPModel of transformers, not a 'blip' model"):
        Blip.from_pretrained(tmp_path / "clip")


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_in_one_sentence(missing: str, tmp_path: Path) -> None:
    folder = zoo.write("clip", tmp_path / "clip")
    (folder / missing).unlink()
    if missing == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError) as raised:
        Model.from_pretrained(folder)
    assert len(str(raised.value).splitlines()) == 1


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = zoo.write("clip", tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder)).save_pretrained(folder, state_dict=weights)
    with pytest.raises(InputError, match=r"incomplete: weight 'text_projection.weight' is missing"):
        Model.from_pretrained(folder)


def test_pictures_are_kept_as_the_processor_makes_them() -> None:
    _, images, tokenizer = zoo.parts("clip")
    processor = Processor(images, tokenizer)
    picture = Image.fromarray(NOISE.integers(0, 256, (57, 91, 3), dtype=np.uint8))
    wanted = images(images=picture, return_tensors="pt")["pixel_values"]
    kept = torch.from_numpy(processor(picture)).permute(2, 0, 1)[None]
    torch.testing.assert_close(processor.inputs(kept)["pixel_values"], wanted, atol=1e-5, rtol=0)
    assert processor.shape == (32, 32, 3)


def test_the_card_names_numbers_and_hashes_and_no_deleted_pair(photographs: Dataset, tmp_path: Path) -> None:
    folder = zoo.write("clip", tmp_path / "model")
    outcome = multidelete.unlearn(folder, photographs, 3, NegGrad(**QUICK), engine=tiny.engine(), out=tmp_path / "run")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "after the deletion of 3 training examples" in card
    assert outcome.request.hash in card
    assert f"{outcome.metrics['test_score']:.1f}" in card
    assert "There is no reference" in card
    deleted = [photographs.examples[row] for row in outcome.request.forget]
    assert not any(text in card for example in deleted for text in (example.id, *example.texts))


# -- other folders ------------------------------------------------------------------------------------------------


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    zoo.parts("clip")[0].save_pretrained(folder, max_shard_size="20KB")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(zoo.parts("clip")[0].state_dict(), folder / "pytorch_model.bin")


def unnamed(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    del fields["architectures"]
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("change", [sharded, pickled, unnamed])
def test_weights_in_other_files_and_a_class_that_is_not_named(
    change: Callable[[Path], None], photographs: Dataset, tmp_path: Path
) -> None:
    folder = zoo.write("clip", tmp_path / "clip")
    change(folder)
    cosines = scores(Model.from_pretrained(folder), photographs)["cosine"]
    np.testing.assert_allclose(cosines, their_scores("clip", photographs, folder)["cosine"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adapter_config.json", "is damaged: expected peft_type and base_model_name_or_path"),
        ("modules.json", r"is not a model folder: it has no config\.json"),
        ("open_clip_config.json", "it is of open_clip: multidelete convert makes a folder of its weights"),
    ],
)
def test_other_formats_are_refused_with_a_way_forward(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=sentence):
        Model.from_pretrained(tmp_path)


def test_a_checkpoint_file_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "ALBEF.pth").write_bytes(b"weights")
    with pytest.raises(
        InputError, match=r"ALBEF.pth' is a file, not a model folder; .*, multidelete convert makes one"
    ):
        Model.from_pretrained(tmp_path / "ALBEF.pth")


def test_a_folder_without_processor(photographs: Dataset, tmp_path: Path) -> None:
    base, folder = zoo.write("clip", tmp_path / "base"), tmp_path / "clip"
    zoo.parts("clip")[0].save_pretrained(folder)
    with pytest.raises(
        InputError, match=r"has no tokenizer: .*; name a folder or hub id that has one with --processor"
    ):
        multidelete.load(folder)
    zoo.parts("clip")[2].save_pretrained(folder)
    with pytest.raises(InputError, match=r"has no image processor: expected preprocessor_config.json; name a folder"):
        multidelete.load(folder)
    cosines = scores(multidelete.load(folder, base), photographs)["cosine"]
    np.testing.assert_allclose(cosines, their_scores("clip", photographs, base)["cosine"], atol=1e-5)
    zoo.parts("clip")[0].save_pretrained(tmp_path / "start")  # neither has what it was fine-tuned from
    outcome = multidelete.unlearn(
        folder,
        photographs,
        3,
        NegGrad(**QUICK),
        training=multidelete.TrainSettings(epochs=0.5, batch_size=20),
        engine=tiny.engine(),
        out=tmp_path / "run",
        processor=base,
        base=tmp_path / "start",
    )
    assert [row["method"] for row in outcome.rows] == ["original", "retrain", "neggrad"]
    assert isinstance(multidelete.load(tmp_path / "run" / "model"), Wrapped)  # it has one now


def test_a_processor_where_none_is_taken(photos: Path, tmp_path: Path, tiny_model: Path, terminal: Any) -> None:
    ended = terminal(
        f"unlearn --model {tiny_model} --processor {tiny_model} --data {photos} --forget 3 --out {tmp_path}/out"
    )
    assert ended.code == 2
    assert "is no model of transformers, so it takes no processor; leave it out" in ended.err


def test_the_clip_in_a_folder_of_sentence_transformers(photographs: Dataset, tmp_path: Path) -> None:
    zoo.write("clip", tmp_path / "0_CLIPModel")
    (tmp_path / "modules.json").write_text("[]")
    cosines = scores(Model.from_pretrained(tmp_path), photographs)["cosine"]
    np.testing.assert_allclose(
        cosines, their_scores("clip", photographs, tmp_path / "0_CLIPModel")["cosine"], atol=1e-5
    )


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def offline(name: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("multidelete.models.folder.snapshot_download", offline)
    with pytest.raises(InputError, match="no model folder 'openai/clip', and the hub does not give it: no route"):
        Model.from_pretrained("openai/clip")
    zoo.write("clip", tmp_path / "hub")
    monkeypatch.setattr("multidelete.models.folder.snapshot_download", lambda name: str(tmp_path / "hub"))
    assert isinstance(Model.from_pretrained("openai/clip"), Wrapped)
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match=r"there is no model folder 'models/mine'$"):
        Model.from_pretrained("models/mine")


def test_a_processor_without_one_size_is_refused_where_one_is_needed() -> None:
    model, _, tokenizer = zoo.parts("clip")
    images = zoo.parts("vilt")[1]
    with pytest.raises(InputError, match="does not bring all pictures to one size, which a CLIPModel needs"):
        Wrapped.wrap(model, SimpleNamespace(image_processor=images, tokenizer=tokenizer))
