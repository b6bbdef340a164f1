"""The published checkpoints: what is said of them is true, and the hub's cache serves a machine offline."""

import json
import shutil
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch
from transformers import EsmConfig

from exapt import DataError
from exapt.plugins import current
from exapt_esm.backbone import Esm2
from exapt_esm.plugin import CHECKPOINTS

SHAPES = {
    "esm2-8m": (6, 320, 20),
    "esm2-35m": (12, 480, 20),
    "esm2-150m": (30, 640, 20),
    "esm2-650m": (33, 1280, 20),
    "esm2-3b": (36, 2560, 40),
    "esm2-15b": (48, 5120, 40),
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
def test_parameters_and_width(checkpoint, golden):
    layers, width, heads = SHAPES[checkpoint.name]
    given = json.loads((golden / "model" / "config.json").read_text())
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    with torch.device("meta"):
        backbone = Esm2(EsmConfig(**given | shape | {"intermediate_size": 4 * width}), 1024)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert backbone.width == checkpoint.width


def test_all_published_sizes_are_offered_with_revision_licence_and_paper():
    assert [checkpoint.name for checkpoint in CHECKPOINTS] == list(SHAPES)
    for checkpoint in CHECKPOINTS:
        layers = SHAPES[checkpoint.name][0]
        size = checkpoint.name.removeprefix("esm2-").upper()
        assert checkpoint.source == f"facebook/esm2_t{layers}_{size}_UR50D"
        assert len(checkpoint.revision) == 40
        assert (checkpoint.licence, checkpoint.commercial) == ("MIT", True)
        assert checkpoint.paper == "https://doi.org/10.1126/science.ade2574"


def test_checkpoints_and_folders_are_found_by_name():
    offer, checkpoint, source = current().checkpoint("esm2-650m")
    assert (offer.spec.name, checkpoint.parameters, source) == ("esm2", 651_042_593, "facebook/esm2_t33_650M_UR50D")
    assert current().checkpoint("esm2:some/folder")[2] == "some/folder"


def test_the_plugin_is_light():
    heavy = "{'torch', 'transformers', 'numpy', 'huggingface_hub', 'safetensors'} & set(sys.modules)"
    code = f"import sys, exapt_esm.plugin as p; list(p.exapt_backbones()); sys.exit(str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point the hub's client to an empty cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(cache, golden, leave_out=()):
    """Lay the golden checkpoint into the cache as the hub's client does."""
    repository = cache / "models--lab--esm2_tiny"
    shutil.copytree(golden / "model", repository / "snapshots" / REVISION, ignore=shutil.ignore_patterns(*leave_out))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return repository / "snapshots" / REVISION


@pytest.mark.parametrize("revision", ["", "main", REVISION])
def test_a_cached_checkpoint_needs_no_network(revision, cache, golden, build, tokenizer_of):
    put(cache, golden)
    backbone = build("lab/esm2_tiny", revision=revision)
    assert torch.equal(backbone.module.embeddings.word_embeddings.weight, _embeddings(build))
    assert tokenizer_of("lab/esm2_tiny", revision=revision).vocabulary == tokenizer_of().vocabulary


def _embeddings(build):
    return build().module.embeddings.word_embeddings.weight


def test_a_cached_checkpoint_with_a_bin_file_alone(cache, golden, build):
    folder = put(cache, golden, leave_out=["*.safetensors"])
    state = {name: value for name, value in build().state_dict().items() if name != "lm_head.decoder.weight"}
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(build("lab/esm2_tiny").module.embeddings.word_embeddings.weight, _embeddings(build))


@pytest.mark.parametrize(
    ("leave_out", "what"),
    [
        (["*.json"], "config.json"),
        (["vocab.txt"], "vocab.txt"),
        (["*.safetensors"], "model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_is_not_in_the_cache_is_named(leave_out, what, cache, golden, build):
    put(cache, golden, leave_out)
    with pytest.raises(DataError) as refusal:
        build("lab/esm2_tiny")
    assert str(refusal.value) == (
        f"'lab/esm2_tiny' is no folder here, and its {what} is neither on the hub nor in the cache of this machine; "
        "connect once to download it, or name a local folder as esm2:PATH"
    )


def test_a_name_that_the_hub_cannot_have(cache, build):
    with pytest.raises(DataError) as refusal:
        build("lab/esm2..tiny")
    assert str(refusal.value).startswith("the hub does not give 'lab/esm2..tiny': ")
    assert "\n" not in str(refusal.value)
