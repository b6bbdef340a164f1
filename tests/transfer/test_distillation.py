"""Distillation: a student comes to answer as its teacher does, whose answers are computed once."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import expit, log_softmax, softmax

import exapt
from exapt import RecipeError
from exapt.builtin._distillation import softened_classes, softened_labels
from exapt.cli import cli
from runs import charges
from runs import recipe as protein
from transfer.modalities import MODALITIES, recipe, table

LONG = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "head_learning_rate": 1e-2, "patience": 0}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {"protein": charges(folder / "charges.csv", rows=72), "far": charges(folder / "far.csv", rows=60, seed=5)}


@pytest.fixture(scope="module")
def teacher(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    exapt.train(protein(tables["protein"], "full", training=LONG), folder)
    return folder


def distilled(tables, teacher, strategy=("full",), **options):
    changes = options.pop("changes", {})
    strategies = [*strategy, {"name": "distillation", "teacher": str(teacher), **options}]
    given = protein(tables["protein"], **{"training": LONG, **changes})
    del given["strategy"]
    return given | {"strategies": strategies}


def test_a_student_without_labels_learns_what_the_teacher_says(tables, teacher):
    taught = exapt.train(distilled(tables, teacher, mix=1.0))
    # The labels say nothing: were they learned, answers could not be the teacher's.
    assert taught.metrics["test"]["accuracy"] == pytest.approx(exapt.load(teacher).metrics["test"]["accuracy"], abs=0.1)
    untaught = exapt.train(protein(tables["protein"], "lora", training=LONG | {"epochs": 1, "learning_rate": 1e-9}))
    theirs = _log_probabilities(exapt.load(teacher), tables["far"])
    near, far = (np.abs(_log_probabilities(one, tables["far"]) - theirs).mean() for one in (taught, untaught))
    assert near < 0.5 * far


def _log_probabilities(adapted, path):
    queries = [line.split(",")[1] for line in path.read_text().splitlines()[1:]]
    outputs = adapted.outputs(adapted.ask(adapted.examples(queries, None)).rows)
    return log_softmax(np.stack([output["head"] for output in outputs]), -1)


def test_the_teacher_is_asked_once(tables, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path))
    exapt.train(distilled(tables, teacher, ("probe",)))
    (kept,) = (tmp_path / "teachers").iterdir()
    before = kept.stat().st_mtime_ns
    exapt.train(distilled(tables, teacher, ("lora",), features=0.1) | {"seed": 1})
    assert [path.stat().st_mtime_ns for path in (tmp_path / "teachers").iterdir()] == [before]
    kept.write_bytes(b"not whole")
    exapt.train(distilled(tables, teacher, ("probe",)))
    assert kept.stat().st_size > 100


def test_features_come_nearer_to_the_teachers(tables, teacher):
    told = {
        weight: exapt.train(distilled(tables, teacher, ("scratch",), features=weight)).manifest["transfer"][
            "distillation"
        ]
        for weight in (1e-6, 5.0)
    }
    # The projection learns in both; the backbone only where features count.
    assert told[5.0]["features.sequence.distance"] < 0.8 * told[1e-6]["features.sequence.distance"]
    assert told[5.0]["teacher"] == "teacher"


def test_rows_without_labels_teach_too(tables, teacher):
    changes = {"target": {"path": str(tables["far"]), "input": "sequence"}}
    adapted = exapt.train(distilled(tables, teacher, mix=1.0, unlabelled=True, changes=changes))
    assert adapted.metrics["target"]["accuracy"] > 0.8


def test_an_adapter_does_not_need_its_teacher(tables, teacher, tmp_path):
    import shutil

    shutil.copytree(teacher, tmp_path / "teacher")
    adapted = exapt.train(distilled(tables, tmp_path / "teacher", ("lora",), features=1.0), tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher")
    loaded = exapt.load(tmp_path / "student")
    assert loaded.predict(["MKKR", "DDEE"]).to_pylist() == adapted.predict(["MKKR", "DDEE"]).to_pylist()
    tensors = json.loads((tmp_path / "student" / "exapt.json").read_text())["tensors"]
    assert all("projection" not in name for file in tensors.values() for name in file)


@pytest.mark.parametrize("modality", MODALITIES)
def test_values_are_taught_in_every_modality(modality, tmp_path):
    path = table(modality, tmp_path / "rows.csv")
    head = {"name": "sequence-regression", "label": "size"}
    exapt.train(recipe(modality, path, "full", head=head), tmp_path / "teacher")
    strategies = ["lora", {"name": "distillation", "teacher": str(tmp_path / "teacher"), "features": 0.5}]
    adapted = exapt.train(recipe(modality, path, strategies, head=head))
    assert np.isfinite(adapted.metrics["test"]["loss"])


def test_the_distance_is_that_of_softened_probabilities():
    mine, theirs = np.random.default_rng(0).normal(size=(2, 5, 3))
    given = [torch.from_numpy(one) for one in (mine, theirs)]
    for heat in (1.0, 2.0, 5.0):
        p, q = softmax(theirs / heat, -1), log_softmax(mine / heat, -1)
        expected = (p * (np.log(p) - q)).sum(-1) * heat**2
        np.testing.assert_allclose(softened_classes(*given, heat).numpy(), expected, rtol=1e-6)
        p, q = expit(theirs / heat), expit(mine / heat)
        expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1) * heat**2
        np.testing.assert_allclose(softened_labels(*given, heat).numpy(), expected, rtol=1e-6)


def test_a_student_that_is_wrong_and_sure_still_learns():
    for distance, logits in ((softened_classes, [[90.0, 0.0]]), (softened_labels, [[90.0, -90.0]])):
        mine = torch.tensor(logits, requires_grad=True)
        distance(mine, torch.tensor([[-5.0, 5.0]]), 2.0).sum().backward()
        assert mine.grad.abs().min() > 0.4


def test_a_step_is_the_same_in_pieces(tables, tmp_path):
    head = {"name": "position-classification", "label": "letters"}
    path = tmp_path / "letters.csv"
    rows = [line.split(",") for line in tables["protein"].read_text().splitlines()[1:]]
    letters = ["".join("K" if letter in "KR" else "x" for letter in row[1]) for row in rows]
    body = [f"{row[0]},{row[1]},{marks},{row[-1]}" for row, marks in zip(rows, letters, strict=True)]
    path.write_text("\n".join(["id,sequence,letters,split", *body]))
    exapt.train(protein(path, "probe", head=head), tmp_path / "teacher")
    told = [
        exapt.train(
            distilled(
                {"protein": path}, tmp_path / "teacher", ("lora",), changes={"head": head, "training": LONG | tokens}
            )
        ).metrics["test"]["loss"]
        for tokens in ({"epochs": 1, "max_tokens": 4096}, {"epochs": 1, "max_tokens": 40})
    ]
    assert told[0] == pytest.approx(told[1], rel=1e-4)


def test_the_command_compares_teacher_student_and_student_alone(tables, teacher, tmp_path):
    given = protein(tables["protein"], "probe", training=LONG | {"epochs": 2})
    plan = tmp_path / "student.json"
    plan.write_text(json.dumps(given))
    command = [
        "distil",
        str(plan),
        "--teacher",
        str(teacher),
        "--seeds",
        "0,1",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [one["name"] for one in told["contestants"]] == ["teacher", "student", "student alone"]
    assert all(one["seconds"] > 0 and one["parameters"] > 20_000 for one in told["contestants"])
    student, alone = (np.array(one["values"]) for one in told["contestants"][1:])
    assert told["gain"]["mean"] == pytest.approx((student - alone).mean())
    assert exapt.load(tmp_path / "out").metrics["test"][told["metric"]] == student[0]


def test_a_teacher_under_another_name_or_with_more_heads_is_measured_on_its_own_head(tables, tmp_path):
    heads = {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "charge": {"name": "sequence-regression", "label": "charge"},
    }
    several = protein(tables["protein"])
    del several["head"]
    exapt.train(several | {"heads": heads}, tmp_path / "several")
    student = several | {"heads": {"kind": heads["kind"]}}
    outcome = exapt.distil(student, tmp_path / "one", teacher=tmp_path / "several")
    said = exapt.load(tmp_path / "several").metrics["test"]
    assert outcome.contestants[0].mean == pytest.approx(said[f"kind.{outcome.metric}"])
    exapt.train(protein(tables["protein"]), tmp_path / "plain")
    assert exapt.distil(student, teacher=tmp_path / "plain").contestants[0].name == "teacher"
    with pytest.raises(RecipeError, match="each seed may come once only"):
        exapt.distil(student, teacher=tmp_path / "plain", seeds=[1, 1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"teacher": ""},
            "strategy 'distillation' needs a teacher: the folder of an adapter that answers the same question",
        ),
        ({"teacher": "nowhere"}, "strategy 'distillation': there is no teacher 'nowhere'"),
        (
            {"unlabelled": True},
            "strategy 'distillation' is to learn on unlabelled rows: name their table as target.path",
        ),
    ],
)
def test_a_faulty_teacher_is_refused_before_weights_are_loaded(changes, said, tables, teacher):
    with pytest.raises(RecipeError) as caught:
        exapt.train(distilled(tables, changes.pop("teacher", teacher), **changes))
    assert str(caught.value) == said


def test_a_teacher_of_another_question_is_refused(tables, teacher, tmp_path):
    head = {"head": {"name": "sequence-classification", "label": "like"}}
    with pytest.raises(RecipeError) as caught:
        exapt.train(distilled(tables, teacher, changes=head))
    assert str(caught.value) == (
        "strategy 'distillation': head 'head' has the classes other, same, but the teacher's acid, base: teach with one of "
        "the same classes"
    )
    with pytest.raises(RecipeError) as caught:
        exapt.train(distilled(tables, teacher, changes={"head": {"name": "sequence-regression", "label": "charge"}}))
    assert str(caught.value) == (
        "strategy 'distillation': head 'head' and the teacher's do not ask the same: one tells classes, the other values"
    )
