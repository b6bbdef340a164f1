"""Folders that are tables: a reader knows them by the names of files in them, or by patterns of names."""

import re

import pyarrow as pa
import pytest

from exapt import ComponentError, DataError, ReaderSpec, hookimpl
from exapt.data.files import open_table
from exapt.plugins import Plugins


def reader(name, *members):
    def build(options, path):
        return [pa.record_batch({"id": [name], "path": [str(path)]})]

    return ReaderSpec(name=name, summary=f"Notes of {name}.", suffixes=(f".{name}",), members=members, build=build)


def plugins(*readers):
    class Notes:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_readers():
            return readers

    return Plugins([], [Notes])


NOTES = plugins(reader("lab", "*.note", "*.note.gz", "index.txt"))


@pytest.mark.parametrize("name", ["a.note", "A.NOTE", "a.b.note.gz", "index.txt", "INDEX.txt"])
def test_a_folder_with_a_file_that_fits_is_a_table(tmp_path, name):
    (tmp_path / "README.md").write_text("beside")
    (tmp_path / name).write_text("x")

    (batch,) = open_table(tmp_path, plugins=NOTES)

    assert batch.to_pylist() == [{"id": "lab", "path": str(tmp_path)}]


@pytest.mark.parametrize("name", ["a.notes", "note", "a.note.bz2", ".a.note", "my_index.txt"])
def test_a_folder_without_one_is_none(tmp_path, name):
    (tmp_path / name).write_text("x")
    (tmp_path / "deeper.note").mkdir()

    with pytest.raises(DataError, match=re.escape(f"'{tmp_path}' is a folder, not a file, and holds none of ")):
        open_table(tmp_path, plugins=NOTES)


def test_what_two_readers_know_has_to_be_told_apart(tmp_path):
    both = plugins(reader("lab", "*.note"), reader("desk", "*.page", "*.note"))
    (tmp_path / "a.note").write_text("x")

    with pytest.raises(ComponentError) as caught:
        open_table(tmp_path, plugins=both)

    said = f"{tmp_path.name} suits the readers 'inline:desk' and 'inline:lab'; name one of them as the format."
    assert str(caught.value) == said
    (batch,) = open_table(tmp_path, "desk", both)
    assert batch["id"].to_pylist() == ["desk"]
    (tmp_path / "a.page").write_text("x")
    (tmp_path / "a.note").unlink()
    (batch,) = open_table(tmp_path, plugins=both)
    assert batch["id"].to_pylist() == ["desk"]


def test_an_unknown_format_is_told_for_a_folder_as_for_a_file(tmp_path):
    (tmp_path / "a.note").write_text("x")
    for path in (tmp_path, tmp_path / "a.note"):
        with pytest.raises(ComponentError, match="unknown reader 'lib'"):
            open_table(path, "lib", NOTES)
