"""A DNA language model without training: k-mers, seeded weights, and answers that a plain loop can repeat."""

import numpy as np
import torch
from torch import nn

from exapt import AugmentationSpec, BackboneSpec, DataError, Options, TokenizerSpec, hookimpl
from exapt.parts import Augmentation, Backbone, Changed, Encoding, LanguageModel, Tokenizer
from exapt.testing import inline

BASES = "ACGT"
COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")


class Kmers(Tokenizer):
    """``<cls>``, k-mers in steps of ``stride`` with the rest as single bases, ``<eos>``; lower case is upper case."""

    def __init__(self, k, stride):
        self.k, self.stride = k, stride
        words = [""]
        for _ in range(k):
            words = [word + base for word in words for base in BASES]
        special = ("<pad>", "<cls>", "<eos>", "<mask>")
        names = dict.fromkeys([*special, *words, *(BASES if stride > 1 else "")])
        self.vocabulary = {token: index for index, token in enumerate(names)}
        self.mask, self.special = self.vocabulary["<mask>"], frozenset(range(len(special)))

    def encode(self, value):
        text = value.upper()
        for position, letter in enumerate(text, 1):
            if letter not in BASES:
                raise DataError(f"character {letter!r} at position {position} is no base")
        spans = [(at, at + self.k - 1) for at in range(0, len(text) - self.k + 1, self.stride)]
        if self.stride > 1:
            rest = spans[-1][1] + 1 if spans else 0
            spans += [(at, at) for at in range(rest, len(text))]
        ids = [self.vocabulary[text[first : last + 1]] for first, last in spans]
        ids = np.array([self.vocabulary["<cls>"], *ids, self.vocabulary["<eos>"]])
        return Encoding({"input_ids": ids}, {"input_ids": 0}, np.array([(-1, -1), *spans, (-1, -1)]), len(text))


class Neighbours(Backbone):
    """A token's state mixes its own embedding with those around it (before it, of a causal one), weighed by distance."""

    width = 8

    def __init__(self, objective, vocabulary, max_tokens):
        super().__init__()
        self.objective, self.max_tokens, self.read = objective, max_tokens, []
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(vocabulary, self.width)
        self.head = nn.Linear(self.width, vocabulary)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7, generator=generator)

    @property
    def language(self):
        return LanguageModel(self.head, self.objective) if self.objective else None

    def forward(self, batch):
        ids = batch["input_ids"]
        self.read += [tuple(row[there].tolist()) for row, there in zip(ids, batch.present, strict=True)]
        places = torch.arange(ids.shape[1])
        weights = 0.5 ** (places[:, None] - places).abs().float()
        if self.objective == "causal":
            weights = weights.tril()
        states = torch.where(batch.present[..., None], self.embedding(ids), 0)
        return batch.features(torch.tanh(weights @ states))


class Strands(Augmentation):
    """The other strand."""

    trains = False

    def views(self, value):
        return (Changed(value[::-1].translate(COMPLEMENT)),)


class Bases:
    """A plugin with the backbone ``toy``; ``kmers`` and ``built`` are what exapt built last."""

    exapt_api = 1

    def __init__(
        self, k=1, stride=1, objective="masked", max_tokens=None, scorers=("masked-marginal",), **augmentation
    ):
        self.kmers = Kmers(k, stride)
        self.built = Neighbours(objective, len(self.kmers.vocabulary), max_tokens)
        self.scorers = scorers
        self.augmentation = {"build": lambda _options: Strands(), **augmentation}

    @hookimpl
    def exapt_tokenizers(self):
        yield TokenizerSpec(name="kmers", summary="K-mers.", build=lambda _options: self.kmers)

    @hookimpl
    def exapt_backbones(self):
        yield BackboneSpec(
            name="toy",
            summary="Neighbours.",
            options=Options,
            build=lambda _options, _weights: self.built,
            tokenizer="kmers",
            modality="dna",
            probes=("ACGT",),
            scorers=self.scorers,
        )

    @hookimpl
    def exapt_augmentations(self):
        yield AugmentationSpec(name="strands", summary="Both strands.", **self.augmentation)

    def expected(self, ids, place):
        """Return log probabilities of all tokens at a place of unpadded ids, one input at a time, in fp32."""
        ids = torch.as_tensor(np.array(ids))
        places = torch.arange(len(ids))
        weights = 0.5 ** (places[:, None] - places).abs().float()
        weights = weights.tril() if self.built.objective == "causal" else weights
        with torch.no_grad():
            state = torch.tanh(weights @ self.built.embedding(ids))[place]
            return self.built.head(state).log_softmax(-1).numpy()

    def ids(self, value):
        return self.kmers.encode(value).arrays["input_ids"]


def bases(*others, **options):
    """Let exapt see a toy plugin, and others beside it: ``with bases(k=3) as toy: ...``."""
    return _Inside(Bases(**options), others)


class _Inside:
    def __init__(self, toy, others):
        self.toy, self._context = toy, inline(toy, *others)

    def __enter__(self):
        self._context.__enter__()
        return self.toy

    def __exit__(self, *error):
        return self._context.__exit__(*error)
