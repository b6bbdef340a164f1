"""Gradual unfreezing and discriminative rates: what learns when, how far it moves, and plans that cannot be kept."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import exapt
from exapt import BackboneSpec, HeadSpec, RecipeError, StrategySpec, hookimpl
from exapt.building import build_backbone, build_strategies
from exapt.installed import chosen, installed
from exapt.model import backbone_state
from exapt.parts import Backbone, Strategy
from exapt.plugins import Plugins, current, using
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from exapt.testing import LETTERS, check_strategy, inline
from exapt.testing.tiny import TinyBackbone, seeded
from transfer.modalities import MODALITIES, recipe, table

UNFREEZING = {"name": "gradual-unfreezing"}
EVERYWHERE = {
    "protein": ("esm.embeddings.", "esm.encoder.layer.0.", "esm.encoder.layer.1."),
    "dna": ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."),
    "cell": ("scgpt.encoder.", "scgpt.transformer_encoder.layers.0.", "scgpt.transformer_encoder.layers.1."),
}
"""How the names begin of what stands before the blocks, of the lower block and of the upper one."""


class Watching(Strategy):
    """Keeps what the backbone is after each epoch."""

    states: list

    def begin(self, run):
        type(self).states = [self.now(run)]

    def epoch_ends(self, run, epoch):
        self.states.append(self.now(run))

    @staticmethod
    def now(run):
        return {name: value.detach().clone() for name, value in backbone_state(run.model.backbone).items()}


class Whole(Backbone):
    """A model without blocks."""

    width = 8

    def __init__(self):
        super().__init__()
        self.letters = torch.nn.Embedding(len(LETTERS.build(None).vocabulary), self.width)

    def forward(self, batch):
        return batch.features(self.letters(batch["input_ids"]))


class Others:
    exapt_api = 1

    @hookimpl
    def exapt_strategies(self):
        yield StrategySpec(name="watching", summary="Watches.", selects=False, build=lambda _: Watching())

    @hookimpl
    def exapt_heads(self):
        ridge = current().get(HeadSpec, "ridge").spec
        # As an author writes it who has not heard of ``learns``.
        yield replace(ridge, name="quiet", learns=True)

    @hookimpl
    def exapt_tokenizers(self):
        yield LETTERS

    @hookimpl
    def exapt_backbones(self):
        for kind in (TinyBackbone, Whole):
            yield BackboneSpec(
                name=kind.__name__.lower(),
                summary="A tiny model.",
                build=lambda _, weights, kind=kind: seeded(kind, weights),
                tokenizer="tiny-letters",
                modality="protein",
                probes=("ACDE",),
            )


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {modality: table(modality, folder / f"{modality}.csv", rows=24) for modality in MODALITIES}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))


def beside():
    """Let the plugins of this file stand beside those that are installed."""
    return using(Plugins(chosen(installed()), [Others()]))


def asked(tables, *strategies, modality="protein", **training):
    training = {"batch_size": 8, "learning_rate": 1e-3, "patience": 0, "warmup": 0, "schedule": "constant"} | training
    return recipe(modality, tables[modality], list(strategies)) | {"training": training}


def moved(given):
    """Train; return how far each place of the backbone moved in each epoch: the mean over its parameters."""
    places = EVERYWHERE[next(name for name in MODALITIES if name in str(given["data"]["path"]))]
    with beside():
        adapted = exapt.train(given | {"strategies": [*given["strategies"], "watching"]})
    states = Watching.states
    steps = [
        [
            torch.cat([(after[name] - before[name]).flatten().abs() for name in after if name.startswith(place)]).mean()
            for place in places
        ]
        for before, after in pairwise(states)
    ]
    return torch.tensor(steps), adapted


def arranged(given, layer=-1):
    """Return, by name, how each parameter learns, without training."""
    with beside():
        found = resolve(read_recipe(given), current())
        backbone, strategies = build_backbone(found.backbone), build_strategies(found).values()
    backbone.layer = layer
    for strategy in strategies:
        strategy.prepare(backbone)
    learns = [one for strategy in strategies for one in strategy.learns(backbone)]
    for strategy in strategies:
        learns = list(strategy.arrange(backbone, learns))
    assert sum(len(one.names) for one in learns) == len({name for one in learns for name in one.names})
    return {name: one for one in learns for name in one.names}


def of(learns, what, *parts):
    return {getattr(one, what) for name, one in learns.items() if all(part in name for part in parts)}


@pytest.mark.parametrize("modality", MODALITIES)
def test_heads_learn_first_then_the_top_and_then_all(modality, tables, tmp_path):
    steps, adapted = moved(asked(tables, "full", UNFREEZING, modality=modality, epochs=3))
    assert [[bool(step > 0) for step in epoch] for epoch in steps] == [
        [False, False, False],
        [False, False, True],
        [True, True, True],
    ]
    # What any stage may change is kept, whichever epoch was the best.
    assert adapted.model.changed >= {name for name in Watching.states[0] if name.startswith(EVERYWHERE[modality])}


@pytest.mark.parametrize("modality", MODALITIES)
def test_lower_blocks_move_less_where_rates_fall(modality, tables):
    ((_, even_lower, even_upper),), _ = moved(asked(tables, "full", modality=modality, epochs=1))
    rates = {"name": "discriminative-rates", "decay": 0.1}
    ((_, lower, upper),), _ = moved(asked(tables, "full", rates, modality=modality, epochs=1))
    # AdamW's steps are as long as the rate, almost.
    assert 0.05 < (lower / upper) / (even_lower / even_upper) < 0.2


def test_stages_have_their_own_epochs_and_rates(tables):
    stages = [{"blocks": 1, "epochs": 2, "rate": 0.01}, {"blocks": 1, "rate": 1.0}]
    steps, adapted = moved(asked(tables, "full", UNFREEZING | {"stages": stages}))
    # The stages tell how long to train, and what none of them reaches stays as it was.
    assert steps.shape == (3, 3)
    assert (steps[:, :2] == 0).all()
    assert (steps[2, 2] > 20 * steps[:2, 2]).all()
    assert {
        name.startswith(EVERYWHERE["protein"][2]) or "layer_norm_after" in name for name in adapted.model.changed
    } == {True}


def test_it_times_whatever_other_strategies_let_learn(tables):
    plain = {"stages": [{"blocks": 0, "epochs": 2}, {"blocks": 1, "epochs": 3}, {"blocks": "all"}]}
    full = arranged(asked(tables, "full", UNFREEZING | plain))
    assert of(full, "since", "embeddings") == of(full, "since", "layer.0.") == {5}
    assert of(full, "since", "layer.1.") == of(full, "since", "emb_layer_norm_after") == {2}
    # PEFT's layers stand inside blocks, bottlenecks hang onto them from outside.
    lora = arranged(asked(tables, {"name": "lora", "rank": 2}, UNFREEZING | plain))
    assert (of(lora, "since", "layer.0.", "lora_"), of(lora, "since", "layer.1.", "lora_")) == ({5}, {2})
    small = arranged(asked(tables, {"name": "bottleneck", "reduction": 8}, UNFREEZING | plain))
    assert (of(small, "since", "bottlenecks.0"), of(small, "since", "bottlenecks.1")) == ({5}, {2})
    assert of(arranged(asked(tables, "partial", UNFREEZING | plain)), "since") == {2}


def test_without_stages_a_third_of_the_blocks_follows_the_other(tables):
    def since(**options):
        learns = arranged(asked(tables, "full", UNFREEZING | options))
        return [of(learns, "since", part) for part in EVERYWHERE["protein"]]

    assert since() == [{2}, {2}, {1}]
    assert since(every=3, head_epochs=2) == [{5}, {5}, {2}]
    assert since(head_epochs=0, blocks=2) == [{0}, {0}, {0}]
    # Heads that read a middle layer know of no block above it.
    below = arranged(asked(tables, "full", UNFREEZING), layer=1)
    assert of(below, "since", "layer.0.") == of(below, "since", "embeddings") == {1}


def test_rates_are_those_of_groups_or_fall_from_block_to_block(tables):
    def rates(*strategies, **options):
        learns = arranged(asked(tables, *strategies, {"name": "discriminative-rates"} | options))
        return {part: of(learns, "rate", part) for part in (*EVERYWHERE["protein"], "emb_layer_norm_after")}

    embedded, lower, upper = EVERYWHERE["protein"]
    halved = rates("full", decay=0.5)
    assert halved == {embedded: {0.25}, lower: {0.5}, upper: {1.0}, "emb_layer_norm_after": {1.0}}
    grouped = rates("full", groups=[{"blocks": 0, "rate": 0.1}])
    assert grouped == {embedded: {0.1}, lower: {0.1}, upper: {1.0}, "emb_layer_norm_after": {1.0}}
    assert set().union(*rates("full", groups=[{"blocks": "0-1", "rate": 0.3}]).values()) == {0.3}
    # Both schedules go together.
    both = arranged(asked(tables, "full", UNFREEZING, {"name": "discriminative-rates", "decay": 0.5}))
    assert of(both, "since", lower) == {2}
    assert of(both, "rate", lower) == {0.5}


RATES = {"name": "discriminative-rates"}
FAULTS = {
    "beside a probe": (
        ["probe", UNFREEZING],
        "strategy 'gradual-unfreezing' is about what learns in the backbone, and of a 'probe' nothing does: put another "
        "beside it, such as 'full' or 'lora'",
    ),
    "from scratch": (
        ["scratch", UNFREEZING],
        "strategy 'gradual-unfreezing' is about the pretrained weights, and 'scratch' has none: leave one of them out",
    ),
    "stages longer than training": (
        ["full", UNFREEZING | {"stages": [{"blocks": 0, "epochs": 3}, {"blocks": "all", "epochs": 2}]}],
        "strategy 'gradual-unfreezing' has stages of 5 epochs, and training.epochs is 2: make that 5 or more",
    ),
    "heads as long as training": (
        ["full", UNFREEZING | {"head_epochs": 2}],
        "strategy 'gradual-unfreezing' has 2 epochs of the heads and more, and training.epochs is 2: make that 3 or more",
    ),
    "a plan longer than training": (
        ["full", UNFREEZING],
        "strategy 'gradual-unfreezing': what learns last begins with epoch 3, and training.epochs is 2: train for longer, or "
        "let it begin earlier",
    ),
    "more blocks than there are": (
        ["full", UNFREEZING | {"stages": [{"blocks": 1}, {"blocks": 7}]}],
        "strategy 'gradual-unfreezing': stage 2 lets 7 blocks learn, and what the heads read depends on 2",
    ),
    "stages that go back": (
        ["full", UNFREEZING | {"stages": [{"blocks": "all"}, {"blocks": 1}]}],
        "strategies.1 'gradual-unfreezing': stage 2 has 1 blocks and the one before all: what has begun to learn goes on",
    ),
    "heads alone": (
        ["full", UNFREEZING | {"stages": [{"blocks": 0}]}],
        "strategies.1 'gradual-unfreezing': no stage lets any block learn: that is strategy 'probe'",
    ),
    "two plans": (
        ["full", UNFREEZING | {"stages": [{"blocks": 1}], "every": 2}],
        "strategies.1 'gradual-unfreezing': stages are the whole plan: leave out every",
    ),
    "a reach that nothing is in": (
        [
            {"name": "lora", "targets": ["encoder.layer.0.attention.self.query"]},
            UNFREEZING | {"stages": [{"blocks": 1}]},
        ],
        "strategy 'gradual-unfreezing': none of its stages reaches what the other strategies let learn",
    ),
    "no blocks to name": (
        ["full", RATES | {"groups": [{"blocks": "top", "rate": 1.0}]}],
        "strategies.1 'discriminative-rates': 'groups.0' is {'blocks': 'top', 'rate': 1.0}: blocks 'top' names no blocks: "
        "write one number, or two such as 0-3",
    ),
    "a block beyond the last": (
        ["full", RATES | {"groups": [{"blocks": "1-5", "rate": 0.1}]}],
        "strategy 'discriminative-rates': groups name block 5; this backbone has blocks 0 to 1",
    ),
    "a block twice": (
        ["full", RATES | {"groups": [{"blocks": "0-1", "rate": 0.1}, {"blocks": 1, "rate": 1.0}]}],
        "strategies.1 'discriminative-rates': two groups name block 1",
    ),
    "decay and groups": (
        ["full", RATES | {"decay": 0.5, "groups": [{"blocks": 1, "rate": 0.1}]}],
        "strategies.1 'discriminative-rates': groups say all rates: leave out decay",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_done_is_refused_in_one_line(fault, tables):
    strategies, said = FAULTS[fault]
    heard = []
    with pytest.raises(RecipeError) as caught:
        exapt.train(asked(tables, *strategies, epochs=2), listeners=[lambda run, event: heard.append(event.name)])
    assert str(caught.value) == said
    assert "step" not in heard


@pytest.mark.parametrize("strategy", ["gradual-unfreezing", "discriminative-rates"])
def test_the_kits_promises_are_kept(strategy):
    check_strategy(current().get(StrategySpec, strategy).spec)


@pytest.mark.parametrize("strategy", ["gradual-unfreezing", "discriminative-rates"])
def test_a_model_without_blocks_is_refused(strategy, tables):
    with inline(Others()), pytest.raises(RecipeError) as caught:
        exapt.train(asked(tables, "full", strategy, epochs=3) | {"backbone": "whole"})
    assert str(caught.value) == f"strategy '{strategy}' goes block by block, and this backbone has no blocks"
    with inline(Others()), pytest.raises(RecipeError) as caught:
        exapt.train(asked(tables, "full", strategy, epochs=3) | {"backbone": "tinybackbone", "layer": 0})
    assert (
        str(caught.value)
        == f"strategy '{strategy}' goes block by block, and what the heads read lies before all of them"
    )


FITTED = ["prototypes", "ridge", "nearest-neighbours"]
ALONE = "are fitted, not trained, so that nothing would learn in the epochs of the heads alone: "


@pytest.mark.parametrize("head", FITTED)
def test_epochs_of_fitted_heads_alone_are_refused(head, tables):
    fitted = {"head": {"name": head, "label": "kind"}}
    for options, instead in (
        ({}, "set head_epochs = 0"),
        ({"stages": [{"blocks": 0}, {"blocks": 1}]}, "leave out the stage with blocks = 0"),
    ):
        with pytest.raises(RecipeError) as caught:
            resolve(read_recipe(asked(tables, "full", UNFREEZING | options, epochs=3) | fitted), current())
        assert str(caught.value) == f"strategy 'gradual-unfreezing': the heads ({head}) {ALONE}{instead}"
    steps, _ = moved(asked(tables, "full", UNFREEZING | {"head_epochs": 0}, epochs=2) | fitted)
    assert [bool(step > 0) for step in steps[0]] == [False, False, True]
    assert (steps[1] > 0).all()


def test_heads_that_learn_beside_what_is_fitted_may_go_first(tables):
    both = {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "near": {"name": "prototypes", "label": "kind"},
    }
    for heads in ({"head": {"name": "contrastive", "label": "kind"}}, {"heads": both}):
        given = asked(tables, "full", UNFREEZING, epochs=3) | heads
        if "heads" in heads:
            del given["head"]
        steps, _ = moved(given)
        assert (steps[0] == 0).all()
        assert (steps[2] > 0).all()


def test_patience_waits_until_all_has_begun_to_learn(tables):
    def epochs(*strategies, **training):
        heard = []
        # Heads that hardly move: no epoch of theirs is better than the first.
        training = {"head_learning_rate": 1e-12, "metric": "accuracy"} | training
        exapt.train(asked(tables, *strategies, **training), listeners=[lambda run, event: heard.append(event.name)])
        return heard.count("epoch")

    late = UNFREEZING | {"stages": [{"blocks": 0, "epochs": 4}, {"blocks": 1, "epochs": 4, "rate": 1e-9}]}
    assert epochs("probe", epochs=8, patience=2) == 3
    assert epochs("full", late, patience=2) == 6
    assert epochs("full", late, {"name": "early-stopping", "patience": 3}, patience=3) == 7


def test_what_is_no_number_of_blocks_is_told_so(tables):
    for given in (True, 1.5, "top"):
        with pytest.raises(RecipeError) as caught:
            resolve(read_recipe(asked(tables, "full", UNFREEZING | {"stages": [{"blocks": given}]})), current())
        assert str(caught.value) == (
            f"strategies.1 'gradual-unfreezing': 'stages.0.blocks' is {given!r}: write how many of the top blocks learn, or "
            '"all"'
        )


def test_a_head_that_does_not_say_that_it_is_fitted_whole_is_found_out_before_the_first_step(tables):
    with beside(), pytest.raises(RecipeError) as caught:
        exapt.train(asked(tables, "full", UNFREEZING, epochs=3) | {"head": {"name": "quiet", "label": "kind"}})
    assert str(caught.value) == (
        "nothing learns by steps before epoch 2, since the heads are fitted: let a part of the backbone learn from the first "
        "epoch on"
    )
    with pytest.raises(ValueError, match="head 'quiet' neither learns nor is fitted"):
        replace(current().get(HeadSpec, "sequence-classification").spec, name="quiet", learns=False)
