"""Official ALBEF checkpoints: names turned round and back give the same weights, and the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from conftest import Ended
from multidelete import Model
from multidelete.models.albef import Albef, AlbefConfig, FusionConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.convert import albef_base, convert, from_lavis, resized_positions
from multidelete.models.inputs import Tokens
from multidelete.utils.errors import InputError

TEXTS = ("a red circle", "a small blue square left of a large green star")
SIZE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.2}
LAYERS = 2  # of the text encoder; the official model counts the fusion's on from there


def albef(*, image_size: int = 24, heads: int = 2, **changes: Any) -> AlbefConfig:
    vit = {"model_type": "vit", "image_size": image_size, "patch_size": 8, "layer_norm_eps": 1e-6}
    bert = {"model_type": "bert", "max_position_embeddings": 64}
    size = {**SIZE, "num_attention_heads": heads}
    fields = {
        "image_size": image_size,
        "vision": EncoderConfig(config={**vit, **size, "num_hidden_layers": 3}),
        "text": EncoderConfig(config={**bert, **size, "num_hidden_layers": LAYERS}),
        "fusion": FusionConfig(layers=2, width=16, heads=heads),
        "embedding_width": 8,
    }
    return AlbefConfig(**{**fields, **changes})


def build(**changes: Any) -> Albef:
    model = Albef.build(albef(**changes), TEXTS, 0)
    assert isinstance(model, Albef)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():  # biases and norms too, or a mistake would not show
            if name != "log_scale":
                nn.init.normal_(parameter, std=0.3)
    return model


def official(model: Albef, prefix: str) -> dict[str, Tensor]:
    """The weights by their official names: ours replaced one by one, query, key and value put together."""
    ours = model.state_dict()
    named: dict[str, Tensor] = {}
    blocks = {int(match[1]) for name in ours if (match := re.match(r"vision\.layers\.(\d+)\.", name))}
    for block in blocks:
        for kind in ("weight", "bias"):
            parts = [ours.pop(f"vision.layers.{block}.attention.{p}_proj.{kind}") for p in "qkv"]
            named[f"visual_encoder.blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    words = (
        ("vision.embeddings.patch_embeddings.projection", "visual_encoder.patch_embed.proj"),
        ("vision.embeddings.position_embeddings", "visual_encoder.pos_embed"),
        ("vision.embeddings.cls_token", "visual_encoder.cls_token"),
        ("vision.layernorm.", "visual_encoder.norm."),
        ("vision.layers.", "visual_encoder.blocks."),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.o_proj", "attn.proj"),
        ("vision_projection", "vision_proj"),
        ("text_projection", "text_proj"),
        ("matching_head", "itm_head"),
        ("class_head", "cls_head"),
        ("text.", prefix),
    )
    for name, tensor in ours.items():
        if name == "log_scale":
            named["temp"] = 1 / tensor.exp()
            continue
        if match := re.match(r"fusion\.layers\.(\d+)\.(.*)", name):
            named[f"{prefix}encoder.layer.{int(match[1]) + LAYERS}.{match[2]}"] = tensor
            continue
        for old, new in words:
            if name.startswith(old) or not old.endswith("."):
                name = name.replace(old, new, 1)
        named[name] = tensor
    return named


def luggage(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What else lies in an official checkpoint."""
    momentum = {
        re.sub(r"^(visual_encoder|text_encoder|vision_proj|text_proj)\.", r"\1_m.", name): tensor + 1
        for name, tensor in weights.items()
        if not name.startswith(("temp", "itm_head"))
    }
    return {
        **momentum,
        "image_queue": torch.ones(8, 32),
        "text_queue": torch.ones(8, 32),
        "idx_queue": torch.ones(1, 32),
        "queue_ptr": torch.zeros(1),
        "text_encoder.bert.embeddings.position_ids": torch.arange(64)[None],
        "text_encoder.cls.predictions.bias": torch.zeros(20),
    }


@pytest.mark.parametrize("prefix", ["text_encoder.", "text_encoder.bert."])
@pytest.mark.parametrize("loaded", [False, True])
def test_names_turned_round_come_back(prefix: str, loaded: bool) -> None:
    model = build()
    weights = official(model, prefix)
    assert not any(re.match(r"vision\.|text\.|fusion", name) for name in weights)
    if loaded:
        weights |= luggage(weights)
    back = from_lavis(weights, model.config)
    assert back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back[name], tensor, msg=name)


def timm_vit(weights: dict[str, Tensor], pixels: Tensor, depth: int, heads: int) -> Tensor:
    """The official image encoder, written out."""
    w = {name.removeprefix("visual_encoder."): tensor for name, tensor in weights.items()}
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    width = x.shape[-1]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(depth):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(-1)
        x = x + linear((scores @ v).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")


@torch.no_grad()
def test_image_encoder_computes_what_the_official_one_does() -> None:
    source = build()
    weights = official(source, "text_encoder.")
    model = Albef.build(albef(), TEXTS, 3)
    model.load_state_dict(from_lavis(weights, model.config))
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    expected = timm_vit(weights, pixels, depth=3, heads=2)
    torch.testing.assert_close(model.vision(pixel_values=pixels).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("nested", [False, True])
def test_file_becomes_a_model_that_answers_alike(nested: bool, tmp_path: Path) -> None:
    pixels = albef_base().model_dump(include={"image_mean", "image_std"})
    source = build(heads=1, **pixels)  # heads are 64 wide or one
    weights = official(source, "text_encoder.bert.")
    weights |= luggage(weights)
    torch.save({"model": weights, "epoch": 3} if nested else weights, tmp_path / "albef.pth")
    source.tokenizer.save_pretrained(tmp_path / "bert")
    convert(tmp_path / "albef.pth", tmp_path / "albef", str(tmp_path / "bert"))
    model = Albef.from_pretrained(tmp_path / "albef")
    assert isinstance(model, Albef)
    assert not model.training
    assert not any("queue" in name for name in model.state_dict())
    images = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor(source.tokenize(TEXTS[:1]))
    inputs = {"vision": images, "text": Tokens(ids, torch.ones_like(ids))}

    def logits(which: Albef) -> Tensor:
        return which.head(which.fuse({m: which.encode_one(m, i) for m, i in inputs.items()}))

    torch.testing.assert_close(logits(model), logits(source))
    assert model.contrastive_scale() == pytest.approx(source.contrastive_scale(), rel=1e-5)


def test_a_checkpoint_with_a_class_head(tmp_path: Path) -> None:
    source = build(heads=1, labels=("contradiction", "entailment", "neutral"))
    torch.save(official(source, "text_encoder."), tmp_path / "ve.pth")
    source.tokenizer.save_pretrained(tmp_path / "bert")
    where: Any = tmp_path / "ve", str(tmp_path / "bert")
    convert(tmp_path / "ve.pth", *where, labels=source.config.labels, image_size=40)
    model = Albef.from_pretrained(tmp_path / "ve")
    assert torch.equal(model.state_dict()["class_head.2.weight"], source.state_dict()["class_head.2.weight"])
    assert model.state_dict()["vision.embeddings.position_embeddings"].shape[1] == 1 + 25
    with pytest.raises(InputError, match=r"a head of 3 classes: name them in its order \(--labels A,B,...\)"):
        convert(tmp_path / "ve.pth", *where, labels=("no", "yes"))
    torch.save(official(build(heads=1), "text_encoder."), tmp_path / "retrieval.pth")
    with pytest.raises(InputError, match="has no class head; leave the labels out"):
        convert(tmp_path / "retrieval.pth", *where, labels=("no", "yes"))


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Callable[[str], Ended]) -> None:
    monkeypatch.chdir(tmp_path)
    source = build(heads=1)
    torch.save({"model": official(source, "text_encoder.bert.")}, "albef.pth")
    source.tokenizer.save_pretrained("bert")
    ended = terminal("convert albef.pth --tokenizer bert --out albef")
    assert ended.code == 0, ended.err
    assert "model written to albef" in ended.out
    assert not tiny.changed(tiny.weights(source), tiny.weights(Model.from_pretrained("albef")))
    for words, sentence in (
        ("albef.pth --tokenizer bert --out albef", "--out 'albef' is not empty; choose a new folder for the model"),
        ("nothing.pth --tokenizer bert", "there is no checkpoint 'nothing.pth'"),
        ("albef.pth --tokenizer nothing", "there is no model folder 'nothing'"),
        ("albef.pth --tokenizer bert --labels a,b", "the checkpoint has no class head; leave the labels out, .*"),
    ):
        ended = terminal(f"convert {words}")
        assert (ended.code, len(ended.errors)) == (2, 1), ended.err
        assert re.fullmatch(sentence, ended.errors[0])
    torch.save({"weight": torch.ones(2)}, "other.pth")
    assert terminal("convert other.pth --tokenizer bert").errors == [
        "this is no checkpoint of ALBEF or of a CLIP with a ViT: it lacks 'visual_encoder.patch_embed.proj.weight' "
        "and 'visual.conv1.weight'"
    ]
    assert not Path("models").exists()


def test_positions_of_another_image_size_are_interpolated() -> None:
    source = build()
    weights = official(source, "text_encoder.")
    model = Albef.build(albef(image_size=40), TEXTS, 0)
    back = from_lavis(weights, model.config)
    position = "vision.embeddings.position_embeddings"
    assert back[position].shape == (1, 1 + 25, 16)
    before = source.state_dict()[position]
    assert torch.equal(back[position][:, 0], before[:, 0])
    centre = 1 + 4, 1 + 12  # of the 3 x 3 and of the 5 x 5 grid
    torch.testing.assert_close(back[position][:, centre[1]], before[:, centre[0]])


def test_a_class_head_comes_along() -> None:
    model = build(labels=("contradiction", "entailment", "neutral"))
    weights = official(model, "text_encoder.")
    assert {"cls_head.0.weight", "cls_head.2.bias"} <= weights.keys()
    result = from_lavis(weights, model.config)
    assert all(torch.equal(result[name], tensor) for name, tensor in model.state_dict().items())


def test_interpolation_of_a_constant_is_constant() -> None:
    positions = torch.cat([torch.zeros(1, 1, 3), torch.full((1, 16, 3), 2.0)], 1)
    resized = resized_positions(positions, 1 + 49)
    assert torch.equal(resized[:, :1], torch.zeros(1, 1, 3))
    torch.testing.assert_close(resized[:, 1:], torch.full((1, 49, 3), 2.0))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda w: w.pop("visual_encoder.blocks.1.mlp.fc1.bias"), r"lacks .* 'vision.layers.1.mlp.fc1.bias'$"),
        (lambda w: w.pop("visual_encoder.blocks.1.attn.qkv.weight"), r"lacks .*q_proj.weight' and 2 more"),
        (lambda w: w.pop("temp"), "lacks .* 'log_scale'"),
        (lambda w: w.update({"cls_head.1.weight": torch.ones(1)}), "has unknown weight 'cls_head.1.weight'"),
        (lambda w: w.update({"cls_head.0.weight": torch.ones(1)}), "is larger than the .* 'class_head.0.weight'"),
        (lambda w: w.update({"visual_encoder.blocks.0.ls1.gamma": torch.ones(1)}), r"has unknown weight .*ls1.gamma"),
        (
            lambda w: w.update({"text_encoder.encoder.layer.4.output.dense.bias": torch.ones(16)}),
            "is larger than the configuration: .* 'fusion.layers.2.output.dense.bias'",
        ),
        (
            lambda w: w.update({"text_proj.bias": torch.ones(9)}),
            r"shape \(9,\) instead of \(8,\) of the weight for 'text_projection.bias'",
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(damage: Any, expected: str) -> None:
    model = build()
    weights = official(model, "text_encoder.")
    damage(weights)
    with pytest.raises(InputError, match=expected):
        from_lavis(weights, model.config)


class Foreign:
    """Something that only code could read back."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no checkpoint"),
        (b"no weights", "could not be read as weights"),
        ({"model": Foreign()}, "could not be read as weights"),
        ({"model": {"temp": 3}}, "has no weights by name"),
        ([torch.ones(1)], "has no weights by name"),
    ],
)
def test_file_that_is_no_checkpoint_is_refused(content: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "albef.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=expected):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_published_configuration_has_the_published_sizes() -> None:
    config = albef_base()
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Albef(config, None).state_dict().items()}
    assert shapes["vision.embeddings.position_embeddings"] == (1, 1 + 24 * 24, 768)
    assert shapes["vision.layers.11.mlp.fc1.weight"] == (3072, 768)
    assert shapes["text.encoder.layer.5.intermediate.dense.weight"] == (3072, 768)
    assert shapes["text.embeddings.word_embeddings.weight"] == (30522, 768)
    assert shapes["fusion.layers.5.crossattention.self.key.weight"] == (768, 768)
    assert shapes["text_projection.weight"] == (256, 768)
    assert not any(name.endswith("adapter.0.weight") for name in shapes)
