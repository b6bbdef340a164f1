"""A model's own answers as labels: only sure ones, as many of each class, and what they are good for."""

from pathlib import Path

import numpy as np
import pytest
import torch

import exapt
from exapt.building import bare_head, build_augmentations
from exapt.builtin._pseudo_labels import _Round, balanced, classes_of
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from runs import Heard
from transfer.modalities import recipe as small
from transfer.modalities import table
from transfer.shifted import brief, domain, recipe


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    return domain(folder / "near.csv", "near"), domain(folder / "far.csv", "far", seed=5)


def rounds(given):
    """Train, and return the adapted model with what was said of each round."""
    heard = Heard()
    adapted = exapt.train(given, listeners=[heard])
    return adapted, [text for text in heard.of("note", "text") if text.startswith("self-training")]


def test_labels_carry_over_to_the_target_domain(tables):
    plain = exapt.train(recipe(*tables))
    adapted, said = rounds(recipe(*tables, "full", {"name": "self-training", "threshold": 0.6, "begin": 2}))
    assert adapted.metrics["target"]["loss"] < plain.metrics["target"]["loss"]
    assert adapted.metrics["target"]["accuracy"] >= plain.metrics["target"]["accuracy"]
    assert [text.split(":")[0] for text in said] == [f"self-training, epoch {epoch}" for epoch in range(3, 7)]
    told = adapted.manifest["transfer"]["self-training"]
    assert told["rounds"] == 4
    assert told["head"]["of"] == 72
    # Of each class as many, however many were sure.
    assert len(set(told["head"]["labels"].values())) == 1
    assert said[-1] == (
        f"self-training, epoch 6: {sum(told['head']['labels'].values())} of 72 answers are labels now "
        f"(acid {told['head']['labels']['acid']}, base {told['head']['labels']['base']})"
    )


def test_an_answer_that_is_not_sure_is_no_label(tables):
    plain = exapt.train(recipe(*tables, **brief(1)))
    options = {"name": "self-training", "threshold": 0.9999, "begin": 0}
    adapted, said = rounds(recipe(*tables, "full", options, **brief(1)))
    assert said == ["self-training, epoch 1: 0 of 72 answers are labels now (acid 0, base 0)"]
    assert adapted.metrics["target"]["loss"] == pytest.approx(plain.metrics["target"]["loss"], abs=1e-5)


def test_only_sure_answers_are_taken_and_of_each_class_the_surest():
    label = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    sureness = np.array([0.99, 0.91, 0.95, 0.97, 0.92, 0.93, 0.5, 0.6])
    sure = sureness >= 0.9
    taken = balanced(label, sureness, sure)
    # The third class has no sure answer, and keeps none of the others from theirs.
    assert taken.tolist() == [True, False, False, True, True, True, False, False]
    assert not balanced(label, sureness, sureness > 1).any()


def test_one_class_alone_gives_no_labels(tables, tmp_path):
    """Where all sure answers are of one class, as many of each would be all of that one, until there is no other answer."""
    header, *lines = Path(tables[1]).read_text(encoding="utf-8").splitlines()
    acid = [line for line in lines if ",acid," in line]
    (tmp_path / "acid.csv").write_text("\n".join([header, *acid]) + "\n", encoding="utf-8")
    options = {"name": "self-training", "threshold": 0.7, "begin": 3}
    adapted, said = rounds(recipe(tables[0], str(tmp_path / "acid.csv"), "full", options, **brief(4)))
    (text,) = said
    assert text.startswith("self-training, epoch 4: 0 of 36 answers are labels now (acid 0, base 0): all ")
    assert text.endswith(" sure ones are 'acid', and one class alone cannot be balanced")
    assert adapted.manifest["transfer"]["self-training"]["head"]["labels"] == {"acid": 0, "base": 0}
    _, said = rounds(recipe(tables[0], str(tmp_path / "acid.csv"), "full", options | {"balance": False}, **brief(4)))
    assert said[0].split("are labels now ")[0] != "self-training, epoch 4: 0 of 36 answers "
    assert said[0].endswith(", base 0)")


def test_without_balance_all_sure_answers_are_taken(tables, tmp_path):
    header, *lines = Path(tables[1]).read_text(encoding="utf-8").splitlines()
    # A target domain with a third of the one class.
    few = [line for row, line in enumerate(lines) if row % 2 == 0 or row % 3 == 0]
    (tmp_path / "far.csv").write_text("\n".join([header, *few]) + "\n", encoding="utf-8")
    options = {"name": "self-training", "threshold": 0.51, "begin": 1, "every": 2}
    given = recipe(tables[0], str(tmp_path / "far.csv"), "full", **brief(4))
    fair, _ = rounds(given | {"strategies": ["full", options]})
    whole, said = rounds(given | {"strategies": ["full", options | {"balance": False}]})
    labels = [one.manifest["transfer"]["self-training"]["head"]["labels"] for one in (fair, whole)]
    assert labels[0]["acid"] == labels[0]["base"]
    assert sum(labels[1].values()) > sum(labels[0].values())
    # A round every second epoch, from the second on.
    assert [text.split(":")[0] for text in said] == ["self-training, epoch 2", "self-training, epoch 4"]


def test_it_works_on_kept_features(tables):
    options = {"name": "self-training", "threshold": 0.5, "begin": 0}
    adapted, said = rounds(recipe(*tables, "probe", options, **brief(3)))
    assert len(said) == 3
    assert adapted.model.frozen
    assert sum(adapted.manifest["transfer"]["self-training"]["head"]["labels"].values()) > 0


def test_training_that_ends_before_the_first_round_says_so(tables):
    adapted, said = rounds(recipe(*tables, "probe", {"name": "self-training", "begin": 3}, **brief(2)))
    assert said == ["self-training begins after 3 epochs, when training is over: no label will be made"]
    assert adapted.manifest["transfer"]["self-training"] == {"rounds": 0}


def test_units_have_labels_of_their_own(tmp_path):
    """Each residue of the target is labelled, or not; where an augmentation moves units, its label goes with it."""
    paths = []
    for name, seed in (("near", 0), ("far", 5)):
        path = domain(tmp_path / f"{name}.csv", name, rows=24, seed=seed)
        header, *lines = Path(path).read_text(encoding="utf-8").splitlines()
        lines = [f"{line},{''.join('HC'[letter in 'DEKR'] for letter in line.split(',')[1])}" for line in lines]
        Path(path).write_text("\n".join([f"{header},state", *lines]) + "\n", encoding="utf-8")
        paths.append(path)
    head = {"name": "position-classification", "label": "state"}
    strategies = ["full", {"name": "self-training", "threshold": 0.5, "begin": 0}]
    changes = {"head": head, "augmentations": ["residue-substitution"]}
    adapted, _ = rounds(recipe(*paths, *strategies, **changes, **brief(2)))
    told = adapted.manifest["transfer"]["self-training"]["head"]
    lines = Path(paths[1]).read_text(encoding="utf-8").splitlines()[1:]
    assert told["of"] == sum(len(line.split(",")[1]) for line in lines)
    assert told["labels"]["H"] == told["labels"]["C"] > 0


def test_bases_are_labelled_where_the_other_strand_is_read(tmp_path):
    near = table("dna", tmp_path / "near.csv", rows=24)
    far = table("dna", tmp_path / "far.csv", rows=24, seed=3, shift=True)
    strategies = ["full", {"name": "self-training", "threshold": 0.5, "begin": 0}, "consistency"]
    given = small("dna", near, strategies, target={"path": str(far)}, augmentations=["reverse-complement"])
    adapted, said = rounds(given)
    assert len(said) == 1
    assert adapted.metrics["target"]
    assert [one.trains for one in build_augmentations(adapted.resolved)] == [True]


@pytest.mark.parametrize(
    ("head", "classes"),
    [
        ({"name": "sequence-classification", "classes": ["a", "b"]}, ("a", "b")),
        ({"name": "sequence-multilabel", "classes": ["a", "b"]}, ()),
        ({"name": "sequence-regression", "mean": [0.0], "scale": [1.0], "targets": ["x"]}, ()),
        ({"name": "ridge", "classes": ["a", "b"]}, ()),
    ],
)
def test_labels_are_of_heads_that_choose_one_class(tables, head, classes):
    """Probabilities of labels each for itself do not add up to 1, also where there are two of them."""
    resolved = resolve(read_recipe(recipe(tables[0], "", "full", head=head)), current())
    assert tuple(classes_of(bare_head(resolved, "head"), ("input",))) == classes


def test_a_round_is_kept_in_checkpoints_as_it_is():
    one, other = _Round(), _Round()
    one.epoch, one.labels = 4, np.array([1, -100, 0])
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    assert (other.epoch, other.labels.tolist()) == (4, [1, -100, 0])
    assert all(isinstance(value, torch.Tensor) for value in one.state_dict().values())
