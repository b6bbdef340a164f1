"""Mutants made of a wild type and the mutations that a table names: learned from, answered for, measured and compared."""

import csv
import gzip
import json

import pytest

import exapt
from exapt.errors import DataError, RecipeError
from exapt.plugins import current
from exapt.prediction import evaluate_file, predict_file
from exapt.recipe import DataOptions, read_recipe
from exapt.resolve import resolve
from runs import MODEL, contents, fresh, listened, recipe, training

WILD = "MTYKLILNGKTLKGETTTEAVDAATAEK"
NAMED = ["T2A", "K4E:L5D", "WT", "y3w", "K28R : N8D", "L7A", "G9A", "K10A", "T11D", "L12W", "T02D"]
SPELT = [
    "MAYKLILNGKTLKGETTTEAVDAATAEK",
    "MTYEDILNGKTLKGETTTEAVDAATAEK",
    "MTYKLILNGKTLKGETTTEAVDAATAEK",
    "MTwKLILNGKTLKGETTTEAVDAATAEK",
    "MTYKLILDGKTLKGETTTEAVDAATAER",
    "MTYKLIANGKTLKGETTTEAVDAATAEK",
    "MTYKLILNAKTLKGETTTEAVDAATAEK",
    "MTYKLILNGATLKGETTTEAVDAATAEK",
    "MTYKLILNGKDLKGETTTEAVDAATAEK",
    "MTYKLILNGKTWKGETTTEAVDAATAEK",
    "MDYKLILNGKTLKGETTTEAVDAATAEK",
]
PARTS = ["train"] * 6 + ["valid"] * 2 + ["test"] * 3


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "dms.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        # ProteinGym calls its column of mutations so.
        writer.writerow(["id", "mutant", "spelt", "wt", "score", "split"])
        for row, (named, spelt, part) in enumerate(zip(NAMED, SPELT, PARTS, strict=True)):
            writer.writerow([f"v{row}", named, spelt, WILD, row / 4, part])
    return path


def of(path, wild_type=WILD, **changes):
    """Return a recipe that learns the mutant minus the wild type."""
    data = {"path": str(path), "mutations": "mutant", "wild_type": str(wild_type)} | changes.pop("data", {})
    head = {"name": "sequence-regression", "label": "score", "join": "difference"} | changes.pop("head", {})
    return recipe(path, data=data, head=head, **changes)


def values(adapted, path, **options):
    out = path.with_name("answers.jsonl")
    predict_file(adapted, path, out, overwrite=True, **options)
    return [json.loads(line)["prediction"] for line in out.read_text().splitlines()]


def test_mutants_are_what_they_are_written_out(table):
    made = exapt.train(of(table))
    columns = {"path": str(table), "inputs": {"mutant": "spelt", "wild_type": "wt"}}
    head = {"name": "sequence-regression", "label": "score", "join": "difference"}
    spelt = exapt.train(recipe(table, data=columns, head=head))
    assert made.metrics == spelt.metrics
    assert made.resolved.recipe.data.inputs == {"mutant": "mutant", "wild_type": WILD}
    same = made.predict({"mutant": SPELT, "wild_type": [WILD] * len(SPELT)})["prediction"].to_pylist()
    assert values(made, table) == same
    assert len(set(same)) == len(same)


def test_a_wild_type_is_a_column_a_file_or_the_sequence_itself(table, tmp_path):
    (tmp_path / "wild.fasta").write_text(f">gb1 a protein\n{WILD[:20]}\n{WILD[20:].lower()}\n")
    (tmp_path / "wild.fa.gz").write_bytes(gzip.compress(f">gb1\n{WILD}\n".encode()))
    told = (WILD, "wt", tmp_path / "wild.fasta", tmp_path / "wild.fa.gz")
    learned = [exapt.train(of(table, wild_type)) for wild_type in told]
    assert all(one.metrics == learned[0].metrics for one in learned)
    assert [one.resolved.recipe.data.wild_type for one in learned] == [WILD, "wt", WILD, WILD]


def test_an_adapter_remembers_in_another_process_and_without_the_file(table, tmp_path):
    wild = tmp_path / "wild.fasta"
    wild.write_text(f">gb1\n{WILD}\n")
    learned = exapt.train(of(table, wild, strategy="full"), tmp_path / "adapter")
    wild.unlink()
    new = tmp_path / "new.csv"
    new.write_text("mutant\nT2G\nK4R:T11A\n_wt\n")
    code = (
        "from pathlib import Path; import exapt; from exapt.prediction import predict_file\n"
        "adapter, new, out = map(Path, given)\n"
        "predict_file(exapt.load(adapter), new, out)\n"
        "print(json.dumps([json.loads(line)['prediction'] for line in out.read_text().splitlines()]))"
    )
    answers = fresh(code, str(tmp_path / "adapter"), str(new), str(tmp_path / "new.jsonl"))
    mutants = [WILD.replace("MT", "MG", 1), "MTYRLILNGKALKGETTTEAVDAATAEK", WILD]
    assert answers == learned.predict({"mutant": mutants, "wild_type": [WILD] * 3})["prediction"].to_pylist()
    again = exapt.train(json.loads((tmp_path / "adapter" / "exapt.json").read_text())["recipe"] | _here(table))
    assert again.metrics == learned.metrics


def _here(table):
    """Return what of a recipe that was kept is a matter of one machine."""
    data = {"path": str(table), "mutations": "mutant", "wild_type": WILD}
    return {"data": data, "backbone": f"esm2:{MODEL}"}


def test_answers_are_measured_with_another_column_and_another_wild_type(table):
    learned = exapt.train(of(table))
    other = WILD.replace("KGE", "KAE")
    rows = table.read_text().replace(",mutant,", ",variant,").replace(WILD, other)
    moved = table.with_name("moved.csv")
    moved.write_text(rows)
    answers = [values(learned, moved, mutations="variant", wild_type=wild) for wild in (WILD, other, "wt")]
    assert answers[1] == answers[2] != answers[0] == values(learned, table)
    report, _ = evaluate_file(learned, moved, mutations="variant", wild_type="wt")
    assert report["all"]["rows"] == len(NAMED)
    assert report["all"]["rmse"] != evaluate_file(learned, table)[0]["all"]["rmse"]


def test_a_wild_type_that_no_head_reads_is_not_read(table):
    given = of(table, head={"join": "concatenate", "inputs": ["mutant"]})
    learned = exapt.train(given)
    assert learned.resolved.recipe.data.inputs == {"mutant": "mutant"}
    assert values(learned, table) == learned.predict(SPELT)["prediction"].to_pylist()


def test_a_wild_type_stands_beside_mutants_that_are_written_out(table):
    data = {"path": str(table), "input": "spelt", "wild_type": WILD}
    head = {"name": "sequence-regression", "label": "score", "join": "difference"}
    learned = exapt.train(recipe(table, data=data, head=head))
    assert learned.resolved.recipe.data.inputs == {"sequence": "spelt", "wild_type": WILD}
    assert learned.metrics == exapt.train(of(table)).metrics
    assert values(learned, table, input_="spelt") == values(learned, table)


def test_mutants_are_compared_with_a_linear_model(table):
    outcome = exapt.compare({**of(table), **training(epochs=1, metric="rmse")}, seeds=[0, 1])
    assert [len(one.values) for one in outcome.contenders] == [2, 2, 2]


def test_the_command_line_names_mutations_and_wild_type(exapt, refused, table, esm2, tmp_path):
    words = ["--data", table, "--mutations", "mutant", "--wild-type", WILD, "--label", "score", "--split", "split"]
    words += ["--backbone", esm2, "--head", "sequence-regression", "--strategy", "probe"]
    words += ["--set", "head.join=difference", "--set", "training.epochs=1"]
    exapt("train", *words, "--out", tmp_path / "adapter")
    answers = exapt("predict", tmp_path / "adapter", table, "--mutations", "mutant", "--wild-type", "wt").stdout
    assert len(answers.splitlines()) == 1 + len(NAMED)
    assert "rows" in exapt("evaluate", tmp_path / "adapter", table, "--wild-type", WILD).stdout
    assert (
        refused("predict", tmp_path / "adapter", table, "--input", "spelt")
        == "this adapter reads several inputs, mutant, wild_type; --input names one column only"
    )


def test_an_adapter_of_whole_sequences_takes_no_mutations(table):
    learned = exapt.train(
        recipe(
            table,
            data={"path": str(table), "input": "spelt"},
            head={"name": "sequence-regression", "label": "score"},
            **training(epochs=1),
        )
    )
    for key in ("mutations", "wild_type"):
        with pytest.raises(DataError) as caught:
            evaluate_file(learned, table, **{key: "mutant"})
        assert str(caught.value) == (
            f"this adapter reads sequence, and makes nothing of {key.replace('_', ' ')}: leave "
            f"--{key.replace('_', '-')} out"
        )


# What is refused


ROWS = {
    "mismatch": ("A2G", "dms.csv row 1 (id 'v0'): the sequence has 'T' at position 2 where the table says 'A'"),
    "second": ("T2A:K5A", "dms.csv row 1 (id 'v0'): the sequence has 'L' at position 5 where the table says 'K'"),
    "zero": ("T0A", "dms.csv row 1 (id 'v0'): there is no position 0: positions count from 1"),
    "beyond": ("K29A", "dms.csv row 1 (id 'v0'): position 29 lies beyond the end: there are 28 letters"),
    "twice": ("T2A:T2G", "dms.csv row 1 (id 'v0'): position 2 changes twice"),
    "stop": (
        "T2*",
        "dms.csv row 1 (id 'v0'): alt '*' is not made of letters; write an insertion with the letter before it",
    ),
    "words": (
        "p.Thr2Ala",
        "dms.csv row 1 (id 'v0'): 'p.Thr2Ala' is no substitution such as A23G; several are joined with colons, A23G:K41R",
    ),
    "nothing": ("", "dms.csv row 1 (id 'v0') has no 'mutant'."),
}


@pytest.mark.parametrize(("mutation", "message"), ROWS.values(), ids=ROWS)
def test_a_mutation_that_does_not_fit_is_one_line_with_its_row(table, tmp_path, mutation, message):
    good = exapt.train(of(table, **training(epochs=1)))
    table.write_text(table.read_text().replace("v0,T2A,", f"v0,{mutation},"))
    before = contents(tmp_path)
    for act in (
        lambda: exapt.train(of(table), tmp_path / "never"),
        lambda: predict_file(good, table, tmp_path / "never.csv"),
        lambda: evaluate_file(good, table),
    ):
        with pytest.raises(DataError) as caught:
            act()
        assert str(caught.value) == message
    assert contents(tmp_path) == before


def test_rows_are_counted_from_the_beginning_of_the_table(table):
    learned = exapt.train(of(table, **training(epochs=1)))
    many = table.with_name("many.csv")
    many.write_text("mutant\n" + "T2A\n" * 3000 + "A2T\n")
    with pytest.raises(DataError) as caught:
        predict_file(learned, many, many.with_name("never.csv"))
    assert str(caught.value) == "many.csv row 3001: the sequence has 'T' at position 2 where the table says 'A'"
    assert not many.with_name("never.csv").exists()


WILD_TYPES = {
    "column": (
        "wildtype",
        "dms.csv has no column 'wildtype' of wild types, nor is that a sequence of 9 capitals or more, or a FASTA file. "
        "Its columns are: id, mutant, spelt, wt, score, split.",
    ),
    "capitals": (
        "WT",
        "dms.csv has no column 'WT' of wild types, nor is that a sequence of 9 capitals or more, or a FASTA file. "
        "Its columns are: id, mutant, spelt, wt, score, split.",
    ),
    "file": ("nowhere.fasta", "there is no file 'nowhere.fasta'."),
    "several": (
        "two.fasta",
        "'two.fasta' has 2 sequences, and a wild type is one: put wild types that differ into a column of the table, and "
        "name that",
    ),
    "gap": ("gap.fasta", "'gap.fasta' has '-' at position 3, which is no letter"),
    "empty": ("hole", "dms.csv row 1 (id 'v0') has no 'hole'."),
}


@pytest.mark.parametrize(("wild_type", "message"), WILD_TYPES.values(), ids=WILD_TYPES)
def test_a_wild_type_that_is_not_to_be_had_is_one_line(table, tmp_path, monkeypatch, wild_type, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.fasta").write_text(">a\nMKT\n>b\nMKV\n")
    (tmp_path / "gap.fasta").write_text(">a\nMK-T\n")
    if wild_type == "hole":
        table.write_text(table.read_text().replace(",wt,", ",hole,").replace(f",{WILD},0.0", ",,0.0"))
    with pytest.raises(DataError) as caught:
        exapt.train(of("dms.csv", wild_type))
    assert str(caught.value) == message


def test_mutations_without_a_wild_type_are_refused_when_the_recipe_is_read():
    data = {"path": "dms.csv", "mutations": "mutant"}
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe("dms.csv", data=data))
    assert str(caught.value) == (
        f"recipe: 'data' is {data}: mutations need their wild type: name it as wild_type, which is a column, a FASTA file "
        "with one sequence, or the sequence itself"
    )


def test_an_input_is_named_or_made_but_not_both():
    data = {"path": "dms.csv", "inputs": {"mutant": "spelt"}, "mutations": "mutant", "wild_type": WILD}
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe("dms.csv", data=data))
    assert str(caught.value) == (
        f"recipe: 'data' is {data}: inputs names 'mutant', which is made of mutations and wild_type: leave it out of inputs"
    )


def test_cells_have_no_mutations():
    given = of("dms.csv") | {"backbone": "geneformer:nowhere", "head": "sequence-classification"}
    with pytest.raises(RecipeError) as caught:
        resolve(read_recipe(given), current())
    assert str(caught.value) == "data.mutations is of sequences; 'geneformer' reads a cell"


def test_options_read_a_table_by_themselves():
    options = DataOptions(path="t.csv", mutations="m", wild_type="wt", inputs={"partner": "p"})
    assert options.inputs == {"partner": "p", "mutant": "m", "wild_type": "wt"}
    assert options.made == {"mutant": "m", "wild_type": "wt"}
    assert DataOptions.model_validate(options.model_dump()) == options


def test_the_notes_of_a_run_say_nothing_of_partners(table):
    """A wild type stands on both sides of every split."""
    _, heard = listened(of(table, **training(epochs=1)))
    assert heard.of("note", "text") == ["dms.csv: 11 rows", "wild type: the sequence given, 28 letters"]


def test_the_wild_type_of_a_run_is_told_unless_it_is_a_column(table, tmp_path):
    (tmp_path / "wild.fasta").write_text(f">gb1\n{WILD}\n")
    _, heard = listened(of(table, tmp_path / "wild.fasta", **training(epochs=1)))
    assert heard.of("note", "text")[1:] == ["wild type: the sequence of the file given, 28 letters"]
    _, heard = listened(of(table, "wt", **training(epochs=1)))
    assert heard.of("note", "text") == ["dms.csv: 11 rows"]


def test_what_a_wild_type_is_was_decided_when_it_was_learned_with(table, tmp_path):
    """A later table may have, or lack, a column of that name: nothing is guessed anew."""
    table.write_text(table.read_text().replace(",wt,", ",WILDTYPESEQ,"))
    column = exapt.train(of(table, "WILDTYPESEQ", **training(epochs=1)), tmp_path / "column")
    assert column.resolved.recipe.data.wild_type_is == "column"
    new = tmp_path / "new.csv"
    new.write_text("mutant\nWT\n")
    with pytest.raises(DataError) as caught:
        values(exapt.load(tmp_path / "column"), new)
    assert str(caught.value) == "new.csv has no column 'WILDTYPESEQ'. Its columns are: mutant."
    sequence = exapt.train(of(table, **training(epochs=1)), tmp_path / "sequence")
    assert sequence.resolved.recipe.data.wild_type_is == "sequence"
    new.write_text(f"mutant,{WILD}\nT2A,{WILD.replace('K', 'R')}\n")
    mutants = {"mutant": [SPELT[0]], "wild_type": [WILD]}
    assert values(exapt.load(tmp_path / "sequence"), new) == sequence.predict(mutants)["prediction"].to_pylist()


def beside(table, wild_type):
    data = {"path": str(table), "input": "spelt", "wild_type": wild_type}
    head = {"name": "sequence-regression", "label": "score", "join": "difference"}
    return recipe(table, data=data, head=head, **training(epochs=1))


@pytest.mark.parametrize("wild_type", ["WILDTYPESEQ", WILD[::-1], WILD + 2 * WILD[::-1]])
def test_a_wild_type_that_is_nothing_like_the_mutants_is_refused(table, wild_type):
    with pytest.raises(DataError) as caught:
        exapt.train(beside(table, wild_type))
    said = wild_type if len(wild_type) <= 40 else f"{wild_type[:37]}..."
    assert str(caught.value) == (
        f"dms.csv: '{said}' is no wild type of most sequences: 11 of 11 differ from it in more than half of their letters, "
        "first row 1 (id 'v0'). Give the sequence that was changed, or a column of wild types."
    )


@pytest.mark.parametrize(
    "wild_type", [WILD[3:], "MEEPQS" + WILD, WILD[:9] + "GGG" + WILD[9:], WILD[:10] + "A" * 14 + WILD[24:]]
)
def test_mutants_may_be_longer_or_shorter_and_half_of_their_letters_others(table, wild_type):
    _, heard = listened(beside(table, wild_type))
    assert f"wild type: the sequence given, {len(wild_type)} letters" in heard.of("note", "text")
