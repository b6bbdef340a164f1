"""The author's kit: checks that a plugin keeps its promises, each with the fault that it guards against.

::

    def test_backbone():
        check_backbone(BACKBONE, {"source": str(folder)}, tokenizer=TOKENIZER, inputs=["MKTAYIAK", "ACDEF"])

Every ``check_...`` raises ``ConformanceError``, an ``AssertionError`` of one sentence, at the first promise broken.
"""

from __future__ import annotations

from exapt.testing._backbone_case import TOLERANCE
from exapt.testing._check import Check, ConformanceError
from exapt.testing._run import (
    CHECKS,
    check_augmentation,
    check_backbone,
    check_head,
    check_plugin,
    check_scorer,
    check_strategy,
    check_tokenizer,
    inline,
)
from exapt.testing.tiny import LETTERS, TINY

__all__ = [
    "CHECKS",
    "LETTERS",
    "TINY",
    "TOLERANCE",
    "Check",
    "ConformanceError",
    "check_augmentation",
    "check_backbone",
    "check_head",
    "check_plugin",
    "check_scorer",
    "check_strategy",
    "check_tokenizer",
    "inline",
]
