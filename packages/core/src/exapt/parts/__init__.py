"""The contract of the heavy half: what a tokenizer, a backbone, a head and a strategy are, and what passes between them.

Sizes are written [batch, tokens, width]. A *unit* is what a biologist counts: a residue, a base, a gene; a *token* is
what a model reads. Core alone pads, buckets and moves to a device; a part never does.
"""

from __future__ import annotations

from exapt.parts.backbone import Backbone, LanguageModel, Windows, cast_features
from exapt.parts.head import Head, HeadContext, Outcomes
from exapt.parts.inputs import NO_UNIT, Array, Batch, Encoding, Features, Pooled, Pooling, Tally, Tokenizer, unit_spans
from exapt.parts.strategy import Blend, Learner, Learns, Part, Seen, Step, Strategy, Taught, Training, mean_vectors
from exapt.parts.transfer import Augmentation, Changed, Question, Scorer

__all__ = [
    "NO_UNIT",
    "Array",
    "Augmentation",
    "Backbone",
    "Batch",
    "Blend",
    "Changed",
    "Encoding",
    "Features",
    "Head",
    "HeadContext",
    "LanguageModel",
    "Learner",
    "Learns",
    "Outcomes",
    "Part",
    "Pooled",
    "Pooling",
    "Question",
    "Scorer",
    "Seen",
    "Step",
    "Strategy",
    "Tally",
    "Taught",
    "Tokenizer",
    "Training",
    "Windows",
    "cast_features",
    "mean_vectors",
    "unit_spans",
]
