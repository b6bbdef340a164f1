"""Labels carried over from a reference: who votes, what is unknown, where the answers stand, and what is refused."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from exapt import DataError, ExaptError
from exapt.testing import inline
from exapt_singlecell import plugin
from exapt_singlecell.transfer import transfer_labels
from singlecell.answering_models import COUNTS, Plugin, cells, check_kept, slots, written
from singlecell.cell_tables import shared
from singlecell.command_line import refused, said
from singlecell.scgpt_models import Stock

KEYS = ["exapt_kind", "exapt_kind_probability", "exapt_kind_distance"]


def tables(**how):
    """Return a reference, and a query of other cells with an empty one."""
    return cells(seed=0, **how), cells(seed=1, empty=(7,))


def transferred(reference, query, backbone="weighed", **how):
    with inline(Plugin):
        transfer_labels(reference, query, "kind", backbone=backbone, layer="counts", **how)
    return query


@pytest.mark.parametrize("method", ["neighbours", "prototypes"])
def test_cells_get_the_labels_of_the_cells_they_are_beside(method):
    reference, query = tables()
    before = query.copy()
    transferred(reference, query, method=method)
    right = (query.obs["exapt_kind"] == query.obs["kind"].astype(str)).drop("cell-7")
    assert right.mean() > 0.9
    assert query.obs["exapt_kind"].cat.categories.tolist() == ["B", "T/NK", "mono", "unknown"]
    # The empty cell is known by nothing; the reference's own is no part of it.
    assert query.obs.loc["cell-7", KEYS].isna().tolist() == [False, True, True]
    assert query.obs.loc["cell-7", "exapt_kind"] == "unknown"
    known = query.obs["exapt_kind"] != "unknown"
    assert query.obs["exapt_kind_probability"][known].between(1 / 3, 1).all()
    pd.testing.assert_frame_equal(query.obs.drop(columns=KEYS), before.obs)
    assert (query.X != before.X).nnz == 0
    assert reference.uns.keys() == {"log"}
    record = json.loads(query.uns["exapt"]["exapt_kind"])
    assert record["written"] == {"obs": KEYS, "obsm": []}
    assert record["reference"] == {
        "name": "the reference",
        "label": "kind",
        "classes": {"T/NK": 30, "mono": 30, "B": 29},
        "unlabelled": 0,
        "empty": 1,
    }
    assert (record["backbone"], record["method"], record["k"], record["metric"]) == ("weighed", method, 15, "cosine")
    assert record["limits"].keys() == {"B", "T/NK", "mono"}
    assert record["reader"]["layer"] == record["reference_reader"]["layer"] == "counts"


def test_vectors_kept_before_give_the_same_answers():
    reference, query = tables()
    transferred(reference, query)
    wanted = query.obs[KEYS].copy()
    from exapt_singlecell import tl

    with inline(Plugin):
        for table in (reference, query):
            tl.embed(table, "weighed", layer="counts")
    transfer_labels(reference, query, "kind", use_rep="X_exapt_weighed")
    pd.testing.assert_frame_equal(query.obs[KEYS], wanted, check_exact=False, atol=1e-6)
    assert {"X_exapt_weighed", "exapt_kind"} == query.uns["exapt"].keys()


def test_a_copy_leaves_the_query_as_it_is():
    reference, query = tables()
    with inline(Plugin):
        copy = transfer_labels(reference, query, "kind", backbone="weighed", layer="counts", copy=True)
    assert set(KEYS) <= set(copy.obs)
    assert not set(KEYS) & set(query.obs)


def test_the_reference_can_be_read_in_another_way():
    reference, query = tables()
    reference.layers["other"] = reference.layers.pop("counts")
    transferred(reference, query, reference_reader={"layer": "other"})
    record = json.loads(query.uns["exapt"]["exapt_kind"])
    assert (record["reader"]["layer"], record["reference_reader"]["layer"]) == ("counts", "other")


def test_cells_without_a_label_can_be_dropped_and_are_counted(caplog):
    reference, query = tables()
    reference.obs.loc[["cell-1", "cell-2"], "kind"] = np.nan
    transferred(reference, query, unlabelled="drop")
    record = json.loads(query.uns["exapt"]["exapt_kind"])
    assert record["reference"]["unlabelled"] == 2
    assert "2 of 90 cells of the reference have no 'kind' and are left out" in caplog.messages
    assert "left out of the reference, without a gene that the model knows: 1 of 88 labelled cells" in caplog.messages


@pytest.mark.parametrize(
    ("spoil", "how", "sentence"),
    [
        (
            lambda obs: obs.drop(columns="kind"),
            {},
            "the reference has no column 'kind'; its columns are: size, donor, checked, split",
        ),
        (
            lambda obs: obs.assign(kind=[None, "a", "b"] * 30),
            {},
            "30 of 90 cells of the reference have no 'kind': label them, or leave them out by --drop-unlabelled "
            '(unlabelled="drop")',
        ),
        (
            lambda obs: obs.assign(kind="a"),
            {},
            "the reference has one class only, 'a': there is nothing to tell apart",
        ),
        (
            lambda obs: obs.assign(kind=["unknown", "a", "b"] * 30),
            {},
            "the reference has a class 'unknown' of its own: rename it, or leave those labels out",
        ),
        (
            lambda obs: obs.assign(kind=None),
            {"unlabelled": "drop"},
            "the reference has no cell with a label and a known gene",
        ),
        (
            lambda obs: obs,
            {"k": 89},
            "k = 89 needs a reference of more than 89 labelled cells, not 89",
        ),
        (lambda obs: obs, {"k": 0}, "k is 0, and at least one neighbour is needed"),
        (lambda obs: obs, {"method": "votes"}, "unknown method 'votes'; choose neighbours or prototypes"),
        (lambda obs: obs, {"metric": "l1"}, "unknown metric 'l1'; choose cosine or euclidean"),
        (
            lambda obs: obs,
            {"unknown": 1.5},
            "unknown is 1.5: give a quantile above 0 and up to 1, or None for never",
        ),
        (
            lambda obs: obs,
            {"use_rep": "X_pca"},
            "give backbone or use_rep, one of them: by what are cells compared?",
        ),
        (
            lambda obs: obs,
            {"pooling": "none"},
            "cells are compared by one vector each: pooling is mean, max or cls",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_refused(spoil, how, sentence):
    reference, query = tables()
    reference.obs = spoil(reference.obs)
    before = query.obs.copy()
    with pytest.raises(ExaptError) as raised:
        transferred(reference, query, **how)
    assert str(raised.value) == sentence
    pd.testing.assert_frame_equal(query.obs, before)


def test_spaces_that_differ_are_refused():
    reference, query = tables()
    from exapt_singlecell import tl

    with inline(Plugin):
        tl.embed(reference, "weighed", layer="counts")
        tl.embed(query, "weighed", layer="counts", pooling="max")
    with pytest.raises(DataError) as raised:
        transfer_labels(reference, query, "kind", use_rep="X_exapt_weighed")
    assert str(raised.value) == (
        "'X_exapt_weighed' is not the same in both tables: the pooling of the query's is 'max', of the reference's "
        "'mean'; embed both with one model"
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda query: query.obsm.__delitem__("X_pca"), "the query has no 'X_pca' in obsm; it has: frame"),
        (
            lambda query: query.obsm.__setitem__("X_pca", np.full((90, 5), np.nan)),
            "'X_pca' of the query is no array of cells by finite numbers",
        ),
        (
            lambda query: query.obsm.__setitem__("X_pca", np.full((90, 2), "a")),
            "'X_pca' of the query is no array of cells by finite numbers",
        ),
        (
            lambda query: query.obsm.__setitem__("X_pca", np.ones((90, 4))),
            "the query's vectors are 4 wide, the reference's 5",
        ),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(spoil, sentence):
    reference, query = tables()
    spoil(query)
    with pytest.raises(DataError) as raised:
        transfer_labels(reference, query, "kind", use_rep="X_pca")
    assert str(raised.value) == sentence


def test_annotate_writes_into_the_query_itself(tmp_path):
    reference, query = (written(tmp_path, table, f"{name}.h5ad") for name, table in zip("rq", tables(), strict=True))
    before = slots(query)
    words = ("annotate", reference, query, "--label", "kind", "--backbone", "weighed", *COUNTS)
    out, err = said(*words, plugin=Plugin)
    check_kept(before, slots(query), KEYS, ["/uns/exapt"])
    found = anndata.read_h5ad(query)
    counts = found.obs["exapt_kind"].value_counts()
    assert found.obs["exapt_kind"].isna().sum() == 0
    assert found.obs.loc["cell-7", "exapt_kind"] == "unknown"
    for line, name in zip(out, ["B", "T/NK", "mono", "unknown"], strict=False):
        assert line.split() == [name, str(counts[name]), f"{counts[name] / 90:.1%}"]
    right = found.obs["exapt_kind"].astype(str) == found.obs["kind"].astype(str)
    shares = right.groupby(found.obs["kind"].astype(str)).mean()
    assert out[4:] == [f"balanced accuracy on the labels that the query has: {shares.mean():.4f}"]
    assert err[-1] == f"90 cells in {query}"
    assert "left out of r.h5ad, without a gene that the model knows: 1 of 90 labelled cells" in err
    memory = transferred(*tables())
    pd.testing.assert_frame_equal(found.obs[KEYS], memory.obs[KEYS], check_exact=False, check_categorical=False)
    # Nothing is embedded for a place that is taken, so that nothing is told of cells either.
    assert refused(*words, plugin=Plugin) == (
        "q.h5ad has a column 'exapt_kind' in obs already. --overwrite replaces it; -o FILE.parquet writes another file."
    )
    assert said(*words, "--overwrite", plugin=Plugin)[0] == out


def test_annotate_writes_tables_too_and_tells_of_strangers(tmp_path):
    reference, query = tables()
    path, asked = (
        written(tmp_path, reference[reference.obs["kind"] != "mono"].copy(), "r.h5ad"),
        written(tmp_path, query),
    )
    flags = ("--method", "prototypes", "--metric", "euclidean", "--unknown", 0.5, "-o", tmp_path / "out.csv")
    words = ("annotate", path, asked, "--label", "kind", "--backbone", "weighed", *COUNTS, *flags)
    out, _ = said(*words, plugin=Plugin)
    found = pd.read_csv(tmp_path / "out.csv")
    assert found.columns.tolist() == ["id", "prediction", "probability_B", "probability_T/NK", "distance"]
    strangers = found["prediction"][(query.obs["kind"] == "mono").to_numpy()]
    assert out[-1] == (f"{(strangers == 'unknown').sum()} of 30 cells of classes that the reference lacks are unknown")


def test_the_commands_are_light():
    heavy = {"torch", "numpy", "pandas", "anndata", "pyarrow", "scipy", "sklearn", "pydantic"}
    code = f"import sys, exapt_singlecell.commands; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_annotate_refuses_in_a_line(tmp_path):
    reference, query = (written(tmp_path, table, f"{name}.h5ad") for name, table in zip("rq", tables(), strict=True))
    words = ("annotate", reference, query, "--backbone", "weighed", *COUNTS)
    assert refused(*words, "--label", "type", plugin=Plugin) == (
        "r.h5ad has no column 'type'; its columns are: kind, size, donor, checked, split"
    )
    assert refused(*words, "--label", "kind", "--set", "layer=counts", plugin=Plugin) == (
        "there are options of backbone, tokenizer and reader here, not of 'layer': --set reader.KEY=VALUE"
    )
    assert refused(*words, "--label", "kind", "--set", "reader=counts", plugin=Plugin) == (
        "'reader' is 'counts': name an option, reader.KEY=VALUE"
    )
    (tmp_path / "cells.csv").write_text("id,kind\n1,a\n")
    assert refused("annotate", tmp_path / "cells.csv", *words[2:5], "--label", "kind", plugin=Plugin) == (
        "cells.csv is no table of cells: name an AnnData file, or what Cell Ranger writes"
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Return cells whose types are known, for learning and for asking, and an untrained scGPT that knows their genes."""
    folder = tmp_path_factory.mktemp("scgpt")
    table = anndata.read_h5ad(shared("sc_scmark2k"))
    names = ["<pad>", "<cls>", "<eoc>", *table.var_names]
    torch.manual_seed(0)
    torch.save(dict(Stock(len(names), 256, 4, 64, 1).state_dict()), folder / "best_model.pt")
    shape = {"embsize": 256, "nheads": 4, "d_hid": 64, "nlayers": 1, "dropout": 0.0}
    (folder / "args.json").write_text(json.dumps(shape))
    (folder / "vocab.json").write_text(json.dumps({name: token for token, name in enumerate(names)}))
    # The sum of the vectors of the few genes that each cell expresses most: all that an untrained model can tell.
    how = {
        "backbone": f"scgpt:{folder}",
        "model_layer": 0,
        "settings": {"tokenizer": {"max_length": 33, "surplus": "highest"}},
    }
    return table[table.obs["split"] == "train"].copy(), table[table.obs["split"] == "test"].copy(), how


@pytest.mark.parametrize(("method", "least"), [("neighbours", 0.70), ("prototypes", 0.68)])
def test_real_cells_are_told_apart(real, method, least):
    reference, query, how = real
    with inline(plugin):
        found = transfer_labels(reference, query, "cell_type", method=method, unknown=None, copy=True, **how).obs
    right = found["exapt_cell_type"].astype(str) == found["cell_type"].astype(str)
    assert right.groupby(found["cell_type"].astype(str)).mean().mean() > least
    # What the model is surer of is more often right.
    sure = found["exapt_cell_type_probability"] > found["exapt_cell_type_probability"].median()
    assert right[sure].mean() > right[~sure].mean() + 0.1


@pytest.mark.parametrize("method", ["neighbours", "prototypes"])
def test_a_real_type_that_the_reference_lacks_is_unknown_several_times_as_often(real, method):
    reference, query, how = real
    without = reference[reference.obs["cell_type"] != "Macrophages"]
    with inline(plugin):
        found = transfer_labels(without, query, "cell_type", method=method, unknown=0.9, copy=True, **how).obs
    unknown = found["exapt_cell_type"] == "unknown"
    stranger = found["cell_type"] == "Macrophages"
    assert unknown[stranger].mean() > 0.25
    assert unknown[stranger].mean() > 3 * unknown[~stranger].mean()
    assert unknown[~stranger].mean() < 0.15
