"""What holds learning back does so: nearer to the start, less sure, smoother; and what it has nothing to do with is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import exapt
from exapt import RecipeError
from exapt.building import build_backbone
from exapt.builtin._regularised import LowRank, Mixup, _moved, low_rank
from exapt.builtin.regularised import MixupOptions
from exapt.model import backbone_state
from exapt.parts import Pooled
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from runs import QUERIES, charges, recipe, training


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("rows") / "rows.csv")


def without_strategy(given):
    return {key: value for key, value in given.items() if key != "strategy"}


def learned(table, *strategies, **changes):
    return exapt.train(without_strategy(recipe(table, strategies=list(strategies), **changes)))


def distance(adapted):
    """Return how far all parameters of a fully tuned backbone lie from the published ones."""
    before = dict(build_backbone(adapted.resolved.backbone).named_parameters())
    after = dict(adapted.model.backbone.named_parameters())
    return float(sum((after[name] - value).square().sum() for name, value in before.items()).sqrt().detach())


def sureness(adapted):
    """Return the mean probability that is given to the likelier class."""
    rows = adapted.predict(QUERIES).to_pylist()
    return float(np.mean([max(row["probability_acid"], row["probability_base"]) for row in rows]))


# Without a valid part it is the last epoch that is kept, when heads are as sure as they become.
SURE = {
    "split": {"fractions": [0.8, 0.0, 0.2]},
    "training": {"epochs": 30, "batch_size": 8, "head_learning_rate": 0.03, "patience": 0},
}


@pytest.fixture(scope="module")
def sure(table):
    return learned(table, "probe", **SURE)


@pytest.fixture(scope="module")
def plain(table):
    return learned(table, "full", **training(epochs=3))


def test_l2_sp_ends_nearer_to_the_pretrained_weights_and_says_how_near(table, plain):
    held = learned(table, "full", {"name": "l2-sp", "weight": 50.0, "new": 1.0}, **training(epochs=3))
    assert distance(held) < 0.5 * distance(plain)
    assert held.manifest["transfer"]["l2-sp"]["distance"] == pytest.approx(distance(held), rel=1e-4)
    weights = [float(one.model.head("head").trunk.layers[-1].weight.detach().norm()) for one in (held, plain)]
    assert weights[0] < weights[1]


def effects(adapted):
    """Return the effective updates of all layers, as PEFT itself makes them."""
    modules = [module for module in adapted.model.backbone.modules() if hasattr(module, "lora_A")]
    return [module.get_delta_weight("default").detach() for module in modules]


def test_beside_lora_it_is_the_update_that_is_held_back_and_three_go_together(table, tmp_path):
    several = [{"name": "lora", "rank": 4}, {"name": "l2-sp", "weight": 100.0}, {"name": "swa", "share": 0.5}]
    held = exapt.train(without_strategy(recipe(table, strategies=several, **training(epochs=4))), tmp_path / "held")
    loose = learned(table, several[0], several[2], **training(epochs=4))
    sizes = [float(torch.cat([one.flatten() for one in effects(adapted)]).norm()) for adapted in (held, loose)]
    assert sizes[0] < 0.5 * sizes[1]
    assert len(list(low_rank(held.model.backbone))) == len(effects(held)) > 0
    transfer = json.loads((tmp_path / "held" / "exapt.json").read_text())["transfer"]
    assert transfer["l2-sp"]["distance"] == pytest.approx(sizes[0], rel=1e-3)
    assert transfer["swa"]["averaged"] == 2
    assert exapt.load(tmp_path / "held").predict(QUERIES).to_pylist() == held.predict(QUERIES).to_pylist()


def test_smoothed_labels_make_answers_less_sure_and_leave_the_measured_loss_alone(table, sure):
    unsure = learned(table, "probe", {"name": "label-smoothing", "share": 0.4}, **SURE)
    # Of two classes no more than 1 - 0.4 / 2 is learned.
    assert sureness(unsure) < 0.85 < sureness(sure)
    head, outputs = unsure.model.head("head"), torch.tensor([[3.0, -1.0], [0.5, 0.2]])
    targets = torch.tensor([0, 1])
    measured = float(head.eval().loss(outputs, targets))
    assert measured == pytest.approx(float(nn.functional.cross_entropy(outputs, targets, reduction="sum")))
    smooth = nn.functional.one_hot(targets, 2) * 0.6 + 0.2
    assert float(head.train().loss(outputs, targets)) == pytest.approx(float(-(smooth * outputs.log_softmax(-1)).sum()))


def test_smoothed_labels_of_several_each():
    from exapt.builtin._multilabel import Multilabel
    from exapt.builtin._trunk import Pool
    from exapt.builtin.multilabel import MultilabelOptions
    from exapt.parts import HeadContext

    options = MultilabelOptions(classes=("a", "b"))
    head = Multilabel(options, Pool(options, HeadContext({"sequence": 2})))
    head.smoothing = 0.2
    output, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, -100.0]])
    spread = nn.functional.binary_cross_entropy_with_logits(output[:, :1], torch.tensor([[0.9]]))
    assert float(head.train().loss(output, target)) == pytest.approx(float(spread))


def test_mixup_blends_rows_and_labels_of_one_step_and_answers_become_less_sure(table, sure):
    mixed = learned(table, "probe", {"name": "mixup", "alpha": 2.0}, **SURE)
    assert sureness(mixed) < sureness(sure)
    told = mixed.manifest["transfer"]["mixup"]
    assert told["steps"] == 30 * 4
    # Beta(2, 2) has the mean 1/2 and the deviation sqrt(1/20).
    assert told["mean_share"] == pytest.approx(0.5, abs=0.07)
    assert told["deviation"] == pytest.approx(0.05**0.5, abs=0.05)


def test_a_blend_holds_the_share_of_each_row_and_the_rest_of_its_partner():
    torch.manual_seed(0)
    vectors, mixup = torch.randn(6, 3), Mixup(MixupOptions(alpha=1.0))
    blend = mixup.blend({"sequence": {"mean": Pooled("mean", vectors)}}, {}, ["mean"])
    wanted = blend.share * vectors + (1 - blend.share) * vectors[blend.partner]
    assert torch.equal(blend.features["sequence"]["mean"].pool("mean"), wanted)
    assert sorted(blend.partner.tolist()) == list(range(6))


def test_settings_under_names_of_their_own(table):
    strategies = ["probe", {"name": "early-stopping", "patience": 1, "metric": "loss"}]
    strategies += [{"name": "weight-decay", "decay": 0.5}, {"name": "head-dropout", "share": 0.3}]
    adapted = learned(table, *strategies, training={"epochs": 40, "batch_size": 8, "head_learning_rate": 0.5})
    settings = adapted.manifest["recipe"]["training"]
    assert (settings["patience"], settings["metric"], settings["weight_decay"]) == (1, "loss", 0.5)
    told = adapted.manifest["transfer"]["early-stopping"]
    assert told["epochs"] == adapted.manifest["best_epoch"] + 1 < told["of"] == 40
    assert [module.p for module in adapted.model.heads.modules() if isinstance(module, nn.Dropout)] == [0.3]


REFUSED = {
    "l2-sp beside probe": (
        {"strategies": ["probe", "l2-sp"]},
        "strategy 'l2-sp' is about what learns in the backbone, and of a 'probe' nothing does: put another beside it, such "
        "as 'full' or 'lora'",
    ),
    "l2-sp beside scratch": (
        {"strategies": ["scratch", "l2-sp"]},
        "strategy 'l2-sp' is about the pretrained weights, and 'scratch' has none: leave one of them out",
    ),
    "a start by chance": (
        {"strategies": ["prompt", "wise-ft"]},
        "strategy 'wise-ft' cannot stand beside 'prompt': its vectors start by chance, and not from anything that was "
        "pretrained",
    ),
    "smoothing of numbers": (
        {"strategies": ["label-smoothing"], "head": {"name": "sequence-regression", "label": "charge"}},
        "strategy 'label-smoothing' spreads targets over classes, and no head learns any: there is sequence-regression",
    ),
    "mixup of units": (
        {"strategies": ["mixup"], "head": {"name": "position-classification", "label": "kind"}},
        "strategy 'mixup' blends one vector of each input, and head 'head' (position-classification) answers for its units",
    ),
    "mixup under attention": (
        {"strategies": ["mixup"], "head": {"name": "sequence-classification", "label": "kind", "pooling": "attention"}},
        "strategy 'mixup' blends one vector of each input, and head 'head' reads all tokens: give it another pooling than "
        "attention",
    ),
    "mixup without labels": (
        {"strategies": ["mixup"], "head": "masked-lm"},
        "strategy 'mixup' needs a head that learns from labels; there is masked-lm",
    ),
    "two dropouts": (
        {"strategies": ["head-dropout"], "head": {"name": "sequence-classification", "label": "kind", "dropout": 0.2}},
        "strategy 'head-dropout': head 'head' has a dropout of its own, 0.2; leave one out",
    ),
    "no dropout": (
        {"strategies": ["head-dropout"], "head": "masked-lm"},
        "strategy 'head-dropout': head 'head' (masked-lm) has no dropout to set",
    ),
    "stopping without rows": (
        {"strategies": ["early-stopping"], "split": {"fractions": [0.8, 0.0, 0.2]}},
        "strategy 'early-stopping' chooses by the valid part, and split.fractions leaves none",
    ),
    "no valid rows to choose by": (
        {"strategies": ["wise-ft"], "split": {"fractions": [0.8, 0.0, 0.2]}},
        "strategy 'wise-ft' chooses its alpha by the valid part, and split.fractions leaves none: say alpha",
    ),
    "points beyond": (
        {"strategies": ["full", {"name": "wise-ft", "alphas": [0, 2]}]},
        "strategies.1 'wise-ft': 'alphas' is [0, 2]: each of them lies between 0 and 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_nothing_to_do_is_refused_when_the_recipe_is_read(case):
    changes, said = REFUSED[case]
    given = without_strategy(recipe("rows.csv", **changes))
    with pytest.raises(RecipeError) as error:
        resolve(read_recipe(given), current())
    assert str(error.value) == said


def test_a_companion_alone_stands_beside_full():
    given = without_strategy(recipe("rows.csv", strategies=["mixup"]))
    assert [chosen.offer.spec.name for chosen in resolve(read_recipe(given), current()).strategies] == ["full", "mixup"]


def test_names_of_low_rank_updates_are_those_of_parameters(table):
    adapted = learned(table, {"name": "lora", "variant": "dora", "rank": 2}, "l2-sp", **training(epochs=1))
    names = backbone_state(adapted.model.backbone).keys()
    assert {name for update in low_rank(adapted.model.backbone) for name in (update.a, update.b)} <= names
    assert adapted.manifest["transfer"]["l2-sp"]["distance"] > 0


def test_a_small_move_from_a_large_low_rank_start_is_measured():
    chance = torch.Generator().manual_seed(0)
    update = LowRank("a", "b", 0.7)
    start = {"a": torch.randn(8, 640, generator=chance) * 0.1, "b": torch.randn(640, 8, generator=chance) * 0.1}
    for step in (1e-3, 1e-5):
        now = {name: (value + step * torch.randn(value.shape, generator=chance)) for name, value in start.items()}
        far, near = (value["b"].double() @ value["a"].double() for value in (now, start))
        expected = float((0.7 * (far - near)).square().sum())
        assert float(_moved(update, now, start)) == pytest.approx(expected, rel=1e-2)
