"""Graph-text model: GCN over the neighbourhood of two nodes, sentence encoder and fusion encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from multidelete.models.albef import FusionConfig, FusionEncoder, adapter
from multidelete.models.base import Model
from multidelete.models.config import DataFacts, EncoderConfig, ModelConfig
from multidelete.models.encoders import backbone_from_config, build_backbone, build_tokenizer, run_text, width_of
from multidelete.models.graph import FEATURES
from multidelete.models.image_text import ClassHead
from multidelete.models.inputs import Encoding, Subgraphs, Tokens
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import seeded


class GraphConfig(BaseModel):
    """Configuration of the graph encoder.

    Args:
        width: Width of node states.
        layers: Number of graph convolutions.
        neighbourhood: Number of nodes visible around a pair, including the pair.
        identity: Whether each node has a learned embedding in addition to its features.
        dropout: Dropout probability of node states, and of entire node embeddings.
        freeze: Freeze the weights, in training and under every method.
        nodes: Number of nodes. Set from the data before training.
        hash: Hash of the graph. Set from the data before training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    width: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    neighbourhood: int = Field(default=32, ge=2)
    identity: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    freeze: bool = False
    nodes: int = Field(default=0, ge=0)
    hash: str = ""


class GraphTextConfig(ModelConfig):
    """Configuration of :class:`GraphTextModel`.

    Args:
        graph: Graph encoder.
        text: Sentence encoder.
        fusion: Fusion encoder; text tokens attend to each other and to the nodes.
    """

    graph: GraphConfig = GraphConfig()
    text: EncoderConfig = EncoderConfig(
        config={
            "model_type": "bert",
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "max_position_embeddings": 128,
            "initializer_range": 0.057,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )
    fusion: FusionConfig = FusionConfig(width=96)
    max_text_tokens: int = Field(default=64, ge=3)

    def for_dataset(self, dataset: DataFacts, *, labelled: bool) -> Self:
        """See :meth:`ModelConfig.for_dataset`; also sets the graph."""
        fitted = super().for_dataset(dataset, labelled=labelled)
        if dataset.graph is None:
            return fitted
        graph = self.graph.model_copy(update={"nodes": len(dataset.graph), "hash": dataset.graph.hash})
        return fitted.model_copy(update={"graph": graph})


class GraphTextModel(Model):
    """Classifies whether a sentence states that two nodes are related: GCN [1]_, sentence encoder, cross-attention.

    The graph encoder sees the neighbourhood of the pair without edges that reveal the answer (see
    :meth:`Graph.neighbourhood`). Its token states are a vector of the pair (from both nodes' states and their product),
    followed by the states of all nodes. The fusion encoder of :class:`Albef` attends to them from the sentence.

    References:
        .. [1] Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR 2017
    """

    name = "graph_text"
    config_class = GraphTextConfig
    modalities: ClassVar[tuple[str, ...]] = ("graph", "text")
    provides = frozenset({"graph", "text", "labels"})
    contrastive = False
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "graph": ("graph", "graph_adapter"),
        "text": ("text", "text_adapter"),
        "fusion": ("fusion", "class_head"),
    }
    config: GraphTextConfig

    def __init__(self, config: GraphTextConfig, tokenizer: Any, text: nn.Module | None = None) -> None:
        super().__init__()
        if not config.labels:
            raise InputError("a graph_text model classifies: its configuration needs labels, which come with the data")
        self.config, self.tokenizer = config, tokenizer
        self.neighbourhood = config.graph.neighbourhood
        self.graph = GraphEncoder(config.graph)
        self.text = text or backbone_from_config(config.text.config or {}, "model.text")[0]
        for modality, frozen in (("graph", config.graph.freeze), ("text", config.text.freeze)):
            getattr(self, modality).requires_grad_(not frozen)
        self.graph_adapter = adapter(config.graph.width, config.fusion.width)
        self.text_adapter = adapter(width_of(self.text, "model.text"), config.fusion.width)
        self.fusion = FusionEncoder(config.fusion)
        self.class_head = ClassHead(config.fusion.width, len(config.labels))

    def check_dataset(self, dataset: DataFacts) -> None:
        """See :meth:`Model.check_dataset`; node embeddings belong to one graph."""
        super().check_dataset(dataset)
        assert dataset.graph is not None
        if dataset.graph.hash != self.config.graph.hash:
            raise InputError(
                f"dataset '{dataset.name}' has another graph than the one that this {self.name} model was trained on"
            )

    @classmethod
    def build(cls, config: Any, texts: Sequence[str], seed: int, tokenizer: Any = None) -> GraphTextModel:
        """See :meth:`Model.build`."""
        with seeded(seed, "initial weights"):
            tokenizer = tokenizer or build_tokenizer(config.text, texts, "model.text")
            config = config.model_copy(update={"text": config.text.for_tokenizer(tokenizer)})
            text, fields = build_backbone(config.text, "text")
            resolved = config.model_copy(update={"text": config.text.model_copy(update={"config": fields})})
            return cls(resolved, tokenizer, text).eval()

    def embed(self, modality: str, inputs: Tensor | Tokens | Subgraphs) -> Encoding:
        """See :meth:`Model.embed`."""
        if isinstance(inputs, Tokens):
            return run_text(self.text, self.config.text, inputs)
        assert isinstance(inputs, Subgraphs)
        return self.graph(inputs)  # type: ignore[no-any-return]

    def project(self, modality: str, embedded: Encoding) -> Encoding:
        """See :meth:`Model.project`."""
        return Encoding(getattr(self, f"{modality}_adapter")(embedded.tokens), embedded.mask, embedded.pooled)

    def fuse(self, encodings: Mapping[str, Encoding]) -> Tensor:
        """See :meth:`Model.fuse`; the first token of the fusion encoder."""
        return self.fusion(encodings["text"], encodings["graph"])  # type: ignore[no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        """Logits of the classes, ``(B, C)``."""
        return self.class_head(fused)  # type: ignore[no-any-return]


class GraphEncoder(nn.Module):
    """Graph convolutions over the neighbourhood of a pair of nodes."""

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        from torch_geometric.nn import DenseGCNConv

        self.identity = nn.Embedding(config.nodes + 1, config.width) if config.identity else None  # 0 is padding
        if self.identity is not None:
            nn.init.normal_(self.identity.weight, std=0.1)
        self.features = nn.Linear(FEATURES, config.width)
        self.layers = nn.ModuleList(DenseGCNConv(config.width, config.width) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.layers))
        self.pair = nn.Sequential(
            nn.Linear(3 * config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, graphs: Subgraphs) -> Encoding:
        """Encode pairs as a pair vector and the states of all nodes, ``(B, 1 + L, D)``."""
        states = self.features(graphs.features)
        if self.identity is not None:
            own = self.identity(graphs.nodes + 1)
            # Drop entire node embeddings, so that nodes must also be recognised by their position in the graph.
            states = states + own * self.dropout(own.new_ones(own.shape[:2])).unsqueeze(-1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            spread = layer(states, graphs.adjacency.to(states.dtype), graphs.mask.bool())
            states = states + self.dropout(torch.relu(norm(spread)))
        first, second = states[:, 0], states[:, 1]
        pair = self.pair(torch.cat([first, second, first * second], dim=-1))
        mask = torch.cat([graphs.mask.new_ones(len(pair), 1), graphs.mask], dim=1)
        return Encoding(torch.cat([pair[:, None], states], dim=1), mask, pair, "embedded")
