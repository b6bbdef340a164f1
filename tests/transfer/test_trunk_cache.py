"""States below what learns: computed once, not in each epoch, and nothing that is learned depends on it."""

import csv
import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import exapt
from dna.kmer_models import NT2
from dna.long_models import DNABERT2, HYENA, Copy
from esm.mpnn import TINY as MPNN
from esm.structure_files import ZINC
from exapt.data.batching import collate
from exapt.features import FeatureKey
from exapt.installed import cache_folder
from exapt.model import Model
from exapt.plugins import current
from exapt.trunk import KeptStates, kept_states
from runs import contents, listened
from singlecell.geneformer_models import GIVEN, inputs_of
from transfer.modalities import BACKBONES, parts, recipe, table

PARTIAL = {"name": "partial", "blocks": 1}
FAMILIES = {
    "esm2": ("protein", BACKBONES["protein"]),
    "dnabert": ("dna", BACKBONES["dna"]),
    "dnabert2": ("dna", "dnabert2:"),
    "hyenadna": ("dna", f"hyenadna:{HYENA / 'hf'}"),
    "nucleotide-transformer": ("dna", f"nucleotide-transformer:{NT2 / 'model'}"),
    "scgpt": ("cell", BACKBONES["cell"]),
    "geneformer": ("cell", f"geneformer:{GIVEN['v2'] / 'model'}"),
    "proteinmpnn": ("structure", f"proteinmpnn:{MPNN}"),
}
ROWS = {"proteinmpnn": (9, 2)}
"""Rows to learn from and to select on; of other families 16 and 4."""


def geneformer_cells(path):
    genes, rng = inputs_of("v2")["gene_columns"], np.random.default_rng(0)
    with path.open("w") as file:
        for row, part in enumerate(parts(24)):
            counts = rng.poisson(np.where(np.arange(len(genes)) % 2 == row % 2, 9, 1)).tolist()
            cell = {"genes": genes, "counts": counts}
            file.write(json.dumps({"id": f"c{row}", "cell": cell, "kind": f"k{row % 2}", "split": part}) + "\n")
    return path


def structures(path):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "kind", "split"])
        for place, line in enumerate(ZINC.with_suffix(".csv").read_text().splitlines()[1:]):
            name, part = line.split(",")
            writer.writerow([name, f"k{place % 2}", part])
    return {"path": str(ZINC), "labels": str(path)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {modality: table(modality, folder / f"{modality}.csv", rows=24) for modality in BACKBONES} | {
        "other": table("protein", folder / "other.csv", rows=24, seed=1),
        "geneformer": geneformer_cells(folder / "geneformer.jsonl"),
        "proteinmpnn": structures(folder / "structures.csv"),
        # Its golden checkpoint has no word pieces.
        "pieces": str(Copy(DNABERT2 / "model", folder / "dnabert2").folder),
    }


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def passed(monkeypatch):
    """Count the rows that pass through the lowest block of a backbone, and return its spec besides."""

    def watch(name):
        offer, _, source = current().checkpoint(name)
        kind = type(offer.spec.build(offer.spec.options(source=source), False))
        rows, run = [], kind.run

        def counting(self, hidden, batch, start, stop):
            rows.extend([len(batch.lengths)] if start == 0 < stop else [])
            return run(self, hidden, batch, start, stop)

        monkeypatch.setattr(kind, "run", counting)
        return rows, offer.spec

    return watch


def asked(tables, family="esm2", strategies=PARTIAL, **training):
    modality, backbone = FAMILIES[family]
    backbone += tables["pieces"] if family == "dnabert2" else ""
    data = tables.get(family, tables.get(modality))
    given = recipe("cell" if modality == "cell" else "protein", data, strategies, backbone=backbone)
    if family == "proteinmpnn":
        given["data"] = data
    return given | {"training": {"epochs": 3, "batch_size": 6, "learning_rate": 3e-3, "patience": 0} | training}


def learned(given):
    """Train; return the losses of steps and of epochs, and all that was learned."""
    adapted, heard = listened(given)
    return heard.of("step", "loss"), heard.of("epoch", "valid.loss"), adapted.model.learned()


def kept():
    return [json.loads(note.read_text())["key"] for note in cache_folder().glob("features/*/key.json")]


def check_same(one, other):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-4, atol=1e-5)
    assert one[2].keys() == other[2].keys()
    for name, value in other[2].items():
        torch.testing.assert_close(one[2][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_the_same_without_it(family, tables, passed):
    rows, spec = passed(asked(tables, family)["backbone"])
    quick = learned(asked(tables, family))
    (key,) = kept()
    assert key["reading"] == "states"
    assert key["layer"] >= 1
    once = sum(rows)
    rows.clear()
    check_same(quick, learned(asked(tables, family, cache=False)))
    # Of three epochs two are saved, and the last look at the valid part; probes tell the backbone's code apart.
    train, valid = ROWS.get(family, (16, 4))
    assert sum(rows) - once == 2 * (train + valid) + valid - len(spec.probes)
    assert len(kept()) == 1


def test_a_stage_that_lets_lower_blocks_learn_moves_it_down(tables, passed):
    rows, spec = passed(BACKBONES["protein"])
    strategies = ["full", {"name": "gradual-unfreezing", "every": 2, "head_epochs": 2}]
    quick = learned(asked(tables, strategies=strategies, epochs=6))
    assert sorted(key["layer"] for key in kept()) == [1, 2]
    once = sum(rows)
    rows.clear()
    check_same(quick, learned(asked(tables, strategies=strategies, epochs=6, cache=False)))
    # Two stages of two epochs each are run once; all learns in the last.
    assert sum(rows) - once == 2 * (16 + 4) - 2 * len(spec.probes)
    # Another run finds what the first one kept.
    rows.clear()
    exapt.train(asked(tables, strategies=strategies, epochs=6) | {"seed": 1})
    assert once - sum(rows) == 2 * (16 + 4)


def test_two_inputs_with_the_same_values_keep_one_copy(tables):
    twice = {"path": str(tables["protein"]), "inputs": {"a": "sequence", "b": "sequence"}}
    pairs = asked(tables) | {"data": twice, "head": {"name": "interaction", "label": "kind"}}
    quick = learned(pairs)
    assert len(kept()) == 1
    check_same(quick, learned(pairs | {"training": pairs["training"] | {"cache": False}}))


def test_rows_of_the_target_domain_are_kept_too(tables, tmp_path, passed):
    far = table("protein", tmp_path / "far.csv", rows=12, shift=True)
    rows, _ = passed(BACKBONES["protein"])
    given = asked(tables, strategies=[PARTIAL, "coral"], epochs=2) | {"target": {"path": str(far), "input": "sequence"}}
    quick = learned(given)
    assert [key["layer"] for key in kept()] == [1, 1]
    once = sum(rows)
    rows.clear()
    check_same(quick, learned(given | {"training": given["training"] | {"cache": False}}))
    assert sum(rows) > once + 12


def test_states_are_kept_to_the_bit_whatever_their_precision(tables, monkeypatch):
    adapted = exapt.train(asked(tables, epochs=1))
    encodings = [adapted.tokenizer.encode(sequence) for sequence in ("ACDEF", "MKTAYIAKQ", "GLWSK")]
    below = Model.below
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        monkeypatch.setattr(Model, "below", lambda self, batch, blocks, kind=kind: below(self, batch, blocks).to(kind))
        key = FeatureKey("", "", {}, str(kind), layer=1, reading="states", precision="", budget=1, machine={})
        states = kept_states(adapted.model, encodings, key, lambda done, of: None)
        for place, encoding in enumerate(encodings):
            found = states.take(np.array([place]), encoding.tokens)
            assert found.dtype == kind
            assert torch.equal(found, adapted.model.below(collate([encoding]), 1))
        # Shorter ones are filled up.
        both = states.take(np.array([1, 0]), 12)
        assert both.shape[:2] == (2, 12)
        assert not both[1, encodings[0].tokens :].any()


OFF = {
    "all learns": {"strategies": ["full"]},
    "a vector before the tokens learns": {"strategies": [PARTIAL, {"name": "prompt", "length": 2}]},
    "an adapter at the lowest block learns": {"strategies": [PARTIAL, "bottleneck"]},
    "inputs are changed": {"augmentations": ["residue-substitution"]},
    "a head poses": {"heads": {"kind": {"name": "sequence-classification", "label": "kind"}, "letters": "masked-lm"}},
    "one epoch": {"epochs": 1},
}


@pytest.mark.parametrize("why", OFF)
def test_nothing_is_kept_where(why, tables):
    changes = dict(OFF[why])
    epochs = changes.pop("epochs", 2)
    given = asked(tables, epochs=epochs) | changes
    if "heads" in changes:
        del given["head"]
    exapt.train(given)
    assert kept() == []


def test_an_adapter_to_start_from_keeps_nothing(tables, tmp_path):
    exapt.train(asked(tables, strategies="full", epochs=1), tmp_path / "first")
    exapt.train(asked(tables, epochs=2) | {"start": str(tmp_path / "first")})
    assert kept() == []


def test_states_whose_size_depends_on_what_stands_beside_them_are_not_kept(tables, tmp_path):
    folder = tmp_path / "structures"
    shutil.copytree(ZINC, folder)
    # Fewer residues than each residue of the tiny model has neighbours.
    short = folder / "1ard.pdb"
    lines = short.read_text().splitlines(keepends=True)
    first = sorted({int(line[22:26]) for line in lines if line.startswith("ATOM")})[:12]
    short.write_text("".join(line for line in lines if line.startswith("ATOM") and int(line[22:26]) in first))
    given = asked(tables, "proteinmpnn", epochs=2, batch_size=1)
    exapt.train(given | {"data": given["data"] | {"path": str(folder)}})
    assert kept() == []


def test_without_room_on_the_disk_a_run_goes_on(tables, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    _, heard = listened(asked(tables, epochs=2))
    assert heard.of("note", "text")[1:] == [
        "each epoch computes anew what frozen blocks give: states of frozen blocks would take 0.0 GiB of the 0.0 that are "
        f"free in '{cache_folder() / 'features'}' or hold such states; name another folder in EXAPT_CACHE"
    ]
    assert kept() == []


def test_a_run_resumed_in_the_last_epoch_of_a_stage_is_the_straight_one(tables, tmp_path):
    strategies = ["full", {"name": "gradual-unfreezing", "head_epochs": 2, "blocks": 2}]
    # A budget below that of the cache, so that rows pass the lower blocks beside others where nothing is kept.
    given = asked(tables, strategies=strategies, epochs=3, batch_size=8, max_tokens=60)
    exapt.train(given, tmp_path / "straight")

    def stop(run, event):
        if event.name == "epoch" and event.facts["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.train(given, tmp_path / "again", listeners=[stop])
    exapt.train(given, tmp_path / "again", resume=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "straight")


def test_states_that_were_not_asked_for_the_longest_make_room(tables, monkeypatch):
    def run(seconds, precision):
        exapt.train(asked(tables, epochs=2, precision=precision))
        (new,) = set(cache_folder().glob("features/*/states.npy")) - set(seen)
        seen[new] = new.stat().st_size
        os.utime(new, (seconds, seconds))
        return new

    seen = {}
    first, second = run(2, "fp32"), run(1, "bf16")
    # Asked for once more, the first is the newer one.
    exapt.train(asked(tables, epochs=2))
    assert first.stat().st_mtime > 2
    os.utime(first, (2, 2))
    # In bf16 they are half as large: half of the disk has room for two in fp32, and hardly for more.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * seen[first]))
    exapt.train(asked(tables, epochs=2) | {"data": asked(tables)["data"] | {"path": str(tables["other"])}})
    assert first.exists()
    assert not second.exists()
    assert len(kept()) == 2


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no room can be reserved on this system")
def test_a_disk_that_fills_up_is_noticed_before_the_states_are_written(tables, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    _, heard = listened(asked(tables, epochs=2))
    assert heard.of("note", "text")[1:] == [
        "each epoch computes anew what frozen blocks give: features cannot be kept in "
        f"'{cache_folder() / 'features'}': No space left on device; name another folder in EXAPT_CACHE"
    ]
    assert list(cache_folder().glob("features/*")) == []


def test_states_that_another_run_made_room_of_meanwhile_are_done_without(tables, monkeypatch):
    def gone(self, folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(KeptStates, "__init__", gone)
    _, heard = listened(asked(tables, epochs=2))
    (said,) = heard.of("note", "text")[1:]
    assert said.startswith("each epoch computes anew what frozen blocks give: states kept in '")
    assert said.endswith("' cannot be read: No such file or directory")
