"""Rare classes: found more often where they are drawn as often as others, weigh more, or where what is easy counts less."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import exapt
from exapt import RecipeError
from exapt.adapter import questions
from exapt.builtin._focal import focal
from exapt.data.batching import balanced_steps
from transfer.modalities import recipe

EVERY = 12
"""One row in so many is of the rare class."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Acidic sequences among basic ones, twelve times as many; there is no valid part, so that the last epoch is kept."""
    path, dice = tmp_path_factory.mktemp("table") / "rare.csv", random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "size", "split"])
        for row in range(480):
            kind, letters = ("rare", "DE") if row % EVERY == 0 else ("common", "KR")
            sequence = "".join(dice.choice(letters * 2 + "AGLSTVNQDEKR") for _ in range(dice.randrange(6, 14)))
            writer.writerow([f"s{row}", sequence, kind, len(sequence), "test" if row // EVERY % 3 == 2 else "train"])
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))


def asked(table, head=None, **training):
    training = {"epochs": 12, "batch_size": 32, "head_learning_rate": 2e-2, "patience": 0} | training
    named = {"name": "sequence-classification", "label": "kind"} | (head or {})
    return recipe("protein", table, "probe", head=named, training=training)


def seen(table, head=None, **training):
    """Train; return how much of the rare class is found, and the probabilities of the rows' own classes: rare, common."""
    adapted = exapt.train(asked(table, head, **training))
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    told = adapted.predict([row["sequence"] for row in rows]).to_pydict()
    rare = np.array([row["kind"] == "rare" for row in rows])
    found = (np.array(told["prediction"]) == "rare")[rare].mean()
    return found, np.array(told["probability_rare"])[rare].mean(), np.array(told["probability_common"])[~rare].mean()


def test_the_rare_class_is_found_more_often(table):
    plain, of_rare, of_common = seen(table)
    balanced = seen(table, sampling="balanced")
    assert balanced[0] >= plain + 0.15
    assert balanced[1] > of_rare + 0.1
    weighted = seen(table, {"class_weights": "balanced"})
    assert weighted[0] >= plain + 0.1
    focused = seen(table, {"loss": "focal"})
    # What is easy is told less surely, and what is hard more so.
    assert focused[1] > of_rare
    assert focused[2] < of_common


def test_each_class_is_drawn_equally_often_in_an_epoch_as_long_as_before():
    classes = np.array([0] * 70 + [1] * 7 + [2] * 20 + [-100] * 4)
    steps = balanced_steps(classes, 16, seed=3, epoch=5)
    assert [len(step) for step in steps] == [16] * 6 + [5]
    drawn = np.concatenate(steps)
    times = np.bincount(drawn, minlength=len(classes))
    assert sorted(np.bincount(classes[drawn][classes[drawn] >= 0]).tolist()) == [32, 32, 33]
    # Within a class no row comes twice as long as another has not come; rows without a class come once.
    for one in (0, 1, 2):
        of_class = times[classes == one]
        assert of_class.max() - of_class.min() <= 1
    assert (times[classes < 0] == 1).all()
    again = np.concatenate(balanced_steps(classes, 16, seed=3, epoch=5))
    assert (again == drawn).all()
    other = np.concatenate(balanced_steps(classes, 16, seed=3, epoch=6))
    assert set(other[classes[other] == 0]) != set(drawn[classes[drawn] == 0])
    # All classes are in all parts of it, and where there is one row of each nothing is left to balance.
    assert all(len(set(classes[step])) >= 3 for step in steps[:-1])
    assert sorted(np.concatenate(balanced_steps(np.array([2, 0, 1]), 2, 0, 0))) == [0, 1, 2]


def test_the_focal_loss_is_that_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(50, 3, generator=generator)).requires_grad_()
    target = torch.randint(0, 3, (50,), generator=generator)
    weights = torch.tensor([1.0, 2.0, 0.5])
    shares = logits.softmax(-1)[torch.arange(50), target]
    known = torch.arange(50) % 5 > 0
    by_hand = (-weights[target] * (1 - shares) ** 2 * shares.log())[known].sum()
    found = focal(logits, torch.where(known, target, -100), weights, 2.0, pad=-100)
    torch.testing.assert_close(found, by_hand)
    for smoothing in (0.0, 0.1):
        plain = functional.cross_entropy(logits, target, weights, reduction="sum", label_smoothing=smoothing)
        torch.testing.assert_close(focal(logits, target, weights, 0.0, -100, smoothing), plain)
    # However sure a wrong or a right answer is, its gradient is a number.
    sure = torch.tensor([[200.0, -200.0, 0.0]]).repeat(2, 1).requires_grad_()
    focal(sure, torch.tensor([0, 1]), weights, 0.5, -100).backward()
    assert sure.grad.isfinite().all()
    assert sure.grad[1].abs().max() > 1


FAULTS = {
    "a head of numbers": (
        {"head": {"name": "sequence-regression", "label": "size"}, "sampling": "balanced"},
        "training.sampling = \"balanced\" draws the classes of whole inputs equally often, and head 'head', "
        "'sequence-regression', has none: leave it out, or name a head such as sequence-classification first",
    ),
    "a head of residues": (
        {"head": {"name": "position-classification", "label": "kind"}, "sampling": "balanced"},
        "training.sampling = \"balanced\" draws the classes of whole inputs equally often, and head 'head', "
        "'position-classification', has none: leave it out, or name a head such as sequence-classification first",
    ),
    "both": (
        {"head": {"class_weights": "balanced"}, "sampling": "balanced"},
        'training.sampling = "balanced" and class_weights = "balanced" of head \'head\' would both make up for rare classes: '
        "choose one of them",
    ),
    "another loss": (
        {"head": {"gamma": 3.0}},
        "heads.head 'sequence-classification': gamma is of the focal loss: say loss = \"focal\", or leave it out",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_done_is_refused_when_the_recipe_is_read(fault, table):
    changes, said = FAULTS[fault]
    with pytest.raises(RecipeError) as caught:
        exapt.train(asked(table.with_name("nowhere.csv"), **changes))
    assert str(caught.value) == said


def test_an_adapter_from_before_these_options_is_loaded_and_gone_on_from(table, tmp_path):
    learned = exapt.train(asked(table, epochs=2), tmp_path / "new")
    manifest = json.loads((tmp_path / "new" / "exapt.json").read_text())
    for key in ("loss", "gamma"):
        del manifest["recipe"]["heads"]["head"][key]
    for key in ("sampling", "cache"):
        del manifest["recipe"]["training"][key]
    (tmp_path / "new" / "exapt.json").write_text(json.dumps(manifest))
    heads = tmp_path / "new" / "heads.safetensors"
    save_file(load_file(heads), heads, metadata=questions(manifest))
    loaded = exapt.load(tmp_path / "new")
    assert loaded.predict(["KRKRKDE"]).to_pydict() == learned.predict(["KRKRKDE"]).to_pydict()
    still = {"epochs": 1, "head_learning_rate": 1e-12}
    further = exapt.train(asked(table, {"loss": "focal"}, **still) | {"start": str(tmp_path / "new")})
    for name, tensor in learned.model.heads.state_dict().items():
        torch.testing.assert_close(further.model.heads.state_dict()[name], tensor)


def several(path):
    """Write rows with any of two labels: one of half the rows, the other of every twelfth."""
    dice = random.Random(0)
    with path.open("w") as file:
        for row in range(480):
            labels = (["acid"] if row % EVERY == 0 else []) + (["long"] if row % 2 else [])
            letters = "DE" if "acid" in labels else "KR"
            size = dice.randrange(10, 14) if "long" in labels else dice.randrange(4, 8)
            sequence = "".join(dice.choice(letters + "AGLSTVNQDEKR") for _ in range(size))
            part = "test" if row // EVERY % 3 == 2 else "train"
            file.write(json.dumps({"id": f"s{row}", "sequence": sequence, "labels": labels, "split": part}) + "\n")
    return path


def test_a_rare_label_of_several_is_found_more_often(tmp_path):
    path = several(tmp_path / "labels.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test" and "acid" in row["labels"]]

    def found(**how):
        head = {"name": "sequence-multilabel", "label": "labels", **how}
        adapted = exapt.train(asked(path, head))
        told = adapted.predict([row["sequence"] for row in rows]).to_pydict()
        return np.mean(told["probability_acid"]), adapted

    plain, _ = found()
    weighted, adapted = found(class_weights="balanced")
    focused, _ = found(loss="focal")
    assert weighted > plain + 0.2
    assert focused > plain + 0.01
    # One row in twelve is acid, and every other one long.
    assert adapted.resolved.heads["head"].options.class_weights == (EVERY - 1, 1.0)


def test_the_focal_loss_of_several_labels_is_that_of_the_paper():
    from exapt.builtin._multilabel import Multilabel
    from exapt.builtin._trunk import Pool
    from exapt.builtin.multilabel import MultilabelOptions
    from exapt.parts import HeadContext

    options = MultilabelOptions(classes=("a", "b", "c"), loss="focal", gamma=1.5, class_weights=(3.0, 1.0, 1.0))
    head = Multilabel(options, Pool(options, HeadContext({"sequence": 2})))
    output, target = torch.tensor([[1.0, -2.0, 40.0]]), torch.tensor([[1.0, 0.0, -100.0]])
    p, q = torch.sigmoid(output[0, 0]), torch.sigmoid(-output[0, 1])
    expected = -3 * (1 - p) ** 1.5 * p.log() - (1 - q) ** 1.5 * q.log()
    assert float(head.loss(output, target)) == pytest.approx(float(expected))
    assert float(head.weigh(target)) == 4.0
    far = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    torch.autograd.backward(head.loss(far, torch.tensor([[0.0, 1.0, 1.0]])))
    assert far.grad.isfinite().all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "class_weights has 1 numbers for 2 classes"),
        ([0.0, 1.0], "say none, balanced, or a number above 0 for each class"),
    ],
)
def test_weights_of_several_labels_must_fit(tmp_path, weights, message):
    head = {"name": "sequence-multilabel", "label": "labels", "class_weights": weights}
    with pytest.raises(RecipeError, match=message):
        exapt.train(asked(several(tmp_path / "labels.jsonl"), head))
