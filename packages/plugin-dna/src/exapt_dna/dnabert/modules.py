"""BERT's modules, under the names of its published weights. Devlin et al. 2019, arXiv:1810.04805."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from exapt_dna.attention import SelfAttention
from exapt_dna.configs import Shape

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}
"""The activations that a ``config.json`` may name."""


class BertShape(Shape):
    """What a BERT's ``config.json`` says beside the common keys."""

    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    hidden_act: str = "gelu"


class Embeddings(nn.Module):
    """Words, learned positions from 0 and the first of the token types, summed and normalised."""

    def __init__(self, shape: BertShape, pad: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings [batch, tokens, width] of ``ids`` [batch, tokens]."""
        places = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(ids) + places))
        return embedded


class Output(nn.Module):
    """A linear layer whose result is added to what went around it, and normalised."""

    def __init__(self, width: int, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(width, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, inner: Tensor, around: Tensor) -> Tensor:
        """Return [batch, tokens, width] for ``inner`` of this layer's own width and ``around`` of the model's."""
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(inner)) + around)
        return normed


class Attention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.self = SelfAttention(shape.hidden_size, shape.num_attention_heads, shape.attention_probs_dropout_prob)
        self.output = Output(shape.hidden_size, shape)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after attention."""
        attended: Tensor = self.output(self.self(hidden, mask), hidden)
        return attended


class Widened(nn.Module):
    """The widening half of the feed-forward layer."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self._activation = ACTIVATIONS[shape.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [batch, tokens, intermediate width]."""
        return self._activation(self.dense(hidden))


class Layer(nn.Module):
    """One block: attention, then the feed-forward layer, each normalised behind."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.intermediate = Widened(shape)
        self.output = Output(shape.intermediate_size, shape)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after the block."""
        hidden = self.attention(hidden, mask)
        after: Tensor = self.output(self.intermediate(hidden), hidden)
        return after


class Encoder(nn.Module):
    """All blocks."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))


class Bert(nn.Module):
    """Embeddings and blocks, without the pooler."""

    def __init__(self, shape: BertShape, pad: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape, pad)
        self.encoder = Encoder(shape)


class Transform(nn.Module):
    """What the language model does before it compares a state with all tokens."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self._activation = ACTIVATIONS[shape.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [..., width] for ``hidden`` [..., width]."""
        normed: Tensor = self.LayerNorm(self._activation(self.dense(hidden)))
        return normed


class Predictions(nn.Module):
    """The masked language model's head."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.transform = Transform(shape)
        self.decoder = nn.Linear(shape.hidden_size, shape.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocabulary] for ``hidden`` [..., width]."""
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits
