"""What is no sequence of tasks is said in one line, before anything is trained."""

import pytest

import exapt
from exapt import DataError, RecipeError
from exapt.sequence_plan import read_plan
from transfer.conflicting import conflicting, plan


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return conflicting(tmp_path_factory.mktemp("tables"))


REFUSED = {
    "one task": (
        lambda p: p | {"tasks": p["tasks"][:1]},
        "a sequence has at least two tasks, each a table of its own: [[tasks]] in TOML",
    ),
    "no tasks": (
        lambda p: {key: value for key, value in p.items() if key != "tasks"},
        "a sequence names its tasks: [[tasks]] in TOML, each with what differs in that task",
    ),
    "a wrong method": (
        lambda p: p | {"sequence": {"method": "ewcc"}},
        "sequence: 'method' is 'ewcc': there is no such method. Did you mean 'ewc'? Known: ewc, finetune, l2-sp, replay, "
        "separate",
    ),
    "a place of its own": (
        lambda p: p | {"sequence": {"method": {"name": "ewc", "keep": "x"}}},
        "sequence: 'method' is {'name': 'ewc', 'keep': 'x'}: what is kept between tasks has its place in the output folder: "
        "leave keep out",
    ),
    "two of a name": (lambda p: p | {"tasks": [p["tasks"][0]] * 2}, "two tasks are called 'one'"),
    "another start": (
        lambda p: p | {"tasks": [p["tasks"][0], {**p["tasks"][1], "start": "x"}]},
        "task 'two' starts where the one before it ended: leave start out",
    ),
    "other questions": (
        lambda p: (
            p | {"tasks": [p["tasks"][0], {**p["tasks"][1], "head": {"name": "sequence-regression", "label": "x"}}]}
        ),
        "head = 'shared': 'two' asks other questions than 'one'",
    ),
    "a misspelt key": (
        lambda p: p | {"tasks": [p["tasks"][0], {**p["tasks"][1], "trainign": {}}]},
        "task 'two': recipe: unknown key 'trainign'. Did you mean 'training'?",
    ),
    "ewc beside probe": (
        lambda p: p | {"strategy": "probe", "sequence": {"method": "ewc"}},
        "task 'one': strategy 'ewc' is about what learns in the backbone, and of a 'probe' nothing does: put another beside "
        "it, such as 'full' or 'lora'",
    ),
    "no test rows": (
        lambda p: p | {"split": {"fractions": [0.8, 0.2, 0.0]}},
        "task 'one' has no test part to be measured on: give it one in split",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sequence_is_refused_before_anything_is_trained(tables, tmp_path, case):
    change, said = REFUSED[case]
    with pytest.raises(RecipeError) as error:
        exapt.learn_in_sequence(change(plan(tables)), tmp_path / "out")
    assert str(error.value).startswith(said)
    assert not (tmp_path / "out").exists()


def test_a_label_of_a_later_task_is_refused_before_the_first_is_learned(tables, tmp_path):
    (tmp_path / "bad.csv").write_text("id,sequence,kind,split\na,MKT,acid,train\nb,MKR,acid,test\n")
    given = plan(tables, head="own")
    given["tasks"][1]["data"] = {"path": str(tmp_path / "bad.csv")}
    with pytest.raises(DataError) as error:
        exapt.learn_in_sequence(given, tmp_path / "out")
    assert str(error.value) == "task 'two': label 'kind': has one class only, 'acid'; classification needs two"


def test_options_of_all_methods_are_those_of_their_strategies(tables):
    read = read_plan(plan(tables, {"name": "l2-sp", "weight": 2.0}))
    assert (read.options.method.name, read.options.method.options) == ("l2-sp", {"weight": 2.0})
