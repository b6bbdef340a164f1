"""What cannot be aligned, loaded or asked: one line each, and before anything is trained."""

import json
import shutil
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import exapt
from exapt import AdapterError, ComponentError, DataError, OutputError, RecipeError
from exapt.alignment.recipe import read_align_recipe
from exapt.cli import cli
from runs import MODEL, Heard
from runs import recipe as training_recipe
from singlecell.scgpt_models import MODEL as SCGPT
from transfer.pairs import HYENA, cells_and_words, gene, peptides, recipe, tables, written


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tables(tmp_path_factory.mktemp("pairs"), rows=20)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("saved") / "aligned"
    exapt.align(recipe(*pairs, training={"epochs": 1}), folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def refusal(kind, call, *arguments, **options):
    """Return the one line with which something is refused, and check that nothing was trained before."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unaligned(kind, given):
    heard = Heard()
    line = refusal(kind, exapt.align, given, listeners=[heard])
    assert not heard.facts("start")
    return line


def changed(place, value):
    """Return a recipe of which the key at a dotted place has another value."""
    given = recipe("proteins.csv", "genes.csv")
    table = given
    *path, last = place.split(".")
    for key in path:
        table = table.setdefault(key, {})
    table[last] = value
    return given


# The recipe


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (
            "towers.third",
            {"data": {"path": "more.csv"}, "backbone": "esm2-8m"},
            "'towers': an alignment has two towers, and these are 3: gene, protein, third",
        ),
        ("towers.gene.backbon", "x", "unknown key 'towers.gene.backbon'. Did you mean 'backbone'? Known: adapter, "),
        ("towers.gene.pooling", "none", "'towers.gene.pooling' is 'none': input should be 'mean', 'max' or 'cls'"),
        ("training.batch_size", 1, "'training.batch_size' is 1: input should be greater than or equal to 2"),
        (
            "training.metric",
            "chance.mrr",
            "'training.metric' is 'chance.mrr': what a random order has is the same in each epoch: name a metric of what is "
            "learned",
        ),
        ("training.learning_rates", 1, "unknown key 'training.learning_rates'. Did you mean 'learning_rate'? Known: "),
        ("data", {"pth": "x"}, "data: unknown key 'pth'. Did you mean 'path'? Known: format, id, input, path, reader"),
    ],
)
def test_a_recipe_that_says_what_cannot_be(place, value, line):
    assert refusal(RecipeError, read_align_recipe, changed(place, value)).removeprefix("recipe: ").startswith(line)


@pytest.mark.parametrize(
    ("tower", "line"),
    [
        ({"data": {"path": "x.csv"}}, "a tower is a backbone or an adapter: name one of them"),
        (
            {"data": {"path": "x.csv"}, "backbone": "esm2-8m", "adapter": "a"},
            "a tower is a backbone or an adapter: name one of them",
        ),
        (
            {"data": {"path": "x.csv"}, "adapter": "a", "tokenizer": {"max_unknown": 1}},
            "an adapter brings its tokenizer: leave tokenizer out",
        ),
        ({"backbone": "esm2-8m"}, "it has no table: name one as data.path, of the tower or of both"),
    ],
)
def test_a_tower_that_is_not_whole(tower, line):
    assert refusal(RecipeError, read_align_recipe, changed("towers.gene", tower)) == f"recipe: 'towers.gene': {line}"


def test_towers_are_two_and_have_plain_names():
    given = recipe("proteins.csv", "genes.csv")
    given["towers"]["a/b"] = given["towers"].pop("gene")
    assert refusal(RecipeError, read_align_recipe, given) == (
        "recipe: 'towers': 'a/b' is no name for a tower: use letters, digits, '-' and '_'"
    )
    del given["towers"]["a/b"]
    line = refusal(RecipeError, read_align_recipe, given)
    assert line == "recipe: 'towers': an alignment has two towers, and these are 1: protein"


def test_what_is_said_of_both_towers_is_said_once():
    given = recipe("proteins.csv", "genes.csv", data={"path": "both.csv", "id": "name"}, pair="key")
    given["towers"]["gene"] = {"data": {"input": "bases"}, "backbone": "dnabert-6"}
    towers = read_align_recipe(given).towers
    assert (towers["protein"].data.path, towers["gene"].data.path) == ("proteins.csv", "both.csv")
    assert [tower.data.id for tower in towers.values()] == ["name", "name"]
    assert [tower.pair for tower in towers.values()] == ["key", "key"]
    assert towers["gene"].data.input == "bases"


def test_parts_that_there_are_not(pairs):
    given = recipe(*pairs, head="sequence-classification")
    assert unaligned(RecipeError, given) == (
        "head 'sequence-classification' answers for one backbone; those that align two are: contrastive-alignment"
    )
    given = recipe(*pairs, head={"name": "contrastive-alignment", "bias": 1.0})
    assert unaligned(RecipeError, given) == (
        "head 'contrastive-alignment': bias is of loss = \"sigmoid\": a softmax is the same with any; leave it out"
    )
    given = recipe(*pairs, head={"name": "contrastive-alignment", "loss": "hinge"})
    assert unaligned(RecipeError, given) == (
        "head 'contrastive-alignment': 'loss' is 'hinge': input should be 'softmax' or 'sigmoid'"
    )
    given = recipe(*pairs, head={"name": "contrastive-alignment", "loss": ["softmax"]})
    assert unaligned(RecipeError, given) == (
        "head 'contrastive-alignment': 'loss' is ['softmax']: input should be 'softmax' or 'sigmoid'"
    )
    given = recipe(*pairs, head={"name": "contrastive-alignment", "temperature": 0.005})
    assert unaligned(RecipeError, given) == (
        "head 'contrastive-alignment': a temperature of 0.005 is too low to learn with: give 0.01 or more, or 0 for the loss's "
        "own"
    )
    given = recipe(*pairs, head={"name": "contrastive-alignment", "towers": ["protein", "cell"]})
    assert unaligned(RecipeError, given) == (
        "head.towers are those of the recipe, protein and gene, in its order: leave it out"
    )
    given = recipe(*pairs)
    given["towers"]["gene"]["backbone"] = "hyenadn"
    assert unaligned(ComponentError, given).startswith("unknown backbone 'hyenadn'. Did you mean 'hyenadna'?")
    given = recipe(*pairs)
    given["towers"]["gene"]["layer"] = 7
    assert unaligned(RecipeError, given) == f"there is no layer 7: 'hyenadna:{HYENA}' has layers 0 to 2"
    given = recipe(*pairs)
    given["towers"]["gene"]["backbone"] = {"name": f"hyenadna:{HYENA}", "windows": "score"}
    assert unaligned(RecipeError, given) == ('an embedding is of the whole input: use backbone windows = "pool"')
    given = recipe(*pairs)
    given["towers"]["gene"] = {"data": {"path": "x.csv"}, "adapter": "nowhere"}
    assert unaligned(AdapterError, given) == "there is no adapter folder 'nowhere'"


def test_a_metric_that_there_is_not_is_refused_before_the_first_epoch(pairs):
    heard = Heard()
    line = refusal(RecipeError, exapt.align, recipe(*pairs, training={"metric": "recall"}), listeners=[heard])
    assert line == (
        "training.metric 'recall' is not measured here. Did you mean 'recall@1'? Known: gene_to_protein.median_rank, "
        "gene_to_protein.mrr, gene_to_protein.recall@1, loss, median_rank, mrr, protein_to_gene.median_rank, protein_to_gene.mrr, "
        "protein_to_gene.recall@1, recall@1"
    )
    assert not heard.facts("epoch")


# The tables


def test_rows_that_have_no_pair_are_counted(tmp_path):
    made = peptides(12)
    proteins = written(tmp_path / "proteins.csv", id=range(12), sequence=made)
    genes = written(tmp_path / "genes.csv", name=[*range(2, 12), 77], bases=[gene(one) for one in made[1:]])
    heard = Heard()
    exapt.align(recipe(proteins, genes, split={}, training={"epochs": 1}), listeners=[heard])
    assert heard.of("note", "text")[:5] == [
        "proteins.csv: 12 rows",
        "genes.csv: 11 rows",
        "proteins.csv: 2 rows have no pair in genes.csv, first id '0'; left out",
        "genes.csv: 1 row has no pair in proteins.csv, first id '11'; left out",
        "10 pairs",
    ]


def test_missing_keys_go_with_nothing_and_numbers_with_their_like(tmp_path):
    made = peptides(6)
    proteins = written(tmp_path / "proteins.csv", id="abcdef", sequence=made, key=["NA", "nan", "", " 3 ", 4, 5])
    # An empty cell makes floats of whole numbers.
    genes = written(tmp_path / "genes.csv", name=["NA", "", 3.0, 4.0, 5.0, 6.0], bases=[gene(one) for one in made])
    given, heard = recipe(proteins, genes, split={}, training={"epochs": 1}), Heard()
    given["towers"]["protein"]["pair"] = "key"
    aligned = exapt.align(given, listeners=[heard])
    assert sum(aligned.manifest["data"]["pairs"].values()) == 3
    assert heard.of("note", "text")[2:5] == [
        "proteins.csv: 3 rows have no pair in genes.csv, first id 'a'; left out",
        "genes.csv: 3 rows have no pair in proteins.csv, first id '1'; left out",
        "3 pairs",
    ]


def notes_of(folder, rows, **changes):
    """Return the notes and the counts of an alignment of which some pairs stand several times, under other ids."""
    made, many = [peptides(8)[row] for row in rows], range(len(rows))
    parts = ["train" if row < 8 else "test" for row in many]
    origins = {"origin": [f"o{row}" for row in many]}
    proteins = written(folder / "proteins.csv", id=many, sequence=made, split=parts, **origins)
    genes = written(folder / "genes.csv", name=many, bases=[gene(one) for one in made])
    heard = Heard()
    aligned = exapt.align(recipe(proteins, genes, training={"epochs": 1}, **changes), listeners=[heard])
    return heard.of("note", "text"), aligned.manifest["data"]["pairs"]


@pytest.mark.parametrize("group", ["", "origin"])
def test_identical_pairs_are_dealt_together(group, tmp_path):
    split = {"fractions": [0.5, 0.0, 0.5], "group": group}
    notes, counts = notes_of(tmp_path, [*range(8)] * 2, split=split)
    assert counts == {"train": 8, "valid": 0, "test": 8}
    assert not [note for note in notes if "train" in note]


def test_identical_pairs_that_a_column_parts_are_told_once(tmp_path):
    notes, _ = notes_of(tmp_path, [*range(8), 0, 1, 2])
    assert [note for note in notes if "train" in note] == [
        "3 of 3 test pairs are also training pairs: what finds them may have learned them by heart"
    ]


def test_pairs_that_cannot_be_told_apart_teach_nothing(tmp_path):
    made = peptides(6)
    assert unaligned(DataError, of_two(tmp_path, sequence=[made[0]] * 4 + made[4:])) == (
        "all 4 train pairs have the same 'protein': each is learned by telling it from others"
    )


def of_two(folder, **changes):
    """Return the recipe of two small tables, of which some columns are others."""
    made = peptides(6)
    columns = {"id": ["a", "b", "c", "d", "e", "f"], "sequence": made, "split": ["train"] * 4 + ["test"] * 2}
    others = {"name": columns["id"], "bases": [gene(one) for one in made]}
    columns |= {name: values for name, values in changes.items() if name in columns}
    others |= {name: values for name, values in changes.items() if name not in columns}
    proteins = written(folder / "proteins.csv", **{name: values for name, values in columns.items() if values})
    return recipe(proteins, written(folder / "genes.csv", **{k: v for k, v in others.items() if v}))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"name": ["u", "v", "w", "x", "y", "z"]},
            "no row of proteins.csv goes with one of genes.csv: the first are 'a' and 'u'; name the column by which they do as "
            "pair",
        ),
        (
            {"name": ["a", "a", "c", "c", "e", "f"]},
            "genes.csv: 'a' stands in 2 rows by 'name', and 1 more stand several times; a pair is one row of each table: leave "
            "one of them, or name another column as pair",
        ),
        ({"id": None}, "proteins.csv has no column of ids to pair its rows by: name one as pair. Its columns are: "),
        ({"name": None}, "genes.csv has no column 'name'. Its columns are: bases."),
        (
            {"split": ["train", "", "", "", "", ""]},
            "the split column 'split' holds nothing at id 'b'; write train, valid or test, or say with valid and test which "
            "values are held out.",
        ),
        ({"split": ["train"] + ["test"] * 5}, "the train part has one pair: each is learned by telling it from others"),
        (
            {"bases": ["ACGT"] * 5 + ["ACG!"]},
            "'f': ",
        ),
    ],
)
def test_tables_that_cannot_be_paired(changes, line, tmp_path):
    assert unaligned(DataError, of_two(tmp_path, **changes)).startswith(line)


def test_a_column_that_both_tables_have_and_that_disagree(tmp_path):
    made = peptides(4)
    proteins = written(tmp_path / "proteins.csv", id="abcd", sequence=made, split=["train"] * 3 + ["test"])
    genes = written(
        tmp_path / "genes.csv", name="abcd", bases=[gene(one) for one in made], split=["train"] * 2 + ["test"] * 2
    )
    assert unaligned(DataError, recipe(proteins, genes)) == (
        "of the pair 'c', 'split' is 'train' in proteins.csv and 'test' in genes.csv"
    )


def test_homology_has_nothing_to_compare_in_cells(tmp_path):
    cells, _ = cells_and_words(tmp_path)
    tower = {"data": {"path": str(cells)}, "backbone": f"scgpt:{SCGPT}"}
    assert unaligned(RecipeError, {"towers": {"one": tower, "other": tower}, "split": {"homology": 0.5}}) == (
        "split.homology compares sequences of DNA or protein, but the towers read cell and cell: leave it out; split.group "
        "keeps pairs of one origin together"
    )


def test_an_input_that_several_pairs_have_is_told(tmp_path):
    made = peptides(8)
    proteins = written(tmp_path / "proteins.csv", id=range(8), sequence=[made[0], *made[:7]])
    genes = written(tmp_path / "genes.csv", name=range(8), bases=[gene(one) for one in made])
    heard = Heard()
    exapt.align(recipe(proteins, genes, split={}, training={"epochs": 1}), listeners=[heard])
    assert "2 pairs have a 'protein' that other pairs have too, and are not told apart from these" in heard.of(
        "note", "text"
    )


# The place


def test_a_folder_that_exists_is_not_overwritten(saved, pairs):
    line = refusal(OutputError, exapt.align, recipe(*pairs), saved)
    assert line == f"'{saved}' exists already; choose another folder, or remove it"


# What is loaded


def test_what_is_no_alignment(saved, tmp_path):
    assert refusal(AdapterError, exapt.load_alignment, tmp_path / "no") == (
        f"there is no folder '{tmp_path / 'no'}' of an alignment"
    )
    assert refusal(AdapterError, exapt.load_alignment, tmp_path) == (
        f"'{tmp_path}' is no alignment: it has no alignment.json"
    )
    assert refusal(AdapterError, exapt.load, saved) == (
        f"'{saved}' is no exapt adapter: it has no exapt.json: it aligns two backbones, for exapt retrieve, exapt classify and "
        "exapt.load_alignment"
    )


def test_another_backbone_is_named(copy, tmp_path):
    other = shutil.copytree(MODEL, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    first = next(name for name in tensors if "word_embeddings" in name)
    save_file({**tensors, first: tensors[first] + 1}, other / "model.safetensors", metadata={"format": "pt"})
    line = refusal(AdapterError, exapt.load_alignment, copy, backbones={"protein": f"esm2:{other}"})
    assert line.startswith("'copy' was learned with a backbone of fingerprint ")
    assert " as tower 'protein' (esm2:model), but the backbone of 'esm2:" in line
    line = refusal(AdapterError, exapt.load_alignment, copy, backbones={"protein": f"hyenadna:{HYENA}"})
    assert line == "'copy' was learned on esm2:model, not on a model of the family 'hyenadna'"
    line = refusal(RecipeError, exapt.load_alignment, copy, backbones={"protien": "esm2:x"})
    assert line == "'copy' has no tower 'protien'. Did you mean 'protein'? Towers: gene, protein"


def test_weights_that_this_machine_has_not_seen_are_asked_for(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "empty"))
    line = refusal(AdapterError, exapt.load_alignment, copy)
    assert line.endswith("say where they are with --backbone protein=esm2:PATH")
    found = exapt.load_alignment(copy, backbones={"protein": f"esm2:{MODEL}", "gene": f"hyenadna:{HYENA}"})
    assert list(found.towers) == ["protein", "gene"]


def edited(folder, change):
    path = folder / "alignment.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda m: m["exapt"].update(format=9), "'copy' has format 9; this exapt reads format 1: upgrade exapt"),
        (
            lambda m: m["towers"].pop("gene"),
            "alignment.json' is damaged: 'towers': Dictionary should have at least 2 items",
        ),
        (
            lambda m: m["probes"]["gene"].pop("outputs"),
            "alignment.json' is damaged: 'probes.gene.outputs': Field required",
        ),
        (
            lambda m: m["recipe"]["head"].update(width=65),
            "head 'head' of 'copy' was learned with width 64, but alignment.json says 65",
        ),
        (
            lambda m: m["probes"]["gene"]["outputs"][0].__setitem__(0, 0.9),
            "'copy' answers otherwise here than where it was saved: tower 'gene' differs by ",
        ),
        (
            lambda m: m["towers"]["gene"]["tokenizer"].update(fingerprint="0" * 64),
            "'copy' was learned with a tokenizer of fingerprint 000000000000 as tower 'gene' (hyenadna:hf), but the tokenizer",
        ),
    ],
)
def test_a_manifest_that_was_changed(change, line, copy):
    edited(copy, change)
    assert line in refusal(AdapterError, exapt.load_alignment, copy)


def test_tensors_that_were_changed(copy):
    path = copy / "heads.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "head.log_scale": tensors["head.log_scale"] + 1}, path)
    assert "'head.log_scale' has sha256" in refusal(AdapterError, exapt.load_alignment, copy)


# What is asked


@pytest.fixture(scope="module")
def aligned(saved):
    return exapt.load_alignment(saved)


def test_questions_that_have_no_answer(aligned):
    both = "both towers read these inputs: say whose they are, protein or gene, such as tower = 'protein'"
    assert refusal(RecipeError, aligned.retrieve, ["ACDEF"], ["ACGT"]) == both
    line = refusal(RecipeError, aligned.embed, "genes", ["ACGT"])
    assert line == "there is no tower 'genes'. Did you mean 'gene'? Towers: gene, protein"
    line = refusal(RecipeError, aligned.retrieve, ["ACDEF"], ["ACGT"], 0, tower="protein")
    assert line == "the 0 nearest cannot be given: ask for 1 or more"
    line = refusal(DataError, aligned.classify, ["ACDEF"], {"a": ["ACGT"]}, tower="protein")
    assert line == "a choice needs two classes or more, and there are examples of a alone"
    line = refusal(DataError, aligned.classify, ["ACDEF"], {"a": ["ACGT"], "b": []}, tower="protein")
    assert line == "class 'b' has no example of which the tower sees anything"
    assert refusal(DataError, aligned.embed, "gene", {"g1": "AC!T"}).startswith("'g1': ")


def refused(*words):
    """Return the one line on stderr with which a command refuses; nothing is on stdout."""
    done = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("exapt: ").strip()


def test_commands_refuse_in_one_line(saved, pairs, tmp_path):
    proteins, genes = pairs
    asked = ("retrieve", saved, proteins, "--among", genes)
    line = refused("retrieve", saved, genes, "--input", "base", "--among", proteins)
    assert line == ("neither tower reads genes.csv: say whose they are, protein or gene, such as --tower protein")
    assert refused(*asked, "--top", "0") == "the 0 nearest cannot be given: ask for 1 or more"
    assert refused(*asked, "--set", "protein.pooling=max") == (
        "there are options of readers and tokenizers here, not of 'protein': --set reader.KEY=VALUE, --set "
        "among.reader.KEY=VALUE or --set TOWER.tokenizer.KEY=VALUE"
    )
    assert refused(*asked, "-o", tmp_path / "no" / "found.csv") == (
        f"there is no folder '{tmp_path / 'no'}' to write 'found.csv' to."
    )
    assert refused("retrieve", saved, proteins, "--among", "none.csv") == "there is no file 'none.csv'."
    by = ("classify", saved, genes, "--id", "name", "--by", proteins, "--label")
    assert refused(*by, "kind") == "proteins.csv has no column 'kind'. Its columns are: id, sequence, split."
    assert refused("align", tmp_path / "none.toml", "--out", tmp_path / "x") == (
        f"there is no recipe '{tmp_path / 'none.toml'}'"
    )


def test_a_class_that_no_example_has(saved, pairs, tmp_path):
    made = peptides(3)
    proteins = written(tmp_path / "by.csv", id="abc", sequence=made, kind="xyy")
    genes = written(tmp_path / "new.csv", id="de", bases=[gene(one) for one in made[:2]], kind="xz")
    words = ("classify", saved, genes, "--by", proteins, "--label", "kind", "--truth", "kind")
    assert refused(*words) == "new.csv: id 'e' is 'z', of which there is no example; classes are x, y"
    written(tmp_path / "by.csv", id="abc", sequence=made, kind=["x", "", "y"])
    assert refused(*words[:-2]) == "by.csv: id 'b' has no 'kind': examples need a class"
    written(tmp_path / "by.csv", id="abc", sequence=made, kind=["x", "NA", "y"])
    assert refused(*words[:-2]) == "by.csv: id 'b' has no 'kind': examples need a class"


# What is seldom met


def test_a_recipe_may_be_a_file_a_mapping_or_a_model(tmp_path):
    path = tmp_path / "align.json"
    path.write_text(json.dumps(recipe("proteins.csv", "genes.csv")))
    read = read_align_recipe(path)
    assert read_align_recipe(read) is read
    assert read == read_align_recipe(recipe("proteins.csv", "genes.csv"))
    path.write_text(json.dumps({**recipe("a", "b"), "towers": {"one": 1, "other": {"data": 2}}}))
    assert refusal(RecipeError, read_align_recipe, path).startswith("recipe 'align.json': 'towers.one' is 1: ")
    path.write_text("[]")
    assert refusal(RecipeError, read_align_recipe, path).startswith("recipe 'align.json': ")


def test_several_processes_are_refused(pairs, monkeypatch):
    monkeypatch.setattr("exapt.device.processes", lambda _device: SimpleNamespace(num_processes=2))
    assert unaligned(RecipeError, recipe(*pairs)) == (
        "the rows of a step are compared with each other: align on one process, without a launcher"
    )


def of_cells(folder, counts):
    """Return the recipe of cells and sequences, of which some cells express nothing that the model knows."""
    cells, words = cells_and_words(folder, 12)
    lines = [json.loads(line) for line in cells.read_text().splitlines()]
    for line, value in zip(lines, counts, strict=False):
        line["cell"]["counts"] = [value] * 40
    cells.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "towers": {
            "cell": {"data": {"path": str(cells)}, "backbone": f"scgpt:{SCGPT}"},
            "word": {"data": {"path": str(words)}, "backbone": f"esm2:{MODEL}"},
        },
        "split": {"column": "split"},
        "training": {"epochs": 1},
    }


def test_cells_of_which_nothing_is_known_are_left_out_and_never_found(tmp_path):
    given, heard = of_cells(tmp_path, [0, 0]), Heard()
    aligned = exapt.align(given, tmp_path / "aligned", listeners=[heard])
    assert "2 rows of which the model sees nothing are left out of all parts" in heard.of("note", "text")
    assert aligned.manifest["data"]["pairs"] == {"train": 6, "valid": 2, "test": 2}
    first = json.loads((tmp_path / "cells.jsonl").read_text().splitlines()[0])["cell"]
    assert refusal(DataError, aligned.retrieve, ["DEDE"], [first]) == (
        "there is nothing to find: of no input among which to look does the tower see anything"
    )
    (tmp_path / "none").mkdir()
    assert unaligned(DataError, of_cells(tmp_path / "none", [0] * 12)).startswith(
        "of no pair do both towers see anything"
    )


def test_true_classes_may_be_missing_but_not_all_of_them(saved, tmp_path):
    made = peptides(3)
    proteins = written(tmp_path / "by.csv", id="abc", sequence=made, kind="xyy")
    bases = [gene(one) for one in made[:2]]
    new = tmp_path / "new.csv"
    words = ("classify", saved, new, "--by", proteins, "--label", "kind", "--truth", "kind", "--input", "bases")
    written(new, id="de", bases=bases, kind=["", "NA"])
    # A column that is named and holds text tells no towers of sequences apart.
    assert refused(*words) == ("both towers read new.csv: say whose they are, protein or gene, such as --tower protein")
    assert refused(*words, "--tower", "gene") == "new.csv: no row has a true class: there is nothing to measure"
    written(new, id="de", bases=bases, kind=["", "x"])
    done = CliRunner().invoke(cli, [str(word) for word in (*words, "--tower", "gene", "--json")], prog_name="exapt")
    assert json.loads(done.stdout)["metrics"]["rows"] == 1
    written(new, id="", bases="", kind="")
    assert refused(*words, "--tower", "gene") == "new.csv has a header but no rows."


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda m: m["tensors"].update({"other.safetensors": {}}),
            "an alignment has one file of tensors, heads.safetensors",
        ),
        (
            lambda m: m["probes"].update(other=m["probes"].pop("gene")),
            "its towers are gene, protein, but those of its probes",
        ),
        (lambda m: m["probes"]["gene"]["outputs"].pop(), "its probe 'gene' has 3 inputs, but 2 outputs"),
        (
            lambda m: m["probes"]["gene"]["outputs"][0].pop(),
            "alignment.json' is damaged: its probe 'gene' has outputs of several lengths",
        ),
        (
            lambda m: m["recipe"]["head"].update(loss=["softmax"]),
            "head 'contrastive-alignment': 'loss' is ['softmax']: input should be 'softmax' or 'sigmoid'",
        ),
        (
            lambda m: m["recipe"]["head"].update(towers=["gene", "cell"]),
            "alignment.json' is damaged: its towers are gene, protein, but its head names others or none, as head.towers",
        ),
        (
            lambda m: (
                [m[key].update({"../gene": m[key].pop("gene")}) for key in ("towers", "probes")]
                + [m["recipe"]["towers"].update({"../gene": m["recipe"]["towers"].pop("gene")})]
            ),
            "alignment.json' is damaged: '../gene' is no name for a tower: use letters, digits, '-' and '_'",
        ),
        (lambda m: m["recipe"]["head"].pop("name"), "'copy': recipe.head: 'name' is missing"),
        (lambda m: m.pop("exapt"), "alignment.json' is damaged: 'exapt'"),
        (
            lambda m: m["probes"]["gene"]["inputs"].__setitem__(0, "AC!"),
            "holds a probe that the tokenizer of 'gene' here",
        ),
    ],
)
def test_a_manifest_that_does_not_go_together(change, line, copy):
    edited(copy, change)
    assert line in refusal((AdapterError, RecipeError), exapt.load_alignment, copy)


def test_an_adapter_that_cannot_be_a_tower(pairs, tmp_path):
    proteins, genes = pairs
    labelled = written(
        tmp_path / "kinds.csv", sequence=peptides(8), kind="abababab", split=["train"] * 6 + ["test"] * 2
    )
    for name, windows in (("plain", "refuse"), ("windowed", "score")):
        backbone = {"name": f"esm2:{MODEL}", "windows": windows}
        exapt.train(training_recipe(labelled, backbone=backbone, training={"epochs": 1}), tmp_path / name)
    given = recipe(proteins, genes, training={"epochs": 1})
    given["towers"]["protein"] = {"data": {"path": str(proteins)}, "adapter": str(tmp_path / "windowed")}
    assert unaligned(RecipeError, given) == (
        f"'{tmp_path / 'windowed'}' answers for windows, and a pair is of whole inputs: it cannot be a tower"
    )
    given["towers"]["protein"] |= {"adapter": str(tmp_path / "plain"), "layer": 9}
    assert unaligned(RecipeError, given) == f"there is no layer 9: 'esm2:{MODEL.name}' has layers 0 to 2"
    del given["towers"]["protein"]["layer"]
    exapt.align(given, tmp_path / "aligned")
    # Another adapter in the place of the copy that was learned with.
    manifest = json.loads((tmp_path / "aligned" / "protein" / "exapt.json").read_text())
    manifest["backbone"]["paper"] = "another"
    (tmp_path / "aligned" / "protein" / "exapt.json").write_text(json.dumps(manifest))
    line = refusal(AdapterError, exapt.load_alignment, tmp_path / "aligned")
    assert line.startswith(
        f"'{tmp_path / 'aligned' / 'protein'}' is an adapter of esm2:model, and 'aligned' was learned"
    )


def test_a_head_that_answers_for_units_aligns_nothing():
    with pytest.raises(ValueError, match=r"^head 'odd' aligns two towers: pairs are all it learns from"):
        exapt.HeadSpec(name="odd", summary="Odd.", build=lambda *_: None, towers=True)


def test_vectors_have_no_words(aligned):
    assert aligned.head.decode([]) == {}


def test_a_reader_that_reads_nothing(saved, pairs, monkeypatch):
    proteins, genes = pairs
    words = ("retrieve", saved, proteins, "--among", genes, "--among-id", "name")
    monkeypatch.setattr("exapt.alignment.asking.open_table", lambda *_, **__: [])
    assert refused(*words) == "proteins.csv has no rows."
    monkeypatch.setattr("exapt.alignment.asking.stream_examples", lambda *_: [])
    assert refused(*words, "--tower", "protein") == "genes.csv has no rows."
