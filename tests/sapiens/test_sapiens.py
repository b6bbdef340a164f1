"""Sapiens, on its real weights: it knows antibodies, and keeps what the author's kit asks of a backbone."""

import csv
import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exapt import DataError, RecipeError
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt.testing import check_backbone, check_tokenizer

ROOT = Path(__file__).parents[2]
for needed in ("exapt_sapiens", "sapiens"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed", allow_module_level=True)


def built(kind, source, *more):
    spec = current().get(kind, "sapiens").spec
    return spec.build(validated(spec.options, {"source": source}, "sapiens"), *more)


@pytest.fixture(scope="module")
def tokenizer():
    return built(TokenizerSpec, "sapiens.vh")


@pytest.fixture(scope="module")
def genes():
    """Return some human germline genes of a chain."""
    with (ROOT / "examples" / "data" / "germline_v.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["organism"] == "human"]
    return lambda chain: [row["sequence"] for row in rows if row["chain"] == chain][::40]


def told(source, sequences, tokenizer):
    """Return the share of residues that the model tells, each hidden in turn."""
    backbone, hits = built(BackboneSpec, source, True), []
    for sequence in sequences:
        encoding = tokenizer.encode(sequence)
        ids = torch.tensor(encoding.arrays["input_ids"])
        hidden = ids.repeat(len(sequence), 1)
        places = torch.arange(len(sequence)) + 1
        hidden[places - 1, places] = tokenizer.mask
        batch = collate([replace(encoding, arrays={"input_ids": row.numpy()}) for row in hidden])
        with torch.inference_mode():
            logits = backbone.language.head(backbone(batch).hidden)
        hits += (logits[places - 1, places].argmax(-1) == ids[1:-1]).tolist()
    return sum(hits) / len(hits)


def test_each_model_knows_the_residues_of_its_own_chains(genes, tokenizer):
    heavy, light = genes("H"), genes("K")
    assert told("sapiens.vh", heavy, tokenizer) > 0.75 > told("sapiens.vl", heavy, tokenizer)
    assert told("sapiens.vl", light, tokenizer) > 0.75 > told("sapiens.vh", light, tokenizer)


@pytest.mark.parametrize(("chain", "longest"), [("vh", 144), ("vl", 128)])
def test_what_the_checkpoints_say_is_true(chain, longest):
    offer, checkpoint, source = current().checkpoint(f"sapiens-{chain}")
    backbone = built(BackboneSpec, source, True)
    assert offer.info.distribution == "exapt-sapiens"
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert (backbone.width, backbone.max_tokens) == (checkpoint.width, longest)


def test_the_plugin_conforms(genes):
    backbone, tokenizer = current().get(BackboneSpec, "sapiens").spec, current().get(TokenizerSpec, "sapiens").spec
    check_tokenizer(tokenizer, {"source": "sapiens.vh"}, inputs=genes("H")[:3])
    check_backbone(backbone, {"source": "sapiens.vh"}, tokenizer=tokenizer)


def test_tokens_are_those_of_the_publication(tokenizer):
    encoding = tokenizer.encode("AcX*B")
    assert encoding.arrays["input_ids"].tolist() == [0, 4, 5, 24, 24, 3, 2]
    assert (encoding.length, encoding.unknown) == (5, 3)
    with pytest.raises(DataError, match=r"^character '7' at position 4 is no residue$"):
        tokenizer.encode("EVQ7L")


@pytest.mark.parametrize("source", ["sapiens", "sapiens.heavy", "sapience.vh"])
def test_weights_that_are_not_there(source):
    with pytest.raises(RecipeError) as refusal:
        built(BackboneSpec, source, True)
    assert str(refusal.value) == (
        f"there are no weights of Sapiens at '{source}', which is to be a package and vh or vl, as sapiens.vh; "
        "run: pip install --no-deps sapiens==1.0.5"
    )


def test_the_plugin_is_light_and_imports_the_public_face_alone():
    heavy = "{'torch', 'transformers', 'numpy', 'sapiens'} & set(sys.modules)"
    code = f"import sys, exapt_sapiens as p; list(p.exapt_backbones()); sys.exit(str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 1)
    source = (ROOT / "examples" / "plugin-sapiens" / "exapt_sapiens.py").read_text()
    assert set(re.findall(r"from (exapt[\w.]*) import", source)) == {"exapt", "exapt.parts"}
