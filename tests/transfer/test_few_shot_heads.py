"""Heads that few examples suffice for: what they answer is what their papers say, and they work wherever a backbone does."""

import csv

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

import exapt
from exapt.builtin._contrastive import contrastive_loss
from exapt.builtin._neighbours import spread_evenly
from exapt.builtin._ridge import solve
from exapt.episodic import Draw, play
from exapt.errors import DataError, PluginError, RecipeError
from exapt.fitting import fit_head, pooled_features
from exapt.parts import HeadContext, Pooled
from exapt.plugins import Plugins
from exapt.specs import HeadSpec
from runs import QUERIES, charges, listened, recipe, training
from transfer.modalities import BACKBONES, MODALITIES, table
from transfer.modalities import recipe as recipe_of

BUILT_IN = Plugins([])
CLASSES = ("prototypes", "nearest-neighbours", "ridge")
NUMBERS = ("nearest-neighbours-regression", "ridge-regression")


def built(name, labels, width=16, **options):
    """Build a head of core for some labels, over features of a width."""
    spec = BUILT_IN.get(HeadSpec, name).spec
    return spec.build(spec.infer(spec.options(**options), labels), HeadContext({"sequence": width})).eval()


def fitted(name, vectors, labels, **options):
    """Build a head and fit it to vectors."""
    head = built(name, labels, vectors.shape[1], **options)
    targets = torch.from_numpy(np.stack([head.encode(label, 1) for label in labels]))
    fit_head(head, {"sequence": Pooled("mean", vectors)}, targets)
    return head


def answers(head, vectors):
    with torch.no_grad():
        return head({"sequence": Pooled("mean", vectors)})


def surprise(head, vectors, labels):
    """Return the mean negative log-probability of the true classes."""
    targets = torch.tensor([int(head.encode(label, 1)) for label in labels])
    return float(torch.nn.functional.cross_entropy(answers(head, vectors), targets))


def clouds(rows, seed, apart=1.2, width=16, classes=4):
    """Return overlapping clouds of vectors [rows, width], and the class of each."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(classes, width)) * apart / 2
    numbers = np.arange(rows) % classes
    vectors = centres[numbers] + rng.normal(size=(rows, width))
    return torch.tensor(vectors, dtype=torch.float32), [f"c{number}" for number in numbers]


@pytest.mark.parametrize("name", CLASSES)
def test_five_shots_of_features_that_tell_beat_chance_and_random_features(name):
    few, many = clouds(20, 0, apart=2), clouds(400, 1, apart=2)
    noise = torch.Generator().manual_seed(0)
    knowing = fitted(name, *few)
    guessing = fitted(name, torch.randn(20, 16, generator=noise), few[1])
    right = (answers(knowing, many[0]).argmax(1) == torch.arange(400) % 4).float().mean()
    by_luck = (
        (answers(guessing, torch.randn(400, 16, generator=noise)).argmax(1) == torch.arange(400) % 4).float().mean()
    )
    assert right > 0.6
    assert by_luck < 0.35
    assert surprise(knowing, *many) < np.log(4)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", ["prototypes", "nearest-neighbours"])
def test_calibrated_distances_give_better_probabilities_than_plain_ones(name, distance):
    few, many = clouds(60, 0), clouds(600, 1)
    plain = fitted(name, *few, distance=distance, temperature=1.0)
    calibrated = fitted(name, *few, distance=distance)
    assert surprise(calibrated, *many) < surprise(plain, *many) - 0.03
    assert surprise(calibrated, *many) < np.log(4)


def test_the_temperature_of_ridge_is_calibrated_too():
    few, many = clouds(60, 0), clouds(600, 1)
    assert surprise(fitted("ridge", *few), *many) < surprise(fitted("ridge", *few, temperature=1.0), *many) - 0.03


def test_prototypes_are_the_means_of_their_classes():
    vectors, labels = clouds(12, 0, classes=3)
    head = fitted("prototypes", vectors, labels, standardise=False, temperature=1.0)
    means = torch.stack([vectors[at::3].mean(0) for at in range(3)])
    assert torch.allclose(head.trunk.means, means, atol=1e-6)
    expected = -torch.cdist(vectors, means).square()
    assert torch.allclose(answers(head, vectors), expected, atol=1e-4)


def test_one_shot_has_probabilities_too():
    head = fitted("prototypes", *clouds(4, 0))
    assert 0 < surprise(head, *clouds(400, 1)) < 2


def test_a_class_without_an_example_is_never_answered():
    vectors, labels = clouds(30, 0, classes=3)
    for name in CLASSES:
        head = built(name, [*labels, "c3"])
        targets = torch.tensor([int(head.encode(label, 1)) for label in labels])
        fit_head(head, {"sequence": Pooled("mean", vectors)}, targets)
        assert not (answers(head, clouds(200, 1)[0]).argmax(1) == 3).any()


def right(head, many):
    return float((answers(head, many[0]).argmax(1) == torch.arange(len(many[1])) % 4).float().mean())


@pytest.mark.parametrize("name", CLASSES)
def test_one_shot_of_features_that_tell_is_answered_well_and_with_some_confidence(name):
    head, many = fitted(name, *clouds(4, 0, apart=6)), clouds(400, 1, apart=6)
    assert right(head, many) > 0.9
    assert surprise(head, *many) < 0.85 * np.log(4)


@pytest.mark.parametrize("name", CLASSES)
def test_two_shots_are_not_answered_as_if_nothing_were_known(name):
    # Of wide features, the noise of a mean of one less outweighs what lies between the classes.
    many = clouds(400, 11, apart=1, width=256)
    heads = [fitted(name, *clouds(8, seed, apart=1, width=256)) for seed in range(3)]
    assert np.mean([right(head, many) for head in heads]) > 0.9
    assert np.mean([surprise(head, *many) for head in heads]) < 0.5 * np.log(4)


def test_neighbours_whose_classes_lie_in_one_another_are_still_told_apart():
    vectors = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    head = fitted("nearest-neighbours", vectors, [f"c{row % 4}" for row in range(12)])
    assert head.trunk.flat <= 0.9
    assert answers(head, clouds(20, 1)[0]).std(1).min() > 0


def test_in_training_an_example_does_not_answer_for_itself_and_another_input_has_all_neighbours():
    vectors, labels = torch.tensor([[0.0, 0.0], [10.0, 10.0]]), ["a", "b"]
    head = fitted("nearest-neighbours", vectors, labels, standardise=False, temperature=1.0)
    others = vectors + torch.tensor([[0.1, 0.0], [-0.1, 0.0]])
    asked = answers(head, others)
    head.train()
    assert torch.equal(answers(head, others), asked)
    assert answers(head, vectors).argmax(1).tolist() == [1, 0]
    # Of two rows that are the same, each has the other.
    twice = fitted("nearest-neighbours", vectors.repeat(2, 1), labels * 2, standardise=False, temperature=1.0).train()
    assert answers(twice, vectors).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e3])
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (2, 8), (3, 1), (5, 3), (8, 64)])
def test_ridge_on_rows_that_are_all_equal_is_the_mean(rows, width, value):
    targets = torch.arange(rows, dtype=torch.float64)[:, None]
    found = solve(torch.full((rows, width), value), targets)
    assert not found.weight.any()
    assert found.bias.tolist() == pytest.approx([float(targets.mean())])
    assert found.left_out.isfinite().all()


def test_episodes_of_answers_that_are_no_numbers_are_refused():
    vectors, _ = clouds(40, 0)
    vectors[0] = torch.nan
    head = built("prototypes", [str(way) for way in range(4)])
    with pytest.raises(DataError) as caught:
        play(head, {"sequence": vectors}, [np.arange(at, 40, 4) for at in range(4)], Draw(ways=4, shots=9))
    assert str(caught.value) == (
        "the loss of episode 1 is nan: the model's features of its rows, or the head's answers, are not finite; choose "
        "another head, or leave out the rows that the model cannot read"
    )


def test_a_contrast_is_the_mean_over_the_rows_that_have_a_partner():
    head = built("contrastive", ["a", "b", "c", "d"]).train()
    targets = torch.tensor([0, 0, 1, 2, int(head.pad), int(head.pad)])
    assert float(head.weigh(targets)) == 2
    assert float(head.weigh(torch.tensor([0, 1, 2, 3]))) == 0
    assert float(head.eval().weigh(targets)) == 4


def test_an_adapters_own_table_is_noted(tmp_path):
    path = charges(tmp_path / "t.csv")
    adapted = exapt.train(recipe(path, head={"name": "prototypes", "label": "kind"}), tmp_path / "adapter")
    with path.open() as file:
        learned = sum(row["split"] != "test" for row in csv.DictReader(file))
    asked = {"label": "kind", "ways": 2, "shots": 1, "queries": 2}
    own = f"{learned} rows may have been learned from, the table being the adapter's own: use --only split=test"
    assert own in exapt.episodes(path, adapter=tmp_path / "adapter", **asked).notes
    for_test = exapt.episodes(path, adapter=adapted, only={"split": "test"}, **asked)
    assert not any("learned from" in note for note in for_test.notes)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
@pytest.mark.parametrize("penalty", [0.3, 20.0])
def test_ridge_is_scikit_learns_ridge(rows, width, penalty):
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, size=(rows, width)), rng.normal(size=(rows, 2))
    found = solve(torch.tensor(x), torch.tensor(y), penalty)
    known = Ridge(alpha=penalty).fit(x, y)
    assert np.allclose(found.weight, known.coef_, atol=1e-5)
    assert np.allclose(found.bias, known.intercept_, atol=1e-5)
    left_out = cross_val_predict(Ridge(alpha=penalty), x, y, cv=LeaveOneOut())
    assert np.allclose(found.left_out, left_out, atol=1e-5)


def test_the_penalty_of_ridge_is_the_one_with_the_least_error_of_rows_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 12))
    y = x[:, :1] + 2 * rng.normal(size=(30, 1))
    chosen = solve(torch.tensor(x), torch.tensor(y))

    def error(penalty):
        return np.square(y.ravel() - cross_val_predict(Ridge(alpha=penalty), x, y, cv=LeaveOneOut()).ravel()).sum()

    assert error(chosen.penalty) <= min(error(chosen.penalty * 3), error(chosen.penalty / 3))


def test_ridge_regression_leaves_out_numbers_that_are_missing():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5))
    labels = [[row @ [1, 0, 2, 0, 0], row @ [0, 3, 0, 0, 1]] for row in vectors]
    known = [[one, None if number % 2 else other] for number, (one, other) in enumerate(labels)]
    for name in NUMBERS:
        head = fitted(name, torch.tensor(vectors, dtype=torch.float32), known)
        told = head.decode(list(answers(head, torch.tensor(vectors, dtype=torch.float32)).numpy()))
        assert np.corrcoef(told["prediction.target_2"][1::2], [label[1] for label in labels][1::2])[0, 1] > 0.5


def test_neighbours_keep_as_many_examples_as_they_may_of_each_class():
    labels = ["a"] * 90 + ["b"] * 10
    head = fitted("nearest-neighbours", clouds(100, 0)[0], labels, support=20)
    assert head.trunk.values.sum(0).tolist() == pytest.approx([10, 10], abs=2)
    kept = spread_evenly(torch.zeros(1000, dtype=torch.int64), 10)
    assert np.diff(kept).max() < 250


def test_a_head_that_fits_what_it_does_not_have_is_told():
    head = built("ridge", ["a", "b"])
    head.fit = lambda features, targets: {"trunk.bias": torch.zeros(3)}
    with pytest.raises(PluginError) as caught:
        fit_head(head, {}, torch.zeros(1))
    assert str(caught.value) == "FittedClassification fits 'trunk.bias' [3], and its buffer is [2]"


def test_the_contrastive_loss_is_the_papers():
    vectors = torch.nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    classes, total = torch.tensor([0, 1, 0, 0, 2]), 0.0
    for row in range(5):
        same = [other for other in range(5) if other != row and classes[other] == classes[row]]
        below = sum(np.exp(float(vectors[row] @ vectors[other]) / 0.5) for other in range(5) if other != row)
        each = [-np.log(np.exp(float(vectors[row] @ vectors[other]) / 0.5) / below) for other in same]
        total += np.mean(each) if same else 0.0
    assert float(contrastive_loss(vectors, classes, 0.5)) == pytest.approx(total, rel=1e-5)


def ratio(vectors, kinds):
    """Return the mean distance within classes over that between them."""
    far = torch.cdist(vectors, vectors)
    same = torch.tensor([[one == other for other in kinds] for one in kinds])
    return float(far[same & (far > 0)].mean() / far[~same].mean())


def test_contrast_pulls_the_features_of_a_class_together_and_answers_by_them(tmp_path):
    given = recipe(
        charges(tmp_path / "t.csv"),
        "full",
        head={"name": "contrastive", "label": "kind"},
        **training(epochs=4, batch_size=12, learning_rate=3e-3),
    )
    adapted, _ = listened(given, tmp_path / "adapter")
    with (tmp_path / "t.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "train"]
    values, kinds = [row["sequence"] for row in rows], [row["kind"] for row in rows]
    before = torch.tensor(exapt.embed(values, given["backbone"]))
    after = pooled_features(adapted.model, adapted.ask(adapted.examples(values, None)).rows, "mean", 1024)["sequence"]
    assert ratio(after, kinds) < 0.8 * ratio(before, kinds)
    assert adapted.metrics["test"]["accuracy"] > 0.8
    loaded = exapt.load(tmp_path / "adapter")
    assert loaded.predict(QUERIES).equals(adapted.predict(QUERIES))


def test_contrast_of_frozen_features_is_refused_unless_it_answers_by_its_projection(tmp_path):
    head = {"name": "contrastive", "label": "kind"}
    with pytest.raises(RecipeError) as caught:
        exapt.train(recipe(tmp_path / "none.csv", head=head))
    assert str(caught.value) == (
        "head 'contrastive' answers by features that learn, and of a 'probe' none does: choose another strategy, such as "
        "'lora', or space = \"projection\""
    )


def all_heads(label, number):
    heads = {name: {"name": name, "label": label} for name in CLASSES}
    heads |= {name: {"name": name, "label": number} for name in NUMBERS}
    return heads | {"contrastive": {"name": "contrastive", "label": label, "space": "projection", "projection": 8}}


@pytest.mark.parametrize(("modality", "strategy"), [*((one, "probe") for one in MODALITIES), ("cell", "partial")])
def test_all_of_them_work_on_every_backbone_and_answer_the_same_once_loaded(modality, strategy, tmp_path):
    path = table(modality, tmp_path / "t.csv")
    given = recipe_of(modality, path, strategy)
    del given["head"]
    adapted = exapt.train(given | {"heads": all_heads("kind", "size")}, tmp_path / "adapter")
    for name in (*CLASSES, "contrastive"):
        assert np.isfinite(adapted.metrics["test"][f"{name}.ece"])
    for name in NUMBERS:
        assert np.isfinite(adapted.metrics["test"][f"{name}.rmse"])
    kept = adapted.manifest["recipe"]["heads"]["nearest-neighbours"]
    assert kept["support"] == 24
    rows = exapt.open_table(path)
    queries = [value for batch in rows for value in batch.to_pylist()][:4]
    queries = [row["sequence"] if modality != "cell" else row["cell"] for row in queries]
    loaded = exapt.load(tmp_path / "adapter", backbone=BACKBONES[modality])
    assert loaded.predict(queries).to_pylist() == adapted.predict(queries).to_pylist()


def test_where_nothing_learns_no_epoch_is_trained(tmp_path):
    adapted, heard = listened(recipe(charges(tmp_path / "t.csv"), head={"name": "ridge", "label": "kind"}))
    assert "nothing learns by steps: the heads are fitted once, and no epoch is trained" in heard.of("note", "text")
    assert heard.facts("epoch") == heard.facts("step") == []
    assert heard.of("start", "trainable") == [0]
    assert adapted.manifest["best_epoch"] == 0
    assert adapted.metrics["test"]["accuracy"] > 0.8
