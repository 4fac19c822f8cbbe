"""BLIP, BLIP-2, ViLT and BridgeTower: class heads, several images, and models that are trained further."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import tiny
import zoo
from multidelete.models import MODELS, Batch, Blip, Model, Vilt, Wrapped
from multidelete.models.hub import OWN_FILE
from multidelete.tasks import TASKS
from multidelete.utils.errors import InputError
from pairs import TEXTS, VARIANTS, batch, check_repairing, check_round_trip

CASES = [
    (name, variant)
    for name in ("blip", "blip2", "vilt", "bridgetower", "dual_encoder")
    for variant in VARIANTS
    if TASKS[variant].provides() <= MODELS[name].provides
]


def build(name: str, seed: int = 0, **changes: Any) -> Wrapped:
    model = MODELS[name].build(tiny.CONFIGS[name].model_copy(update=changes), TEXTS, seed)
    assert isinstance(model, Wrapped)
    return model


@pytest.fixture(params=CASES, ids="-".join)
def model(request: pytest.FixtureRequest) -> Wrapped:
    name, variant = request.param
    return build(name, **VARIANTS[variant])


# -- the contract, for each task ----------------------------------------------------------------------------------


def test_blip_and_vilt_do_all_image_text_tasks() -> None:
    assert {name for name, variant in CASES if variant != "retrieval"} == {"blip", "vilt"}
    assert {variant for name, variant in CASES if name == "vilt"} == set(VARIANTS)


@torch.no_grad()
def test_losses_are_one_finite_number_for_each_pair(model: Wrapped) -> None:
    given = batch(model)
    losses = model.losses(given)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    assert (losses > 0).all()
    assert losses.unique().numel() == 4
    assert torch.equal(model.losses(given), losses)
    assert model.head(model.fused(given)).shape == (4, max(2, len(model.config.labels)))


def test_gradients_flow_in_scope_only_and_through_what_stands_still(model: Wrapped) -> None:
    given = batch(model)
    for scope in ("vision", "text", "fusion"):
        moving = model.parameters_of(scope)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in moving)
            parameter.grad = None
        model.losses(given).sum().backward()
        moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved <= moving.keys()
        # The last layers of BridgeTower's streams and of a Q-Former compute token states that nobody reads.
        unread = {name for name in moving if name.endswith("weight")} - moved
        assert len(unread) < 0.35 * len(moving), (scope, unread)
        assert moved


def test_the_fusion_learns_the_same_from_encodings_computed_before(model: Wrapped) -> None:
    """Under scope fusion the engine encodes once: what is cached may hold nothing that moves."""
    given = batch(model)
    with torch.no_grad():
        cached = replace(given, inputs=dict(model.encode(given)))

    def gradients(which: Batch) -> dict[str, Tensor]:
        moving = model.parameters_of("fusion")
        result = torch.autograd.grad(model.losses(which).sum(), list(moving.values()), allow_unused=True)
        return {name: torch.zeros(()) if g is None else g for name, g in zip(moving, result, strict=True)}

    plain, again = gradients(given), gradients(cached)
    assert any(gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_repaired_encodings_are_those_of_the_repaired_batch(model: Wrapped) -> None:
    check_repairing(model)


@torch.no_grad()
def test_folder_gives_the_model_back(model: Wrapped, tmp_path: Path) -> None:
    check_round_trip(model, tmp_path / "model")
    kind: Any = type(model.model)
    _, facts = kind.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    head = model.name == "blip" and bool(model.config.labels)
    assert any(name.startswith("class_head.") for name in model.state_dict()) is head


def test_seed_and_resolved_configuration_give_the_same_weights_again(model: Wrapped) -> None:
    again = type(model).build(model.config, TEXTS, 0, model.tokenizer)
    before, after = model.state_dict(), again.state_dict()
    assert again.config == model.config
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = type(model).build(model.config, TEXTS, 1, model.tokenizer).state_dict()
    matrices = {name for name, weight in model.named_parameters() if weight.dim() > 1}
    assert all(before[name].any() and not torch.equal(before[name], other[name]) for name in matrices)


@torch.no_grad()
@pytest.mark.parametrize("name", ["blip", "vilt"])
def test_each_of_two_images_is_read_as_if_alone(name: str) -> None:
    model = build(name, **VARIANTS["reasoning"])
    encodings = model.encode(batch(model))
    images = zip(encodings["vision"].tokens.chunk(2, 1), encodings["vision"].mask.chunk(2, 1), strict=True)
    alone = [
        model.fuse_image(encodings["text"], replace(encodings["vision"], tokens=tokens, mask=mask), number)
        for number, (tokens, mask) in enumerate(images)
    ]
    torch.testing.assert_close(model.fuse(encodings), torch.cat(alone, -1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


# -- models of transformers that are trained further ----------------------------------------------------------------


def test_a_class_head_is_learned_on_top_of_a_retrieval_model(tmp_path: Path) -> None:
    folder = zoo.write("blip", tmp_path / "hub")
    model = build("blip", pretrained=str(folder), **VARIANTS["entailment"])
    theirs = zoo.parts("blip")[0].state_dict()
    assert all(torch.equal(model.model.state_dict()[name], weight) for name, weight in theirs.items())
    unused = ("model.vision_proj", "model.text_proj", "model.itm_head")
    assert not any(name.startswith(unused) for name in model.parameters_of("all"))
    model.save_pretrained(tmp_path / "ours")
    assert (tmp_path / "ours" / OWN_FILE).is_file()
    loaded = Model.from_pretrained(tmp_path / "ours")
    assert loaded.config.labels == VARIANTS["entailment"]["labels"]
    assert torch.equal(loaded.get_parameter("class_head.0.weight"), model.get_parameter("class_head.0.weight"))
    again = transformers.BlipForImageTextRetrieval.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in theirs.items())


@torch.no_grad()
def test_further_images_of_vilt_start_with_the_embedding_of_the_first(tmp_path: Path) -> None:
    folder = zoo.write("vilt", tmp_path / "hub")
    model = build("vilt", pretrained=str(folder), **VARIANTS["reasoning"])
    assert isinstance(model.model, transformers.ViltForImagesAndTextClassification)
    known = zoo.parts("vilt")[0].vilt.embeddings.token_type_embeddings.weight
    assert torch.equal(model.get_parameter("model.vilt.embeddings.token_type_embeddings.weight"), known[[0, 1, 1]])
    assert model.model.config.id2label == {0: "False", 1: "True"}


@torch.no_grad()
def test_two_images_of_several_sizes_are_read_as_transformers_does(tmp_path: Path) -> None:
    theirs = zoo.vilt(
        transformers.ViltForImagesAndTextClassification, num_images=2, modality_type_vocab_size=3, num_labels=2
    ).eval()
    _, images, tokenizer = zoo.parts("vilt")
    for part in (theirs, images, tokenizer):
        part.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path)
    assert isinstance(model, Vilt)
    noise = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=noise).numpy()
        for size in ((32, 50), (40, 32), (50, 32), (33, 33))
    ]
    seen = images(images=pictures, return_tensors="pt")
    words = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    given = {key: value.unflatten(0, (2, 2)) for key, value in seen.items()}
    expected = theirs(input_ids=words["input_ids"], attention_mask=words["attention_mask"], **given).logits
    kept = torch.stack([torch.from_numpy(model.preparation(Image.fromarray(picture))) for picture in pictures])
    two = batch(model, 2)
    two = replace(two, inputs={**two.inputs, "vision": kept.movedim(-1, 1).unflatten(0, (2, 2))})
    torch.testing.assert_close(model.head(model.fused(two)), expected, atol=1e-5, rtol=1e-5)


def write_without(folder: Path, *parts: str) -> None:
    """A BLIP without the weights in whose names one of these occurs."""
    model = zoo.parts("blip")[0]
    kept = {key: weight for key, weight in model.state_dict().items() if not any(part in key for part in parts)}
    transformers.BlipForImageTextRetrieval(model.config).save_pretrained(folder, state_dict=kept)


def test_weights_that_are_missing_outside_heads_are_refused(tmp_path: Path) -> None:
    folder = zoo.write("blip", tmp_path / "hub")
    write_without(folder, "itm_head")
    with pytest.raises(InputError, match=r"incomplete: weight 'itm_head.bias' is missing"):
        Model.from_pretrained(folder)
    build("blip", pretrained=str(folder))  # to be trained further
    write_without(folder, "itm_head", "crossattention")
    with pytest.raises(InputError, match=r"incomplete: weight 'text_encoder.*crossattention.* is missing"):
        build("blip", pretrained=str(folder))


# -- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("blip", {"image_size": 16}, "reads images of 24 pixels; set image_size = 24"),
        ("dual_encoder", {"image_size": 16}, "does not read images of 16 x 16"),
        ("blip", {"max_text_tokens": 80, "settings": {"text_config": {"hiden_size": 3}}}, "did you mean 'hidden_size'"),
        ("vilt", {"settings": {"hiden_size": 3}}, "did you mean 'hidden_size'"),
        ("dual_encoder", {"architecture": "BertModel"}, "a dual_encoder model is a CLIPModel or .*, not a 'BertModel'"),
        ("blip", {"pretrained": "./nowhere"}, "there is no model folder './nowhere'"),
        ("vilt", {"settings": {"hidden_size": 10, "num_attention_heads": 4}}, "does not describe a Vilt"),
    ],
)
def test_wrong_configuration_is_refused(name: str, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        build(name, **changes)


def test_a_damaged_file_of_ours_is_refused(tmp_path: Path) -> None:
    model = build("blip", **VARIANTS["entailment"])
    assert isinstance(model, Blip)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / OWN_FILE).write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"{OWN_FILE} is damaged"):
        Model.from_pretrained(tmp_path / "model")


def test_small_towers_are_drawn_by_their_width() -> None:
    """transformers draws a BLIP vision tower's weights at a deviation of 1e-10."""
    model = build("blip")
    weight = model.get_parameter("model.vision_model.embeddings.patch_embedding.weight").detach()
    assert weight.std() == pytest.approx(0.02 * (768 / 16) ** 0.5, rel=0.1)


def test_the_file_of_a_brought_model_stays_as_it_is(tmp_path: Path) -> None:
    folder = zoo.write("vilt_classes", tmp_path / "hub")
    model = Model.from_pretrained(folder)
    assert model.config.labels == zoo.CLASSES
    model.save_pretrained(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in folder.iterdir()}
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out"))
    assert before == after
