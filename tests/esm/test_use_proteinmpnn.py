"""ProteinMPNN in use: embedded by residue, fine-tuned on a family with its own objective, read by heads with labels."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

import exapt
from esm.mpnn import SHIPPED, TINY, backbone_of, encoding, tokenizer_of
from esm.structure_files import ZINC, read
from exapt import AdapterError, DataError, RecipeError
from exapt.cli import cli
from exapt.fingerprint import fingerprint
from exapt.parts import HeadContext, LanguageModel
from exapt.structures import Structure, structures_of
from exapt_esm.proteinmpnn import InverseFoldingOptions
from exapt_esm.proteinmpnn.backbone import build
from exapt_esm.proteinmpnn.noise import BackboneNoise
from exapt_esm.proteinmpnn.objective import InverseFolding
from exapt_esm.proteinmpnn.probes import PROBES
from runs import MODEL, charges, fresh, listened
from runs import recipe as sequences

ZINC_SPLIT = ZINC.with_suffix(".csv")
STRATEGIES = ["full", {"name": "partial", "blocks": 2}, {"name": "lora", "rank": 4}]


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def recipe(strategy, **changes):
    return {
        "data": {"path": str(ZINC), "labels": str(ZINC_SPLIT)},
        "split": {"column": "split"},
        "backbone": f"proteinmpnn:{TINY}",
        "head": {"name": "inverse-folding"},
        "strategy": strategy,
        "training": {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "patience": 0},
    } | changes


def head(smoothing=0.1):
    language = LanguageModel(backbone_of(TINY).W_out, "ordered")
    context = HeadContext({"structure": 32}, {"structure": language}, tokenizer_of(TINY))
    return InverseFolding(InverseFoldingOptions(smoothing=smoothing), context)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda one: one if isinstance(one, str) else one["name"])
def test_a_family_is_learned_and_answers_alike_in_a_fresh_process(strategy, tmp_path):
    noise = [{"name": "backbone-noise", "deviation": 0.05}]
    learned, heard = listened(recipe(strategy, augmentations=noise), tmp_path / "adapter")
    before, after = heard.of("epoch", "valid.perplexity")[0], heard.of("epoch", "valid.perplexity")[-1]
    assert after < before < 40
    answers = learned.predict(list(PROBES)).to_pydict()
    again = fresh(
        "import exapt\nprint(json.dumps(exapt.load(given[0]).predict(given[1]).to_pydict()))",
        str(tmp_path / "adapter"),
        list(PROBES),
    )
    assert again == answers
    assert answers.keys() >= {"cross_entropy", "perplexity", "recovery"}
    assert [math.exp(one) for one in answers["cross_entropy"]] == pytest.approx(answers["perplexity"])
    assert all(0 <= one <= 1 for one in answers["recovery"])


def test_real_weights_recover_real_structures_better_than_chance(tmp_path):
    source = {"backbone": f"proteinmpnn:{SHIPPED('vanilla', '020')}"}
    training = {"training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-6, "patience": 0}}
    learned = exapt.train(recipe({"name": "lora", "rank": 2}, **source, **training), tmp_path / "adapter")
    answers = learned.predict(structures_of(read(ZINC)["structure"])).to_pydict()
    assert np.mean(answers["recovery"]) > 0.25
    assert np.mean(answers["perplexity"]) < 12


def test_heads_with_labels_read_the_encoder(tmp_path):
    table = read(ZINC)
    shapes = structures_of(table["structure"])
    crowds = [(np.linalg.norm(one.atoms[:, None, 1] - one.atoms[None, :, 1], axis=-1) < 10).sum(1) for one in shapes]
    limit = np.median(np.concatenate(crowds))
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "inside", "split"])
        parts = dict(line.split(",") for line in ZINC_SPLIT.read_text(encoding="utf-8").splitlines())
        for name, crowd in zip(table["id"].to_pylist(), crowds, strict=True):
            writer.writerow([name, "".join("I" if one > limit else "O" for one in crowd), parts[name]])
    asked = {
        "data": {"path": str(ZINC), "labels": str(tmp_path / "labels.csv")},
        "head": {"name": "position-classification", "label": "inside"},
        "training": {"epochs": 60, "batch_size": 4, "learning_rate": 1e-2, "patience": 0},
    }
    learned = exapt.train(recipe("probe", **asked), tmp_path / "adapter")
    manifest = json.loads((tmp_path / "adapter" / "exapt.json").read_text())
    assert manifest["recipe"]["layer"] == 3
    assert manifest["recipe"]["tokenizer"]["atoms"] == "backbone"
    assert learned.metrics["test"]["accuracy"] > 0.75


def test_heads_that_would_read_two_layers_are_refused_unless_one_is_named(tmp_path):
    heads = {"letters": {"name": "inverse-folding"}, "size": {"name": "sequence-regression", "label": "size"}}
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "size", "split"])
        for number, line in enumerate(ZINC_SPLIT.read_text(encoding="utf-8").splitlines()[1:]):
            name, part = line.split(",")
            writer.writerow([name, number, part])
    asked = recipe("full", data={"path": str(ZINC), "labels": str(tmp_path / "labels.csv")}, heads=heads)
    del asked["head"]
    with pytest.raises(RecipeError) as caught:
        exapt.train(asked)
    assert str(caught.value) == (
        f"heads of one run read one layer: of 'proteinmpnn:{TINY}', those with labels (size) read layer 3 and those without "
        "(letters) layer 6; say layer = 6 in the recipe, which all of them then read, or train one after the other"
    )
    both = exapt.train(asked | {"layer": 6, "training": {"epochs": 1, "batch_size": 4}})
    assert both.metrics["test"].keys() >= {"letters.perplexity", "size.rmse"}


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """Return an adapter whose weights, one file, are no more where they were, where they are now, and its answers before."""
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    weights = Path(shutil.copy(TINY, tmp_path / "mine.pt"))
    training = {"training": {"epochs": 1, "batch_size": 4}}
    learned = exapt.train(recipe("probe", backbone=f"proteinmpnn:{weights}", **training), tmp_path / "adapter")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "adapter", weights.rename(tmp_path / "elsewhere" / "mine.pt"), learned.predict(list(PROBES))


def refusal(adapter, **options):
    with pytest.raises(AdapterError) as caught:
        exapt.load(adapter, **options)
    return str(caught.value)


def test_weights_in_one_file_that_moved_are_asked_for_and_answer_the_same(moved):
    adapter, weights, answers = moved
    assert refusal(adapter) == (
        "'adapter' was learned on the local weights 'proteinmpnn:mine.pt', which are not where they were, or which this "
        "machine has not seen: say where they are with --backbone proteinmpnn:PATH"
    )
    assert exapt.load(adapter, backbone=f"proteinmpnn:{weights}").predict(list(PROBES)).equals(answers)
    assert exapt.load(adapter).predict(list(PROBES)).equals(answers)


def test_another_file_under_the_name_of_the_weights_is_refused(moved):
    adapter, weights, _ = moved
    saved = torch.load(weights, weights_only=True)
    saved["model_state_dict"]["W_e.bias"] += 1e-3
    torch.save(saved, adapter.parent / "mine.pt")
    there = json.loads((adapter / "exapt.json").read_text())["backbone"]["fingerprint"]
    here = fingerprint(build(str(adapter.parent / "mine.pt"), True))
    said = (
        f"'adapter' was learned on a backbone with fingerprint {there[:12]}, but the backbone of 'proteinmpnn:mine.pt' here "
        f"has {here[:12]}"
    )
    assert there[:12] != here[:12]
    # Where the weights were as where the user says.
    assert refusal(adapter) == said
    assert refusal(adapter, backbone=f"proteinmpnn:{adapter.parent / 'mine.pt'}") == said


def test_vectors_of_residues_come_with_their_names(tmp_path):
    out = tmp_path / "residues.jsonl"
    asked = ["embed", str(ZINC), "--backbone", f"proteinmpnn:{TINY}", "--per", "residue", "--out", str(out)]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    first, *rest = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rest) == 14
    assert len(first["units"]) == len(first["embedding"])
    assert first["units"][0] == "D:102"
    shapes = structures_of(read(ZINC)["structure"])
    (vectors,) = exapt.embed(shapes[:1], f"proteinmpnn:{TINY}", pooling="none")
    assert np.allclose(vectors, first["embedding"], atol=1e-6)


def test_nothing_is_said_of_residues_that_were_not_seen():
    (vectors,) = exapt.embed([PROBES[2]], f"proteinmpnn:{TINY}", pooling="none")
    assert np.flatnonzero(~vectors.any(1)).tolist() == [10, 11]


def test_a_structure_of_ca_atoms_is_refused_by_its_id():
    atoms = Structure.of(PROBES[0]).atoms.copy()
    atoms[:, [0, 2, 3]] = np.nan
    with pytest.raises(DataError) as caught:
        exapt.embed([Structure.of(PROBES[0]).with_atoms(atoms)], f"proteinmpnn:{TINY}")
    assert str(caught.value) == (
        "'input 1': has CA atoms alone, and this model reads N, CA, C and O; use one of proteinmpnn-ca-002, "
        "proteinmpnn-ca-010, proteinmpnn-ca-020"
    )


def test_the_question_is_a_random_order_with_what_is_not_seen_first():
    one = encoding("tiny", "edge_gap")
    seen, target = head().pose(one, np.random.default_rng(1))
    other, _ = head().pose(one, np.random.default_rng(2))
    resolved, letters = one.arrays["resolved"], one.arrays["input_ids"]
    assert sorted(seen.arrays["rank"]) == list(range(one.tokens))
    assert not np.array_equal(seen.arrays["rank"], other.arrays["rank"])
    assert seen.arrays["rank"][~resolved].max() < seen.arrays["rank"][resolved].min()
    asked = resolved & (letters != 20)
    assert target[asked].tolist() == letters[asked].tolist()
    assert set(target[~asked]) == {-100}
    assert not one.arrays["rank"].any()


def test_the_loss_is_smoothed_as_published_and_perplexity_is_not():
    logits, target = torch.randn(2, 9, 21), torch.randint(0, 20, (2, 9))
    target[0, 3:5] = -100
    wanted = (functional.one_hot(target.clamp(min=0), 21) + 0.1 / 21) / 1.1
    losses = -(wanted * logits.log_softmax(-1)).sum(-1)[target != -100]
    assert torch.allclose(head().loss(logits, target.float()), losses.sum(), rtol=1e-5)
    kept = head().condense(logits, target.float())
    plain = -logits.log_softmax(-1).gather(-1, target.clamp(min=0)[..., None])[..., 0]
    told = head().decode(list(kept.numpy()))
    assert told["cross_entropy"] == pytest.approx(
        [plain[0][target[0] != -100].mean().item(), plain[1].mean().item()], rel=1e-5
    )
    right = (logits.argmax(-1) == target)[target != -100].float().mean().item()
    assert head().metrics(list(kept.numpy()), [])["recovery"] == pytest.approx(right)
    assert head().metrics([kept[0, 3:5].numpy()], []) == {}


def test_the_last_layer_learns_apart_from_the_backbone():
    learned = head()
    assert learned.language.objective == "ordered"
    assert torch.equal(learned.decoder.weight, backbone_of(TINY).W_out.weight)
    assert learned.decoder.weight is not backbone_of(TINY).W_out.weight


def test_noise_moves_what_is_there_by_as_much_as_was_asked_for():
    structure = Structure.of(PROBES[2])
    moved = BackboneNoise(0.3).change(structure, np.random.default_rng(0))
    steps = moved.value.atoms - structure.atoms
    assert moved.units is None
    assert np.isnan(steps[10:12]).all()
    assert np.nanstd(steps) == pytest.approx(0.3, rel=0.1)
    assert moved.value.letters == structure.letters


def test_noise_is_not_for_sequences(tmp_path):
    noisy = sequences(charges(tmp_path / "charges.csv"), augmentations=[{"name": "backbone-noise"}])
    with pytest.raises(RecipeError) as caught:
        exapt.train(noisy, tmp_path / "adapter")
    assert str(caught.value) == (
        "augmentation 'backbone-noise' moves the atoms of structures; this backbone reads sequences"
    )


def test_the_objective_is_not_for_other_models(tmp_path):
    asked = sequences(charges(tmp_path / "charges.csv"), "full", head={"name": "inverse-folding"})
    assert f"esm2:{MODEL}" == asked["backbone"]
    with pytest.raises(RecipeError) as caught:
        exapt.train(asked, tmp_path / "adapter")
    assert str(caught.value) == (
        "head 'inverse-folding' asks which residue stands where in a structure, and the backbone of 'sequence' does not "
        "tell it, or the recipe reads another layer than the last; use a backbone of ProteinMPNN"
    )


def test_the_objectives_of_other_models_are_not_for_this_one(tmp_path):
    for name in ("masked-lm", "causal-lm"):
        with pytest.raises(RecipeError) as caught:
            exapt.train(recipe("full", head={"name": name}), tmp_path / name)
        assert "\n" not in str(caught.value)
