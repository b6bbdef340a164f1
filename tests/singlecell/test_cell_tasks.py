"""Tasks on real cells, from an h5ad to answers: types, numbers, genes, pretraining, and splits by donor."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

import exapt
from exapt import DataError
from exapt.cells import cells_of
from singlecell.answering_models import check_kept, listed, slots
from singlecell.cell_tables import read
from singlecell.real_cells import FAMILIES, LENGTH, few, recipe, refused, said, table, written

pytestmark = pytest.mark.usefixtures("caches")
both = pytest.mark.parametrize("family", ["geneformer-v2", "scgpt"])
TYPE = {"name": "sequence-classification", "label": "cell_type"}
LORA = {"name": "lora", "rank": 8}
PROBED = {"epochs": 6, "head_learning_rate": 8e-2}
LEARNED = {"epochs": 4, "head_learning_rate": 2e-2, "batch_size": 8}
ANNOTATIONS = [
    *((family, "probe", PROBED) for family in FAMILIES),
    *((family, LORA, LEARNED | {"learning_rate": 1e-2}) for family in ("geneformer-v2", "scgpt")),
    ("geneformer-v1", "full", LEARNED | {"epochs": 2, "learning_rate": 2e-3}),
    ("scgpt", "full", LEARNED | {"learning_rate": 3e-4}),
]
PRETRAINING = [
    ("geneformer-v1", "masked-lm", "perplexity", 0.95),
    ("scgpt", "masked-expression", "rmse", 0.6),
]
LATE = "Macrophages"


@pytest.fixture(scope="module")
def cells():
    """Return cells with numbers to tell, donors, labels with holes and gaps, and something in every slot."""
    adata = few(table())
    row, names = np.arange(len(adata)), adata.var_names
    ribosomal, mitochondrial = (names.str.startswith(begin) for begin in (("RPL", "RPS"), "MT-"))
    adata.obs["size"] = np.log(np.asarray(adata.X.sum(1)).ravel())
    adata.obs["ribosomes"] = np.asarray(adata[:, ribosomal].X.log1p().mean(1)).ravel()
    adata.obs["donor"] = pd.Categorical([f"d{number % 11}" for number in row])
    adata.obs["gaps"] = adata.obs["cell_type"].where(row % 7 != 0)
    adata.obs["size gaps"] = adata.obs["size"].where(row % 7 != 0)
    unseen = (adata.obs["cell_type"] == LATE) & (adata.obs["split"] != "test")
    adata.obs["late"] = adata.obs["cell_type"].astype(str).mask(unseen, "T_cells_CD8+")
    # Of every fifth gene the kind is not known.
    kinds = np.select([np.arange(len(names)) % 5 == 0, ribosomal, mitochondrial], ["-", "ribosomal", "MT"], "other")
    adata.var["kind"] = pd.Categorical(kinds)
    adata.layers["logged"] = adata.X.log1p()
    adata.obsm["X_first"] = adata.X[:, :2].toarray()
    adata.uns["colours"] = {"donor": np.array(["red", "blue"], dtype=object)}
    return adata


@pytest.fixture(scope="module")
def path(cells, folder):
    return written(folder / "cells.h5ad", cells)


@pytest.fixture(scope="module")
def adapter(path, models, folder):
    """Return the folder of a probe for types, split by donor, that the command line trained; and what it said."""
    out = folder / "types"
    flags = ("--data", path, "--label", "cell_type", "--head", "sequence-classification", "--strategy", "probe")
    settings = ("split.group=donor", "training.epochs=8", "training.head_learning_rate=0.05")
    sets = (word for one in settings for word in ("--set", one))
    return out, said("train", *flags, "--backbone", models["geneformer-v2"], *sets, "--out", out)[1]


@pytest.mark.parametrize(("family", "strategy", "training"), ANNOTATIONS)
def test_types_are_learned(family, strategy, training, path, models):
    learned = exapt.train(recipe(path, models[family], strategy, TYPE, **training))
    assert learned.manifest["data"]["rows"] == {"train": 120, "valid": 30, "test": 60}
    # A third is chance, and 0.06 its standard error.
    assert learned.metrics["test"]["balanced_accuracy"] > 0.5
    assert learned.metrics["test"]["auroc"] > 0.7


@both
def test_numbers_of_cells_are_learned(family, path, models):
    head = {"name": "sequence-regression", "label": ["size", "ribosomes"]}
    learned = exapt.train(recipe(path, models[family], "probe", head, epochs=12, head_learning_rate=3e-2))
    assert learned.metrics["test"]["size.pearson"] > 0.5
    assert learned.metrics["test"]["ribosomes.pearson"] > 0.5
    answers = learned.predict(cells_of(read(path)["cell"])[:3])
    assert answers.column_names == ["id", "empty", "prediction.size", "prediction.ribosomes"]


@both
def test_each_gene_of_a_cell_is_labelled(family, cells, path, models, folder):
    out, answers = folder / f"genes-{family}", folder / f"genes-{family}.parquet"
    head = {"name": "position-classification", "label": "var:kind", "ignore": ["-"]}
    reader = {"reader": {"gene_labels": ["kind"]}}
    given = recipe(path, models[family], "probe", head, epochs=4, head_learning_rate=5e-2, data=reader)
    learned = exapt.train(given, out)
    assert learned.manifest["recipe"]["heads"]["head"]["classes"] == ["MT", "other", "ribosomal"]
    assert learned.metrics["test"]["balanced_accuracy"] > 0.5
    said("predict", out, path, "-o", answers)
    told = pyarrow.parquet.read_table(answers)
    assert told.column_names[:3] == ["id", "empty", "units"]
    expressed = [cells.var_names[row > 0].tolist() for row in cells.X.toarray()]
    assert told["units"].to_pylist() == expressed
    for answers_of in ("prediction", "probability_MT"):
        assert list(map(len, told[answers_of].to_pylist())) == list(map(len, expressed))
    # No more genes are read than the model has room for, and all others have no answer.
    answered = [sum(one is not None for one in genes) for genes in told["prediction"].to_pylist()]
    room = LENGTH - (2 if family == "geneformer-v2" else 1)
    known = [sum(gene in knows(family, cells) for gene in genes) for genes in expressed]
    assert answered == [min(room, count) for count in known]
    assert max(known) > room


def knows(family, cells):
    """Return the genes that a model of a family knows."""
    named = cells.var["ensembl"].astype(str).str.fullmatch(r"ENSG\d{11}")
    return set(cells.var_names if family == "scgpt" else cells.var_names[named])


def test_labels_of_some_genes_are_enough(cells, models, folder):
    """A gene with nothing in var is one that is ignored, and what stands on a gene that no model reads does not matter."""
    head = {"name": "position-classification", "label": "var:kind"}
    named = {"data": {"reader": {"gene_labels": ["kind"]}}, "epochs": 1}
    made = []
    for number, kinds in enumerate((cells.var["kind"], cells.var["kind"].cat.remove_categories("-"))):
        other = cells.copy()
        other.var["kind"] = kinds
        at = written(folder / f"some-{number}.h5ad", other)
        made.append(exapt.train(recipe(at, models["scgpt"], "probe", head | {"ignore": ["-"]}, **named)).metrics)
    assert made[0] == made[1]


def test_genes_without_a_label_do_not_count(cells, models, folder):
    """Whatever a gene is that is left out, nothing that is learned or measured changes."""
    head = {"name": "position-classification", "label": "var:kind"}
    metrics = []
    for hidden in ("-", "?"):
        other = cells.copy()
        other.var["kind"] = other.var["kind"].cat.rename_categories({"-": hidden})
        at = written(folder / f"hidden-{ord(hidden)}.h5ad", other)
        named = {"data": {"reader": {"gene_labels": ["kind"]}}, "epochs": 1}
        given = recipe(at, models["geneformer-v1"], "probe", head | {"ignore": [hidden]}, **named)
        metrics.append(exapt.train(given).metrics)
    assert metrics[0] == metrics[1]
    counted = exapt.train(recipe(at, models["geneformer-v1"], "probe", head, **named))
    assert "?" in counted.manifest["recipe"]["heads"]["head"]["classes"]
    assert counted.metrics["test"]["accuracy"] != metrics[0]["test"]["accuracy"]


def test_answers_for_genes_have_no_place_in_an_h5ad(path, models, folder):
    out, before = folder / "genes-refused", path.read_bytes()
    head = {"name": "position-classification", "label": "var:kind"}
    exapt.train(recipe(path, models["scgpt"], "probe", head, epochs=1, data={"reader": {"gene_labels": ["kind"]}}), out)
    assert refused("predict", out, path) == (
        "h5ad holds one answer for each cell, and 'probability_-' is a list: write Parquet or JSONL."
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(("family", "head", "metric", "share"), PRETRAINING)
def test_pretraining_goes_on(family, head, metric, share, path, models):
    def error(rate, epochs):
        rates = {"learning_rate": rate, "head_learning_rate": 5 * rate}
        return exapt.train(recipe(path, models[family], "full", head, epochs=epochs, batch_size=8, **rates)).metrics

    assert error(2e-3, 3)["test"][metric] < share * error(1e-12, 1)["test"][metric]


def test_transfer_is_compared_with_logged_counts(path, models):
    flags = ("--data", path, "--label", "cell_type", "--split", "split", "--head", "sequence-classification")
    rest = ("--strategy", "probe", "--backbone", models["scgpt"], "--seeds", "0,1", "--scratch", "epochs=1")
    out, _ = said("compare", *flags, *rest, "--set", "training.epochs=2", "--json")
    found = json.loads(out)
    assert [one["name"] for one in found["contenders"]][1:] == ["scratch", "log counts, linear"]
    assert found["contenders"][2]["mean"] > 0.5
    assert [one["against"] for one in found["differences"]] == ["scratch", "log counts, linear"]


def test_no_donor_stands_on_both_sides(adapter, cells, path, models, folder):
    out, notes = adapter
    assert "no value of 'donor' stands in train and in a later part (11 values)" in notes.splitlines()
    # Asked to tell donors themselves apart, exapt names those that there are to learn from: they are there whole.
    words = ("--data", path, "--label", "donor", "--head", "sequence-classification", "--strategy", "probe")
    rest = ("--backbone", models["geneformer-v2"], "--set", "split.group=donor", "--out", folder / "donors")
    line = refused("train", *words, *rest)
    first, second = re.findall(r"'(d\d+)' \((?:19|20) rows of (?:valid|test), first id 'c\d+'\)", line)
    assert line.startswith(f"label 'donor': no row of train has the classes '{first}' (")
    rows = json.loads((out / "exapt.json").read_text())["data"]["rows"]
    assert (~cells.obs["donor"].isin([first, second])).sum() == rows["train"]


def test_donors_on_both_sides_are_told(path, models):
    notes = heard(recipe(path, models["geneformer-v2"], "probe", TYPE, epochs=1))[1]
    assert (
        "11 of 11 values of 'donor' in test stand in train too: 'd0', 'd1', 'd10', ...; "
        'split.group = "donor" in place of split.column keeps them apart'
    ) in notes


def heard(given):
    """Train and return the adapted model, and the notes on the way."""
    notes = []
    return exapt.train(given, listeners=[lambda run, event: notes.append(event.facts.get("text"))]), notes


def test_metrics_of_each_donor(adapter, path):
    report = json.loads(said("evaluate", adapter[0], path, "--by", "donor", "--json")[0])
    assert set(report) == {"all", *(f"donor=d{number}" for number in range(11))}
    of_donors = [report[name] for name in report if name != "all"]
    assert sum(donor["rows"] for donor in of_donors) == report["all"]["rows"] == 210
    right = sum(donor["accuracy"] * donor["rows"] for donor in of_donors)
    assert right == pytest.approx(report["all"]["accuracy"] * 210)


def test_predictions_leave_every_slot_as_it_was(adapter, cells, folder):
    empty = cells.copy()
    empty.X = empty.X.multiply((np.arange(len(empty)) != 5)[:, None]).tocsr()
    at = written(folder / "told.h5ad", empty)
    before = slots(at)
    _, notes = said("predict", adapter[0], at)
    columns = ("exapt_cell_type", "exapt_cell_type_probability")
    check_kept(before, slots(at), columns, ("/uns/exapt",))
    assert notes.splitlines()[1:] == [
        "1 of 210 cells of 'cell' express no gene that the model knows",
        f"210 rows in {at}",
    ]
    obs = anndata.read_h5ad(at).obs
    assert obs["exapt_cell_type"].isna().to_numpy().nonzero()[0].tolist() == [5]
    assert (obs["exapt_cell_type"].astype(object) == obs["cell_type"]).mean() > 0.6
    assert obs["exapt_cell_type_probability"].dropna().between(1 / 3, 1).all()


def test_a_type_that_only_the_test_part_has(cells, path, models, folder):
    before, late = listed(folder), cells.obs_names[cells.obs["late"] == LATE]
    words = ("--data", path, "--label", "late", "--split", "split", "--head", "sequence-classification")
    rest = ("--strategy", "probe", "--backbone", models["geneformer-v2"], "--out", folder / "late")
    assert refused("train", *words, *rest) == (
        f"label 'late': no row of train has the class '{LATE}' ({len(late)} rows of test, first id '{late[0]}'), so that it "
        "cannot be learned: split so that train has some, leave these rows out, or name all classes in the head's option "
        "'classes', and these count as wrong"
    )
    assert listed(folder) == before


def test_a_type_that_only_the_test_part_has_counts_as_wrong_where_it_is_named(path, models):
    head = {"name": "sequence-classification", "label": "late", "classes": ["T_cells_CD4+", "T_cells_CD8+", LATE]}
    learned = exapt.train(recipe(path, models["geneformer-v2"], "probe", head, **PROBED))
    # A third of the cells of the test part are of that type.
    assert learned.metrics["test"]["accuracy"] <= 2 / 3


@pytest.mark.parametrize(("column", "head"), [("gaps", "classification"), ("size gaps", "regression")])
def test_labels_with_gaps(column, head, path, models):
    given = recipe(path, models["scgpt"], "probe", {"name": f"sequence-{head}", "label": column}, epochs=1)
    with pytest.raises(DataError) as refusal:
        exapt.train(given)
    assert str(refusal.value) == (
        f"cells.h5ad: 30 of 210 rows have no label in '{column}', first row 1 (id 'c0'). "
        'Fill in, or leave out with data.missing_labels = "drop".'
    )
    learned, notes = heard(given | {"data": {"path": str(path), "missing_labels": "drop"}})
    assert "cells.h5ad: 30 rows dropped for want of a label, first id 'c0'" in notes
    assert sum(learned.manifest["data"]["rows"].values()) == 180
