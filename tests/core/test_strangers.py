"""Classes that only the rows that measure have: all of them are named, with their rows, before anything is learned."""

import numpy as np
import pytest

from exapt.data.splits import Split
from exapt.data.strangers import strangers

WHAT = (
    "split so that train has some, leave these rows out, or name all classes in the head's option 'classes', and these "
    "count as wrong"
)
SETS = {
    "sequence-classification": ("mouse", "human", "humans"),
    "sequence-multilabel": ("mouse", "human;mouse", "humans;mouse"),
    "position-classification": ("mmmm", "hhmm", "hhxm"),
}


def split(train, valid, test):
    return Split(*(np.array(rows, dtype=np.int64) for rows in (train, valid, test)))


def test_a_class_of_the_later_parts_is_counted_in_both_of_them():
    parts = split([0, 1], [2, 3], [4, 5])
    assert strangers({3: "c", 4: "c", 5: "c"}, parts, "abcdef") == (
        f"no row of train has the class 'c' (1 row of valid and 2 rows of test, first id 'd'), so that it cannot be "
        f"learned: {WHAT}"
    )


def test_many_classes_are_counted_and_three_of_them_named():
    parts, found = split([0], [], [1, 2, 3, 4, 5]), dict(zip(range(1, 6), "vwxyz", strict=True))
    assert strangers(found, parts, "abcdef") == (
        "no row of train has the classes 'v' (1 row of test, first id 'b'), 'w' (1 row of test, first id 'c'), 'x' (1 row "
        f"of test, first id 'd') and 2 more, so that they cannot be learned: {WHAT}"
    )


def test_windows_of_one_input_are_one_row():
    assert "(1 row of test, first id 'b')" in strangers({1: "c", 2: "c"}, split([0], [], [1, 2]), "abb")


def test_a_class_that_train_has_too_is_no_stranger():
    assert strangers({0: "c", 1: "c"}, split([0], [], [1]), "ab") == ""


@pytest.fixture
def learn(exapt, esm2, tmp_path):
    """Return a function that trains on two rows, with a third of a part; it returns the one line of refusal."""

    def run(head, part, *words):
        first, second, third = SETS[head]
        rows = [("a", "MKTA", first, "train"), ("b", "MKTC", second, "train"), ("c", "MKTD", third, part)]
        lines = [",".join(row) for row in [("id", "sequence", "kind", "split"), *rows]]
        (tmp_path / "table.csv").write_text("\n".join(lines))
        flags = ("--data", tmp_path / "table.csv", "--label", "kind", "--split", "split", "--strategy", "probe")
        rest = ("--backbone", esm2, "--head", head, *words, "--out", tmp_path / "out")
        return exapt("train", *flags, *rest, code=2).stderr

    return run


@pytest.mark.parametrize(("head", "name"), list(zip(SETS, ("humans", "humans", "x"), strict=True)))
@pytest.mark.parametrize("part", ["valid", "test"])
def test_every_head_of_classes_says_so(learn, head, name, part):
    assert learn(head, part) == (
        f"exapt: label 'kind': no row of train has the class '{name}' (1 row of {part}, first id 'c'), so that it cannot be "
        f"learned: {WHAT}\n"
    )


def test_a_class_of_train_that_was_not_named_is_one_that_there_is_not(learn):
    given = ("--set", 'head.classes=["human","mouse"]')
    assert learn("sequence-classification", "train", *given) == (
        "exapt: 'c', label 'kind': is 'humans', which is none of the classes human, mouse. Did you mean 'human'?\n"
    )
