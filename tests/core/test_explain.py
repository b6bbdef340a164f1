"""``exapt explain``: what moves an answer, letter by letter, as two predictions and finite differences say it too."""

import csv
import io
import random
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from exapt import BackboneSpec, DataError, OutputError, RecipeError, TokenizerSpec, hookimpl, load, train
from exapt import explain as explained
from exapt.parts import Backbone
from exapt.pictures import save_heat_map
from exapt.testing import inline
from exapt.testing.tiny import LETTERS, TINY, Letters, TinyBackbone, seeded
from runs import charges, recipe, training

WILD = "MKTAYIAKQRQISFVKSHFSRQ"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def kept():
    """Adapters that the tests of this module share, by name."""
    return {}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Write what ``charges`` does, with a class for each letter, and more labels."""
    plain = charges(tmp_path_factory.mktemp("explain") / "plain.csv")
    path = plain.with_name("charges.csv")
    with plain.open(encoding="utf-8") as file, path.open("w", newline="", encoding="utf-8") as out:
        rows = [{**row, **_more(row)} for row in csv.DictReader(file)]
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _more(row):
    kinds = ["acid" if letter in "DE" else "base" if letter in "KR" else "other" for letter in row["sequence"]]
    numbers = " ".join({"acid": "-1.5", "base": "2.5", "other": "0.5"}[kind] for kind in kinds)
    marks = ";".join(letter for letter in "DEKR" if letter in row["sequence"]) or "none"
    return {"kinds": "".join(kind[0] for kind in kinds), "numbers": numbers, "marks": marks, "length": len(kinds)}


HEADS = {
    "kind": {"name": "sequence-classification", "label": "kind"},
    "marks": {"name": "sequence-multilabel", "label": "marks"},
    "charge": {"name": "sequence-regression", "label": "charge"},
    "both": {"name": "sequence-regression", "label": ["charge", "length"]},
    "kinds": {"name": "position-classification", "label": "kinds"},
    "numbers": {"name": "position-regression", "label": "numbers"},
}


@pytest.fixture
def adapted(kept, table):
    """Return an adapter with a head of ``HEADS``, trained in no time; ``strategy`` says how, and ``changes`` what else."""

    def _adapted(name="kind", strategy="probe", **changes):
        key = f"{name} {strategy}"
        if key not in kept:
            given = recipe(table, strategy, **{"head": HEADS.get(name), **changes})
            kept[key] = train({part: what for part, what in given.items() if what is not None})
        return kept[key]

    return _adapted


@pytest.fixture
def saved(adapted, kept, tmp_path_factory):
    """Return the folder of an adapter."""

    def _saved(name="kind", **changes):
        key = f"folder {name}"
        if key not in kept:
            kept[key] = tmp_path_factory.mktemp("saved") / "adapter"
            adapted(name, **changes).save(kept[key])
        return kept[key]

    return _saved


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "wild.fasta"
    path.write_text(f">p\n{WILD}\n")
    return path


def of_two(table):
    """Return what of a recipe reads two inputs."""
    names = ["sequence", "partner"]
    return {
        "data": {"path": str(table), "inputs": dict(zip(names, names, strict=True))},
        "head": {**HEADS["kind"], "inputs": names},
    }


def columns_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def answers(adapted, sequences, column):
    return np.array(adapted.predict(sequences)[column].to_pylist())


# Mutagenesis


@pytest.mark.parametrize("strategy", ["probe", "full", "partial", "lora"])
def test_an_effect_is_the_difference_of_two_predictions(adapted, strategy):
    model = adapted(strategy=strategy)
    effects = model.explain([WILD], target="base", probabilities=True).to_pylist()
    assert len(effects) == 19 * len(WILD)
    assert effects[0] == {
        "id": "1",
        "head": "head",
        "target": "base",
        "position": 1,
        "wild_type": "M",
        "mutant": "A",
        "effect": pytest.approx(effects[0]["effect"]),
    }
    mutants = [WILD[: one["position"] - 1] + one["mutant"] + WILD[one["position"] :] for one in effects]
    differences = answers(model, mutants, "probability_base") - answers(model, [WILD], "probability_base")
    np.testing.assert_allclose([one["effect"] for one in effects], differences, atol=1e-6)
    assert np.abs(differences).max() > 1e-3
    pairs = [(one["position"], one["wild_type"], one["mutant"]) for one in effects]
    assert pairs == [(place, own, one) for place, own in enumerate(WILD, 1) for one in AMINO_ACIDS if one != own]


def test_unless_told_the_class_that_is_predicted_is_explained_by_its_logit(adapted):
    model = adapted()
    told = model.predict([WILD])["prediction"][0].as_py()
    effects = model.explain([WILD], positions="3,7-8").to_pydict()
    assert set(effects["target"]) == {told}
    assert sorted(set(effects["position"])) == [3, 7, 8]
    mutants = [
        WILD[: at - 1] + letter + WILD[at:] for at, letter in zip(effects["position"], effects["mutant"], strict=True)
    ]
    shares = answers(model, [WILD, *mutants], f"probability_{told}")
    logits = np.log(shares / (1 - shares))
    np.testing.assert_allclose(effects["effect"], logits[1:] - logits[0], atol=1e-5)


@pytest.mark.parametrize(
    ("head", "target", "column"), [("charge", "", "prediction"), ("both", "length", "prediction.length")]
)
def test_a_value_is_explained_in_the_labels_own_units(adapted, head, target, column):
    model = adapted(head)
    effects = model.explain([WILD], target=target, positions=[2]).to_pydict()
    assert set(effects["target"]) == {target or "charge"}
    mutants = [f"{WILD[0]}{letter}{WILD[2:]}" for letter in effects["mutant"]]
    differences = answers(model, mutants, column) - answers(model, [WILD], column)
    np.testing.assert_allclose(effects["effect"], differences, atol=1e-5)


def test_each_label_of_many_can_be_explained(adapted):
    model = adapted("marks")
    for label in ("D", "K"):
        effects = model.explain([WILD], target=label, positions="2", probabilities=True).to_pydict()
        mutants = [f"{WILD[0]}{letter}{WILD[2:]}" for letter in effects["mutant"]]
        column = f"probability_{label}"
        np.testing.assert_allclose(
            effects["effect"], answers(model, mutants, column) - answers(model, [WILD], column), atol=1e-6
        )


def test_answers_per_position_are_explained_at_the_position_that_varies_or_at_another(adapted):
    model = adapted("kinds")
    told = model.predict([WILD])["prediction"][0].as_py()
    here = model.explain([WILD], probabilities=True).to_pylist()
    there = model.explain([WILD], probabilities=True, at=5).to_pylist()
    for row in (one for one in here if one["mutant"] == "W"):
        place = row["position"] - 1
        mutant = WILD[:place] + "W" + WILD[place + 1 :]
        name = f"probability_{told[place]}"
        assert row["target"] == told[place]
        own, moved = model.predict([WILD])[name][0].as_py(), model.predict([mutant])[name][0].as_py()
        assert row["effect"] == pytest.approx(moved[place] - own[place], abs=1e-6)
    fifth = {row["mutant"]: row["effect"] for row in there if row["position"] == 9}
    name = f"probability_{told[4]}"
    assert {row["target"] for row in there} == {told[4]}
    moved = model.predict([f"{WILD[:8]}W{WILD[9:]}"])[name][0].as_py()[4]
    assert fifth["W"] == pytest.approx(moved - model.predict([WILD])[name][0].as_py()[4], abs=1e-6)


def test_numbers_per_position_are_in_the_labels_own_units(adapted):
    model = adapted("numbers")
    (effect,) = [row["effect"] for row in model.explain([WILD], positions="4").to_pylist() if row["mutant"] == "D"]
    before, after = (model.predict([one])["prediction"][0].as_py()[3] for one in (WILD, f"{WILD[:3]}D{WILD[4:]}"))
    assert effect == pytest.approx(after - before, abs=1e-5)


def test_one_of_several_inputs_varies(adapted, table):
    model = adapted("pair", **of_two(table))
    pair = {"sequence": [WILD], "partner": ["DDEDEEDDSA"]}
    for name in pair:
        (effect,) = [
            row["effect"]
            for row in explained(pair, model, input=name, target="acid", probabilities=True, positions="2").to_pylist()
            if row["mutant"] == "W"
        ]
        mutant = {**pair, name: [f"{pair[name][0][0]}W{pair[name][0][2:]}"]}
        before, after = (model.predict(one)["probability_acid"][0].as_py() for one in (pair, mutant))
        assert effect == pytest.approx(after - before, abs=1e-6)
        gradients = explained(pair, model, input=name, method="gradient")
        assert "".join(gradients["letter"].to_pylist()) == pair[name][0]
        assert np.abs(gradients["attribution"].to_numpy()).max() > 1e-4
    with pytest.raises(
        RecipeError, match=r"^head 'head' reads several inputs, sequence, partner: name the one that varies"
    ):
        explained(pair, model)
    with pytest.raises(
        RecipeError, match=r"^the adapter reads no input 'partners'\. Did you mean 'partner'\? It reads: seq"
    ):
        explained(pair, model, input="partners")


def test_what_has_no_effect_is_counted(adapted):
    said = []
    odd = adapted().explain(["MKXJTAyiaK" + "A" * 10], positions="1-7", tell=said.append).to_pydict()
    assert list(dict.fromkeys(zip(odd["position"], odd["wild_type"], strict=True))) == [
        (1, "M"),
        (2, "K"),
        (5, "T"),
        (6, "A"),
        (7, "Y"),
    ]
    assert said == [
        "1 unknown letter in 1 of 1 value of 'sequence'",
        "2 positions of other letters than ACDEFGHIKLMNPQRSTVWY are left out",
    ]


# Gradients


def scaled(model, token, factor):
    """Return the answers to ``WILD`` with the embedding of one token scaled."""
    backbone = model.model.backbone
    stem = backbone.stem

    def _stem(batch):
        hidden = stem(batch).clone()
        hidden[:, token] *= factor
        return hidden

    backbone.stem = _stem
    try:
        return model.outputs(model.ask(model.examples([WILD], None)).rows)[0]["head"].astype(np.float64)
    finally:
        backbone.stem = stem


def slopes(model, of):
    """Return by finite differences how ``of`` the answers changes as the embedding of each letter is scaled."""
    step = 0.02
    tokens = range(1, len(WILD) + 1)
    return [(of(scaled(model, token, 1 + step)) - of(scaled(model, token, 1 - step))) / (2 * step) for token in tokens]


@pytest.mark.parametrize("strategy", ["probe", "lora", "full"])
def test_an_attribution_is_the_slope_along_the_embedding(adapted, strategy):
    model = adapted(strategy=strategy)
    gradients = model.explain([WILD], method="gradient", target="base").to_pydict()
    assert gradients["position"] == list(range(1, len(WILD) + 1))
    assert "".join(gradients["letter"]) == WILD
    expected = slopes(model, lambda output: output[1] - output[0])
    np.testing.assert_allclose(gradients["attribution"], expected, atol=2e-4)
    assert np.abs(expected).max() > 5e-3
    shares = model.explain([WILD], method="gradient", target="base", probabilities=True)["attribution"].to_numpy()
    np.testing.assert_allclose(shares, slopes(model, lambda output: 1 / (1 + np.exp(output[0] - output[1]))), atol=1e-4)


def test_letters_are_told_in_capitals_by_both_methods(adapted):
    tables = [adapted().explain(["mkXtAy"], method=method).to_pydict() for method in ("gradient", "mutagenesis")]
    assert "".join(tables[0]["letter"]) == "MKXTAY"
    letters = dict(zip(tables[0]["position"], tables[0]["letter"], strict=True))
    assert {(place, letters[place]) for place in letters if letters[place] != "X"} == set(
        zip(tables[1]["position"], tables[1]["wild_type"], strict=True)
    )


def test_an_attribution_of_a_value_is_in_its_own_units(adapted):
    model = adapted("charge")
    scale = model.resolved.heads["head"].options.scale[0]
    expected = slopes(model, lambda output: output[0] * scale)
    np.testing.assert_allclose(model.explain([WILD], method="gradient")["attribution"].to_numpy(), expected, atol=1e-3)


def test_attributions_of_answers_per_position(adapted):
    model = adapted("kinds", strategy="full")
    at = model.explain([WILD], method="gradient", at=7, target="o").to_pydict()["attribution"]
    own = model.explain([WILD], method="gradient", target="o").to_pydict()["attribution"]
    assert own[6] == pytest.approx(at[6], rel=1e-4)
    place = model.resolved.heads["head"].options.classes.index("o")
    odds = slopes(model, lambda output: output[6, place] - np.log(np.exp(np.delete(output[6], place)).sum()))
    np.testing.assert_allclose(at, odds, atol=5e-4)


def test_of_a_linear_answer_on_embeddings_attributions_are_the_whole_of_it(table):
    with inline(Tiny()):
        model = train(recipe(table, layer=0, backbone="tiny", head={**HEADS["charge"], "standardise": False}))
        gradients = model.explain(["MKTAYIAKQRQ"], method="gradient")["attribution"].to_numpy()
        (line,) = (layer for layer in model.model.head("head").modules() if isinstance(layer, torch.nn.Linear))
        options = model.resolved.heads["head"].options
        nothing = line.bias.item() * options.scale[0] + options.mean[0]
        assert gradients.sum() == pytest.approx(answers(model, ["MKTAYIAKQRQ"], "prediction")[0] - nothing, abs=1e-5)


# Motifs


def motifs(path, rows=180, motif="WWWW"):
    """Write a table whose label says whether a motif stands somewhere in a sequence; ``start`` is where it does."""
    dice = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "start", "split"])
        for row in range(rows):
            letters = dice.choices("AGLSTVNQ", k=dice.randrange(18, 26))
            start = dice.randrange(1, len(letters) - len(motif) + 1)
            if row % 2:
                letters[start : start + len(motif)] = motif
            part = "train" if row < rows * 2 // 3 else "valid" if row < rows * 5 // 6 else "test"
            writer.writerow(
                [f"s{row}", "".join(letters), ("without", "with")[row % 2], start + 1 if row % 2 else "", part]
            )
    return path


def importance(explanation):
    """Return positions, the one that matters most first: by its attribution, or by its mean effect."""
    rows = explanation.to_pydict()
    sizes = {}
    for position, size in zip(rows["position"], rows.get("effect") or rows["attribution"], strict=True):
        sizes.setdefault(position, []).append(size)
    return sorted(sizes, key=lambda position: -abs(np.mean(sizes[position])))


def held_out(path):
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["start"]]
    return [(row["sequence"], int(row["start"])) for row in rows[:6]]


def test_both_methods_find_the_motif_that_decides(tmp_path):
    path = motifs(tmp_path / "motifs.csv")
    with inline(Tiny()):
        model = train(recipe(path, "full", backbone="tiny", **training(epochs=8, learning_rate=1e-2)))
        assert model.metrics["test"]["accuracy"] == 1
        for sequence, start in held_out(path):
            motif = set(range(start, start + 4))
            assert set(importance(model.explain([sequence], target="with"))[:4]) == motif
            assert importance(model.explain([sequence], target="with", method="gradient"))[0] in motif


def test_the_effects_on_esm2_find_the_motif_too(tmp_path):
    path = motifs(tmp_path / "motifs.csv", rows=120, motif="WHC")
    model = train(recipe(path, "full", **training(epochs=8, learning_rate=5e-3)))
    assert model.metrics["test"]["accuracy"] > 0.9
    found = []
    for sequence, start in held_out(path):
        order = importance(model.explain([sequence], target="with"))
        assert start <= order[0] < start + 3
        found += [start <= position < start + 3 for position in order[:3]]
    # Of three positions in some twenty, chance would find one in seven.
    assert np.mean(found) > 0.75


# Files


def test_a_table_and_its_picture(exapt, saved, fasta, tmp_path):
    out, picture = tmp_path / "effects.csv", tmp_path / "map.png"
    done = exapt("explain", saved(), fasta, "-o", out, "--picture", picture, "--target", "base")
    assert done.stderr == f"418 rows in {out}\n"
    rows = columns_of(out.read_text())
    assert list(rows[0]) == ["id", "head", "target", "position", "wild_type", "mutant", "effect"]
    straight = load(saved()).explain([WILD], ids=["p"], target="base").to_pylist()
    assert [float(row["effect"]) for row in rows] == [row["effect"] for row in straight]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["effects.csv", "map.png", "wild.fasta"]
    printed = exapt("explain", saved(), fasta, "--target", "base")
    assert printed.stdout == out.read_text()


def test_the_picture_shows_the_numbers(saved, fasta, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("exapt.heat_maps.save_heat_map", lambda path, **facts: shown.append(facts))
    effects = explained(fasta, saved(), positions="2-4", target="base", picture=tmp_path / "a.svg")
    gradients = explained(fasta, saved("charge"), positions="2-4", method="gradient", picture=tmp_path / "b.svg")
    matrix, row = shown
    assert matrix["rows"] == list(AMINO_ACIDS)
    assert matrix["columns"] == row["columns"] == ["K2", "T3", "A4"]
    for effect in effects.to_pylist():
        assert matrix["values"][AMINO_ACIDS.index(effect["mutant"]), effect["position"] - 2] == effect["effect"]
    assert matrix["marks"] == {(AMINO_ACIDS.index(letter), place) for place, letter in enumerate("KTA")}
    assert all(matrix["values"][mark] == 0 for mark in matrix["marks"])
    assert (matrix["title"], matrix["unit"]) == ("p: effect of substitutions on base", "change of logit")
    np.testing.assert_array_equal(row["values"], [gradients["attribution"].to_pylist()])
    assert (row["rows"], row["title"], row["unit"]) == ([""], "p: gradient x input of charge", "charge")


def test_several_inputs_have_a_picture_each(exapt, refused, saved, tmp_path):
    data, out, maps = tmp_path / "many.fasta", tmp_path / "out.parquet", tmp_path / "maps"
    data.write_text(f">a/1\n{WILD}\n>A_1\n{WILD[3:]}\n>b\nXX\n")
    command = ["explain", saved(), data, "-o", out, "--picture", maps, "--method", "gradient"]
    done = exapt(*command)
    assert done.stderr == f"{len(WILD) * 2 - 1} rows in {out}\n"
    assert sorted(path.name for path in maps.iterdir()) == ["A_1-2.png", "a_1.png", "b.png"]
    assert pq.read_table(out)["id"].unique().to_pylist() == ["a/1", "A_1", "b"]
    assert refused(*command) == f"'{out}' exists already. Remove it, or name another file."
    out.unlink()
    assert refused(*command) == f"'{maps / 'a_1.png'}' exists already. Remove it, or name another file."
    exapt(*command, "--overwrite")
    out.unlink()
    one = exapt("explain", saved(), data, "--rows", "b,a/1", "--method", "gradient").stdout
    assert list(dict.fromkeys(row["id"] for row in columns_of(one))) == ["a/1", "b"]


def test_of_several_inputs_the_one_that_varies_is_named(exapt, refused, saved, table, tmp_path):
    folder = saved("pair", **of_two(table))
    two = tmp_path / "two.csv"
    two.write_text(f"id,sequence,partner\np,{WILD},DDEDE\n")
    rows = columns_of(exapt("explain", folder, two, "--input", "partner", "--method", "gradient").stdout)
    assert "".join(row["letter"] for row in rows) == "DDEDE"
    message = "head 'head' reads several inputs, sequence, partner: name the one that varies with --input"
    assert refused("explain", folder, two) == message


@pytest.mark.parametrize("what", ["heat_maps.save_heat_map", "builtin._writers.Csv.write"])
def test_nothing_half_written_is_left(saved, fasta, tmp_path, monkeypatch, what):
    monkeypatch.setattr(f"exapt.{what}", _fails)
    with pytest.raises(OutputError, match=r"^no room$"):
        explained(fasta, saved(), out=tmp_path / "out.csv", picture=tmp_path / "map.png", positions="1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wild.fasta"]


def _fails(*words, **facts):
    raise OutputError("no room")


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something be done while pictures are drawn."""

    def _meanwhile(do):
        def draw(*words, **facts):
            do()
            save_heat_map(*words, **facts)

        monkeypatch.setattr("exapt.heat_maps.save_heat_map", draw)

    return _meanwhile


def contents(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("there", [True, False])
def test_pictures_are_taken_back_where_the_table_cannot_be_put(saved, fasta, tmp_path, meanwhile, there):
    fasta.write_text(f">p\n{WILD}\n>q\n{WILD}\n")
    out, maps = tmp_path / "out.csv", tmp_path / "maps"
    if there:
        maps.mkdir()
        (maps / "q.png").write_text("mine")
    before = contents(tmp_path)
    meanwhile(lambda: out.mkdir(exist_ok=True))
    with pytest.raises(OutputError) as caught:
        explained(fasta, saved(), out=out, picture=maps, positions="1", overwrite=True)
    assert str(caught.value) == f"cannot write '{out}': Is a directory."
    assert contents(tmp_path) == {**before, "out.csv": False}


def test_a_picture_that_turned_up_meanwhile_stays(saved, fasta, tmp_path, meanwhile):
    out, picture = tmp_path / "out.csv", tmp_path / "map.png"
    meanwhile(lambda: picture.write_text("mine"))
    with pytest.raises(OutputError) as caught:
        explained(fasta, saved(), out=out, picture=picture, positions="1")
    assert str(caught.value) == f"'{picture}' exists already. Remove it, or name another file."
    assert contents(tmp_path) == {"map.png": b"mine", "wild.fasta": fasta.read_bytes()}
    explained(fasta, saved(), out=out, picture=picture, positions="1", overwrite=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("out", "picture", "ids"), [("same.png", "same.png", "p"), ("maps/q.png", "maps", "pq"), ("maps", "maps", "pq")]
)
def test_a_table_and_a_picture_cannot_be_one_file(refused, saved, fasta, monkeypatch, out, picture, ids):
    monkeypatch.setattr("exapt.explanation._explained", _fails)
    monkeypatch.chdir(fasta.parent)
    fasta.write_text("".join(f">{who}\n{WILD}\n" for who in ids))
    if "/" in out:
        (fasta.parent / picture).mkdir()
    before = contents(fasta.parent)
    said = refused("explain", saved(), fasta, "-o", out, "--picture", picture, "--format", "csv", "--overwrite")
    assert said == f"the table and a picture would both be '{out}': name another file for one of them"
    assert contents(fasta.parent) == before


# What cannot be


@pytest.mark.parametrize(
    ("head", "flags", "message"),
    [
        ("kind", ["--method", "grad"], "unknown method 'grad'. Did you mean 'gradient'? Methods are: gradient, mutagenesis."),
        ("kind", ["--head", "heat"], "the adapter has no head 'heat'. Did you mean 'head'? It has: head."),
        ("kind", ["--target", "bases"], "head 'head' does not tell of 'bases'. Did you mean 'base'? It tells of: acid, base."),
        ("both", [], "head 'head' measures several values, charge, length: name one with --target"),
        ("charge", ["--probabilities"], "head 'head' tells measured values, which have no probabilities"),
        ("kind", ["--at", "3"], "head 'head' answers for a whole input: --at is for heads that answer position by position"),
        ("kinds", ["--at", "0"], "positions count from 1: there is no answer at 0"),
        ("kinds", ["--at", "23"], "'p' has 22 positions: there is no answer at 23"),
        ("kind", ["--positions", "20-30"], "'p' has 22 positions: there is no position 30"),
        ("kind", ["--positions", "0-3"], "positions count from 1: there is no position 0"),
        ("kind", ["--positions", "5-3"], "positions 5-3 end before they begin"),
        ("kind", ["--positions", "3,x"], "positions are told as in 5-40,57, and 'x' is none"),
        ("kind", ["--positions", ""], "--positions '' names nothing; leave it out for all"),
        ("kind", ["--rows", " ,"], "--rows ' ,' names nothing; leave it out for all"),
        ("kind", ["--rows", "q,pp"], "wild.fasta has no row 'q'."),
        ("kind", ["--rows", "pp"], "wild.fasta has no row 'pp'. Did you mean 'p'?"),
        ("kind", ["--picture", "map.gif"], "'map.gif' is no picture that can be drawn: its name must end in .pdf, .png, .svg."),
        ("kind", ["-o", "effects.txt"], "no installed writer writes 'effects.txt': its name must end in "),
    ],
)  # fmt: skip
def test_what_is_amiss_is_said_in_one_line(refused, saved, fasta, head, flags, message):
    said = refused("explain", saved(head), fasta, *flags)
    assert said == message or (message.endswith("end in ") and said.startswith(message))
    assert [path.name for path in fasta.parent.iterdir()] == [fasta.name]


def test_a_table_without_rows_and_one_picture_for_many(refused, saved, fasta, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("id,sequence\n")
    assert refused("explain", saved(), empty) == "empty.csv has a header but no rows."
    fasta.write_text(f">p\n{WILD}\n>q\n{WILD}\n")
    assert refused("explain", saved(), fasta, "--picture", tmp_path / "map.png") == (
        f"there are 2 inputs, and a picture of each: name a folder for them, not '{tmp_path / 'map.png'}'"
    )
    with pytest.raises(DataError, match=r"^there are no inputs to explain$"):
        explained([], saved())


def test_a_head_is_named_where_there_are_several(refused, saved, fasta):
    heads = {"kind": HEADS["kind"], "charge": HEADS["charge"]}
    folder = saved("two", head=None, heads=heads)
    assert refused("explain", folder, fasta) == "the adapter has several heads, kind, charge: name one with --head"
    model = load(folder)
    effects = model.explain([WILD], head="charge", positions="2").to_pydict()
    assert set(effects["head"]) == set(effects["target"]) == {"charge"}
    mutants = [f"{WILD[0]}{letter}{WILD[2:]}" for letter in effects["mutant"]]
    differences = answers(model, mutants, "charge.prediction") - answers(model, [WILD], "charge.prediction")
    np.testing.assert_allclose(effects["effect"], differences, atol=1e-5)


def test_a_language_model_is_scanned_instead(adapted):
    model = adapted("lm", "full", head={"name": "masked-lm"})
    with pytest.raises(
        RecipeError, match=r"^head 'head' is a language model, .*: 'exapt score --scan' tells the effect"
    ):
        model.explain([WILD])


@pytest.mark.parametrize("accepts", ["cell", "structure"])
def test_what_has_no_letters_is_refused(adapted, accepts):
    model = adapted()
    chosen = model.resolved.backbone
    other = replace(chosen, offer=replace(chosen.offer, spec=replace(chosen.offer.spec, accepts=accepts)))
    with pytest.raises(RecipeError) as caught:
        replace(model, resolved=replace(model.resolved, backbone=other)).explain([WILD])
    assert str(caught.value) == (
        f"'{model.name}' reads {accepts}s, whose units are not letters that could be replaced: explain takes an adapter of a "
        "model of sequences, such as DNA or protein"
    )


class Whole(Backbone):
    """The tiny backbone, which cannot be run in steps."""

    width, max_tokens = TinyBackbone.width, TinyBackbone.max_tokens

    def __init__(self):
        super().__init__()
        self.inner = TinyBackbone()

    def forward(self, batch):
        return self.inner(batch)


class Tiny:
    exapt_api = 1

    @hookimpl
    def exapt_tokenizers(self):
        yield LETTERS
        yield TokenizerSpec(name="some-letters", summary="All but W and Y.", build=lambda _options: SomeLetters())

    @hookimpl
    def exapt_backbones(self):
        yield TINY
        reads = {"whole": LETTERS.name, "some": "some-letters", "glycan": LETTERS.name}
        for name, tokenizer in reads.items():
            yield BackboneSpec(
                name=name,
                summary="All at once.",
                build=lambda _options, weights: seeded(Whole, weights),
                tokenizer=tokenizer,
                modality="glycan" if name == "glycan" else "protein",
                probes=("MKTA",),
            )


class SomeLetters(Letters):
    def encode(self, value):
        if set(value) & set("WY"):
            raise DataError("there is no token for W and Y")
        return super().encode(value)


def test_a_backbone_that_does_not_run_in_steps_has_effects_and_no_gradients(table):
    with inline(Tiny()):
        model = train(recipe(table, backbone="whole"))
        assert model.explain([WILD], positions="1").num_rows == 19
        with pytest.raises(
            RecipeError, match=r"^'whole' cannot be run on from its embeddings, .*: use --method mutagenesis$"
        ):
            model.explain([WILD], method="gradient")
        with pytest.raises(
            RecipeError, match=r"^'glycan' reads glycan, whose letters are not known: explain takes DNA or"
        ):
            train(recipe(table, backbone="glycan")).explain([WILD])


def test_letters_that_the_tokenizer_refuses_are_left_out_and_counted(table):
    with inline(Tiny()):
        said = []
        effects = train(recipe(table, backbone="some")).explain(["MKTAK"], tell=said.append)
        assert sorted(set(effects["mutant"].to_pylist())) == sorted(set(AMINO_ACIDS) - set("WY"))
        assert said == ["10 substitutions to or from letters that the model does not know are left out"]


def test_what_is_read_in_windows_has_effects_and_no_gradient(table):
    long = "MKTAYIAKQR" * 4
    esm2 = recipe(table)["backbone"]
    model = train(recipe(table, backbone={"name": esm2, "max_tokens": 26, "windows": "pool"}))
    effects = model.explain([long], positions="30", target="acid", probabilities=True).to_pylist()
    mutant = f"{long[:29]}{effects[0]['mutant']}{long[30:]}"
    before, after = (model.predict([one])["probability_acid"][0].as_py() for one in (long, mutant))
    assert effects[0]["effect"] == pytest.approx(after - before, abs=1e-6)
    message = r"^'1' is read in windows, through which no one gradient goes: use --method mutagenesis$"
    with pytest.raises(DataError, match=message):
        model.explain([long], method="gradient")
    apart = train(recipe(table, backbone={"name": esm2, "max_tokens": 26, "windows": "score"}))
    with pytest.raises(
        DataError, match=r"^'1' is longer than the model takes, and each window of it has an answer of its"
    ):
        apart.explain([long])
