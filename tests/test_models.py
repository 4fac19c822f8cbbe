"""Every model keeps the contract: three separate steps, scopes that part the parameters, folders that give it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from multidelete.data.batches import PairInputs
from multidelete.models import MODELS, Albef, Batch, Encoding, Model, Tokens
from multidelete.models.config import EncoderConfig
from multidelete.models.encoders import load_pretrained, normalise
from multidelete.models.folder import read_tokenizer
from multidelete.models.image_text import contrastive_losses, hard_negatives
from multidelete.tasks.retrieval import match_log_odds
from multidelete.utils.errors import InputError

NAMES = tiny.RETRIEVAL
WIDTHS = {"bridgetower": 64}  # of image tokens
FUSED = {"dual_encoder": 8, "bridgetower": 32}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    """A trained model; it is shared, so a test that changes it must take a copy."""
    return tiny.original(request.param)


def pairs(model: Model, images: list[int], texts: list[int]) -> Batch:
    rows = {"vision": np.array(images), "text": np.array(texts)}
    return PairInputs.of(tiny.dataset(), model).batch(rows, torch.device("cpu"))


def tokens(ids: list[list[int]], padding: int = 0) -> Tokens:
    longest = max(map(len, ids))
    padded = torch.tensor([row + [padding] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return Tokens(padded, mask)


def test_every_model_is_tested() -> None:
    assert set(NAMES) == {name for name, model in MODELS.items() if "ranking" in model.provides}


# -- folders ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_folder_gives_the_model_back(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = Model.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    assert tiny.changed(tiny.weights(model), tiny.weights(loaded)) == set()
    texts = tiny.dataset().texts[:10]
    assert loaded.tokenize(texts) == model.tokenize(texts)
    batch = tiny.first_pairs(model, 9)
    assert torch.equal(loaded.head(loaded.fused(batch)), model.head(model.fused(batch)))
    assert torch.equal(loaded.losses(batch), model.losses(batch))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "is damaged"),
        (lambda folder: (folder / "config.json").write_text("{"), "is damaged"),
        (lambda folder: edit(folder, format=9), "has format 9"),
        (lambda folder: edit(folder, model="bert"), "is not of a multidelete model"),
        (lambda folder: edit(folder, image_size="big"), "'image_size'"),
        (lambda folder: edit(folder, embedding_width=9), "another shape of"),
    ],
)
def test_damaged_folder_is_refused(damage: Any, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.original("albef").save_pretrained(folder)
    damage(folder)
    with pytest.raises(InputError, match=expected):
        Model.from_pretrained(folder)


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# -- building -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_the_initial_weights_and_nothing_else(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny.build(tiny.CONFIGS[name], seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = tiny.build(tiny.CONFIGS[name], seed=3), tiny.build(tiny.CONFIGS[name], seed=4)
    assert tiny.changed(tiny.weights(first), tiny.weights(again)) == set()
    matrices = {name for name, weight in first.named_parameters() if weight.dim() > 1 and weight.any()}
    assert matrices
    assert matrices <= tiny.changed(tiny.weights(first), tiny.weights(other))


@pytest.mark.parametrize("name", NAMES)
def test_built_model_of_another_config_can_be_built_again(name: str) -> None:
    """Retrain builds from the resolved configuration of the original: the same weights must come out."""
    first = tiny.build(tiny.CONFIGS[name], seed=3)
    again = type(first).build(first.config, (), 3, tokenizer=first.tokenizer)
    assert again.config == first.config
    assert tiny.changed(tiny.weights(first), tiny.weights(again)) == set()


# -- encode, fuse, head -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_shapes(model: Model) -> None:
    batch = tiny.first_pairs(model, 5)
    encodings = model.encode(batch)
    text = batch.inputs["text"]
    assert isinstance(text, Tokens)
    assert set(encodings) == {"vision", "text"}
    for modality, encoding in encodings.items():
        assert encoding.stage == "encoded"
        assert len(encoding) == 5
        assert encoding.tokens.shape[:2] == encoding.mask.shape
        if model.contrastive:
            norms = model.embedding(modality, encoding).norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms))
    assert encodings["vision"].tokens.shape == (5, 10, WIDTHS.get(model.name, 16))  # nine patches, the class token
    width = 32 if model.name == "blip" else 16  # two passes of the text tower, side by side
    assert encodings["text"].tokens.shape == (5, text.ids.shape[1], width)
    assert torch.equal(encodings["text"].mask, text.mask)
    fused = model.fuse(encodings)
    assert fused.shape == (5, FUSED.get(model.name, 16))
    logits = model.head(fused)
    assert logits.shape == (5, 2)
    odds = torch.from_numpy(match_log_odds(logits.numpy()))
    torch.testing.assert_close(odds.sigmoid(), logits.softmax(-1)[:, 1])
    torch.testing.assert_close(model.fused(batch), fused)


@torch.no_grad()
def test_repairing_encodings_is_encoding_the_repaired_batch(model: Model) -> None:
    images, texts = [0, 1, 2, 3], [0, 3, 6, 9]
    encodings = model.encode(pairs(model, images, texts))
    order = torch.tensor([2, 0, 3, 1])
    repaired = model.fuse({"vision": encodings["vision"], "text": encodings["text"][order]})
    plain = model.fused(pairs(model, images, [texts[i] for i in order]))
    torch.testing.assert_close(repaired, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(repaired, model.fuse(encodings), atol=1e-3)


@torch.no_grad()
def test_embed_and_project_of_a_frozen_backbone_compose(model: Model) -> None:
    batch = tiny.first_pairs(model, 4)
    full = model.encode(batch)
    for modality, inputs in batch.inputs.items():
        embedded = model.embed(modality, inputs)  # type: ignore[arg-type]
        assert embedded.stage == "embedded"
        rest = model.encode_one(modality, embedded)
        assert torch.equal(rest.tokens, full[modality].tokens)
        assert model.encode_one(modality, rest) is rest


@torch.no_grad()
def test_padding_changes_nothing(model: Model) -> None:
    dataset = tiny.dataset()
    lengths = np.array([len(ids) for ids in model.tokenize(dataset.texts)])
    short, long = int(lengths.argmin()), int(lengths.argmax())
    assert lengths[long] > lengths[short] + 3
    image = int(dataset.text_examples[short])
    alone, siblings = pairs(model, [image], [short]), pairs(model, [image, image], [short, long])
    torch.testing.assert_close(model.fused(alone)[0], model.fused(siblings)[0], atol=1e-5, rtol=1e-5)
    embeddings = [model.embedding("text", model.encode(batch)["text"])[0] for batch in (alone, siblings)]
    torch.testing.assert_close(embeddings[0], embeddings[1], atol=1e-5, rtol=1e-5)


def test_images_are_normalised_with_the_configurations_mean_and_deviation() -> None:
    config = tiny.albef(image_mean=(0.0, 0.5, 1.0), image_std=(1.0, 0.5, 0.25))
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert normalise(pixels, config)[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_text_is_cut_at_the_longest_allowed(model: Model) -> None:
    assert {len(ids) for ids in model.tokenize(["red " * 100])} == {model.config.max_text_tokens}


# -- ALBEF's fusion encoder ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_fusion_reads_text_in_both_directions_and_all_of_the_image() -> None:
    model = tiny.original("albef")
    encodings = model.encode(tiny.first_pairs(model, 1))
    plain = model.fuse(encodings)
    last = int(encodings["text"].mask.sum()) - 1
    for modality, position in (("text", last), ("vision", -1), ("vision", 0)):
        states = encodings[modality].tokens.clone()
        states[0, position] += torch.linspace(-1, 1, states.shape[-1])
        other = Encoding(states, encodings[modality].mask, encodings[modality].pooled)
        assert (model.fuse({**encodings, modality: other}) - plain).abs().max() > 1e-4, (modality, position)


@torch.no_grad()
def test_fusion_ignores_masked_image_tokens() -> None:
    model = tiny.original("albef")
    encodings = model.encode(tiny.first_pairs(model, 2))
    vision = encodings["vision"]
    half = vision.mask.clone()
    half[:, 5:] = 0
    masked = model.fuse({**encodings, "vision": Encoding(vision.tokens, half, vision.pooled)})
    cut = model.fuse({**encodings, "vision": Encoding(vision.tokens[:, :5], vision.mask[:, :5], vision.pooled)})
    torch.testing.assert_close(masked, cut, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reading_only_the_first_token_is_the_full_computation() -> None:
    model = tiny.original("albef")
    assert isinstance(model, Albef)
    encodings = model.encode(tiny.first_pairs(model, 6))
    text, vision = encodings["text"], encodings["vision"]
    states: Any = text.tokens
    layer: Any
    for layer in model.fusion.layers:
        states = layer(
            states,
            text.mask[:, None, None, :].bool(),
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask[:, None, None, :].bool(),
        )
    torch.testing.assert_close(model.fuse(encodings), states[:, 0], atol=1e-5, rtol=1e-5)


# -- scopes -------------------------------------------------------------------------------------------------------


def test_scopes_part_the_parameters(model: Model) -> None:
    parts = {scope: set(model.parameters_of(scope)) for scope in ("vision", "text", "fusion")}
    assert all(parts.values())
    assert sum(len(names) for names in parts.values()) == len(set.union(*parts.values()))
    assert set.union(*parts.values()) == set(model.parameters_of("all"))
    assert set(model.parameters_of("all")) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert model.parameters_of("all")[name] is parameter


def test_unknown_scope_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match=r"'fusoin' is not a scope of a model of kind '.*' .*; did you mean 'fusion'"):
        model.parameters_of("fusoin")


@pytest.mark.parametrize("name", NAMES)
def test_frozen_backbone_is_in_no_scope_and_stays_in_eval_mode(name: str) -> None:
    model = tiny.build(tiny.freezing(name))
    frozen = set(model.frozen_parameters())
    assert frozen
    for scope in ("all", "text", "fusion"):
        assert not frozen & set(model.parameters_of(scope))
    assert not any(model.get_parameter(inner).requires_grad for inner in frozen)
    model.train()
    assert model.training
    owners = [model.get_submodule(inner.rpartition(".")[0]) for inner in frozen if inner.endswith("weight")]
    assert not any(module.training for module in owners)
    moving = [inner for inner in model.parameters_of("text") if inner.endswith("weight")]
    assert all(model.get_submodule(inner.rpartition(".")[0]).training for inner in moving)
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "albef"])  # whose adapters still move
def test_scope_in_which_all_is_frozen_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"scope 'vision' of this {name} model is frozen"):
        tiny.build(tiny.freezing(name)).parameters_of("vision")


# -- losses -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_losses_are_one_number_for_each_pair(model: Model) -> None:
    losses = model.losses(tiny.first_pairs(model, 12))
    assert losses.shape == (12,)
    assert (losses > 0).all()
    assert losses.unique().numel() > 1


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_batch_of_one_example_has_a_loss(model: Model, count: int) -> None:
    losses = model.losses(tiny.first_pairs(model, count))  # three texts belong to the first image
    assert losses.shape == (count,)
    assert torch.isfinite(losses).all()


@torch.no_grad()
def test_losses_without_generator_are_the_same_each_time(model: Model) -> None:
    batch = tiny.first_pairs(model, 12)
    assert torch.equal(model.losses(batch), model.losses(batch))


@torch.no_grad()
def test_generator_draws_the_hard_negatives() -> None:
    model = tiny.original("albef")
    batch = tiny.first_pairs(model, 30)

    def losses(seed: int) -> Tensor:
        return model.losses(Batch(batch.inputs, batch.rows, batch.examples, torch.Generator().manual_seed(seed)))

    assert torch.equal(losses(0), losses(0))
    assert not torch.equal(losses(0), losses(1))


def test_hard_negatives_are_of_another_example_and_prefer_the_similar() -> None:
    examples = torch.tensor([0, 0, 1, 1, 2])
    same = examples[:, None] == examples[None, :]
    similarity = torch.zeros(5, 5)
    similarity[0] = torch.tensor([9.0, 9.0, 0.0, 3.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard_negatives(similarity, same, generator) for _ in range(2000)])
    for row in range(5):
        assert not same[row, drawn[:, row]].any()
    shares = torch.bincount(drawn[:, 0], minlength=5) / 2000
    expected = torch.tensor([0.0, 0.0, 1.0, np.exp(3), 1.0]) / (2 + np.exp(3))
    torch.testing.assert_close(shares, expected.float(), atol=0.03, rtol=0)
    chosen = hard_negatives(similarity, same, None)
    assert chosen is not None
    assert chosen[0] == 3


def test_hard_negatives_do_not_exist_in_one_example() -> None:
    assert hard_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), None) is None


def test_contrastive_loss_against_a_plain_twin() -> None:
    examples = [0, 0, 1]
    similarity = torch.tensor([[1.0, 0.5, -1.0], [0.2, 2.0, 0.0], [0.3, -0.5, 1.5]])
    same = torch.tensor([[a == b for b in examples] for a in examples])

    def one_way(scores: Tensor) -> list[float]:
        return [
            float(np.mean([scores[i].logsumexp(0) - scores[i, j] for j in range(3) if examples[i] == examples[j]]))
            for i in range(3)
        ]

    expected = [(a + b) / 2 for a, b in zip(one_way(similarity), one_way(similarity.T), strict=True)]
    assert contrastive_losses(similarity, same).tolist() == pytest.approx(expected, rel=1e-6)


# -- pretrained parts from transformers ---------------------------------------------------------------------------


def save_encoder(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    import transformers

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    result: nn.Module
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            result = transformers.ViTModel(transformers.ViTConfig(image_size=24, patch_size=8, **size))
        elif kind == "bert":
            result = transformers.BertModel(transformers.BertConfig(vocab_size=200, max_position_embeddings=64, **size))
        else:
            config = transformers.EfficientNetConfig(
                image_size=24,
                width_coefficient=0.25,
                depth_coefficient=0.1,
                hidden_dim=320,  # what its last convolution is rounded to
                in_channels=[32, 16],
                out_channels=[16, 24],
                kernel_sizes=[3, 3],
                strides=[1, 2],
                num_block_repeats=[1, 1],
                expand_ratios=[1, 6],
            )
            result = transformers.EfficientNetModel(config)
    result.to(dtype).save_pretrained(folder)  # type: ignore[operator]
    if kind == "bert":
        tiny.original("albef").tokenizer.save_pretrained(folder)
    return result.float().eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "efficientnet"])
def test_vision_backbone_from_a_folder(kind: str, tmp_path: Path) -> None:
    reference = save_encoder(tmp_path / kind, kind)
    model = tiny.build(tiny.albef(vision=EncoderConfig(pretrained=str(tmp_path / kind))))
    pixels = torch.from_numpy(tiny.dataset().images(24)[:3]).permute(0, 3, 1, 2)
    ours = model.embed("vision", pixels)
    theirs = reference(pixel_values=normalise(pixels, model.config)).last_hidden_state
    if kind == "efficientnet":
        theirs = theirs.flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours.pooled, theirs.mean(1))
    else:
        torch.testing.assert_close(ours.pooled, theirs[:, 0])
    torch.testing.assert_close(ours.tokens, theirs)
    model.save_pretrained(tmp_path / "whole")
    loaded = Model.from_pretrained(tmp_path / "whole")  # needs no pretrained folder any more
    assert tiny.changed(tiny.weights(model), tiny.weights(loaded)) == set()
    assert torch.equal(loaded.embed("vision", pixels).tokens, ours.tokens)


@torch.no_grad()
def test_text_backbone_from_a_folder(tmp_path: Path) -> None:
    reference = save_encoder(tmp_path / "bert", "bert")
    model = tiny.build(tiny.albef(text=EncoderConfig(pretrained=str(tmp_path / "bert"), pooling="mean")))
    given = tokens(model.tokenize(["a red circle", "a blue square left of a green star"]))
    ours = model.embed("text", given)
    theirs = reference(input_ids=given.ids, attention_mask=given.mask).last_hidden_state
    torch.testing.assert_close(ours.tokens, theirs)
    length = int(given.mask[0].sum())
    torch.testing.assert_close(ours.pooled[0], theirs[0, :length].mean(0))


def test_half_precision_on_disk_is_fp32_in_memory(tmp_path: Path) -> None:
    save_encoder(tmp_path / "vit", "vit", torch.float16)
    model = tiny.build(tiny.albef(vision=EncoderConfig(pretrained=str(tmp_path / "vit"))))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ({"pretrained": "./nowhere"}, "there is no folder './nowhere'"),
        ({"config": {"model_type": "vitt"}}, "did you mean 'vit'"),
        ({"config": {"model_type": "vit", "hiden_size": 3}}, "did you mean 'hidden_size'"),
    ],
)
def test_wrong_encoder_is_refused(encoder: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        tiny.build(tiny.albef(vision=EncoderConfig(**encoder)))


def test_folder_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.vision.pretrained: .* could not be loaded"):
        tiny.build(tiny.albef(vision=EncoderConfig(pretrained=str(tmp_path))))


def test_clips_fused_mean_is_the_cosine() -> None:
    model = tiny.original("dual_encoder")
    with torch.no_grad():
        encodings = model.encode(tiny.first_pairs(model, 4))
        vision, text = (model.embedding(modality, encodings[modality]) for modality in ("vision", "text"))
        torch.testing.assert_close(model.fuse(encodings).mean(-1), (vision * text).sum(-1))


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_code_that_a_folder_brings_along_is_never_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks on a terminal
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Foreign: pass\n")
    code = {"AutoConfig": "foreign.Foreign", "AutoModel": "foreign.Foreign", "AutoTokenizer": ["foreign.Foreign", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": code}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Foreign", "auto_map": code}))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="code that it brings along, and such code is never run"):
        load_pretrained(str(tmp_path), "model.vision") if what == "model" else read_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
