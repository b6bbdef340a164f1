"""The published DNABERTs: what is said of them is true, and they are found by name."""

import pytest
import torch

from exapt.plugins import current
from exapt_dna.dnabert import CHECKPOINTS
from exapt_dna.dnabert.backbone import Dnabert
from exapt_dna.dnabert.modules import BertShape

# No public source was found that pins the others; an adapter of theirs knows its weights by their fingerprint.
PINNED = {"dnabert-6"}


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_parameters_width_and_context(k):
    shape = BertShape(
        vocab_size=4**k + 5,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
    )
    with torch.device("meta"):
        backbone = Dnabert(shape, 0)
    backbone.tie()
    checkpoint = CHECKPOINTS[k - 3]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert (backbone.width, backbone.max_tokens) == (checkpoint.width, checkpoint.context)


def test_all_are_offered_with_licence_and_paper():
    assert [checkpoint.name for checkpoint in CHECKPOINTS] == [f"dnabert-{k}" for k in (3, 4, 5, 6)]
    for checkpoint in CHECKPOINTS:
        assert checkpoint.source == f"zhihan1996/DNA_bert_{checkpoint.name[-1]}"
        assert len(checkpoint.revision) == (40 if checkpoint.name in PINNED else 0)
        assert (checkpoint.licence, checkpoint.commercial) == ("Apache-2.0", True)
        assert checkpoint.paper == "https://doi.org/10.1093/bioinformatics/btab083"


def test_checkpoints_and_folders_are_found_by_name():
    offer, checkpoint, source = current().checkpoint("dnabert-6")
    assert (offer.spec.name, checkpoint.parameters, source) == ("dnabert", 89_196_549, "zhihan1996/DNA_bert_6")
    assert current().checkpoint("dnabert:some/folder")[2] == "some/folder"
