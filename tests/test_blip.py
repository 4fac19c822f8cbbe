"""BLIP: a text tower that reads alone and grounded in the image, against transformers' own; scopes; all tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multidelete.models import Batch, Model, Tokens
from multidelete.models.blip import ENCODE_TOKEN, Blip, BlipConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.encoders import word_tokenizer
from multidelete.models.image_text import normalise
from multidelete.tasks import TASKS
from multidelete.utils.errors import InputError
from pairs import SIZE, TEXTS, VARIANTS, batch, check_repairing, check_round_trip


def blip(**changes: Any) -> BlipConfig:
    vision = {"model_type": "blip_vision_model", "image_size": 24, "patch_size": 8, "initializer_range": 0.2, **SIZE}
    text = {"model_type": "blip_text_model", "max_position_embeddings": 64, "initializer_range": 0.2, **SIZE}
    fields = {
        "image_size": 24,
        "vision": EncoderConfig(config=vision),
        "text": EncoderConfig(config=text),
        "embedding_width": 8,
    }
    return BlipConfig(**{**fields, **changes})


def build(config: BlipConfig, tokenizer: Any = None, seed: int = 0) -> Blip:
    return Blip.build(config, TEXTS, seed, tokenizer)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Blip:
    return build(blip(**VARIANTS[request.param]))


# -- the contract, for each task ----------------------------------------------------------------------------------


def test_it_does_the_image_text_tasks() -> None:
    assert {name for name, task in TASKS.items() if task.provides() <= Blip.provides} == set(VARIANTS)
    assert Blip.contrastive
    assert Blip.matching


@torch.no_grad()
def test_shapes(model: Blip) -> None:
    given = batch(model)
    encodings = model.encode(given)
    words = given.inputs["text"]
    assert isinstance(words, Tokens)
    assert encodings["vision"].tokens.shape == (4, model.config.images * 10, 16)
    assert encodings["text"].tokens.shape == (4, words.ids.shape[1], 2 * 16)
    fused = model.fuse(encodings)
    assert fused.shape == (4, model.config.images * 16)
    assert model.head(fused).shape == (4, max(2, len(model.config.labels)))
    if not model.config.labels:
        for modality, encoding in encodings.items():
            torch.testing.assert_close(model.embedding(modality, encoding).norm(dim=-1), torch.ones(4))


@torch.no_grad()
def test_losses_are_one_finite_number_for_each_pair(model: Blip) -> None:
    given = batch(model)
    losses = model.losses(given)
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    assert (losses > 0).all()
    assert losses.unique().numel() == 4
    assert torch.equal(model.losses(given), losses)


def test_scopes_part_the_parameters(model: Blip) -> None:
    parts = {scope: set(model.parameters_of(scope)) for scope in ("vision", "text", "fusion")}
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    assert set.union(*parts.values()) == {name for name, _ in model.named_parameters()}
    towers = {name for name, _ in model.text.named_parameters()}
    assert not any("crossattention" in name or "pooler" in name for name in towers)
    assert {f"text.{name}" for name in towers} <= parts["text"]


def test_gradients_flow_in_scope_only_and_through_what_stands_still(model: Blip) -> None:
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
        assert {name for name in moving if name.endswith("weight")} <= moved, scope


def test_cross_attention_learns_the_same_from_encodings_computed_before() -> None:
    """Under scope fusion the engine encodes once: what is cached may hold nothing that moves."""
    model = build(blip())
    given = batch(model)
    with torch.no_grad():
        cached = replace(given, inputs=dict(model.encode(given)))

    def gradients(which: Batch) -> dict[str, Tensor]:
        moving = model.parameters_of("fusion")
        result = torch.autograd.grad(model.losses(which).sum(), list(moving.values()), allow_unused=True)
        return {name: torch.zeros(()) if g is None else g for name, g in zip(moving, result, strict=True)}

    plain, again = gradients(given), gradients(cached)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)
    assert plain["fusion.0.self.query.weight"].any()


@torch.no_grad()
def test_repaired_encodings_are_those_of_the_repaired_batch(model: Blip) -> None:
    check_repairing(model)


@torch.no_grad()
def test_folder_gives_the_model_back(model: Blip, tmp_path: Path) -> None:
    check_round_trip(model, tmp_path / "model")


def test_seed_and_resolved_configuration_give_the_same_weights_again(model: Blip) -> None:
    again = build(model.config, model.tokenizer)
    before, after = model.state_dict(), again.state_dict()
    assert again.config == model.config
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = build(model.config, model.tokenizer, seed=1).state_dict()
    assert not torch.equal(before["fusion.0.self.query.weight"], other["fusion.0.self.query.weight"])


@torch.no_grad()
def test_padding_changes_nothing(model: Blip) -> None:
    one = batch(model, 1)  # the shortest text
    many = batch(model)
    torch.testing.assert_close(model.fused(one)[0], model.fused(many)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_frozen_tower_is_in_no_scope_but_its_fusion_is(modality: str) -> None:
    config = blip()
    encoder = getattr(config, modality).model_copy(update={"freeze": True})
    model = build(config.model_copy(update={modality: encoder}))
    tower = getattr(model, modality)
    frozen = {f"{modality}.{name}" for name, _ in tower.named_parameters()}
    assert frozen
    assert not frozen & set(model.parameters_of("all"))
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert "fusion.1.self.query.weight" in model.parameters_of("fusion")
    model.train()
    assert model.fusion.training
    assert not any(module.training for module in tower.modules())


@torch.no_grad()
def test_each_of_two_pictures_is_read_as_if_alone() -> None:
    model = build(blip(**VARIANTS["reasoning"]))
    given = batch(model)
    encodings = model.encode(given)
    pictures = zip(encodings["vision"].tokens.chunk(2, 1), encodings["vision"].mask.chunk(2, 1), strict=True)
    alone = [model.fuse_picture(encodings["text"], replace(encodings["vision"], tokens=t, mask=m)) for t, m in pictures]
    torch.testing.assert_close(model.fuse(encodings), torch.cat(alone, -1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


# -- the two passes of the text tower -----------------------------------------------------------------------------


def save_retrieval_model(folder: Path, tokenizer: Any, kind: str = "BlipForImageTextRetrieval") -> Any:
    import transformers

    text = {**SIZE, "max_position_embeddings": 64, "vocab_size": len(tokenizer), "pad_token_id": 0}
    vision = {**SIZE, "image_size": 24, "patch_size": 8, "initializer_range": 0.2}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=12)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        result = getattr(transformers, kind)(config)
        for parameter in result.parameters():  # a fresh model gives nearly the same score to every pair
            nn.init.normal_(parameter, std=0.7 if parameter.dim() > 1 else 0.3)
    result.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return result.eval()


def tokenizer_with_encode_token() -> Any:
    tokenizer = word_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"additional_special_tokens": [ENCODE_TOKEN]})
    return tokenizer


@torch.no_grad()
@pytest.mark.parametrize("encode_token", [False, True])
def test_scores_are_those_of_transformers(encode_token: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_with_encode_token() if encode_token else word_tokenizer(TEXTS)
    reference = save_retrieval_model(tmp_path / "hub", tokenizer)
    both = EncoderConfig(pretrained=str(tmp_path / "hub"))
    model = build(blip(vision=both, text=both))
    assert model.config.embedding_width == 12
    given = batch(model)
    pixels, words = given.inputs["vision"], given.inputs["text"]
    assert isinstance(pixels, Tensor)
    assert isinstance(words, Tokens)
    seen = {"pixel_values": normalise(pixels, model.config), "attention_mask": words.mask}
    encodings = model.encode(given)

    cosines = encodings["vision"].pooled @ encodings["text"].pooled.T
    expected = reference(input_ids=words.ids, use_itm_head=False, **seen).itm_score
    assert min(expected.std(0).min(), expected.std(1).min()) > 1e-3
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=1e-5)

    grounded = words.ids.clone()
    if encode_token:
        grounded[:, 0] = tokenizer.convert_tokens_to_ids(ENCODE_TOKEN)
    expected = reference(input_ids=grounded, **seen).itm_score
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(model.head(model.fuse(encodings)), expected, atol=1e-5, rtol=1e-5)

    model.save_pretrained(tmp_path / "ours")
    loaded = Model.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded.fused(given), model.fused(given))


@torch.no_grad()
def test_classes_are_learned_on_top_of_a_retrieval_model(tmp_path: Path) -> None:
    reference = save_retrieval_model(tmp_path / "hub", word_tokenizer(TEXTS))
    both = EncoderConfig(pretrained=str(tmp_path / "hub"))
    model = build(blip(vision=both, text=both, labels=VARIANTS["entailment"]["labels"]))
    given = batch(model)
    pixels, words = given.inputs["vision"], given.inputs["text"]
    assert isinstance(pixels, Tensor)
    assert isinstance(words, Tokens)
    output = reference(input_ids=words.ids, pixel_values=normalise(pixels, model.config), attention_mask=words.mask)
    torch.testing.assert_close(model.fused(given), output.question_embeds[:, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_plain_model_gives_both_towers_and_cross_attention(tmp_path: Path) -> None:
    reference = save_retrieval_model(tmp_path / "hub", word_tokenizer(TEXTS), "BlipModel")
    both = EncoderConfig(pretrained=str(tmp_path / "hub"))
    model = build(blip(vision=both, text=both))
    theirs = reference.text_model.encoder.layer[1]
    assert torch.equal(model.fusion[1].self.key.weight, theirs.crossattention.self.key.weight)
    assert torch.equal(model.text.encoder.layer[1].output.dense.weight, theirs.output.dense.weight)
    position = reference.vision_model.embeddings.position_embedding
    assert torch.equal(model.vision.embeddings.position_embedding, position)


@torch.no_grad()
def test_fusion_reads_the_second_half_of_the_text_and_both_halves_are_there() -> None:
    model = build(blip())
    given = batch(model)
    encodings = model.encode(given)
    words = given.inputs["text"]
    assert isinstance(words, Tokens)
    text = encodings["text"]
    tower: Any = model.text
    alone = tower(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    torch.testing.assert_close(text.tokens[..., :16], alone)
    torch.testing.assert_close(text.tokens[..., 16:], tower.embeddings(words.ids))
    plain = model.fuse(encodings)
    for half, read in ((slice(0, 16), False), (slice(16, 32), True)):
        states = text.tokens.clone()
        states[..., half] += torch.linspace(-1, 1, 16)
        other = model.fuse({**encodings, "text": replace(text, tokens=states)})
        assert torch.equal(other, plain) is not read


@torch.no_grad()
def test_masked_image_tokens_are_not_read() -> None:
    model = build(blip())
    encodings = model.encode(batch(model))
    vision = encodings["vision"]
    half = vision.mask.clone()
    half[:, 5:] = 0
    masked = model.fuse({**encodings, "vision": replace(vision, mask=half)})
    cut = model.fuse({**encodings, "vision": replace(vision, tokens=vision.tokens[:, :5], mask=vision.mask[:, :5])})
    torch.testing.assert_close(masked, cut, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(masked, model.fuse(encodings), atol=1e-3)


# -- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_size": 16}, "reads images of 24 pixels; set image_size = 24 instead of 16"),
        ({"max_text_tokens": 80}, "does not work with max_text_tokens = 80"),
        ({"text": {"model_type": "blip_text_model", "hiden_size": 3}}, "did you mean 'hidden_size'"),
        ({"text": {"model_type": "bert"}}, "is a 'blip_text_model', not a 'bert'"),
    ],
)
def test_wrong_configuration_is_refused(changes: dict[str, Any], expected: str) -> None:
    changes = {name: EncoderConfig(config=value) if name == "text" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=expected):
        build(blip(**changes))


def test_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    import transformers

    transformers.BertModel(transformers.BertConfig(vocab_size=50, **SIZE)).save_pretrained(tmp_path)
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.text.pretrained: .* (could not be loaded|no complete BLIP encoder)"):
        build(blip(text=EncoderConfig(pretrained=str(tmp_path))))


def test_towers_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_retrieval_model(tmp_path, word_tokenizer(TEXTS))
    wide = EncoderConfig(config={**blip().vision.config, "hidden_size": 32})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="does not fit the vision tower"):
        build(blip(vision=wide, text=EncoderConfig(pretrained=str(tmp_path))))


def test_drawn_towers_can_learn() -> None:
    """transformers draws a BLIP vision tower's weights at a deviation of 1e-10."""
    fields = {name: value for name, value in (blip().vision.config or {}).items() if name != "initializer_range"}
    model = build(blip(vision=EncoderConfig(config=fields)))
    assert model.vision.embeddings.patch_embedding.weight.detach().std() == pytest.approx(
        0.02 * (768 / 16) ** 0.5, rel=0.05
    )


# -- the published size -------------------------------------------------------------------------------------------


def test_published_size_takes_a_step(tmp_path: Path) -> None:
    """ViT-B/16 and BERT-base at 384 pixels, of which one layer each."""
    size = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 1}
    vision = {"model_type": "blip_vision_model", "image_size": 384, "patch_size": 16, **size}
    config = BlipConfig(
        image_size=384,
        vision=EncoderConfig(config=vision),
        text=EncoderConfig(config={"model_type": "blip_text_model", **size}),
        embedding_width=256,
    )
    build(config).save_pretrained(tmp_path / "model")
    model = Model.from_pretrained(tmp_path / "model").train()
    given = batch(model, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    before = model.losses(given).mean()
    before.backward()
    optimiser.step()
    with torch.no_grad():
        after = model.losses(given).mean()
    assert torch.isfinite(after)
    assert after < before
