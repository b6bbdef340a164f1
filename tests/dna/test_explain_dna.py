"""``exapt explain`` on DNA: k-mers, 6-mers and single bases, both strands, and the motif that decides."""

import csv
import random

import numpy as np
import pytest

import exapt
from dna.kmer_models import DNABERT, NT, NT2
from exapt import DataError
from exapt.data.alphabets import reverse_complement

HYENA = DNABERT.parents[1] / "hyenadna" / "given" / "hf"
BACKBONES = {"dnabert": f"dnabert:{DNABERT / 'model'}", "nt": f"{NT}:{NT2 / 'model'}", "hyenadna": f"hyenadna:{HYENA}"}
every_backbone = pytest.mark.parametrize("name", BACKBONES)
WILD = "GATTACAGGCATGCCTAAGTC"


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def table(tmp_path):
    """Write a table whose label says whether GCGCG stands among A and T; ``start`` is where it does."""
    dice = random.Random(0)
    path = tmp_path / "dna.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "start", "split"])
        for row in range(180):
            letters = dice.choices("AT", k=dice.randrange(18, 26))
            start = dice.randrange(1, len(letters) - 4)
            if row % 2:
                letters[start : start + 5] = "GCGCG"
            part = "train" if row < 120 else "valid" if row < 150 else "test"
            writer.writerow(
                [f"s{row}", "".join(letters), ("without", "with")[row % 2], start + 1 if row % 2 else "", part]
            )
    return path


def trained(table, name, strategy="probe", epochs=1, rate=1e-3, **changes):
    training = {"epochs": epochs, "batch_size": 8, "learning_rate": rate, "patience": 0}
    recipe = {
        "data": {"path": str(table), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": BACKBONES[name],
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": strategy,
        "training": training,
    }
    return exapt.train({**recipe, **changes})


def share(adapted, sequence):
    return adapted.predict([sequence])["probability_with"][0].as_py()


def logit(adapted, sequence):
    return np.log(share(adapted, sequence) / (1 - share(adapted, sequence)))


def slope(adapted, tokens, sequence=WILD):
    """Return by finite differences how the logit changes as the embeddings of some tokens are scaled, in every view."""
    backbone, step = adapted.model.backbone, 0.02
    stem = backbone.stem

    def at(factor):
        def _stem(batch):
            hidden = stem(batch).clone()
            hidden[:, tokens] *= factor
            return hidden

        backbone.stem = _stem
        try:
            return logit(adapted, sequence)
        finally:
            backbone.stem = stem

    return (at(1 + step) - at(1 - step)) / (2 * step)


@every_backbone
def test_an_effect_is_the_difference_of_two_predictions(name, table):
    adapted = trained(table, name)
    effects = adapted.explain([WILD], target="with", probabilities=True).to_pylist()
    assert [(one["position"], one["wild_type"], one["mutant"]) for one in effects] == [
        (place, base, other) for place, base in enumerate(WILD, 1) for other in "ACGT" if other != base
    ]
    for one in effects[::7]:
        mutant = WILD[: one["position"] - 1] + one["mutant"] + WILD[one["position"] :]
        assert one["effect"] == pytest.approx(share(adapted, mutant) - share(adapted, WILD), abs=1e-6)
    assert max(abs(one["effect"]) for one in effects) > 1e-3


@every_backbone
def test_a_token_shares_its_attribution_among_its_bases(name, table):
    adapted = trained(table, name)
    found = adapted.explain([WILD], method="gradient", target="with")
    assert "".join(found["letter"].to_pylist()) == WILD
    spans = adapted.tokenizer.encode(WILD).spans
    bases, total = np.zeros(len(WILD)), 0.0
    for token, (first, last) in enumerate(spans):
        if first >= 0:
            of_token = slope(adapted, [token])
            bases[first : last + 1] += of_token / (last - first + 1)
            total += of_token
    np.testing.assert_allclose(found["attribution"].to_numpy(), bases, atol=5e-4)
    assert found["attribution"].to_numpy().sum() == pytest.approx(total, abs=2e-3)
    assert np.abs(bases).max() > 2e-3


def test_answers_that_are_averaged_over_both_strands_are_explained_so(table):
    adapted = trained(table, "dnabert", augmentation="reverse-complement")
    effects = adapted.explain([WILD], target="with", positions="4", probabilities=True).to_pylist()
    for one in effects:
        mutant = f"{WILD[:3]}{one['mutant']}{WILD[4:]}"
        assert one["effect"] == pytest.approx(share(adapted, mutant) - share(adapted, WILD), abs=1e-6)
    here, there = (
        adapted.explain([strand], target="with", method="gradient")["attribution"].to_numpy()
        for strand in (WILD, reverse_complement(WILD))
    )
    np.testing.assert_allclose(here, there[::-1], atol=1e-5)
    tokens = np.flatnonzero(adapted.tokenizer.encode(WILD).spans[:, 0] >= 0).tolist()
    assert here.sum() == pytest.approx(slope(adapted, tokens), abs=2e-3)
    alone = trained(table, "dnabert").explain([WILD], target="with", method="gradient")["attribution"].to_numpy()
    assert not np.allclose(alone, here, atol=1e-4)


def test_labels_of_bases_are_explained_base_by_base_on_both_strands(table, tmp_path):
    path = tmp_path / "bases.csv"
    with table.open(encoding="utf-8") as file, path.open("w", newline="", encoding="utf-8") as out:
        rows = list(csv.DictReader(file))[::3]
        writer = csv.writer(out)
        writer.writerow(["id", "sequence", "bases", "split"])
        for row in rows:
            bases = "".join("S" if base in "GC" else "W" for base in row["sequence"])
            writer.writerow([row["id"], row["sequence"], bases, row["split"]])
    adapted = trained(
        path,
        "dnabert",
        data={"path": str(path), "input": "sequence"},
        head={"name": "position-classification", "label": "bases"},
        augmentation="reverse-complement",
    )
    place = WILD.index("C")
    (effect,) = [
        row["effect"]
        for row in adapted.explain([WILD], target="S", probabilities=True, positions=[place + 1]).to_pylist()
        if row["mutant"] == "A"
    ]
    mutant = f"{WILD[:place]}A{WILD[place + 1 :]}"
    before, after = (adapted.predict([one])["probability_S"][0].as_py()[place] for one in (WILD, mutant))
    assert effect == pytest.approx(after - before, abs=1e-6)
    here, there = (
        adapted.explain([strand], target="S", method="gradient")["attribution"].to_numpy()
        for strand in (WILD, reverse_complement(WILD))
    )
    np.testing.assert_allclose(here, there[::-1], atol=1e-5)


def test_bases_that_the_model_does_not_know_are_left_out_and_counted(table):
    said = []
    adapted = trained(table, "hyenadna")
    effects = adapted.explain([f"acgtN{WILD}"], positions="3-6", tell=said.append).to_pydict()
    assert list(dict.fromkeys(zip(effects["position"], effects["wild_type"], strict=True))) == [
        (3, "G"),
        (4, "T"),
        (6, "G"),
    ]
    assert said == [
        "1 unknown letter in 1 of 1 value of 'sequence'",
        "1 position of another letter than ACGT is left out",
    ]


def test_a_sequence_without_a_k_mer_is_left_out(table):
    said = []
    adapted = trained(table, "dnabert")
    effects = adapted.explain(["A", WILD], ids=["short", "long"], method="gradient", tell=said.append)
    assert effects["id"].unique().to_pylist() == ["long"]
    assert said == [
        "1 of 2 values of 'sequence' hold nothing that the model reads",
        "1 row of which the model sees nothing is left out of the explanation",
    ]
    with pytest.raises(DataError, match=r"^of no input does the model see anything: there is nothing to explain$"):
        adapted.explain(["A"])


def test_both_methods_find_the_motif_that_decides(table):
    adapted = trained(table, "dnabert", "full", epochs=12, rate=1e-2)
    assert adapted.metrics["test"]["accuracy"] > 0.9
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["start"]][:6]
    for method in ("mutagenesis", "gradient"):
        found = []
        for row in rows:
            start = int(row["start"])
            order = importance(adapted.explain([row["sequence"]], target="with", method=method).to_pydict())
            assert start <= order[0] < start + 5
            found += [start <= position < start + 5 for position in order[:5]]
        # Of five positions in some twenty, chance would find one in four.
        assert np.mean(found) > 0.75


def importance(found):
    """Return positions, the one that matters most first: by its attribution, or by its mean effect."""
    sizes = {}
    for position, size in zip(found["position"], found.get("effect") or found["attribution"], strict=True):
        sizes.setdefault(position, []).append(size)
    return sorted(sizes, key=lambda position: -abs(np.mean(sizes[position])))
