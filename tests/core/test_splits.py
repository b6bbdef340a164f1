import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from exapt import DataError
from exapt.data.splits import split
from exapt.data.tables import Examples, read_examples
from exapt.plugins import Plugins, using
from exapt.recipe import DataOptions, SplitOptions

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def peptides():
    with using(Plugins([])):
        return read_examples(DataOptions(path=str(DATA / "peptides.csv")), {"head": "label"})[0]


def made(sequences, **columns):
    """Return examples of given sequences, with further columns in their table."""
    ids = [str(row) for row in range(1, len(sequences) + 1)]
    table = pa.table({"sequence": sequences, **columns})
    return Examples(ids, {"sequence": sequences}, {}, table)


def numbered(rows):
    return [f"M{row}" for row in range(rows)]


def sizes(parts):
    return [len(parts.train), len(parts.valid), len(parts.test)]


def refusal(*args, **options):
    with pytest.raises(DataError) as caught:
        split(SplitOptions(**options), *args, 0)
    return str(caught.value)


def assert_whole(parts, rows):
    """Every row stands in exactly one part, in ascending order."""
    for rows_of_part in (parts.train, parts.valid, parts.test):
        assert rows_of_part.dtype == np.int64
        assert np.all(np.diff(rows_of_part) > 0)
    assert sorted(np.concatenate([parts.train, parts.valid, parts.test])) == list(range(rows))


def test_a_column_names_each_part(peptides):
    parts = split(SplitOptions(column="split"), peptides, peptides.labels["head"], 0)
    with (DATA / "peptides.csv").open(newline="") as file:
        named = [row["split"] for row in csv.DictReader(file)]
    assert sizes(parts) == [80, 20, 20]
    assert {named[row] for row in parts.valid} == {"valid"}
    assert parts.notes == ()
    assert_whole(parts, 120)


@pytest.mark.parametrize("word", ["valid", "validation", "val", "dev", "Dev "])
def test_the_valid_part_has_several_names(word):
    parts = split(SplitOptions(column="part"), made(["A", "B", "C"], part=["test", word, "TRAIN"]), None, 0)
    assert (parts.train.tolist(), parts.valid.tolist(), parts.test.tolist()) == ([2], [1], [0])


WRITE = "write train, valid or test, or say with valid and test which values are held out."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["train", "holdout"], f"the split column 'part' holds 'holdout' at id '2'; {WRITE}"),
        (["", "train"], f"the split column 'part' holds nothing at id '1'; {WRITE}"),
        ([None, "train"], f"the split column 'part' holds nothing at id '1'; {WRITE}"),
        (["test", "valid"], "the train part is empty: there is nothing to learn from."),
    ],
)
def test_a_column_that_names_no_parts_is_refused(values, message):
    assert refusal(made(["A", "B"], part=values), None, column="part") == message


@pytest.mark.parametrize("role", ["column", "group"])
def test_a_column_that_is_not_there_is_refused(role):
    message = "the table has no column 'fold'. Its columns are: sequence, part."
    assert refusal(made(["A"], part=["train"]), None, **{role: "fold"}) == message


def test_empty_parts_are_said():
    parts = split(SplitOptions(column="part"), made(["A", "B"], part=["train", "train"]), None, 0)
    assert sizes(parts) == [2, 0, 0]
    assert parts.notes == (
        "the valid part is empty: the last epoch is kept, and nothing can be selected",
        "the test part is empty: there is no score on unseen rows",
    )


def test_classes_keep_their_share_in_every_part_within_one_row():
    counts = {"a": 500, "b": 37, "c": 11, "d": 2, "e": 1}
    strata = [name for name, count in counts.items() for _ in range(count)]
    for fractions in ((0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.0, 0.5), (0.34, 0.33, 0.33), (1.0, 0.0, 0.0)):
        parts = split(SplitOptions(fractions=fractions), made(numbered(551)), strata, 0)
        assert_whole(parts, 551)
        for fraction, rows in zip(fractions, (parts.train, parts.valid, parts.test), strict=True):
            found = Counter(strata[row] for row in rows)
            assert all(abs(found[name] - fraction * count) <= 1 for name, count in counts.items())
            assert abs(len(rows) - fraction * 551) <= 2
        assert "e" in {strata[row] for row in parts.train}
        assert parts.notes[0] == "1 class has a single row, which stands in the train part: e"


def test_many_classes_of_a_single_row_are_said_in_short():
    parts = split(SplitOptions(fractions=(0.5, 0.5, 0)), made(numbered(7)), list("abcdefg"), 0)
    assert sizes(parts) == [7, 0, 0]
    assert parts.notes[0] == "7 classes have a single row, which stands in the train part: a, b, c, d, e, ..."


def test_rows_are_counted_exactly_without_classes():
    assert sizes(split(SplitOptions(), made(numbered(120)), None, 0)) == [96, 12, 12]
    unstratified = split(SplitOptions(stratify=False), made(numbered(120)), numbered(120), 0)
    assert sizes(unstratified) == [96, 12, 12]


def test_a_split_depends_on_its_own_seed_alone(peptides):
    labels = peptides.labels["head"]
    first = split(SplitOptions(seed=1), peptides, labels, 0)
    again = split(SplitOptions(seed=1), peptides, labels, 7)
    other = split(SplitOptions(seed=2), peptides, labels, 0)
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()


def test_groups_are_never_torn_and_shares_come_out(peptides):
    clusters = peptides.table.column("cluster").to_pylist()
    for seed in range(5):
        parts = split(SplitOptions(group="cluster", seed=seed), peptides, peptides.labels["head"], 0)
        assert_whole(parts, 120)
        train, valid, test = ({clusters[row] for row in rows} for rows in (parts.train, parts.valid, parts.test))
        assert not train & valid
        assert not train & test
        assert not valid & test
        assert sizes(parts) == [96, 12, 12]


def test_groups_differ_by_the_seed_of_the_split_alone(peptides):
    first, again, other = (
        split(SplitOptions(group="cluster", seed=seed), peptides, None, run) for seed, run in ((0, 0), (0, 5), (1, 0))
    )
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()


def test_every_part_gets_a_group_and_uneven_shares_are_said():
    parts = split(SplitOptions(group="g"), made(numbered(30), g=["x"] * 10 + ["y"] * 10 + ["z"] * 10), None, 0)
    assert sizes(parts) == [10, 10, 10]
    assert parts.notes == (
        "the groups of 'g' are too large to be dealt as asked; the shares are train 33%, valid 33%, test 33%",
    )
    large = split(SplitOptions(group="g"), made(numbered(102), g=["x"] * 100 + ["y", "z"]), None, 0)
    assert sizes(large) == [100, 1, 1]


def test_groups_that_do_not_do_are_refused():
    assert refusal(made(numbered(4), g=["x", "x", "y", "y"]), None, group="g") == (
        "the group column 'g' has 2 groups, too few for 3 parts: ask for fewer parts by fractions."
    )
    assert refusal(made(numbered(2), g=["x", None]), None, group="g") == "the group column 'g' holds nothing at id '2'."
    two = split(SplitOptions(group="g", fractions=(0.5, 0, 0.5)), made(numbered(2), g=["x", "y"]), None, 0)
    assert sizes(two) == [1, 0, 1]


def test_fewer_rows_are_drawn_by_class_with_the_seed_of_the_run(peptides):
    labels = peptides.labels["head"]
    options = SplitOptions(column="split", train_size=10, valid_size=6)
    first, again, other = (split(options, peptides, labels, seed) for seed in (0, 0, 1))
    whole = split(SplitOptions(column="split"), peptides, labels, 0)
    assert sizes(first) == [10, 6, 20]
    assert Counter(labels[row] for row in first.train) == {"0": 5, "1": 5}
    assert Counter(labels[row] for row in first.valid) == {"0": 3, "1": 3}
    assert set(first.train) <= set(whole.train)
    assert first.train.tolist() == again.train.tolist() != other.train.tolist()
    assert first.test.tolist() == other.test.tolist() == whole.test.tolist()


def test_every_class_is_kept_while_there_is_room():
    strata = ["a"] * 90 + ["b"] * 6 + ["c"] * 3 + ["d"]
    for size in (4, 5, 10, 50, 99, 100):
        options = SplitOptions(fractions=(1, 0, 0), train_size=size)
        parts = split(options, made(numbered(100)), strata, 3)
        assert len(parts.train) == size
        assert {strata[row] for row in parts.train} == set("abcd")
    few = split(SplitOptions(fractions=(1, 0, 0), train_size=2), made(numbered(100)), strata, 3)
    assert len(few.train) == 2


def test_sizes_that_are_not_to_be_had_are_refused(peptides):
    assert refusal(peptides, None, column="split", train_size=81) == "train_size is 81, but the train part has 80 rows."
    assert refusal(peptides, None, column="split", valid_size=21) == "valid_size is 21, but the valid part has 20 rows."


def test_inputs_that_stand_in_two_parts_are_counted():
    sequences = ["M", "K", "L", "M", "I", "M", "K", "I", "V"]
    parts = ["train"] * 3 + ["valid"] * 2 + ["test"] * 4
    assert split(SplitOptions(column="part"), made(sequences, part=parts), None, 0).notes == (
        "1 of 2 valid rows have an input that also stands in train",
        "2 of 4 test rows have an input that also stands in train",
        "2 of 4 test rows have an input that also stands in valid",
    )
