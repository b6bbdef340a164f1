"""Adapters whose tokenizer reads files of the user's: they travel, and no machine takes other files for these."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import exapt
from exapt import AdapterError, RecipeError
from exapt_singlecell import plugin, tl
from singlecell import scgpt_models
from singlecell.command_line import said as told
from singlecell.geneformer_models import GIVEN, inputs_of, write
from singlecell.geneformer_models import dictionaries as golden
from singlecell.real_cells import refused, said

FILES = {
    "token_dictionary": "token_dictionary",
    "gene_medians": "gene_median_dictionary",
    "gene_names": "gene_name_id_dict",
    "gene_mapping": "ensembl_mapping_dict",
}
FLAGS = ("--label", "kind", "--split", "split", "--head", "sequence-classification", "--strategy", "probe")
QUICK = ("--set", "training.epochs=1")
HERE = "tokenizer of 'geneformer:weights' here has"


@pytest.fixture
def elsewhere(monkeypatch):
    """Return a function that makes the folder ``there`` a machine of its own, which has seen nothing, and goes to it."""

    def go(there):
        monkeypatch.setenv("EXAPT_CACHE", str(there / "caches" / "exapt"))
        monkeypatch.chdir(there)

    return go


def table(genes, path):
    counts = np.random.default_rng(0).poisson(0.8, (30, len(genes))).astype(np.float32)
    obs = {"kind": np.array(["a", "b"])[np.arange(30) % 2], "split": np.repeat(["train", "valid", "test"], 10)}
    adata = anndata.AnnData(sparse.csr_matrix(counts), pd.DataFrame(obs, index=[f"c{n}" for n in range(30)]))
    adata.var_names = list(genes)
    adata.write_h5ad(path)


@pytest.fixture
def machines(tmp_path, elsewhere):
    """Return one machine, where dictionaries lie apart from the weights, and another one without any of it."""
    one, other = tmp_path / "one", tmp_path / "other"
    for there in (one, other):
        there.mkdir()
        (there / "weights").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(GIVEN["v2"] / "model" / name, there / "weights" / name)
        table(inputs_of("v2")["gene_columns"], there / "cells.h5ad")
    write(one / "dictionaries", golden("v2"), ending=".json")
    elsewhere(one)
    return one, other


def learn(out, *words):
    said("train", "--data", "cells.h5ad", "--backbone", "geneformer:weights", *FLAGS, *QUICK, *words, "--out", out)


def answers(out, *words):
    said("predict", out, "cells.h5ad", "-o", f"{out}.csv", "--overwrite", *words)
    return Path(f"{out}.csv").read_text()


def test_a_folder_of_dictionaries_is_found_again_and_told_elsewhere(machines, elsewhere):
    one, other = machines
    learn("mine", "--set", "tokenizer.dictionaries=dictionaries")
    wanted = answers("mine")
    shutil.move("mine", other / "mine")
    elsewhere(other)
    weights = ("--backbone", "geneformer:weights")
    assert refused("predict", "mine", "cells.h5ad", *weights) == (
        "'mine' was learned with tokenizer.dictionaries 'dictionaries', which this machine has not seen: say where it is "
        "with --set tokenizer.dictionaries=PATH"
    )

    shutil.copytree(one / "dictionaries", other / "from a colleague")
    there = ("--set", "tokenizer.dictionaries=from a colleague")

    assert answers("mine", *weights, *there) == wanted
    # From here on it is known.
    assert answers("mine") == wanted
    said("evaluate", "mine", "cells.h5ad", *there)
    assert "verified: mine" in said("inspect", "mine", "--verify", *there)[0]


def test_an_adapter_and_what_it_wrote_name_no_folder_of_the_machine(machines):
    one, _ = machines
    learn("mine", "--set", f"tokenizer.dictionaries={one / 'dictionaries'}")
    answers("mine")
    said("predict", "mine", "cells.h5ad")
    settings = ("--set", f"tokenizer.dictionaries={one / 'dictionaries'}")
    said("embed", "cells.h5ad", "--backbone", "geneformer:weights", *settings)

    kept = json.loads((one / "mine" / "exapt.json").read_text())
    assert kept["recipe"]["tokenizer"]["dictionaries"] == "dictionaries"
    assert str(one) not in (one / "mine" / "exapt.json").read_text()
    records = anndata.read_h5ad("cells.h5ad").uns["exapt"]
    assert set(records) == {"exapt_kind", "X_exapt_geneformer"}
    assert str(one) not in str(records)


def test_files_that_were_named_one_by_one_are_told_one_by_one(machines, elsewhere):
    one, other = machines
    given = [("--set", f"tokenizer.{key}=dictionaries/{stem}.json") for key, stem in FILES.items()]
    learn("mine", *(word for pair in given for word in pair))
    wanted = answers("mine")
    shutil.move("mine", other / "mine")
    shutil.copytree(one / "dictionaries", other / "dictionaries")
    elsewhere(other)
    for known, (key, stem) in enumerate(FILES.items()):
        words = [word for pair in given[:known] for word in pair]
        assert refused("predict", "mine", "cells.h5ad", "--backbone", "geneformer:weights", *words) == (
            f"'mine' was learned with tokenizer.{key} '{stem}.json', which this machine has not seen: say where it is with "
            f"--set tokenizer.{key}=PATH"
        )
    words = [word for pair in given for word in pair]
    assert answers("mine", "--backbone", "geneformer:weights", *words) == wanted


@pytest.mark.parametrize("place", ["weights", "."])
def test_what_lies_beside_the_weights_under_its_name_need_not_be_told(machines, elsewhere, place):
    one, other = machines
    learn("mine", "--set", "tokenizer.dictionaries=dictionaries")
    wanted = answers("mine")
    shutil.move("mine", other / "mine")
    shutil.copytree(one / "dictionaries", other / place / "dictionaries")
    elsewhere(other)
    assert answers("mine", "--backbone", "geneformer:weights") == wanted


def test_other_dictionaries_are_refused_whatever_they_differ_in(machines):
    learn("mine", "--set", "tokenizer.dictionaries=dictionaries")
    fingerprint = json.loads((machines[0] / "mine" / "exapt.json").read_text())["tokenizer"]["fingerprint"][:12]
    for number, stem in enumerate(("gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")):
        found = golden("v2")
        key = list(found[stem])[-1]
        found[stem][key] = found[stem][key] * 2 if stem == "gene_median_dictionary" else "ENSG00000000001"
        write(machines[0] / f"other-{number}", found, ending=".json")
        line = refused("predict", "mine", "cells.h5ad", "--set", f"tokenizer.dictionaries=other-{number}")
        assert line.startswith(f"'mine' was learned on a tokenizer with fingerprint {fingerprint}, but the {HERE} ")
    assert refused("predict", "mine", "cells.h5ad", "--set", "tokenizer.dictionaries=nowhere") == (
        "there is no folder 'nowhere', which tokenizer.dictionaries names"
    )


def test_only_what_changes_no_token_can_be_set(machines):
    learn("mine", "--set", "tokenizer.dictionaries=dictionaries")
    answers("mine", "--set", "tokenizer.min_kept=0.1")
    for given, line in {
        "backbone.revision=x": "there are options of reader and tokenizer here, not of 'backbone': --set reader.KEY=VALUE or "
        "--set tokenizer.KEY=VALUE",
        "tokenizer.name=scgpt": "'mine' has its own tokenizer: name an option of it, tokenizer.KEY=VALUE",
        "tokenizer=scgpt": "'tokenizer' is 'scgpt': name an option, tokenizer.KEY=VALUE",
        "tokenizer.revision=x": "'mine' keeps tokenizer.revision as it was learned: what can be set is dictionaries, "
        "gene_mapping, gene_medians, gene_names, min_kept, token_dictionary",
    }.items():
        assert refused("predict", "mine", "cells.h5ad", "--set", given) == line
    assert refused("predict", "mine", "cells.h5ad", "--set", "tokenizer.longest=1").startswith(
        "tokenizer 'geneformer': unknown key 'longest'"
    )
    with pytest.raises(RecipeError) as caught:
        exapt.load("mine", settings={"head": {"pooling": "max"}})
    assert str(caught.value) == "of an adapter only options of its tokenizer can be set, not of 'head'"


def test_scripts_say_where_files_are(machines, elsewhere):
    one, other = machines
    learn("mine", "--set", "tokenizer.dictionaries=dictionaries")
    shutil.move("mine", other / "mine")
    elsewhere(other)
    settings = {"tokenizer": {"dictionaries": str(one / "dictionaries")}}
    adata = anndata.read_h5ad("cells.h5ad")
    tl.predict(adata, "mine", backbone="geneformer:weights", settings=settings)
    assert "exapt_kind" in adata.obs
    assert exapt.load("mine").name == "geneformer:weights"
    (other / "caches" / "exapt" / "tokenizers").rename(other / "lost")
    with pytest.raises(AdapterError, match=r"say where it is with --set tokenizer\.dictionaries=PATH$"):
        exapt.load("mine")


@pytest.mark.parametrize("command", ["annotate", "perturb"])
def test_label_transfer_and_perturbation_are_told_too(machines, command):
    gene = inputs_of("v2")["gene_columns"][0]
    words = {"annotate": ("cells.h5ad", "cells.h5ad", "--label", "kind"), "perturb": ("cells.h5ad", "--genes", gene)}
    flags = ("--backbone", "geneformer:weights", "--set", "tokenizer.dictionaries=dictionaries", "-o", "out.csv")
    told(command, *words[command], *flags, plugin=plugin)
    assert (machines[0] / "out.csv").is_file()


def test_a_table_of_symbols_is_told_elsewhere(tmp_path, elsewhere):
    elsewhere(tmp_path)
    symbols = [name for name in scgpt_models.genes_of(60) if not name.startswith("<")]
    ids = [f"ENSG{number:011d}" for number in range(len(symbols))]
    table(ids, tmp_path / "cells.h5ad")
    pd.DataFrame({"ensembl": ids, "symbol": symbols}).to_csv("map.csv", index=False)
    backbone = ("--backbone", f"scgpt:{scgpt_models.MODEL}", "--set", "tokenizer.gene_map=map.csv")
    said("train", "--data", "cells.h5ad", *backbone, *FLAGS, *QUICK, "--out", "mine")
    wanted = answers("mine")
    (tmp_path / "map.csv").rename("symbols.csv")
    assert refused("predict", "mine", "cells.h5ad") == (
        "'mine' was learned with tokenizer.gene_map 'map.csv', which this machine has not seen: say where it is with "
        "--set tokenizer.gene_map=PATH"
    )
    assert answers("mine", "--set", "tokenizer.gene_map=symbols.csv") == wanted
    pd.DataFrame({"ensembl": ids[::-1], "symbol": symbols}).to_csv("wrong.csv", index=False)
    assert refused("predict", "mine", "cells.h5ad", "--set", "tokenizer.gene_map=wrong.csv").startswith(
        "'mine' was learned on a tokenizer with fingerprint "
    )
