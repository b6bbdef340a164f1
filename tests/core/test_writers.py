import contextlib
import itertools
import json
import os
import resource
import stat
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from exapt import ComponentError, DataError, OutputError, WriterSpec, hookimpl
from exapt.data.files import open_table, open_writer
from exapt.plugins import Plugins, using

IDS = ["P1", "protéine", "TRAV1*01"]


@pytest.fixture(autouse=True)
def builtins_only():
    with using(Plugins([])) as plugins:
        yield plugins


def answers():
    """Return two batches as a prediction gives them."""
    first = {
        "id": pa.array(["a", 'b,"c"']),
        "prediction": pa.array(["human", None]),
        "probability_human": pa.array([0.3, 1e-7], pa.float32()),
        "positions": pa.array([[0.1, 0.25], None], pa.list_(pa.float32())),
        "words": pa.array([["x", "y"], []], pa.list_(pa.string())),
    }
    batch = pa.record_batch(first)
    return [batch, batch.slice(1)]


def vectors(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def per_sequence(values, ids):
    return pa.record_batch({"id": pa.array(ids), "embedding": vectors(values)})


def per_residue(values, lengths, ids):
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.record_batch({"id": pa.array(ids), "embedding": pa.ListArray.from_arrays(offsets, vectors(values))})


def write(path, *batches, **options):
    with open_writer(path, **options) as writer:
        for batch in batches:
            writer.write(batch)


def refusal(path, *batches, kind=OutputError, **options):
    with pytest.raises(kind) as caught:
        write(path, *batches, **options)
    return str(caught.value)


def test_csv_holds_lists_as_json_and_short_numbers(tmp_path):
    write(tmp_path / "a.csv", *answers())
    assert (tmp_path / "a.csv").read_text() == (
        "id,prediction,probability_human,positions,words\n"
        'a,human,0.3,"[0.1, 0.25]","[""x"", ""y""]"\n'
        '"b,""c""",,1e-07,,[]\n'
        '"b,""c""",,1e-07,,[]\n'
    )


def test_jsonl_holds_one_object_a_line(tmp_path):
    write(tmp_path / "a.jsonl", *answers())
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    second = {"id": 'b,"c"', "prediction": None, "probability_human": 1e-7, "positions": None, "words": []}
    first = {"id": "a", "prediction": "human", "probability_human": 0.3, "positions": [0.1, 0.25], "words": ["x", "y"]}
    assert lines == [first, second, second]


def test_parquet_holds_what_it_was_given(tmp_path):
    write(tmp_path / "a.parquet", *answers())
    assert pq.read_table(tmp_path / "a.parquet") == pa.Table.from_batches(answers())


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_what_is_written_can_be_read(tmp_path, name):
    write(tmp_path / name, per_sequence(np.eye(3, dtype=np.float32), IDS))
    assert pa.Table.from_batches(open_table(tmp_path / name)).column("id").to_pylist() == IDS


def test_the_format_may_be_named(tmp_path):
    write(tmp_path / "answers.txt", *answers(), format="jsonl")
    assert (tmp_path / "answers.txt").read_text().startswith('{"id": "a"')


def embeddings_in(path):
    """Read ids, embeddings and offsets as any user of the format would."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["ids"].tolist(), file["embeddings"], file.get("offsets")
    with safe_open(path, "numpy") as file:
        raw, ends = file.get_tensor("ids").tobytes(), file.get_tensor("ids_offsets")
        ids = [raw[begin:end].decode() for begin, end in itertools.pairwise(ends)]
        offsets = file.get_tensor("offsets") if "offsets" in set(file.keys()) else None
        return ids, file.get_tensor("embeddings"), offsets


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_embeddings_of_sequences_become_one_array(tmp_path, suffix, kind):
    path = tmp_path / f"e.{suffix}"
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(kind)
    write(path, per_sequence(values[:2], IDS[:2]), per_sequence(values, IDS).slice(2))
    ids, found, offsets = embeddings_in(path)
    assert ids == IDS
    assert found.dtype == kind
    np.testing.assert_array_equal(found, values)
    assert offsets is None


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_embeddings_of_residues_become_one_array_with_offsets(tmp_path, suffix):
    path = tmp_path / f"e.{suffix}"
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    whole = per_residue(values, [2, 0, 7], IDS)
    write(path, whole.slice(0, 1), whole.slice(1, 1), whole.slice(2))
    ids, found, offsets = embeddings_in(path)
    assert ids == IDS
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(offsets, np.array([0, 2, 2, 9]))
    assert offsets.dtype == np.int64


def test_embeddings_survive_parquet_of_either_kind(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for batch in (per_sequence(values, IDS), per_residue(values, [1, 0, 2], IDS)):
        path = tmp_path / f"{batch.schema.field('embedding').type.id}.parquet"
        write(path, batch)
        assert pq.read_table(path).to_pylist() == batch.to_pylist()


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "csv", "jsonl", "parquet"])
def test_the_same_rows_give_the_same_bytes(tmp_path, suffix):
    batch = per_sequence(np.eye(3, dtype=np.float32), IDS)
    write(tmp_path / f"one.{suffix}", batch)
    write(tmp_path / f"two.{suffix}", batch)
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_memory_does_not_grow_with_the_rows(tmp_path, suffix):
    def peak(batches):
        tracemalloc.start()
        ids = [f"record{n:05d}" for n in range(256)]
        batch = per_sequence(np.ones((256, 128), np.float32), ids)
        write(tmp_path / f"{batches}.{suffix}", *[batch] * batches)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    # The larger file alone would be 15 MB.
    assert peak(120) < peak(24) + 1_000_000


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_array_formats_hold_embeddings_only(tmp_path, suffix):
    assert refusal(tmp_path / f"a.{suffix}", *answers()) == (
        f"{suffix} holds embeddings only, not: id, prediction, probability_human, positions, words. "
        "Write Parquet, CSV or JSONL."
    )
    assert list(tmp_path.iterdir()) == []


def test_embeddings_of_two_widths_do_not_mix(tmp_path):
    batches = [per_sequence(np.ones((1, width), np.float32), ["a"]) for width in (3, 4)]
    assert refusal(tmp_path / "e.npz", *batches) == "the embeddings are not all fixed_size_list<item: float>[3]."


def test_json_holds_no_nan(tmp_path):
    batch = pa.record_batch({"id": ["a"], "score": [float("nan")]})
    assert refusal(tmp_path / "a.jsonl", batch) == "JSON cannot hold NaN or infinity: {'id': 'a', 'score': nan}"


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.csv"
    with open_writer(path) as writer:
        writer.write(answers()[0])
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npz"])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path, name, error):
    def stop():
        with open_writer(tmp_path / name) as writer:
            writer.write(per_sequence(np.eye(3, dtype=np.float32), IDS))
            raise error

    with pytest.raises(error):
        stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz", "safetensors"])
def test_the_mode_is_that_of_the_umask(tmp_path, suffix, umask, mode):
    path = tmp_path / f"e.{suffix}"
    before = os.umask(umask)
    try:
        write(path, per_sequence(np.eye(3, dtype=np.float32), IDS))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_writer_that_hides_its_file_is_put_right(tmp_path):
    class Hidden:
        def __init__(self, path):
            self.path = path

        def write(self, batch):
            self.path.write_text("rows")

        def close(self):
            self.path.chmod(0o600)

    class Plugin:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_writers():
            yield WriterSpec(name="x", summary="Private.", suffixes=(".x",), build=lambda options, path: Hidden(path))

    write(tmp_path / "a.x", *answers(), plugins=Plugins([], [Plugin]))
    write(tmp_path / "a.csv", *answers())
    assert (tmp_path / "a.x").read_text() == "rows"
    assert (tmp_path / "a.x").stat().st_mode == (tmp_path / "a.csv").stat().st_mode


def test_nothing_is_left_by_a_writer_that_does_not_begin(tmp_path):
    class Plugin:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_writers():
            def build(_options, path):
                path.with_suffix(".scratch").touch()
                raise OSError(28, "No space left on device")

            yield WriterSpec(name="x", summary="Full.", suffixes=(".x",), build=build)

    message = refusal(tmp_path / "a.x", *answers(), plugins=Plugins([], [Plugin]))
    assert message == f"cannot write '{tmp_path / 'a.x'}': No space left on device."
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_unless_it_may_be_overwritten(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("precious")
    assert refusal(path, *answers()) == f"'{path}' exists already. Remove it, or name another file."
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    write(path, *answers(), overwrite=True)
    assert path.read_text().startswith("id,prediction")


def test_a_failed_overwrite_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("precious")
    refusal(path, *answers(), overwrite=True)
    assert path.read_text() == "precious"


def test_places_that_cannot_be_written_to(tmp_path):
    taken = tmp_path / "taken.csv"
    taken.mkdir()
    nowhere = tmp_path / "none" / "a.csv"
    assert refusal(nowhere, *answers()) == f"there is no folder '{tmp_path / 'none'}' to write 'a.csv' to."
    assert refusal(taken, *answers(), overwrite=True) == f"'{taken}' is a folder, not a file."
    assert refusal(tmp_path / "a.csv") == f"there are no rows to write to '{tmp_path / 'a.csv'}'."
    assert list(tmp_path.iterdir()) == [taken]


@contextlib.contextmanager
def without_rights(folder, mode):
    """Leave a folder only the rights of ``mode``; the superuser steps down for a while, having every right."""
    folder.chmod(mode)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize("mode", [0o555, 0o444])
def test_a_folder_without_write_permission(mode):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.csv"
        with without_rights(path.parent, mode):
            assert refusal(path, *answers()) == f"cannot write '{path}': Permission denied."
        assert list(path.parent.iterdir()) == []


def test_a_file_without_read_permission():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.csv"
        path.write_text("sequence\nMKT\n")
        with without_rights(path.parent, 0o444), pytest.raises(DataError) as caught:
            open_table(path)
        assert str(caught.value) == f"'{path}' cannot be read: Permission denied."


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "npz", "safetensors", "parquet"])
def test_a_full_disk_is_said_and_nothing_left(tmp_path, suffix):
    batch = per_sequence(np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32), ["a"] * 512)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        message = refusal(tmp_path / f"e.{suffix}", batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"cannot write '{tmp_path / f'e.{suffix}'}': ")
    assert "File too large" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_lists_those_that_are_written(tmp_path):
    assert refusal(tmp_path / "a.xlsx", *answers()) == (
        "no installed writer writes 'a.xlsx': its name must end in .csv, .jsonl, .ndjson, .npz, .parquet, .safetensors, "
        "or the format be named."
    )
    assert refusal(tmp_path / "a.csv", *answers(), format="cvs", kind=ComponentError) == (
        "unknown writer 'cvs'. Did you mean 'csv'? Installed: csv, jsonl, npz, parquet, safetensors."
    )
