"""The published Nucleotide Transformers: what is said of them is true, and they are found by name."""

import pytest
import torch

from exapt.plugins import current
from exapt_dna.kmers import Vocabulary
from exapt_dna.nucleotide_transformer import CHECKPOINTS
from exapt_dna.nucleotide_transformer.backbone import NucleotideTransformer
from exapt_dna.nucleotide_transformer.modules import NucleotideShape

# layers, width, heads, width of the feed-forward layers, tokens, positions
SHAPES = {
    "nt-500m-human-ref": (24, 1280, 20, 5120, 4105, 1002),
    "nt-500m-1000g": (24, 1280, 20, 5120, 4105, 1002),
    "nt-2.5b-1000g": (32, 2560, 20, 10240, 4105, 1002),
    "nt-2.5b-multi-species": (32, 2560, 20, 10240, 4105, 1002),
    "nt-v2-50m": (12, 512, 16, 2048, 4107, 2050),
    "nt-v2-100m": (22, 512, 16, 2048, 4107, 2050),
    "nt-v2-250m": (24, 768, 16, 3072, 4107, 2050),
    "nt-v2-500m": (29, 1024, 16, 4096, 4107, 2050),
    "nt-v2-50m-3mer": (12, 512, 16, 2048, 75, 2050),
}
# No public source was found that pins these; an adapter of theirs knows its weights by their fingerprint.
UNPINNED = {"nt-500m-human-ref", "nt-500m-1000g", "nt-2.5b-1000g"}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
def test_parameters_width_and_context(checkpoint):
    layers, width, heads, inner, tokens, positions = SHAPES[checkpoint.name]
    shape = NucleotideShape(
        vocab_size=tokens,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        position_embedding_type="rotary" if "v2" in checkpoint.name else "absolute",
        add_bias_fnn=False,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        backbone = NucleotideTransformer(shape, Vocabulary({"<pad>": 1, "<mask>": 2}, 6, frozenset()))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert (backbone.width, backbone.max_tokens) == (checkpoint.width, checkpoint.context)


def test_all_are_offered_with_a_licence_that_is_not_commercial():
    assert [checkpoint.name for checkpoint in CHECKPOINTS] == list(SHAPES)
    for checkpoint in CHECKPOINTS:
        assert checkpoint.source.startswith("InstaDeepAI/nucleotide-transformer-")
        assert len(checkpoint.revision) == (0 if checkpoint.name in UNPINNED else 40)
        assert (checkpoint.licence, checkpoint.commercial) == ("CC-BY-NC-SA-4.0", False)
        assert checkpoint.paper.startswith("https://doi.org/10.")


def test_checkpoints_and_folders_are_found_by_name():
    offer, checkpoint, source = current().checkpoint("nt-v2-50m")
    assert (offer.spec.name, checkpoint.context) == ("nucleotide-transformer", 2048)
    assert source == "InstaDeepAI/nucleotide-transformer-v2-50m-multi-species"
    assert current().checkpoint("nucleotide-transformer:some/folder")[2] == "some/folder"
