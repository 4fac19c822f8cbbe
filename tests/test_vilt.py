"""ViLT: a single stream, cut where the modalities meet, against transformers' own; scopes; all tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multidelete.models import Batch, Model, Tokens
from multidelete.models.config import EncoderConfig
from multidelete.models.encoders import word_tokenizer
from multidelete.models.image_text import normalise
from multidelete.models.vilt import Vilt, ViltConfig
from multidelete.tasks import TASKS
from multidelete.utils.errors import InputError
from pairs import SIZE, TEXTS, VARIANTS, batch, check_repairing, check_round_trip

FIELDS = {
    "model_type": "vilt",
    "image_size": 24,
    "patch_size": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    **SIZE,
}


def vilt(**changes: Any) -> ViltConfig:
    return ViltConfig(**{"image_size": 24, "encoder": EncoderConfig(config=FIELDS), **changes})


def build(config: ViltConfig, tokenizer: Any = None, seed: int = 0) -> Vilt:
    return Vilt.build(config, TEXTS, seed, tokenizer)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Vilt:
    return build(vilt(**VARIANTS[request.param]))


def raw(given: Batch) -> tuple[Tensor, Tokens]:
    pixels, words = given.inputs["vision"], given.inputs["text"]
    assert isinstance(pixels, Tensor)
    assert isinstance(words, Tokens)
    return pixels, words


# -- the contract, for each task ----------------------------------------------------------------------------------


def test_it_does_the_image_text_tasks_by_matching_alone() -> None:
    assert {name for name, task in TASKS.items() if task.provides() <= Vilt.provides} == set(VARIANTS)
    assert not Vilt.contrastive
    assert Vilt.matching


@torch.no_grad()
def test_shapes(model: Vilt) -> None:
    given = batch(model)
    images = model.config.images
    encodings = model.encode(given)
    assert encodings["vision"].tokens.shape == (4, images * 10, 16)
    assert encodings["text"].tokens.shape == (*raw(given)[1].ids.shape, 16)
    fused = model.fuse(encodings)
    assert fused.shape == (4, images * 16)
    assert model.head(fused).shape == (4, max(2, len(model.config.labels)))
    length = int(encodings["text"].mask[0].sum())
    expected = encodings["text"].tokens[0, :length].mean(0)
    torch.testing.assert_close(encodings["text"].pooled[0], expected)


@torch.no_grad()
def test_losses_are_one_finite_number_for_each_pair(model: Vilt) -> None:
    given = batch(model)
    losses = model.losses(given)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    assert (losses > 0).all()
    assert losses.unique().numel() == 4
    assert torch.equal(model.losses(given), losses)


@torch.no_grad()
def test_retrieval_loss_is_matching_with_partners_drawn_uniformly() -> None:
    model = build(vilt())
    given = batch(model)

    def loss(image: int, text: int, label: int) -> float:
        encodings = model.encode(given)
        at = {"vision": encodings["vision"][torch.tensor([image])], "text": encodings["text"][torch.tensor([text])]}
        return float(nn.functional.cross_entropy(model.head(model.fuse(at)), torch.tensor([label])))

    # Without a generator the first partner of another example is taken: row 1 for row 0, row 0 for the others.
    partners = [1, 0, 0, 0]
    expected = [(loss(i, i, 1) + loss(i, p, 0) + loss(p, i, 0)) / 3 for i, p in enumerate(partners)]
    assert model.losses(given).tolist() == pytest.approx(expected, rel=1e-4)
    drawn = {
        tuple(model.losses(replace(given, generator=torch.Generator().manual_seed(seed))).tolist()) for seed in range(9)
    }
    assert len(drawn) > 5


@torch.no_grad()
def test_batch_of_one_example_has_a_loss() -> None:
    model = build(vilt())
    one = torch.zeros(2, dtype=torch.long)
    losses = model.losses(batch(model, 2, examples={"vision": one, "text": one}))
    assert losses.shape == (2,)
    assert torch.isfinite(losses).all()


def test_scopes_part_the_parameters(model: Vilt) -> None:
    parts = {scope: set(model.parameters_of(scope)) for scope in ("vision", "text", "fusion")}
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    assert set.union(*parts.values()) == {name for name, _ in model.named_parameters()}
    assert "fusion.token_types" in parts["fusion"]
    assert "vision.position_embeddings" in parts["vision"]


def test_gradients_flow_in_scope_only_and_through_what_stands_still(model: Vilt) -> None:
    given = batch(model)
    for scope in ("vision", "text", "fusion"):
        moving = model.parameters_of(scope)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in moving)
            parameter.grad = None
        model.losses(given).sum().backward()
        moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved <= moving.keys()
        # All matrices and norms learn; the bias of a key changes no attention.
        assert {name for name in moving if not name.endswith("bias")} <= moved, scope


def test_fusion_learns_the_same_from_encodings_computed_before(model: Vilt) -> None:
    """Under scope fusion the engine encodes once: what is cached may hold nothing that moves."""
    given = batch(model)
    with torch.no_grad():
        cached = replace(given, inputs=dict(model.encode(given)))
    moving = model.parameters_of("fusion")
    plain, again = (torch.autograd.grad(model.losses(which).sum(), list(moving.values())) for which in (given, cached))
    for name, expected, gradient in zip(moving, plain, again, strict=True):
        torch.testing.assert_close(gradient, expected, msg=name)


@torch.no_grad()
def test_repaired_encodings_are_those_of_the_repaired_batch(model: Vilt) -> None:
    check_repairing(model)


@torch.no_grad()
def test_folder_gives_the_model_back(model: Vilt, tmp_path: Path) -> None:
    check_round_trip(model, tmp_path / "model")


def test_seed_and_resolved_configuration_give_the_same_weights_again(model: Vilt) -> None:
    again = build(model.config, model.tokenizer)
    before, after = model.state_dict(), again.state_dict()
    assert again.config == model.config
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = build(model.config, model.tokenizer, seed=1).state_dict()
    matrices = {name for name, weight in before.items() if weight.dim() > 1}
    assert all(before[name].any() and not torch.equal(before[name], other[name]) for name in matrices)


@torch.no_grad()
def test_padding_changes_nothing(model: Vilt) -> None:
    one = batch(model, 1)  # the shortest text
    many = batch(model)
    torch.testing.assert_close(model.fused(one)[0], model.fused(many)[0], atol=1e-5, rtol=1e-5)


def test_frozen_backbone_leaves_the_head() -> None:
    encoder = EncoderConfig(config={**FIELDS, "hidden_dropout_prob": 0.5}, freeze=True)
    model = build(vilt(encoder=encoder))
    assert set(model.parameters_of("all")) == {"matching_head.weight", "matching_head.bias"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(model.parameters_of("all"))
    with pytest.raises(InputError, match="scope 'vision' of this vilt model is frozen"):
        model.parameters_of("vision")
    given = batch(model)
    with torch.no_grad():
        before = model.eval().fused(given)
        assert torch.equal(model.train().fused(given), before)
    assert model.matching_head.training
    assert all(model.backbone_frozen(modality) for modality in model.modalities)


# -- against transformers -----------------------------------------------------------------------------------------


def save_vilt(folder: Path, tokenizer: Any, *, kind: str = "ViltModel", **changes: Any) -> Any:
    import transformers

    fields = {name: value for name, value in FIELDS.items() if name != "model_type"}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        result = getattr(transformers, kind)(transformers.ViltConfig(vocab_size=len(tokenizer), **fields, **changes))
        for parameter in result.parameters():
            nn.init.normal_(parameter, std=0.7 if parameter.dim() > 1 else 0.3)
    result.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return result.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [24, 40])  # as it was made for, and with positions interpolated
def test_pooled_output_is_that_of_transformers(size: int, tmp_path: Path) -> None:
    reference = save_vilt(tmp_path / "hub", word_tokenizer(TEXTS))
    model = build(vilt(image_size=size, encoder=EncoderConfig(pretrained=str(tmp_path / "hub"))))
    given = batch(model)
    pixels, words = raw(given)
    theirs = reference(
        input_ids=words.ids,
        attention_mask=words.mask,
        pixel_values=normalise(pixels, model.config),
        pixel_mask=torch.ones(4, size, size, dtype=torch.long),
    ).pooler_output
    assert theirs.std(0).mean() > 0.01
    torch.testing.assert_close(model.fused(given), theirs, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    loaded = Model.from_pretrained(tmp_path / "ours")  # needs the folder it came from no more
    assert torch.equal(loaded.fused(given), model.fused(given))


@torch.no_grad()
def test_two_pictures_are_read_as_transformers_does(tmp_path: Path) -> None:
    kind = "ViltForImagesAndTextClassification"
    changes = {"kind": kind, "num_images": 2, "modality_type_vocab_size": 3}
    reference = save_vilt(tmp_path / "hub", word_tokenizer(TEXTS), **changes)
    encoder = EncoderConfig(pretrained=str(tmp_path / "hub"))
    model = build(vilt(encoder=encoder, **VARIANTS["reasoning"]))
    given = batch(model)
    pixels, words = raw(given)
    seen: list[Tensor] = []
    reference.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    reference(
        input_ids=words.ids,
        attention_mask=words.mask,
        pixel_values=normalise(pixels, model.config),
        pixel_mask=torch.ones(4, 2, 24, 24, dtype=torch.long),
    )
    torch.testing.assert_close(model.fused(given), seen[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_second_picture_starts_as_the_first_where_the_backbone_knows_one(tmp_path: Path) -> None:
    reference = save_vilt(tmp_path / "hub", word_tokenizer(TEXTS))
    model = build(vilt(encoder=EncoderConfig(pretrained=str(tmp_path / "hub")), **VARIANTS["reasoning"]))
    known = reference.embeddings.token_type_embeddings.weight
    assert torch.equal(model.fusion.token_types, known[[0, 1, 1]])


# -- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_size": 4}, "model.vision does not work with image_size = 4"),
        ({"max_text_tokens": 80}, "does not work with max_text_tokens = 80"),
        ({"encoder": {"config": {**FIELDS, "hiden_size": 3}}}, "did you mean 'hidden_size'"),
        ({"encoder": {"config": {"model_type": "vit"}}}, "is a 'vilt', not a 'vit'"),
        ({"encoder": {"config": FIELDS, "pooling": "mean"}}, "has its own pooler"),
        ({"encoder": {"pretrained": "./nowhere"}}, "there is no folder './nowhere'"),
    ],
)
def test_wrong_configuration_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build(vilt(**changes), tokenizer=word_tokenizer(TEXTS))


def test_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    import transformers

    transformers.ViTModel(transformers.ViTConfig(image_size=24, patch_size=8, **SIZE)).save_pretrained(tmp_path)
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.encoder.pretrained: .* (could not be loaded|no complete ViLT)"):
        build(vilt(encoder=EncoderConfig(pretrained=str(tmp_path))))


# -- the published size -------------------------------------------------------------------------------------------


def test_published_size_takes_a_step(tmp_path: Path) -> None:
    """ViLT-B/32 at 384 pixels, of which two layers."""
    config = ViltConfig(image_size=384, encoder=EncoderConfig(config={"model_type": "vilt", "num_hidden_layers": 2}))
    build(config).save_pretrained(tmp_path / "model")
    model = Model.from_pretrained(tmp_path / "model").train()
    given = batch(model, 2)
    assert model.encode(given)["vision"].tokens.shape == (2, 1 + 12 * 12, 768)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    before = model.losses(given).mean()
    before.backward()
    optimiser.step()
    with torch.no_grad():
        after = model.losses(given).mean()
    assert torch.isfinite(after)
    assert after < before
