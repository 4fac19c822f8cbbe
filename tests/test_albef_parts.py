"""Parts of ALBEF: a BERT split in two, and the caption similarity appended to the fused state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from multidelete.data.batches import PairInputs
from multidelete.models import MODELS, Albef, Model
from multidelete.models.albef import FusionConfig, FusionEncoder
from multidelete.models.config import EncoderConfig
from multidelete.models.encoders import run_text
from multidelete.models.inputs import Encoding, Tokens
from multidelete.utils.errors import InputError

DATASET = tiny.dataset_for("entailment")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers whose norms have learned something, with a tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = tiny.original_for("entailment", "albef").tokenizer
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for layer in model.encoder.layer:
            for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
                norm.weight.normal_(1, 0.02)
                norm.bias.normal_(0, 0.02)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cut(bert: Path, after: int | None = 1, fusion: int = 2, **changes: Any) -> Albef:
    config = tiny.albef(
        text=EncoderConfig(pretrained=str(bert), tokens_after=after, pooling="mean"),
        fusion=FusionConfig(
            **{"pretrained": str(bert), "layers": fusion, "width": 16, "heads": 2, "expansion": 2} | changes
        ),
    )
    model = MODELS["albef"].build(config.for_dataset(DATASET, labelled=True), DATASET.texts, 0)
    assert isinstance(model, Albef)
    return model


@torch.no_grad()
def test_a_bert_cut_in_two_computes_nearly_the_same(bert: Path, tmp_path: Path) -> None:
    model, full = cut(bert), cut(bert, after=None)
    rows = [row[:6] for row in model.tokenize(DATASET.texts[:3])]
    tokens = Tokens(torch.tensor(rows), torch.ones(3, 6, dtype=torch.long))
    expected = run_text(full.text, EncoderConfig(pretrained=str(bert)), tokens).pooled
    text = model.encode_one("text", tokens)
    pictures = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    fused = model.fuse({"text": text, "vision": Encoding(pictures, torch.ones(3, 5, dtype=torch.long), pictures[:, 0])})
    torch.testing.assert_close(fused, expected, atol=0.05, rtol=0)
    assert (fused - text.tokens[:, 0]).norm() > 10 * (fused - expected).norm()  # two layers do change something
    random = cut(bert, pretrained=None)
    assert (random.fusion(text, Encoding(pictures, text.mask[:, :5], pictures[:, 0])) - expected).norm() > 1
    # A picture is not looked at yet, but it is learned to be.
    model.fusion.requires_grad_(True)
    with torch.enable_grad():
        model.fusion(text, Encoding(pictures, text.mask[:, :5], pictures[:, 0])).square().sum().backward()
    layer: Any = model.fusion.layers[0]
    assert layer.crossattention.output.dense.weight.grad.abs().max() > 0
    model.save_pretrained(tmp_path / "model")
    loaded = Model.from_pretrained(tmp_path / "model")
    assert not tiny.changed(tiny.weights(model), loaded.state_dict())


@pytest.mark.parametrize(
    ("after", "fusion", "changes", "message"),
    [
        (4, 2, {}, "model.text.tokens_after = 4: this encoder has 3 layers"),
        (1, 4, {}, "model.fusion.pretrained: expected a BERT of 4 layers or more, got one of type bert with 3"),
        (1, 2, {"heads": 4}, "needs width = 16, heads = 2 and expansion = 2"),
        (1, 2, {"width": 32}, "needs width = 16"),
        (1, 2, {"pretrained": "./nowhere"}, "model.fusion.pretrained: there is no folder './nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(
    bert: Path, after: int, fusion: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cut(bert, after, fusion, **changes)


@torch.no_grad()
def test_words_are_read_where_the_configuration_says_and_the_sentence_at_the_end(bert: Path) -> None:
    early, last = cut(bert), cut(bert, after=None)
    tokens = Tokens(torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4, dtype=torch.long))
    one, other = early.embed("text", tokens), last.embed("text", tokens)
    torch.testing.assert_close(one.pooled, other.pooled)
    hidden: Any = early.text(input_ids=tokens.ids, attention_mask=tokens.mask, output_hidden_states=True)
    torch.testing.assert_close(one.tokens, hidden.hidden_states[1])
    torch.testing.assert_close(other.tokens, hidden.last_hidden_state)


@torch.no_grad()
def test_the_similarity_is_appended_to_the_fused_state() -> None:
    config = tiny.albef(similarity=True).for_dataset(DATASET, labelled=True)
    model = MODELS["albef"].build(config, DATASET.texts, 0)
    aligned = MODELS["albef"].build(tiny.albef(), DATASET.texts, 1)
    model.take_weights(aligned)
    inputs = PairInputs.of(DATASET, model)
    batch = inputs.batch(inputs.true_pairs(np.arange(5)), torch.device("cpu"))
    encodings = model.encode(batch)
    fused = model.fuse(encodings)
    assert fused.shape == (5, 17)
    own = [aligned.embedding(m, aligned.encode(batch)[m]) for m in ("vision", "text")]
    expected = (own[0] * own[1]).sum(1) * aligned.contrastive_scale()
    torch.testing.assert_close(fused[:, -1], expected)
    assert model.head(fused).shape == (5, 3)
    plain = MODELS["albef"].build(tiny.albef().for_dataset(DATASET, labelled=True), DATASET.texts, 0)
    assert plain.fuse(plain.encode(batch)).shape == (5, 16)
    assert not hasattr(plain, "text_projection")


def sides(hidden: bool) -> tuple[Encoding, Encoding]:
    """Five texts of different lengths and four pictures, of which some patches may not be there."""
    lengths = torch.tensor([3, 9, 1, 6, 9])
    words = (torch.arange(9) < lengths[:, None]).long()
    seen = torch.ones(4, 5, dtype=torch.long)
    if hidden:
        seen[1, 3:] = 0
    text, vision = (Encoding(torch.randn(*mask.shape, 16), mask, torch.randn(len(mask), 8)) for mask in (words, seen))
    return text, vision


def plainly(fusion: FusionEncoder, text: Encoding, vision: Encoding) -> torch.Tensor:
    """The layers as transformers runs them, every token of them to the end."""
    states = text.tokens
    layer: Any
    for layer in fusion.layers:
        attended = layer.attention(states, text.mask[:, None, None].bool())[0]
        attended = layer.crossattention(attended, None, vision.tokens, vision.mask[:, None, None].bool())[0]
        states = layer.feed_forward_chunk(attended)
    return states[:, 0]


@pytest.mark.parametrize(("layers", "hidden"), [(1, False), (2, True), (3, False)])
def test_pairs_that_have_sides_in_common_are_fused_as_each_alone(layers: int, hidden: bool) -> None:
    torch.manual_seed(0)
    fusion = FusionEncoder(FusionConfig(layers=layers, width=16, heads=2, dropout=0.0)).eval()
    text, vision = sides(hidden)
    texts, images = torch.randint(5, (300,)), torch.randint(4, (300,))  # several chunks, every pair many times
    weights = torch.randn(300, 16)
    moving = [text.tokens.requires_grad_(), vision.tokens.requires_grad_(), *fusion.parameters()]

    def gradients(fused: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((fused * weights).sum() / 300, moving))

    expected = plainly(fusion, text[texts], vision[images])
    result = fusion.of_pairs(text, vision, texts, images)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fusion(text[texts], vision[images]), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients(result), gradients(expected), atol=1e-5, rtol=1e-3)


def test_dropout_falls_on_pairs_that_have_sides_in_common_too() -> None:
    torch.manual_seed(0)
    fusion = FusionEncoder(FusionConfig(layers=2, width=16, heads=2, dropout=0.2)).train()
    text, vision = sides(hidden=False)
    rows = torch.tensor([1, 1, 4]), torch.tensor([0, 0, 2])
    with torch.no_grad():
        drawn = torch.stack([fusion.of_pairs(text, vision, *rows) for _ in range(2000)])
        full = torch.stack([fusion(text[rows[0]], vision[rows[1]]) for _ in range(2000)])
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    torch.testing.assert_close(drawn.mean(0), full.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), full.std(0), atol=0.1, rtol=0)
