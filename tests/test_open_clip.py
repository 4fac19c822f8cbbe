"""Checkpoints of open_clip: written out here with its names, and the same features come out as a ``CLIPModel``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import multidelete
import tiny
import zoo
from conftest import Ended
from multidelete.models.convert import convert
from multidelete.models.wrapped import Wrapped
from multidelete.utils.errors import InputError

WORDS = len(zoo.parts("clip")[2])
WIDTH, HEADS, LENGTH, SIZE, PATCH = 128, 2, 20, 32, 8


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        layers = [("c_fc", nn.Linear(WIDTH, 256)), ("gelu", activation()), ("c_proj", nn.Linear(256, WIDTH))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(activation) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(activation)
        self.proj = nn.Parameter(torch.empty(WIDTH, 24))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj  # type: ignore[no-any-return]


class OpenClip(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(activation), Transformer(activation)
        self.token_embedding, self.ln_final = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(LENGTH, WIDTH))
        self.text_projection = nn.Parameter(torch.empty(WIDTH, 24))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in self.named_parameters():
            if name != "logit_scale":
                nn.init.normal_(parameter, std=0.2, generator=generator)

    def encode_text(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


def folder_of_tokenizer(folder: Path) -> str:
    zoo.parts("clip")[2].save_pretrained(folder / "words")
    return str(folder / "words")


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.GELU, QuickGELU])
def test_features_are_those_of_open_clip(activation: type[nn.Module], tmp_path: Path) -> None:
    source = OpenClip(activation)
    training = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"epoch": 3, "name": "ours", "state_dict": training}, tmp_path / "epoch_3.pt")
    words = folder_of_tokenizer(tmp_path)
    convert(tmp_path / "epoch_3.pt", tmp_path / "clip", words, quick_gelu=activation is QuickGELU)
    model = transformers.AutoModel.from_pretrained(tmp_path / "clip").eval()
    assert type(model) is transformers.CLIPModel
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, SIZE, SIZE, generator=generator)
    ids = torch.randint(0, WORDS - 2, (4, 9), generator=generator)
    ids[torch.arange(4), torch.tensor([8, 5, 3, 6])] = WORDS - 1  # the last token of each text
    vision = model.get_image_features(pixel_values=images).pooler_output
    text = model.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(vision, source.visual(images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(text, source.encode_text(ids), atol=1e-4, rtol=1e-4)
    expected = source.logit_scale.exp() * F.normalize(source.encode_text(ids), dim=-1) @ F.normalize(vision, dim=-1).T
    found = model(pixel_values=images, input_ids=ids).logits_per_text
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert isinstance(multidelete.load(tmp_path / "clip"), Wrapped)


def test_the_names_of_custom_text_clip_and_safetensors_in_half_precision(tmp_path: Path) -> None:
    weights = OpenClip().half().state_dict()
    outside = ("visual.", "logit_scale")
    named = {name if name.startswith(outside) else f"text.{name}": tensor for name, tensor in weights.items()}
    save_file(named, tmp_path / "open_clip_model.safetensors")
    convert(tmp_path / "open_clip_model.safetensors", tmp_path / "clip", folder_of_tokenizer(tmp_path))
    model = transformers.CLIPModel.from_pretrained(tmp_path / "clip", dtype="auto")
    assert model.dtype == torch.float16
    assert torch.equal(model.visual_projection.weight, weights["visual.proj"].T)
    outcome = multidelete.unlearn(
        tmp_path / "clip",
        tiny.dataset(),
        3,
        multidelete.NegGrad(epochs=1, min_steps=2, evaluations=0),
        engine=tiny.engine(),
        out=tmp_path / "run",
    )
    assert outcome.rows[-1]["method"] == "neggrad"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda w: w.update({"visual.trunk.norm.weight": torch.ones(2)}),
            "has unknown weight 'visual.trunk.norm.weight'",
        ),
        (lambda w: w.pop("visual.ln_post.bias"), "does not fit CLIPModel: weight 'vision_model.post_layernorm.bias'"),
        (lambda w: w.pop("text_projection"), "lacks the weight for 'text_projection.weight'"),
    ],
)
def test_another_architecture_is_refused(damage: Any, sentence: str, tmp_path: Path) -> None:
    weights = dict(OpenClip().state_dict())
    damage(weights)
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(InputError, match=sentence):
        convert(tmp_path / "clip.pt", tmp_path / "out", folder_of_tokenizer(tmp_path))
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Callable[[str], Ended]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(OpenClip().state_dict(), "clip.pt")
    folder_of_tokenizer(tmp_path)
    ended = terminal("convert clip.pt --tokenizer words --out clip")
    assert ended.code == 0, ended.err
    assert Path("clip/preprocessor_config.json").is_file()
    assert terminal("convert clip.pt --tokenizer words --labels a,b --out other").errors == [
        "a CLIP has no class head and one image size; leave the labels and the image size out"
    ]
