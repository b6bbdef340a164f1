"""Cells as inputs: the type, readers that have options or read folders, writers that put answers back, and who stands on
both sides of a split.
"""

import hashlib
import json
import textwrap

import numpy as np
import pyarrow as pa
import pytest

from exapt import DataError, OutputError, ReaderSpec, hookimpl
from exapt.cells import Cell, CellType, Genes, cell_column, cells_of
from exapt.data.files import open_table, open_writer, table_sha256
from exapt.testing import inline

PLUGIN = textwrap.dedent(
    """
    import json
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    import torch
    from torch import nn

    from exapt import Annotating, BackboneSpec, DataError, Options, ReaderSpec, TokenizerSpec, WriterSpec, hookimpl
    from exapt.cells import Cell, CellType, Genes, cell_column
    from exapt.parts import Backbone, Encoding, Tokenizer

    exapt_api = 1
    KNOWN = {f"G{n}": n for n in range(1, 9)}


    class Expressed(Tokenizer):
        vocabulary = KNOWN

        def encode(self, value):
            cell = Cell.of(value)
            units = [unit for unit, name in enumerate(cell.names) if name in KNOWN]
            ids = np.array([KNOWN[cell.names[unit]] for unit in units], dtype=np.int64)
            values = cell.values[units].astype(np.float32)
            spans = np.array(units, dtype=np.int64).reshape(-1, 1).repeat(2, 1)
            unknown = len(cell.places) - len(units)
            return Encoding({"ids": ids, "values": values}, {"ids": 0, "values": 0}, spans, len(cell.places), unknown)


    class Summed(Backbone):
        width = 4

        def __init__(self):
            super().__init__()
            self.genes = nn.Embedding(9, 4)

        def forward(self, batch):
            return batch.features(self.genes(batch["ids"]) * torch.log1p(batch["values"]).unsqueeze(-1))


    def build(options, weights):
        torch.manual_seed(3)
        return Summed()


    class Dishes(Options):
        plate: str = "main"


    def read(options, path):
        file = path / "plate.cells" if path.is_dir() else path
        plate = json.loads(file.read_text())[options.plate]
        matrix = np.array(plate["counts"], dtype=np.float32)
        rows, places = np.nonzero(matrix)
        starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
        kind = CellType(Genes(tuple(plate["genes"])))
        obs = {name: pa.array(values) for name, values in plate["obs"].items()}
        yield pa.record_batch({**obs, "cell": cell_column(kind, starts, places, matrix[rows, places])})


    class Back(Annotating):
        pass


    class Writer:
        def __init__(self, options, path):
            self.options, self.path, self.rows = options, path, []

        def write(self, batch):
            self.rows += batch.to_pylist()

        def close(self):
            held = json.loads(self.options.source.read_text())
            held["answers"] = {"of": self.options.answers, "names": self.options.names, "rows": self.rows}
            held["facts"] = sorted(self.options.facts)
            self.path.write_text(json.dumps(held))


    @hookimpl
    def exapt_readers():
        yield ReaderSpec(name="plates", summary="Cells on plates.", options=Dishes, suffixes=(".cells",),
                         members=("plate.cells",), build=read)


    @hookimpl
    def exapt_writers():
        yield WriterSpec(name="plates", summary="Back on the plates.", options=Back, suffixes=(".cells",), build=Writer)


    @hookimpl
    def exapt_tokenizers():
        yield TokenizerSpec(name="expressed", summary="Expressed genes.", build=lambda options: Expressed())


    @hookimpl
    def exapt_backbones():
        yield BackboneSpec(name="summed", summary="A sum over genes.", build=build, tokenizer="expressed",
                           modality="cell", accepts="cell",
                           probes=({"genes": ["G1", "G2"], "counts": [1, 3]}, {"genes": ["G5"], "counts": [2]}))
    """
)
GENES = ("G1", "G2", "G3", "G4", "other")


def plate(rows, seed=0):
    """Return a plate of cells: those of class 'a' express G1 and G2, those of class 'b' G3 and G4."""
    rng = np.random.default_rng(seed)
    kinds = ["a" if row % 2 else "b" for row in range(rows)]
    counts = rng.poisson([[6, 6, 1, 1, 2] if kind == "a" else [1, 1, 6, 6, 2] for kind in kinds])
    names = [f"c{row}" for row in range(rows)]
    obs = {"id": names, "kind": kinds, "donor": [f"d{row // 4}" for row in range(rows)]}
    return {"genes": list(GENES), "counts": counts.tolist(), "obs": obs}


@pytest.fixture
def cells(site, tmp_path):
    site.install("exapt-plates", PLUGIN)
    path = tmp_path / "dish.cells"
    empty = plate(4)
    empty["counts"][2] = [0, 0, 0, 0, 0]
    path.write_text(json.dumps({"main": plate(80), "empty": empty}))
    return path


def test_a_cell_is_its_expressed_genes():
    cell = Cell.of({"genes": list(GENES), "counts": [0, 3, 0, 1.5, 0]})
    assert (cell.names, cell.places.tolist(), cell.values.tolist(), cell.total) == (["G2", "G4"], [1, 3], [3, 1.5], 4.5)
    assert Cell.of(cell) is cell


def test_cells_are_told_apart_by_what_they_hold():
    one, same, other = (
        Cell.of({"genes": list(GENES), "counts": counts})
        for counts in ([1, 2, 0, 0, 0], [1, 2, 0, 0, 0], [1, 3, 0, 0, 0])
    )
    assert repr(one) == repr(same) != repr(other)
    assert repr(Cell(one.genes, one.places, one.values, raw=False)) != repr(one)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("MKT", 'is \'MKT\', not a cell such as {"genes": ["CD3E"], "counts": [2]}'),
        ({"genes": ["a"]}, 'is {\'genes\': [\'a\']}, not a cell such as {"genes": ["CD3E"], "counts": [2]}'),
        ({"genes": ["a", "b"], "counts": [1]}, "has 1 counts for 2 genes"),
        ({"genes": ["a", "b"], "counts": [1, -1]}, "has counts that are negative or no numbers"),
        ({"genes": ["a", "b"], "counts": [1, float("nan")]}, "has counts that are negative or no numbers"),
        ({"genes": ["a"], "counts": ["many"]}, "has counts that are no numbers"),
        (
            {"genes": ["a", "a", "b", "b"], "counts": [1, 1, 1, 1]},
            "the gene 'a' stands twice, and 1 more stand twice; make the names unique",
        ),
    ],
)
def test_what_is_no_cell_is_refused(value, message):
    with pytest.raises(DataError) as caught:
        Cell.of(value)
    assert str(caught.value) == message


def test_a_column_keeps_its_cells_however_it_is_cut():
    kind = CellType(Genes(("a", "b", "c")))
    column = cell_column(kind, [0, 2, 2, 3], [0, 2, 1], [1.0, 2.0, 3.0])
    table = pa.table({"cell": pa.chunked_array([column, column])})

    def held(part):
        return [(cell.names, cell.values.tolist()) for cell in cells_of(part["cell"])]

    three = [(["a", "c"], [1, 2]), ([], []), (["b"], [3])]
    assert held(table) == three + three
    assert held(table.slice(2, 2)) == [three[2], three[0]]
    assert held(table.take([5, 0])) == [three[2], three[0]]
    assert {cell.genes for cell in cells_of(table["cell"])} == {kind.genes}


def test_a_reader_has_options_of_its_own(cells, exapt, refused, tmp_path):
    assert sum(batch.num_rows for batch in open_table(cells, options={"plate": "empty"})) == 4
    out = tmp_path / "e.parquet"
    exapt("embed", cells, "--backbone", "summed", "--set", "reader.plate=empty", "-o", out)
    assert sum(batch.num_rows for batch in open_table(out)) == 4
    asked = ("embed", cells, "--backbone", "summed", "-o", tmp_path / "f.parquet", "--set")
    assert refused(*asked, "reader.dish=empty") == "reader 'plates': unknown key 'dish'. Known: plate"
    assert refused(*asked, "reader=main") == "'reader' is 'main': name an option, reader.KEY=VALUE"


def test_a_folder_is_a_table_where_a_reader_knows_it(cells, tmp_path):
    folder = tmp_path / "dishes"
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        open_table(folder)
    assert str(caught.value).startswith(f"'{folder}' is a folder, not a file, and holds none of ")
    (folder / "plate.cells").write_bytes(cells.read_bytes())
    assert sum(batch.num_rows for batch in open_table(folder)) == 80
    before = table_sha256(folder)
    (folder / "plate.cells").write_text("{}")
    assert table_sha256(folder) != before


def test_the_hash_of_a_table_is_that_of_all_its_files(tmp_path):
    class Pairs:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_readers():
            facts = {"suffixes": (".pairs",), "build": lambda options, path: []}
            yield ReaderSpec(
                name="pairs", summary="Two files.", files=lambda path: [path, path.with_suffix(".names")], **facts
            )

    table, names, other = (tmp_path / name for name in ("t.pairs", "t.names", "t.else"))
    for path in (table, names, other):
        path.write_text("one")
    with inline(Pairs):
        before = table_sha256(table)
        assert table_sha256(other.rename(tmp_path / "else"), "csv") == hashlib.sha256(b"one").hexdigest()
        names.write_text("two")
        assert table_sha256(table) != before
        names.unlink()
        with pytest.raises(DataError, match=r"^there is no file '.*t\.names'\.$"):
            table_sha256(table)


def test_an_empty_cell_is_kept_and_marked(cells, exapt, tmp_path):
    for name in ("e.jsonl", "e.npz"):
        exapt("embed", cells, "--backbone", "summed", "--set", "reader.plate=empty", "-o", tmp_path / name)
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [row["empty"] for row in rows] == [False, False, True, False]
    assert rows[2]["embedding"] == [0, 0, 0, 0]
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        assert arrays["empty"].tolist() == [False, False, True, False]


def test_answers_go_back_into_the_table_itself(cells, exapt, refused, tmp_path):
    before = json.loads(cells.read_text())
    copy = tmp_path / "copy.cells"
    exapt("embed", cells, "--backbone", "summed", "-o", copy)
    assert json.loads(cells.read_text()) == before
    exapt("embed", cells, "--backbone", "summed")
    assert cells.read_bytes() == copy.read_bytes()
    held = json.loads(cells.read_text())
    assert {key: held[key] for key in before} == before
    assert held["answers"]["names"] == {"": "summed"}
    assert [row["id"] for row in held["answers"]["rows"]] == before["main"]["obs"]["id"]
    assert {"backbone", "weights", "tokenizer", "layer"} <= set(held["facts"])
    assert refused("embed", cells, "--backbone", "summed", "-o", copy) == (
        f"'{copy}' exists already. Remove it, or name another file."
    )
    assert refused("embed", copy.with_suffix(".csv"), "--backbone", "summed").startswith("say with -o which file ")


def test_a_writer_that_puts_answers_back_takes_nothing_else(cells):
    with pytest.raises(OutputError) as caught:
        open_writer(cells.with_name("new.cells"))
    assert str(caught.value) == (
        "the writer 'plates' adds embeddings and predictions to the table that they are about."
    )


def recipe(cells, **changes):
    return {
        "data": {"path": str(cells)},
        "backbone": "summed",
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": "probe",
        "split": {"group": "donor"},
        "training": {"epochs": 30, "head_learning_rate": 0.05},
        **changes,
    }


def test_cells_are_learned_and_told_in_the_table(cells, exapt, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(recipe(cells)))
    said = exapt("train", tmp_path / "r.json", "--out", tmp_path / "kinds").stderr
    assert "no value of 'donor' stands in train and in a later part (20 values)" in said
    exapt("predict", tmp_path / "kinds", cells)
    answers = json.loads(cells.read_text())["answers"]
    assert answers["names"] == {"": "kind"}
    right = [row["prediction"] == kind for row, kind in zip(answers["rows"], plate(80)["obs"]["kind"], strict=True)]
    assert np.mean(right) > 0.9
    assert [row["empty"] for row in answers["rows"]] == [False] * 80


def test_donors_on_both_sides_are_named(cells, exapt, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(recipe(cells, split={"seed": 1})))
    said = exapt("train", tmp_path / "r.json", "--out", tmp_path / "kinds").stderr
    assert " values of 'donor' in test stand in train too: 'd" in said
    assert 'split.group = "donor" keeps them apart' in said


def test_a_linear_model_of_counts_stands_beside_a_recipe_of_cells(cells, exapt, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(recipe(cells, training={"epochs": 3})))
    said = exapt("compare", tmp_path / "r.json", "--seeds", "0,1").stdout
    assert "log counts, linear" in said
