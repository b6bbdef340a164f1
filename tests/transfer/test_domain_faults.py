"""What cannot be adapted to, or brought together, is said in one line before training starts."""

from pathlib import Path

import pytest

import exapt
from exapt import DataError, RecipeError
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from transfer.shifted import brief, domain, recipe

ALIGNING = ("adversarial", "coral", "mmd")
HEADS = {
    "regression": {"name": "sequence-regression", "label": "charge"},
    "multilabel": {"name": "sequence-multilabel", "label": "kind"},
    "ridge": {"name": "ridge", "label": "kind"},
    "position": {"name": "position-classification", "label": "kind"},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    return domain(folder / "near.csv", "near", rows=24), domain(folder / "far.csv", "far", rows=24)


def refused(given):
    """Return what is said of a recipe before any data are read."""
    with pytest.raises(RecipeError) as caught:
        resolve(read_recipe(given), current())
    return str(caught.value)


def stopped(given):
    """Return what is said of a recipe before its training starts."""
    heard = []
    with pytest.raises((DataError, RecipeError)) as caught:
        exapt.train(given, listeners=[lambda run, event: heard.append(event.name)])
    assert "step" not in heard
    return str(caught.value)


@pytest.mark.parametrize("name", ALIGNING)
def test_there_must_be_another_domain(tables, name):
    assert refused(recipe(tables[0], "", "full", name)) == (
        f"strategy '{name}' brings domains together: name the table of another domain as target.path or, of the rows that "
        "are learned from, the column of their domains as data.domain"
    )


@pytest.mark.parametrize("name", ["self-training", "consistency", "gradual-mixing"])
def test_there_must_be_rows_of_another_domain(tables, name):
    assert refused(recipe(tables[0], "", "full", name)) == (
        f"strategy '{name}' learns from rows of another domain: name their table as target.path"
    )


@pytest.mark.parametrize("name", ALIGNING)
def test_features_that_nothing_changes_cannot_come_together(tables, name):
    assert refused(recipe(*tables, "probe", name)) == (
        f"strategy '{name}' is about what learns in the backbone, and of a 'probe' nothing does: put another beside it, "
        "such as 'full' or 'lora'"
    )


@pytest.mark.parametrize(
    ("name", "head", "found"),
    [
        ("self-training", "regression", "sequence-regression"),
        ("self-training", "multilabel", "sequence-multilabel"),
        ("self-training", "ridge", "ridge"),
        ("gradual-mixing", "regression", "sequence-regression"),
        ("gradual-mixing", "position", "position-classification"),
    ],
)
def test_labels_are_made_of_classes_alone(tables, name, head, found):
    units = " or of each unit" if name == "self-training" else ""
    assert refused(recipe(*tables, "full", name, head=HEADS[head])) == (
        f"strategy '{name}' takes a head's surest classes for labels, of whole inputs{units}; there is {found}: ask with a "
        "head such as sequence-classification, or adapt by 'adversarial', 'coral' or 'mmd', which look at features alone"
    )


def test_what_is_said_of_units_cannot_be_compared(tables):
    given = recipe(*tables, "full", "consistency", head=HEADS["position"], augmentations=["residue-substitution"])
    assert refused(given) == (
        "strategy 'consistency' compares answers about whole inputs; there is position-classification, and what is said of "
        "units moves with them"
    )


ALIKE = (
    "strategy 'consistency' compares two views of an input, and nothing makes them differ: name an augmentation that changes "
    "training inputs, or a dropout in the head or in what learns of the backbone"
)


def test_views_must_differ(tables):
    assert stopped(recipe(*tables, "full", "consistency", **brief())) == ALIKE
    # Of a frozen backbone the recipe alone tells it.
    assert refused(recipe(*tables, "probe", "consistency", **brief())) == ALIKE
    assert refused(recipe(*tables, "probe", "consistency", "self-training", **brief())) == ALIKE
    dropping = {"name": "sequence-classification", "label": "kind", "dropout": 0.1}
    for strategies, head in ((["probe", "head-dropout"], {}), (["probe"], {"head": dropping})):
        resolve(read_recipe(recipe(*tables, *strategies, "consistency", **head)), current())


def test_dropout_that_no_answer_passes_through_makes_no_views(tables):
    """A discriminator's own, and that of a head whose answers are not compared."""
    discriminator = {"name": "adversarial", "dropout": 0.5}
    assert stopped(recipe(*tables, "full", discriminator, "consistency", **brief())) == ALIKE
    given = {key: value for key, value in recipe(*tables, "full", "consistency", **brief()).items() if key != "head"}
    heads = {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "units": {"name": "masked-lm"},
        "ridge": {"name": "ridge", "label": "kind"},
    }
    assert stopped(given | {"heads": heads}) == ALIKE


def test_tokens_are_not_mixed(tables):
    head = {"name": "sequence-classification", "label": "kind", "pooling": "attention"}
    assert refused(recipe(*tables, "full", "gradual-mixing", head=head, **brief())) == (
        "strategy 'gradual-mixing' mixes one vector of each input, and head 'head' reads tokens: choose the pooling 'mean', "
        "'cls' or 'max'"
    )


@pytest.mark.parametrize("name", ["coral", "mmd"])
def test_one_row_has_no_distribution(tables, tmp_path, name):
    """Steps of one row, or domains of one, would leave the strategy nothing to do, and not a word of it."""
    assert refused(recipe(*tables, "full", name, **brief(batch_size=1))) == (
        f"strategy '{name}' matches how the rows of a step are distributed, and of training.batch_size = 1 one domain has no "
        "two rows: raise it, to 32 say"
    )
    several = {"data": {"path": tables[0], "domain": "origin"}}
    assert refused(recipe("", "", "full", name, **several, **brief(batch_size=3))) == (
        f"strategy '{name}' matches how the rows of a step are distributed, and of training.batch_size = 3 no two domains have "
        "two rows each: raise it, to 32 say"
    )
    lines = Path(tables[1]).read_text(encoding="utf-8").splitlines()
    (tmp_path / "one.csv").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    assert stopped(recipe(tables[0], str(tmp_path / "one.csv"), "full", name, **brief())) == (
        f"strategy '{name}' matches how rows are distributed, and the target has one row: name a table of more, or leave the "
        "strategy out"
    )
    both = Path(domain(tmp_path / "both.csv", "near", "far", rows=24)).read_text(encoding="utf-8").splitlines()
    kept = [line for row, line in enumerate(both) if row == 3 or ",far," not in line]
    (tmp_path / "both.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    several = {"data": {"path": str(tmp_path / "both.csv"), "domain": "origin"}}
    assert stopped(recipe("", "", "full", name, **several, **brief())) == (
        f"strategy '{name}' matches how rows are distributed, and fewer than two domains have two rows or more: add rows, or "
        "leave the strategy out"
    )


def test_meta_learning_sees_no_other_domain(tables):
    assert refused(recipe(*tables, "full", "maml", "coral")) == (
        "strategy 'coral' cannot stand beside 'maml': its steps are of tasks of labelled rows alone, and rows of another "
        "domain are never seen"
    )


def test_one_table_is_one_domain(tables):
    said = (
        "target.path and data.path are one table, 'near.csv', so that there is no other domain: name another table or, of "
        "one with a column of domains, the domains of each as data.only and target.only"
    )
    assert refused(recipe(tables[0], tables[0], "full", "coral")) == said
    data = {"path": tables[0], "domain": "origin", "only": ["near"]}
    assert refused(recipe(tables[0], "", "full", "coral", data=data, target=data)) == said


def test_rows_of_one_table_are_of_one_domain_by_one_column(tables, tmp_path):
    data = {"path": tables[0], "domain": "origin", "only": ["near"]}
    target = {"path": tables[0], "domain": "split", "only": ["test"]}
    assert refused(recipe("", "", "full", "coral", data=data, target=target)) == (
        "target.path and data.path are one table, 'near.csv', whose domains are told by 'split' and by 'origin', so that a row "
        "can be of both: name one column as data.domain and target.domain"
    )


def test_a_copy_of_a_table_is_no_other_domain(tables, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(Path(tables[0]).read_bytes())
    said = (
        "target.path and data.path hold the same, 'copy.csv' and 'near.csv', so that there is no other domain: name another "
        "table or, of one with a column of domains, the domains of each as data.only and target.only"
    )
    assert stopped(recipe(tables[0], str(copy), "full", "coral", **brief())) == said
    # Also of the table of a single head.
    given = {
        key: value for key, value in recipe(tables[1], str(copy), "full", "coral", **brief()).items() if key != "head"
    }
    kind = {"name": "sequence-classification", "label": "kind"}
    heads = {"one": kind, "other": kind | {"data": {"path": tables[0]}}}
    assert stopped(given | {"heads": heads}) == said.replace("data.path", "heads.other.data.path")


@pytest.mark.parametrize("strategy", ["self-training", "coral"])
def test_the_target_may_be_what_a_head_without_labels_learns_from(tables, strategy):
    given = recipe(*tables[:2], "full", strategy, **brief(1))
    del given["head"]
    lm = {"name": "masked-lm", "data": {"path": tables[1]}}
    given["heads"] = {"kind": {"name": "sequence-classification", "label": "kind"}, "lm": lm}
    assert exapt.train(given).metrics["target"]
    given["heads"]["lm"] = {"name": "sequence-regression", "label": "charge", "data": {"path": tables[1]}}
    assert stopped(given).startswith(
        "target.path and heads.lm.data.path hold the same, 'far.csv' and 'far.csv', so that"
    )


def test_a_table_of_one_domain_has_nothing_to_bring_together(tables):
    data = {"path": tables[0], "domain": "origin"}
    assert stopped(recipe(tables[0], "", "full", "coral", data=data, **brief())) == (
        "strategy 'coral': all rows of train are of one domain, so that there is nothing to bring together; name the table of "
        "another as target.path"
    )


def changed(tmp_path, path, old, new):
    table = tmp_path / "changed.csv"
    table.write_text(Path(path).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return str(table)


def test_a_target_with_other_columns_names_the_column_and_the_table(tables, tmp_path):
    other = changed(tmp_path, tables[1], "id,sequence,", "id,protein,")
    assert stopped(recipe(tables[0], other, "full", "coral")) == (
        "target: changed.csv has no column 'sequence'. Its columns are: id, protein, kind, charge, origin, split."
    )
    named = recipe(tables[0], "", "full", "coral", target={"path": other, "input": "protein"}, **brief(1))
    assert exapt.train(named).metrics["target"]
    several = {"path": other, "inputs": {"one": "protein", "other": "protein"}}
    assert stopped(recipe(tables[0], "", "full", "coral", target=several)) == (
        "target.inputs names one, other, and data.inputs sequence: both tables hold the same inputs, each in a column that "
        "may have another name"
    )


def test_a_class_that_no_training_row_has_is_told(tables, tmp_path):
    other = changed(tmp_path, tables[1], ",acid,", ",acidic,")
    assert stopped(recipe(tables[0], other, "full", "coral")) == (
        "target: 'far0', label 'kind': is 'acidic', which is none of the classes acid, base. Did you mean 'acid'? Labels of the "
        "target only measure: name them alike, or leave their column out"
    )


def test_a_target_without_rows(tables, tmp_path):
    (tmp_path / "empty.csv").write_text("id,sequence\n", encoding="utf-8")
    assert (
        stopped(recipe(tables[0], str(tmp_path / "empty.csv"), "full", "coral"))
        == "target: empty.csv has a header but no rows."
    )
    assert stopped(recipe(tables[0], str(tmp_path / "none.csv"), "full", "coral")) == (
        f"target: there is no file '{tmp_path / 'none.csv'}'."
    )


def test_a_second_table_of_labels_has_one_of_the_columns(tables, tmp_path):
    (tmp_path / "labels.csv").write_text("id,size\nfar0,3\n", encoding="utf-8")
    target = {"path": tables[1], "labels": str(tmp_path / "labels.csv"), "id": "id"}
    unlabelled = domain(tmp_path / "far.csv", "far", rows=24, labels="none")
    assert stopped(recipe(tables[0], "", "full", "coral", target=target | {"path": unlabelled})) == (
        "target: labels.csv has no column 'kind'. Its columns are: id, size."
    )


def test_an_input_that_is_too_long_is_one_of_the_target(tables, tmp_path):
    lines = Path(tables[1]).read_text(encoding="utf-8").splitlines()
    first = lines[1].split(",")
    lines[1] = ",".join([first[0], "A" * 3000, *first[2:]])
    (tmp_path / "long.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = stopped(recipe(tables[0], str(tmp_path / "long.csv"), "full", "coral"))
    assert said.startswith("target: 'far0' has 3,000 units; 'esm2:")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"only": ["near"]},
            "recipe: 'data' is {given!r}: only names domains: name the column that tells them as domain",
        ),
        (
            {"domain": "organ"},
            "near.csv has no column 'organ'. Its columns are: id, sequence, kind, charge, origin, split.",
        ),
        (
            {"domain": "origin", "only": ["nera"]},
            "near.csv: no row has the domain 'nera' in 'origin'. Did you mean 'near'? Its domains are: near.",
        ),
    ],
)
def test_domains_are_those_of_a_column(tables, data, said):
    given = {"path": tables[0], **data}
    assert stopped(recipe(tables[0], "", "probe", data=given, **brief(1))) == said.format(given=given)


def test_each_row_has_a_domain(tables, tmp_path):
    lines = Path(tables[0]).read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace(",near,", ",,")
    (tmp_path / "gap.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {"path": str(tmp_path / "gap.csv"), "domain": "origin"}
    assert stopped(recipe("", "", "probe", data=data, **brief(1))) == (
        "gap.csv row 2 (id 'near1') has no domain in 'origin'."
    )
