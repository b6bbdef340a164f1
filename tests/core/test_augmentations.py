"""Augmentations: changes in training, views in answering, and labels of units that go where their units go."""

import json

import numpy as np
import pytest

import exapt
from exapt import AugmentationSpec, Options, hookimpl
from exapt.measuring import averaged
from exapt.parts import NO_UNIT, Augmentation, Changed
from exapt.testing import LETTERS, TINY, inline


class Backwards(Augmentation):
    """Reads an input from its end; in training always."""

    def __init__(self, trains=True):
        self.trains = trains
        self.seen = []

    def change(self, value, rng):
        self.seen.append(rng.random())
        return self._turned(value) if self.trains else Changed(value)

    def views(self, value):
        return (self._turned(value),)

    def _turned(self, value):
        return Changed(value[::-1], np.arange(len(value))[::-1])


class Cut(Augmentation):
    """Loses the first letter, and gains an X at the end."""

    def change(self, value, rng):
        return Changed(value[1:] + "X", np.append(np.arange(1, len(value)), NO_UNIT))


LONG = {"epochs": 40, "learning_rate": 0.01, "head_learning_rate": 0.01}


class Quiet(Options):
    """No options."""


class Plugin:
    """The tiny model, and augmentations of its letters."""

    exapt_api = 1

    def __init__(self, *augmentations, modalities=()):
        self.augmentations = augmentations
        self.modalities = modalities

    @hookimpl
    def exapt_backbones(self):
        yield TINY

    @hookimpl
    def exapt_tokenizers(self):
        yield LETTERS

    @hookimpl
    def exapt_augmentations(self):
        for augmentation in self.augmentations:
            name = type(augmentation).__name__.lower()
            yield AugmentationSpec(
                name=name,
                summary="A change.",
                options=Quiet,
                build=lambda options, made=augmentation: made,
                modalities=self.modalities,
            )


@pytest.fixture
def table(tmp_path):
    """Ends with K: class k; begins with K: class m."""
    path = tmp_path / "table.csv"
    rng = np.random.default_rng(0)
    rows = ["id,sequence,label,units"]
    for number in range(60):
        inner = "".join(rng.choice(list("ACDEFG"), 6))
        text = f"{inner}K" if number % 2 else f"K{inner}"
        rows.append(f"r{number},{text},{'mk'[number % 2]},{''.join('1' if letter == 'K' else '0' for letter in text)}")
    path.write_text("\n".join(rows) + "\n")
    return path


def recipe(table, head="sequence-classification", label="label", **more):
    return {
        "data": {"path": str(table)},
        "backbone": TINY.name,
        "head": {"name": head, "label": label},
        "strategy": "probe",
        "training": {"epochs": 2},
        **more,
    }


def test_answers_are_averaged_over_the_views(table):
    """With both directions averaged, an input and its mirror image get one answer."""
    with inline(Plugin(Backwards(trains=False))):
        plain = exapt.train(recipe(table))
        both = exapt.train(recipe(table, augmentation="backwards"))
        inputs = ["KACDEF", "FEDCAK"]
        one, other = both.predict(inputs)["probability_k"].to_pylist()
        first, second = plain.predict(inputs)["probability_k"].to_pylist()
    assert one == pytest.approx(other, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-6)
    # Of logits, not of probabilities.
    logit = np.log([first / (1 - first), second / (1 - second)]).mean()
    assert one == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_an_answer_for_each_unit_comes_back_to_its_unit(table):
    with inline(Plugin(Backwards(trains=False))):
        both = exapt.train(recipe(table, "position-classification", "units", augmentation="backwards"))
        forth, back = both.predict(["KACDEF", "FEDCAK"])["probability_1"].to_pylist()
    np.testing.assert_allclose(forth, back[::-1], atol=1e-6)


def test_the_mean_over_views_counts_only_views_that_hold_the_unit():
    own, view = np.array([[1.0], [2.0], [3.0]]), np.array([[20.0], [30.0], [99.0]])
    found = averaged(own, [(view, np.array([1, 2, NO_UNIT]))])
    assert found[:, 0].tolist() == [1, 11, 16.5]
    assert averaged(np.array([1.0, 2.0]), [(np.array([3.0, 4.0]), None)]).tolist() == [2, 3]


def test_training_sees_changed_inputs(table):
    """All training inputs are turned round, so that the model learns to answer the other way."""
    longer = {"training": LONG, "strategy": "full", "split": {"fractions": [0.7, 0.3, 0]}}
    with inline(Plugin(Backwards())):
        augmented = exapt.train(recipe(table, "position-classification", "units", augmentation="backwards", **longer))
        accuracy = augmented.metrics["valid"]["accuracy"]
    assert accuracy == 1


def test_labels_go_with_their_units(table):
    """A K moves and its label with it; the letter that comes in has none, so that nothing false is learned."""
    longer = {"training": LONG, "strategy": "full", "split": {"fractions": [0.7, 0.15, 0.15]}}
    with inline(Plugin(Cut())):
        adapted = exapt.train(recipe(table, "position-classification", "units", augmentation="cut", **longer))
    assert adapted.metrics["test"]["accuracy"] == 1


def test_chance_is_of_the_run_the_epoch_and_the_row_alone(table):
    seen = []
    for batch_size in (4, 16):
        watched = Backwards()
        with inline(Plugin(watched)):
            exapt.train(recipe(table, augmentation="backwards", training={"epochs": 2, "batch_size": batch_size}))
        seen.append(sorted(watched.seen))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == len(seen[0]) == 2 * 48


def test_features_are_not_kept_of_inputs_that_change(table, monkeypatch, tmp_path):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    with inline(Plugin(Backwards(), Cut())):
        exapt.train(recipe(table, augmentation="cut"))
        assert not list((tmp_path / "cache").glob("features/*"))
        exapt.train(recipe(table))
        assert list((tmp_path / "cache").glob("features/*"))


def test_the_adapter_remembers_its_augmentations(table, tmp_path):
    with inline(Plugin(Backwards(trains=False))):
        saved = exapt.train(recipe(table, augmentations=["backwards"]), tmp_path / "adapter")
        loaded = exapt.load(tmp_path / "adapter")
        inputs = ["KACDEF", "FEDCAK"]
        assert loaded.predict(inputs).equals(saved.predict(inputs))
    manifest = json.loads((tmp_path / "adapter" / "exapt.json").read_text())
    assert manifest["recipe"]["augmentations"] == [{"name": "backwards"}]


def test_an_augmentation_of_another_modality(table):
    with inline(Plugin(Backwards(), modalities=("dna", "rna"))), pytest.raises(exapt.RecipeError) as caught:
        exapt.train(recipe(table, augmentation="backwards"))
    assert str(caught.value) == f"augmentation 'backwards' is for dna and rna; '{TINY.name}' reads {TINY.modality}"


def test_an_unknown_augmentation(table):
    with inline(Plugin(Backwards())), pytest.raises(exapt.ComponentError) as caught:
        exapt.train(recipe(table, augmentation="backward"))
    assert str(caught.value) == "unknown augmentation 'backward'. Did you mean 'backwards'? Installed: backwards."


class Uneven(Augmentation):
    """As many views as letters."""

    trains = False

    def views(self, value):
        return [Changed(value)] * value.count("K")


def test_each_input_has_as_many_views_as_the_others(table):
    with inline(Plugin(Uneven())):
        adapted = exapt.train(recipe(table, augmentation="uneven"))
        with pytest.raises(exapt.PluginError) as caught:
            adapted.predict(["KACDEF", "KKACDEF"])
    assert str(caught.value) == ("augmentation 'uneven' of inline gives 1 views of one input and 2 of another")


class Fractions(Backwards):
    """Counts units in fractions."""

    def _turned(self, value):
        return Changed(value[::-1], np.arange(len(value))[::-1].astype(float))


class Beyond(Backwards):
    """Lets units come from behind the end."""

    def _turned(self, value):
        return Changed(value[::-1], np.arange(len(value)) + 1)


class Fewer(Backwards):
    """Loses a letter, and says nothing."""

    def _turned(self, value):
        return Changed(value[1:])


class Half(Backwards):
    """Says of some units only where they come from."""

    def _turned(self, value):
        return Changed(value[::-1], np.arange(len(value) - 1))


class Bare(Backwards):
    """Gives the text alone."""

    def _turned(self, value):
        return value[::-1]


class Crashes(Backwards):
    """Looks for a letter that is not there."""

    def _turned(self, value):
        return Changed(value[: value.index("Z")])


FAULTS = [
    (
        Fractions,
        "breaks its contract on '{}': it says where units come from with an array of float64 in 1 dimensions, not with an "
        "array of whole numbers",
    ),
    (Beyond, "breaks its contract on '{}': it lets a unit come from 7, and the input had 7, from 0"),
    (Fewer, "breaks its contract on '{}': it makes 6 units of 7 and does not say where they come from"),
    (Half, "breaks its contract on '{}': it makes 7 units and says of 6 where they come from"),
    (Bare, "breaks its contract on '{}': it returns str, not Changed"),
    (Crashes, "fails on '{}': ValueError: substring not found"),
]


@pytest.mark.parametrize(("kind", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("trains", [True, False], ids=["training", "answering"])
def test_an_augmentation_that_breaks_its_contract_is_named(table, kind, message, trains):
    given = recipe(table, "position-classification", "units", augmentation=kind.__name__.lower())
    with inline(Plugin(kind(trains))), pytest.raises(exapt.PluginError) as caught:
        exapt.train(given | {"split": {"fractions": [0.8, 0.1, 0.1]}})
    who = str(caught.value).split("'")[3]
    assert who.startswith("r")
    assert str(caught.value) == f"augmentation '{kind.__name__.lower()}' of inline {message.format(who)}"


class FromBehind(Augmentation):
    """Takes units from where the augmentation before it has none."""

    def change(self, value, rng):
        return Changed(value, np.arange(len(value)) + 3)


def test_an_augmentation_after_another_is_the_one_that_is_named(table):
    with inline(Plugin(Cut(), FromBehind())), pytest.raises(exapt.PluginError) as caught:
        exapt.train(recipe(table, augmentations=["cut", "frombehind"]))
    assert str(caught.value).startswith("augmentation 'frombehind' of inline breaks its contract on 'r")
    assert str(caught.value).endswith("': it lets a unit come from 7, and the input had 7, from 0")


class Strange(Augmentation):
    """Turns an input round, and half of the time puts in what no tokenizer reads."""

    def change(self, value, rng):
        strange = "*" if rng.random() < 0.5 else value[-1]
        return Changed(strange + value[-2::-1], np.arange(len(value))[::-1])


def test_a_change_that_cannot_be_read_leaves_the_input_as_it_was(table):
    """Its labels stay with it: half of the training inputs are turned round, the other half stands, and all are right."""
    longer = {"training": LONG, "strategy": "full", "split": {"fractions": [0.7, 0.15, 0.15]}}
    with inline(Plugin(Strange())):
        adapted = exapt.train(recipe(table, "position-classification", "units", augmentation="strange", **longer))
    assert adapted.metrics["test"]["accuracy"] == 1
