"""``exapt embed``: features to a file, restarted where it was interrupted."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from exapt import embedding


@pytest.fixture
def embed(data, esm2):
    """Return the words of an embedding of the peptides."""

    def words(out, *more):
        return ["embed", data / "peptides.csv", "--backbone", esm2, "-o", out, *more]

    return words


def parquet(path):
    table = pq.read_table(path)
    return table["id"].to_pylist(), [np.array(vector, dtype=np.float32) for vector in table["embedding"].to_pylist()]


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_one_vector_a_sequence_in_every_format(exapt, embed, tmp_path):
    for suffix in ("parquet", "npz", "safetensors"):
        out = tmp_path / f"e.{suffix}"
        assert exapt(*embed(out)).stderr == f"120 rows in {out}\n"
    ids, vectors = parquet(tmp_path / "e.parquet")
    assert ids == [str(number + 1) for number in range(120)]
    arrays = arrays_of(tmp_path / "e.npz")
    tensors = load_file(tmp_path / "e.safetensors")
    assert arrays["embeddings"].shape == (120, vectors[0].size)
    np.testing.assert_array_equal(arrays["embeddings"], np.stack(vectors))
    np.testing.assert_array_equal(tensors["embeddings"], np.stack(vectors))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "e.parquet", "e.safetensors"]


def test_one_vector_a_residue(exapt, embed, data, tmp_path):
    lengths = [len(line.split(",")[0]) for line in (data / "peptides.csv").read_text().splitlines()[1:]]
    exapt(*embed(tmp_path / "r.parquet", "--per", "residue"))
    exapt(*embed(tmp_path / "s.parquet"))
    _, residues = parquet(tmp_path / "r.parquet")
    _, sequences = parquet(tmp_path / "s.parquet")
    assert [len(one) for one in residues] == lengths
    for one, whole in zip(residues, sequences, strict=True):
        np.testing.assert_allclose(one.mean(0), whole, atol=1e-5)


def test_layers_and_poolings_differ(exapt, embed, tmp_path):
    found = []
    for number, more in enumerate([(), ("--layer", "0"), ("--pooling", "max"), ("--pooling", "cls")]):
        exapt(*embed(tmp_path / f"{number}.parquet", *more))
        found.append(parquet(tmp_path / f"{number}.parquet")[1][0])
    for place, one in enumerate(found):
        assert not any(np.allclose(one, other) for other in found[place + 1 :])


@pytest.fixture
def interrupted(exapt, embed, tmp_path, monkeypatch):
    """An embedding in parts of 50 rows that was interrupted before its last."""
    monkeypatch.setattr(embedding, "_ROWS", 50)
    out, whole = tmp_path / "e.npz", embedding._write_part

    def stop_at_the_third(part, batch):
        if part.name.startswith("00000002"):
            raise KeyboardInterrupt
        whole(part, batch)

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_write_part", stop_at_the_third)
        stopped = exapt(*embed(out), code=130)
    assert stopped.stderr == "\nexapt: interrupted\n"
    return out


def test_it_goes_on_where_it_was_interrupted(exapt, embed, interrupted, tmp_path, monkeypatch):
    parts = tmp_path / "e.npz.parts"
    assert not interrupted.exists()
    assert sorted(path.name for path in parts.iterdir()) == ["00000000.arrow", "00000001.arrow", "key.json"]
    written, whole = [], embedding._write_part
    monkeypatch.setattr(embedding, "_write_part", lambda part, batch: (written.append(part.name), whole(part, batch)))
    exapt(*embed(interrupted))
    assert written == ["00000002.arrow"]
    exapt(*embed(tmp_path / "at-once.npz"))
    np.testing.assert_array_equal(
        arrays_of(interrupted)["embeddings"],
        arrays_of(tmp_path / "at-once.npz")["embeddings"],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-once.npz", "e.npz"]


def test_another_embedding_does_not_go_on_from_it(refused, embed, interrupted, tmp_path):
    before = sorted((tmp_path / "e.npz.parts").iterdir())
    assert refused(*embed(interrupted, "--pooling", "max")) == (
        f"'{interrupted}.parts' holds part of another embedding: its pooling is 'mean', not 'max'; remove it"
    )
    assert sorted((tmp_path / "e.npz.parts").iterdir()) == before


@pytest.mark.parametrize("key", [None, "{", "[]", '{"mine": 1}'])
def test_a_folder_of_the_users_is_left_as_it_is(refused, embed, tmp_path, key):
    folder = tmp_path / "e.npz.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    if key:
        (folder / "key.json").write_text(key)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert refused(*embed(tmp_path / "e.npz")) == (
        f"'{folder}' exists and is not a part of an embedding; remove or rename it"
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_what_was_put_among_the_parts_stays(exapt, embed, interrupted):
    folder = interrupted.with_name("e.npz.parts")
    (folder / "notes.txt").write_text("mine")
    exapt(*embed(interrupted))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_parts_of_another_version_are_refused(refused, embed, interrupted):
    key = interrupted.with_name("e.npz.parts") / "key.json"
    held = json.loads(key.read_text())
    assert held["plugin"].startswith("exapt-esm ")
    key.write_text(json.dumps(held | {"sparsity": 3}))
    refusal = "'{0}.parts' holds part of another embedding: its {1}; remove it"
    assert refused(*embed(interrupted)) == refusal.format(interrupted, "sparsity is 3, not None")
    key.write_text(json.dumps({name: value for name, value in held.items() if name != "layer"}))
    assert refused(*embed(interrupted)) == refusal.format(interrupted, "layer is None, not 2")


def test_unknown_letters_and_repeated_ids_are_told(exapt, esm2, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_ROWS", 2)
    table, out = tmp_path / "t.dat", tmp_path / "e.npz"
    table.write_text(f"id,sequence\na,{'MKTAY' * 5}J\nb,ACD\nb,ACD\nc,{'MKTAY' * 5}j\n")
    done = exapt("embed", table, "--backbone", esm2, "-o", out, "--reader", "csv")
    assert done.stderr == (
        "t.dat: 1 row with the id and inputs of an earlier row, kept\n"
        f"2 unknown letters in 2 of 4 values of 'sequence'\n4 rows in {out}\n"
    )


def test_a_bad_row_leaves_nothing(refused, esm2, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_ROWS", 1)
    table = tmp_path / "t.csv"
    table.write_text("id,sequence\na,MKTAYIAK\nb,MK!AYIAK\n")
    assert refused("embed", table, "--backbone", esm2, "-o", tmp_path / "e.npz").startswith("'b': ")
    assert list(tmp_path.iterdir()) == [table]


def test_what_there_is_not(refused, embed, tmp_path):
    assert refused(*embed(tmp_path / "e.npz", "--layer", "9")) == (
        f"there is no layer 9: '{embed('')[3]}' has layers 0 to 2"
    )
    assert refused(*embed(tmp_path / "e.tsv")).startswith("no installed writer writes 'e.tsv'")
    assert list(tmp_path.iterdir()) == []
