"""Meta-learning: a model that learned over many small tasks adapts to a new one in fewer steps than one that did not."""

import csv
import random

import numpy as np
import pytest
import torch

import exapt
from exapt.builtin._few_shot import EPISODIC
from exapt.builtin._tasks import Tasks
from exapt.builtin.meta_learning import MamlOptions
from exapt.errors import DataError, RecipeError
from exapt.parts import Pooled
from runs import QUERIES, charges, listened, recipe, training
from transfer.modalities import recipe as recipe_of
from transfer.modalities import table
from transfer.test_few_shot_heads import CLASSES, built, clouds

LETTERS = ("DE", "KR")


def tasks(path, names, rows=16, part=None, seed=0):
    """Write small tasks that contradict each other: in every other one ``yes`` is acid, in the rest it is base."""
    dice = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "task", "answer", "split"])
        for number, name in enumerate(names):
            for row in range(rows):
                kind = row % 2
                letters = "".join(dice.choice(LETTERS[kind] * 4 + "AGLSTVNQ") for _ in range(dice.randrange(8, 24)))
                where = part(row) if part else ("valid" if name.startswith("v") else "train")
                writer.writerow([f"{name}-{row}", letters, name, ("no", "yes")[kind ^ number % 2], where])
    return path


def asked(path, options, **changes):
    """Return a recipe with one task for each value of the column ``task``."""
    data = {"path": str(path), "input": "sequence", "domain": "task"}
    head = {"name": "sequence-classification", "label": "answer"}
    fast = training(epochs=3, batch_size=16, learning_rate=1e-3, head_learning_rate=1e-2)
    return recipe(path, {"name": "maml", **options}, **{"data": data, "head": head, **fast} | changes)


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    """An adapter that meta-learned over six tasks, and was judged by two others."""
    folder = tmp_path_factory.mktemp("meta")
    path = tasks(folder / "tasks.csv", ["t0", "t1", "t2", "t3", "t4", "t5", "v0", "v1"])
    options = {"inner_rate": 0.1, "inner_steps": 2, "batch": 2}
    adapted, heard = listened(asked(path, options), folder / "adapter")
    return folder / "adapter", adapted, heard


def test_it_adapts_to_tasks_that_it_has_not_seen_though_it_cannot_answer_them_at_once(meta):
    _, adapted, heard = meta
    told = adapted.manifest["transfer"]["maml"]
    assert (told["tasks"], told["count"], told["inner_steps"]) == ("domains", 6, 2)
    # Tasks that contradict each other cannot be answered without an example.
    assert told["before"]["accuracy"] < 0.75
    assert told["after"]["accuracy"] > 0.9
    assert told["after"]["loss"] < 0.5 * told["before"]["loss"]
    assert [loss > 0 for loss in heard.of("epoch", "train.loss")] == [True] * 3
    assert "maml: 6 tasks, one for each of the domains, with 5 examples of each class" in heard.of("note", "text")


@pytest.mark.parametrize("turned", [False, True])
def test_from_its_adapter_a_new_task_is_learned_in_fewer_steps(meta, turned, tmp_path):
    folder, adapted, _ = meta
    names = ["old", "new"] if turned else ["new"]
    path = tasks(tmp_path / "new.csv", names, rows=60, part=lambda row: "train" if row < 10 else "test", seed=5)
    if turned:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *(line for line in lines if line.startswith("new"))]) + "\n")
    few = training(epochs=3, batch_size=10, learning_rate=1e-3, head_learning_rate=3e-2, schedule="constant", warmup=0)
    head = {"name": "sequence-classification", "label": "answer"}
    given = recipe(path, "full", head=head, **few)
    with_start = exapt.train(given | {"start": str(folder)})
    without = exapt.train(given)
    assert with_start.metrics["test"]["loss"] < without.metrics["test"]["loss"]
    assert with_start.metrics["test"]["accuracy"] > 0.85
    loaded = exapt.load(folder)
    assert loaded.predict(QUERIES).equals(adapted.predict(QUERIES))


@pytest.mark.parametrize(
    "options",
    [
        {"adapts": "heads", "inner_rate": 1.0},
        {"first_order": True, "inner_rate": 0.1},
    ],
    ids=["anil", "first-order"],
)
def test_its_cheaper_forms_adapt_too(options, tmp_path):
    path = tasks(tmp_path / "tasks.csv", ["t0", "t1", "v0", "v1"])
    once = training(epochs=4, batch_size=16, learning_rate=1e-3, head_learning_rate=1e-2)
    adapted = exapt.train(asked(path, {"batch": 2, **options}, **once))
    told = adapted.manifest["transfer"]["maml"]
    assert told["after"]["loss"] < told["before"]["loss"]
    assert told["after"]["accuracy"] > 0.75


def test_episodes_of_classes_train_prototypes(tmp_path):
    path = table("protein", tmp_path / "t.csv", rows=72, classes=4)
    head = {"name": "prototypes", "label": "kind"}
    options = {"name": "maml", "ways": 2, "shots": 2, "inner_steps": 0, "batch": 2}
    given = recipe_of(
        "protein", path, options, head=head, training={"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    )
    adapted, heard = listened(given, tmp_path / "adapter")
    assert "maml: tasks are any 2 of 4 classes, with 2 examples of each class" in heard.of("note", "text")
    told = adapted.manifest["transfer"]["maml"]
    assert told["after"]["accuracy"] > 0.6
    assert exapt.load(tmp_path / "adapter").predict(QUERIES).equals(adapted.predict(QUERIES))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("shots", [1, 3])
def test_gradients_lead_through_the_fit_to_the_features_as_they_are(name, standardise, shots):
    (few, labels), (many, asked) = clouds(4 * shots, 0, apart=2), clouds(40, 1, apart=2)
    head = built(name, labels, standardise=standardise)
    known, truth = (torch.tensor([int(head.encode(one, 1)) for one in some]) for some in (labels, asked))
    few, many = few + 0.5, many + 0.5

    def loss(mixing):
        # Support and queries move together, as where a backbone learns.
        moved = (few @ mixing, many @ mixing)
        state = dict(head.fit({"sequence": Pooled("mean", moved[0])}, known))
        found = torch.func.functional_call(head, state, ({"sequence": Pooled("mean", moved[1])},))
        return torch.nn.functional.cross_entropy(found, truth) + 0.1 * found[:, 0].mean()

    at = (torch.eye(16) + 0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(2))).requires_grad_()
    (slope,) = torch.autograd.grad(loss(at), at)
    along, step = slope / slope.norm(), 3e-3
    found = [float(loss((at + sign * step * along).detach().requires_grad_()).detach()) for sign in (1, -1)]
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(float(slope.norm()), rel=0.02)


def test_the_temperature_of_an_episode_moves_with_the_distances():
    vectors, labels = clouds(12, 0, classes=3)
    head = built("prototypes", labels, standardise=False)
    targets = torch.arange(12) % 3
    temperatures = [
        head.fit({"sequence": Pooled("mean", (scale * vectors).requires_grad_())}, targets)[
            "trunk.temperature"
        ].detach()
        for scale in (1.0, 2.0)
    ]
    assert float(temperatures[1]) == pytest.approx(4 * float(temperatures[0]), rel=1e-4)
    means = torch.stack([vectors[at::3].mean(0) for at in range(3)])
    assert float(temperatures[0]) == pytest.approx(EPISODIC * float(torch.cdist(vectors, means).square().mean()))


class Numbers:
    """Rows of a head for three numbers, some of them missing."""

    pad, labelled, ragged = float("nan"), True, False


class SomeRows:
    """Rows as tasks see them."""

    def __init__(self, values):
        self.targets, self.heads, self.domains = {"head": list(values)}, {"head": Numbers()}, None

    def __len__(self):
        return len(self.targets["head"])


def test_several_numbers_are_tasks_of_which_each_sees_its_own():
    values = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    values[:25, 1] = np.nan
    found = Tasks(MamlOptions(shots=6), SomeRows(values))
    # Of the second number too few are known to be asked for.
    assert (found.kind, found.count) == ("targets", 2)
    drawn = found.draw(np.random.default_rng(0))
    assert (len(drawn.support), len(drawn.queries)) == (6, 5)
    assert not set(drawn.support) & set(drawn.queries)
    only = drawn.only({"head": torch.from_numpy(values)}, {"head": Numbers()})["head"]
    assert only.isnan().all(0).tolist() == [at != drawn.target for at in range(3)]


REFUSED = [
    (
        {"tasks": "domains"},
        {"data": {"path": "none.csv", "input": "sequence"}},
        "strategy 'maml' has a task for each domain: name the column of the domains as data.domain",
    ),
    (
        {"adapts": "heads", "inner_steps": 0},
        {},
        "strategy 'maml': adapts says what changes in the inner steps, and inner_steps is 0",
    ),
]


@pytest.mark.parametrize(("options", "changes", "message"), REFUSED, ids=["no-domains", "no-steps"])
def test_what_cannot_be_is_refused_when_the_recipe_is_read(options, changes, message, tmp_path):
    with pytest.raises(RecipeError) as caught:
        exapt.train(asked(tmp_path / "none.csv", options, **changes))
    assert str(caught.value) == message


def test_a_frozen_backbone_is_refused(tmp_path):
    given = asked(tmp_path / "none.csv", {})
    del given["strategy"]
    with pytest.raises(RecipeError) as caught:
        exapt.train(given | {"strategies": ["probe", "maml"]})
    assert str(caught.value).startswith("strategy 'maml' is about what learns in the backbone")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            lambda path: asked(path, {"shots": 9}),
            DataError,
            "strategy 'maml' adapts to 9 shots and is judged by others: none of the domains has 10 examples of 2 classes; "
            "lower shots or ways",
        ),
        (
            lambda path: asked(path, {"tasks": "targets"}),
            RecipeError,
            "strategy 'maml' finds no tasks: ask with one head for several numbers",
        ),
        (
            lambda path: asked(path, {"adapts": "heads"}, head={"name": "prototypes", "label": "answer"}),
            RecipeError,
            'strategy \'maml\': adapts = "heads", and none of the heads learns by steps: choose adapts = "all", or '
            "inner_steps = 0",
        ),
    ],
    ids=["too-few-examples", "no-numbers", "nothing-adapts"],
)
def test_what_the_table_does_not_have_is_refused_before_the_first_step(given, error, message, tmp_path):
    path = tasks(tmp_path / "tasks.csv", ["t0", "t1", "v0"])
    with pytest.raises(error) as caught:
        exapt.train(given(path))
    assert str(caught.value) == message


def test_a_run_goes_on_from_its_checkpoint_to_the_same_adapter(tmp_path):
    path = charges(tmp_path / "t.csv", rows=48)
    given = recipe(
        path, {"name": "maml", "shots": 2, "batch": 1, "inner_steps": 1, "first_order": True}, **training(epochs=2)
    )
    whole = exapt.train(given, tmp_path / "whole")

    def stop(_run, event):
        if event.name == "step" and event.facts["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.train(given, tmp_path / "again", listeners=[stop])
    again = exapt.train(given, tmp_path / "again", resume=True)
    assert again.predict(QUERIES).equals(whole.predict(QUERIES))
    assert again.manifest["transfer"]["maml"] == whole.manifest["transfer"]["maml"]
