"""HyenaDNA: the published architecture and key names, run in exapt's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt_dna.hyenadna.layers import Block, Hyena
from exapt_dna.hyenadna.shape import Shape, files, read_shape
from exapt_dna.hyenadna.weights import DROPPED, read
from exapt_dna.loading import Layout, draw, load

LAYOUT = Layout(
    embeddings="hyena.backbone.embeddings.word_embeddings.weight",
    decoder="lm_head.weight",
    head="lm_head.",
    dropped=DROPPED,
)


class HyenaDna(Backbone):
    """``hyena``, the model, and ``lm_head``, which compares states with all tokens.

    Each token sees itself and those before it, so that padding behind an input cannot reach it.
    """

    lora_targets = ("in_proj", "out_proj")

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.width = shape.d_model
        self.max_tokens = shape.max_seq_len
        self.tied = shape.tie_word_embeddings
        self.hyena = Hyena(shape)
        self.lm_head: nn.Linear | None = nn.Linear(shape.d_model, shape.rows, bias=False)
        if self.tied:
            self.lm_head.weight = self.hyena.backbone.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """The model without its head: each of its parameters is used."""
        return self.hyena

    @property
    def language(self) -> LanguageModel | None:
        """The pretrained causal language model; None if the file was saved without it."""
        return None if self.lm_head is None else LanguageModel(self.lm_head, "causal")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks."""
        return list(self.hyena.backbone.layers)

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width]."""
        stack = self.hyena.backbone
        embedded: Tensor = stack.dropout(stack.embeddings.word_embeddings(batch["input_ids"]))
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the blocks ``start`` to ``stop`` (exclusive)."""
        for block in self.hyena.backbone.layers[start:stop]:
            hidden = block(hidden)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features after the last norm; the summary is the state of the last token, which has seen all."""
        hidden = self.hyena.backbone.ln_f(hidden)
        last = batch.present.sum(1).clamp(min=1) - 1
        return batch.features(hidden, hidden[torch.arange(len(last), device=last.device), last])


def build(source: str, revision: str, weights: bool) -> HyenaDna:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of a HyenaDNA.
    """
    checkpoint = files(source, revision)
    shape = read_shape(checkpoint)
    backbone = HyenaDna(shape)
    if not weights:
        _draw(backbone, shape)
    # Positions and decays of the filters are constants, but it is the file that says which.
    elif not load(backbone, read(shape, checkpoint), checkpoint, LAYOUT, backbone.tied, _constants(backbone, shape)):
        # A tied head is all embeddings, and lacks nothing.
        backbone.lm_head = backbone.lm_head if backbone.tied else None
    return backbone.eval()


def _constants(backbone: HyenaDna, shape: Shape) -> set[str]:
    return set() if shape.train_freq else {name for name in backbone.state_dict() if name.endswith(".freq")}


@torch.no_grad()
def _draw(backbone: HyenaDna, shape: Shape) -> None:
    draw(backbone, shape.initializer_range)
    for module in backbone.modules():
        # What is added to the states is drawn smaller the more blocks add to them, as GPT-2 does.
        if isinstance(module, Block):
            for linear in (module.mixer.out_proj, module.mlp.fc2):
                linear.weight.normal_(0, shape.initializer_range / math.sqrt(2 * shape.n_layer))
            module.mixer.filter_fn.bias.normal_()
