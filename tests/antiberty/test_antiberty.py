"""AntiBERTy, on its real weights: it says what the package it comes from says."""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from antiberty.model.AntiBERTy import AntiBERTy
from peft import LoraConfig, inject_adapter_in_model
from transformers import BertConfig

from exapt import DataError, RecipeError
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt_antiberty import CHECKPOINT

ROOT = Path(__file__).parents[2]
SHIPPED = Path(importlib.util.find_spec("antiberty").origin).parent / "trained_models"


def build(weights=True, source="antiberty"):
    spec = current().get(BackboneSpec, "antiberty").spec
    return spec.build(validated(spec.options, {"source": source}, "backbone 'antiberty'"), weights)


@pytest.fixture(scope="module")
def backbone():
    return build()


@pytest.fixture(scope="module")
def tokenizer():
    spec = current().get(TokenizerSpec, "antiberty").spec
    return spec.build(validated(spec.options, {"source": "antiberty"}, "tokenizer 'antiberty'"))


@pytest.fixture(scope="module")
def sequences():
    """Return real germline V genes of different lengths."""
    with (ROOT / "examples" / "data" / "germline_v.csv").open(newline="") as file:
        heavy = [row["sequence"] for row in csv.DictReader(file) if row["chain"] == "H"]
    return [heavy[0], heavy[100][:40], heavy[200], heavy[300][:7]]


@pytest.fixture(scope="module")
def published():
    """Return the package's own model, with every tensor of its file."""
    config = json.loads((SHIPPED / "AntiBERTy_md_smooth" / "config.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        # The package calls this too early for transformers 5; it only draws values that are overwritten below.
        patch.setattr(AntiBERTy, "init_weights", lambda self: None)
        model = AntiBERTy(BertConfig(**config))
    state = torch.load(SHIPPED / "AntiBERTy_md_smooth" / "pytorch_model.bin", weights_only=True, map_location="cpu")
    strange = model.load_state_dict(state, strict=False)
    assert (strange.missing_keys, strange.unexpected_keys) == ([], ["bert.embeddings.position_ids"])
    return model.eval()


def published_ids(sequence):
    """Return the ids by the package's rule: vocab.txt, a token per letter, [CLS] before and [SEP] after."""
    vocabulary = (SHIPPED / "vocab.txt").read_text().split()
    return [vocabulary.index(token) for token in ("[CLS]", *sequence, "[SEP]")]


def test_hidden_states_of_every_layer_are_those_of_the_package(backbone, tokenizer, published, sequences):
    for sequence in sequences:
        batch = collate([tokenizer.encode(sequence)])
        assert batch["input_ids"][0].tolist() == published_ids(sequence)
        with torch.inference_mode():
            theirs = published(batch["input_ids"], output_hidden_states=True).hidden_states
            for layer, hidden in enumerate(theirs):
                ours = backbone.at_layer(batch, layer).hidden
                torch.testing.assert_close(ours, hidden, atol=2e-5, rtol=0)


def test_padding_changes_nothing(backbone, tokenizer, sequences):
    encodings = [tokenizer.encode(sequence) for sequence in sequences]
    with torch.inference_mode():
        together = backbone(collate(encodings)).hidden
        for row, encoding in enumerate(encodings):
            alone = backbone(collate([encoding])).hidden[0]
            torch.testing.assert_close(together[row, : encoding.tokens], alone, atol=2e-5, rtol=0)


def test_one_token_per_residue_in_any_case(tokenizer):
    upper, lower = tokenizer.encode("EVQLXBJ*-."), tokenizer.encode("evqlxbj*-.")
    assert upper.arrays["input_ids"].tolist() == [2, 8, 22, 18, 14, 1, 1, 1, 1, 1, 1, 3]
    assert np.array_equal(upper.arrays["input_ids"], lower.arrays["input_ids"])
    assert (upper.length, upper.tokens, upper.unknown) == (10, 12, 6)
    assert upper.spans[[0, 1, 10, 11]].tolist() == [[-1, -1], [0, 0], [9, 9], [-1, -1]]


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("EVQ7L", "character '7' at position 4 is no residue"),
        ("EVQ LV", "character ' ' at position 4 is no residue"),
        ("EVQ[MASK]", "character '[' at position 4 is no residue"),
        ("Éva", "character 'É' at position 1 is no residue"),
    ],
)
def test_other_characters_are_refused(sequence, message, tokenizer):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        tokenizer.encode(sequence)


@pytest.mark.parametrize("source", ["antiburty", "folder/antiberty", "json"])
def test_a_package_without_the_weights(source):
    with pytest.raises(RecipeError) as refusal:
        build(source=source)
    assert str(refusal.value) == (
        f"there is no package '{source}' with AntiBERTy's weights; run: pip install antiberty"
    )


def test_what_the_checkpoint_says_is_true(backbone):
    offer, checkpoint, source = current().checkpoint("antiberty")
    assert (offer.info.distribution, checkpoint, source) == ("exapt-antiberty", CHECKPOINT, "antiberty")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == CHECKPOINT.parameters
    assert (backbone.width, backbone.max_tokens) == (CHECKPOINT.width, 512)


def test_fresh_weights_come_from_torchs_generator(backbone):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(weights=False).state_dict())
    assert states[0].keys() == backbone.state_dict().keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(states[0][query], states[2][query])
    assert not torch.equal(states[0][query], backbone.state_dict()[query])


def test_lora_reaches_attention_and_everything_gets_a_gradient(tokenizer):
    backbone = build()
    backbone(collate([tokenizer.encode("EVQLVESGG")])).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(backbone.lora_targets)), backbone.module)
    names = {name.split(".lora_")[0] for name, _ in backbone.module.named_parameters() if ".lora_" in name}
    assert names == {
        f"encoder.layer.{layer}.attention.self.{target}" for layer in range(8) for target in backbone.lora_targets
    }


def test_the_plugin_is_light_and_imports_the_public_face_alone():
    heavy = "{'torch', 'transformers', 'numpy', 'antiberty'} & set(sys.modules)"
    code = f"import sys, exapt_antiberty as p; list(p.exapt_backbones()); sys.exit(str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 1)
    source = (ROOT / "examples" / "plugin-antiberty" / "exapt_antiberty.py").read_text()
    assert set(re.findall(r"from (exapt[\w.]*) import", source)) == {"exapt", "exapt.parts"}


def test_the_examples_table_is_what_its_readme_says():
    with (ROOT / "examples" / "data" / "germline_v.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {organism: sum(row["organism"] == organism for row in rows) for organism in ("human", "mouse", "rhesus")}
    assert counts == {"human": 760, "mouse": 758, "rhesus": 189}
    assert len({row["id"] for row in rows}) == len({row["sequence"] for row in rows}) == len(rows) == 1707
    groups = {}
    for row in rows:
        groups.setdefault((row["organism"], row["cluster"]), set()).add(row["split"])
    assert all(len(parts) == 1 for parts in groups.values())
