"""Real DNA end to end: promoters, splice sites, species and measured expression, by every strategy and every family."""

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import exapt
from dna.real_tables import FAMILIES, checkpoint, each, fasta, lac, shared, write
from exapt.cli import cli
from exapt.plugins import current
from exapt.specs import AugmentationSpec
from runs import fresh

every_family = pytest.mark.parametrize("family", FAMILIES)
# Sequences of two of six species as long, and as many, as a tiny model of each family learns from in two epochs.
SPECIES = {"dnabert": (80, 50), "dnabert2": (230, 60), "hyenadna": (120, 24), "nt-v1": (230, 150), "nt-v2": (230, 150)}
NEW = ["AATTGTGAGCGGATAACAATTTCACACAGGAAACAGCTATGACCATGATTACGG", "TTTACACTTTATGCTTCCGGCTCGTATGTTGTGTGGAATTGTGAGCG"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def models(folder):
    return {family: checkpoint(family, folder) for family in FAMILIES}


@pytest.fixture(autouse=True)
def _caches(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "caches"))


@pytest.fixture(scope="module")
def expression(folder):
    """Write mutants of the lac promoter with their expression, and which of their bases pair strongly."""
    rows = lac(80)
    strong = ({"bases": "".join("S" if base in "GC" else "W" for base in row["sequence"])} for row in rows)
    return write(folder / "lac.csv", [row | more for row, more in zip(rows, strong, strict=True)])


@pytest.fixture(scope="module")
def promoters(folder):
    """Write promoters and other stretches of the fly, a few from each arm of its chromosomes."""
    rows = each(shared("dna_promoter_fly.csv.gz"), "chrom", 24)
    return write(folder / "promoters.csv", [{key: row[key] for key in ("chrom", "sequence", "label")} for row in rows])


def recipe(table, model, strategy, label, head="sequence-classification", **changes):
    """Return a recipe of two quick epochs; ``changes`` go to the training, or replace a part of the recipe."""
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "head_learning_rate": 1e-2, "patience": 0}
    parts = {key: changes.pop(key) for key in ("split", "augmentation", "start") if key in changes}
    return {
        "data": {"path": str(table), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": model,
        "head": {"name": head, "label": label} if label else head,
        "strategy": strategy,
        "training": training | changes,
    } | parts


def by_expression(table, model, strategy, **changes):
    return recipe(table, model, strategy, "expression", "sequence-regression", **changes)


@every_family
def test_two_species_are_told_apart(family, models, folder):
    bases, count = SPECIES[family]
    two = [row for row in shared("dna_bacteria_species.csv.gz") if row["label"] in ("S_aureus", "M_tuberculosis")]
    parts = {"train": count, "valid": 8, "test": 32}
    rows = [
        row | {"sequence": row["sequence"][:bases]}
        for part, most in parts.items()
        for row in each([row for row in two if row["split"] == part], "label", most)
    ]
    table = write(folder / f"species-{family}.csv", rows)
    learned = exapt.train(recipe(table, models[family], "full", "label"))
    assert learned.manifest["data"]["rows"] == {part: 2 * most for part, most in parts.items()}
    assert learned.metrics["test"]["auroc"] > 0.75


@every_family
def test_expression_is_learned_and_both_strands_answer_alike(family, models, expression, folder):
    given = by_expression(
        expression, models[family], {"name": "lora", "rank": 4}, epochs=1, augmentation="reverse-complement"
    )
    learned = exapt.train(given, folder / f"strands-{family}")
    turn = current().get(AugmentationSpec, "reverse-complement").spec
    (other,) = zip(*(turn.build(turn.options()).views(sequence) for sequence in NEW), strict=True)
    answers = learned.predict(NEW)["prediction"].to_pylist()
    turned = learned.predict([view.value for view in other])["prediction"].to_pylist()
    assert answers == pytest.approx(turned, abs=1e-5)
    assert len(set(answers)) == len(NEW)
    alone = exapt.train(given | {"augmentation": {"name": "reverse-complement", "average": False}})
    ahead, back = (alone.predict(both)["prediction"].to_pylist() for both in (NEW, [view.value for view in other]))
    assert ahead != pytest.approx(back, abs=1e-5)


@every_family
def test_a_label_per_base_comes_back_per_base(family, models, expression):
    given = recipe(expression, models[family], "full", "bases", "position-classification", epochs=3, batch_size=8)
    learned = exapt.train(given)
    assert learned.metrics["test"]["balanced_accuracy"] > 0.55
    answers = learned.predict([*NEW, NEW[0][:13]])
    assert [len(bases) for bases in answers["prediction"]] == [len(NEW[0]), len(NEW[1]), 13]
    assert [len(bases) for bases in answers["probability_S"]] == [len(NEW[0]), len(NEW[1]), 13]


def test_promoters_split_by_chromosome_arm(models, promoters):
    split = {"column": "chrom", "valid": ["chr2L"], "test": ["chrX", "chr3R"]}
    given = recipe(promoters, models["nt-v2"], {"name": "lora", "rank": 4}, "label", split=split)
    learned = exapt.train(given)
    with promoters.open() as file:
        arms = [row["chrom"] for row in csv.DictReader(file)]
    test = sum(arm in ("chrX", "chr3R") for arm in arms)
    rows = {"train": len(arms) - test - arms.count("chr2L"), "valid": arms.count("chr2L"), "test": test}
    assert learned.manifest["data"]["rows"] == rows
    assert min(rows.values()) >= 24
    assert learned.metrics["test"]["auroc"] > 0.5


@pytest.mark.parametrize("family", ["dnabert", "dnabert2"])
def test_splice_sites_split_by_homology(family, models, folder):
    rows = each(shared("dna_splice_uci.csv"), "label", 40)
    # A relative of every fourth row, turned round: without regard to the other strand it would leak.
    turn = str.maketrans("ACGT", "TGCA")
    relatives = [row | {"sequence": row["sequence"].translate(turn)[::-1]} for row in rows[::4]]
    table = write(folder / f"splice-{family}.csv", [*rows, *relatives])
    out = folder / f"splice-{family}"
    split = {"homology": 0.8, "fractions": [0.7, 0.1, 0.2], "engine": "pyopal"}
    learned = exapt.train(recipe(table, models[family], "probe", "label", split=split, epochs=3), out)
    assert sum(learned.manifest["data"]["rows"].values()) == len(rows) + len(relatives)
    with (folder / f"{out.name}.run" / "leakage.csv").open() as file:
        nearest = list(csv.DictReader(file))
    assert len(nearest) == learned.manifest["data"]["rows"]["test"]
    assert all(float(row["identity"] or 0) < 0.8 for row in nearest)


def test_adapters_answer_the_same_in_another_process(models, expression, folder):
    answers = {}
    for family in FAMILIES:
        learned = exapt.train(by_expression(expression, models[family], "full", epochs=1), folder / f"whole-{family}")
        answers[str(folder / f"whole-{family}")] = learned.predict(NEW)["prediction"].to_pylist()
    code = (
        "import exapt; print(json.dumps({name: exapt.load(name).predict(given[1])['prediction'].to_pylist()"
        " for name in given[0]}))"
    )
    assert fresh(code, list(answers), NEW) == answers


@pytest.mark.parametrize(("family", "head"), [("dnabert", "masked-lm"), ("hyenadna", "causal-lm")])
def test_pretraining_goes_on_with_unlabelled_fasta(family, head, models, folder):
    table = fasta(folder / f"{family}.fasta", lac(50))
    perplexity = [
        exapt.train(
            recipe(
                table,
                models[family],
                "full",
                "",
                head,
                split={"fractions": [0.7, 0.1, 0.2]},
                batch_size=4,
                learning_rate=rate,
                head_learning_rate=rate,
            )
        ).metrics["test"]["perplexity"]
        for rate in (1e-12, 5e-3)
    ]
    assert perplexity[1] < 0.7 * perplexity[0]


@every_family
def test_blocks_are_thawed_one_after_another(family, models, expression, folder):
    top, both = folder / f"top-{family}", folder / f"both-{family}"
    exapt.train(by_expression(expression, models[family], {"name": "partial", "blocks": 1}, epochs=1), top)
    start = {"name": "partial", "blocks": 2}
    learned = exapt.train(by_expression(expression, models[family], start, epochs=1, start=str(top)), both)
    first, second = (_moved(adapted) for adapted in (exapt.load(top), learned))
    assert first == {1}
    assert second == {0, 1}


def _moved(adapted):
    """Return which blocks of a model differ from its checkpoint."""
    pretrained = adapted.resolved.backbone
    before = pretrained.offer.spec.build(pretrained.options, True).blocks()
    pairs = zip(adapted.model.backbone.blocks(), before, strict=True)
    return {
        place
        for place, (now, then) in enumerate(pairs)
        if any(not torch.equal(a, b) for a, b in zip(now.parameters(), then.parameters(), strict=True))
    }


@every_family
def test_precision_and_memory_are_choices_that_keep_the_answer(family, models, expression):
    small = {"epochs": 1, "learning_rate": 1e-3, "max_tokens": 10_000}
    changes = ({}, {"recompute": True}, {"precision": "bf16"})
    answers = [
        np.array(
            exapt.train(by_expression(expression, models[family], "full", **small, **change)).predict(NEW)["prediction"]
        )
        for change in changes
    ]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4)
    np.testing.assert_allclose(answers[2], answers[0], rtol=0.2)
    assert (answers[2] != answers[0]).any()


def test_promoters_from_the_command_line(models, promoters, folder):
    model, adapter, answers = models["hyenadna"]["name"], str(folder / "cli"), folder / "answers.csv"
    flags = ["--data", str(promoters), "--label", "label", "--head", "sequence-classification", "--strategy", "probe"]
    settings = ("split.column=chrom", 'split.test=["chrX"]', 'split.valid=["chr2L"]', "backbone.windows=pool")
    words = [*flags, "--backbone", model, *(word for one in settings for word in ("--set", one))]
    _typed("train", *words, "--set", "training.epochs=3", "--out", adapter)
    _typed("predict", adapter, str(promoters), "-o", str(answers))
    with answers.open() as file:
        said = [row["prediction"] for row in csv.DictReader(file)]
    with promoters.open() as file:
        assert len(said) == len(list(csv.DictReader(file)))
    assert set(said) == {"0", "1"}


def _typed(*words):
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
