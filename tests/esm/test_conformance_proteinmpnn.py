"""ProteinMPNN keeps every promise that the author's kit checks, of structures as of other inputs."""

from dataclasses import replace

import pytest

from esm.mpnn import SHIPPED, TINY, tokenizer_of
from exapt.plugins import current
from exapt.specs import AugmentationSpec, BackboneSpec, HeadSpec, Options, TokenizerSpec
from exapt.testing import check_augmentation, check_backbone, check_head, check_tokenizer
from exapt_esm.proteinmpnn.probes import PROBES


def spec_of(kind, name="proteinmpnn"):
    return current().get(kind, name).spec


@pytest.mark.slow
def test_the_backbone_conforms():
    check_backbone(spec_of(BackboneSpec), {"source": str(TINY)}, tokenizer=spec_of(TokenizerSpec))


@pytest.mark.slow
def test_the_backbone_of_ca_atoms_conforms():
    source = SHIPPED("ca", "002")
    check_backbone(spec_of(BackboneSpec), {"source": source}, tokenizer=spec_of(TokenizerSpec))


def test_the_tokenizer_conforms():
    check_tokenizer(spec_of(TokenizerSpec), {"source": str(TINY)}, inputs=PROBES)


def test_the_tokenizer_of_ca_atoms_conforms():
    check_tokenizer(spec_of(TokenizerSpec), {"source": str(TINY), "atoms": "ca"}, inputs=PROBES)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.0}])
def test_the_head_conforms(options):
    check_head(spec_of(HeadSpec, "inverse-folding"), options, inputs=PROBES, tokenizer=tokenizer_of(TINY))


def test_the_noise_conforms():
    reads = replace(spec_of(TokenizerSpec), options=Options, build=lambda options: tokenizer_of(TINY))
    check_augmentation(spec_of(AugmentationSpec, "backbone-noise"), {"deviation": 0.1}, inputs=PROBES, tokenizer=reads)
