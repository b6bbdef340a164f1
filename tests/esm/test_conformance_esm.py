"""exapt-esm keeps every promise that the author's kit checks."""

import pytest

from exapt.plugins import current
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt.testing import check_backbone, check_plugin, check_tokenizer

INPUTS = ("MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWY", "MKUBZOX", "M")


def test_the_plugin_conforms():
    assert check_plugin("exapt_esm.plugin") == {
        "backbone 'esm2'": "call check_backbone with a source on this machine",
        "backbone 'proteinmpnn'": "call check_backbone with a source on this machine",
        "tokenizer 'esm2'": "call check_tokenizer with inputs",
        "tokenizer 'proteinmpnn'": "call check_tokenizer with inputs",
        "head 'inverse-folding'": "call check_head with inputs and a tokenizer",
        "augmentation 'backbone-noise'": "call check_augmentation with inputs",
        "augmentation 'residue-substitution'": "call check_augmentation with inputs",
        "scorer 'unconditional'": "call check_scorer with pairs and a tokenizer",
        "scorer 'conditional'": "call check_scorer with pairs and a tokenizer",
        "scorer 'decoding-orders'": "call check_scorer with pairs and a tokenizer",
        "reader 'structure'": "readers and writers have no check",
        "writer 'fasta'": "readers and writers have no check",
    }


@pytest.mark.slow
def test_the_backbone_conforms(golden):
    spec = current().get(BackboneSpec, "esm2").spec
    tokenizer = current().get(TokenizerSpec, "esm2").spec
    check_backbone(spec, {"source": str(golden / "model")}, tokenizer=tokenizer, inputs=INPUTS)


@pytest.mark.slow
def test_the_tokenizer_conforms(golden):
    spec = current().get(TokenizerSpec, "esm2").spec
    check_tokenizer(spec, {"source": str(golden / "model")}, inputs=INPUTS)
