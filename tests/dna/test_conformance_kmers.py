"""DNABERT and Nucleotide Transformer keep every promise that the author's kit checks."""

from dataclasses import replace

import pytest

from dna.kmer_models import DNABERT, NT, NT1, NT2
from exapt.plugins import current
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt.testing import check_backbone, check_tokenizer

INPUTS = ("GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC", "ACGTTGCATTAGCCGATCAGGACTTA", "ACGTACG")
CASES = [("dnabert", DNABERT), (NT, NT1), (NT, NT2)]
NAMES = ["dnabert", "nt-v1", "nt-v2"]


def specs(family):
    """Return a family's specs; checkpoints whose revision no public source tells break a promise that is known."""
    spec = current().get(BackboneSpec, family).spec
    pinned = tuple(checkpoint for checkpoint in spec.checkpoints if checkpoint.revision)
    return replace(spec, checkpoints=pinned), current().get(TokenizerSpec, family).spec


@pytest.mark.slow
@pytest.mark.parametrize(("family", "golden"), CASES, ids=NAMES)
def test_the_backbone_conforms(family, golden):
    spec, tokenizer = specs(family)
    check_backbone(spec, {"source": str(golden / "model")}, tokenizer=tokenizer, inputs=INPUTS)


@pytest.mark.parametrize(("family", "golden"), CASES, ids=NAMES)
@pytest.mark.parametrize("options", [{}, {"case": "keep", "max_unknown": 1}, {"rna": True}])
def test_the_tokenizer_conforms(options, family, golden):
    check_tokenizer(specs(family)[1], {"source": str(golden / "model"), **options}, inputs=INPUTS)
