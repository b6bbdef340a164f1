"""What keeps every promise passes: the kit's own backbone, and all that core offers."""

import pytest

from exapt import HeadSpec, StrategySpec, hookimpl
from exapt.parts import Strategy
from exapt.plugins import Plugins, current
from exapt.specs import BackboneSpec
from exapt.testing import CHECKS, LETTERS, TINY, check_backbone, check_head, check_strategy, check_tokenizer, inline

BUILT_IN = Plugins([])

LABELS = {
    "sequence-classification": ["b", "a", "c", "a", "b", "c"],
    "sequence-multilabel": ["a;b", "b", "c", "a;c", "[]", "a"],
    "sequence-regression": [0.5, 1.5, -2.0, 3.0, 4.0, 0.0],
    "prototypes": ["b", "a", "c", "a", "b", "c"],
    "nearest-neighbours": ["b", "a", "c", "a", "b", "c"],
    "nearest-neighbours-regression": [0.5, 1.5, -2.0, 3.0, 4.0, 0.0],
    "ridge": ["b", "a", "c", "a", "b", "c"],
    "ridge-regression": [0.5, 1.5, -2.0, 3.0, 4.0, 0.0],
    "contrastive": ["b", "a", "c", "a", "b", "c"],
    "position-classification": ["HHEC", "EHC", "CCCHE", "HE", "EEH", "CHE"],
    "position-regression": [[0.5, 1.0], [2.0, 1.0, -1.0], [0.0, 3.0], [1.0, 4.0, 2.0], [2.5, -1.0], [0.2, 1.2]],
    "interaction": ["yes", "no", "no", "yes", "yes", "no"],
    # Metrics are of pairs that lie far apart.
    "contact": ["1-26;8-20", "3-17;1-27", "5-40;9-33", "1-25", "2-31;4-20", "2-9;1-28"],
}
OPTIONS = {"interaction": {"inputs": ["a", "b"]}}
LENGTHS = {"contact": [30, 27, 41, 25, 33, 28]}


class Inline:
    """A plugin written inside a test."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_strategies():
        yield StrategySpec(name="mine", summary="Nothing learns.", build=lambda _options: Strategy())


def test_the_tiny_backbone_keeps_every_promise():
    check_tokenizer(LETTERS, inputs=TINY.probes)
    check_backbone(TINY, tokenizer=LETTERS)


@pytest.mark.parametrize(
    "offer", [offer for offer in BUILT_IN.offers(HeadSpec) if not offer.spec.towers], ids=lambda offer: offer.spec.name
)
def test_every_head_of_core_keeps_every_promise(offer):
    name = offer.spec.name
    check_head(offer.spec, OPTIONS.get(name), labels=LABELS.get(name), lengths=LENGTHS.get(name))


def test_the_labels_here_are_of_all_heads_of_core_that_learn_from_labels():
    assert LABELS.keys() == {offer.spec.name for offer in BUILT_IN.offers(HeadSpec) if offer.spec.labelled}


@pytest.mark.parametrize("options", [{"pooling": "attention"}, {"pooling": "cls", "hidden": 4}, {"dropout": 0.1}])
def test_a_head_of_core_keeps_every_promise_with_other_options(options):
    check_head(
        BUILT_IN.get(HeadSpec, "sequence-classification").spec, options, labels=LABELS["sequence-classification"]
    )


@pytest.mark.parametrize("offer", BUILT_IN.offers(StrategySpec), ids=lambda offer: offer.spec.name)
def test_every_strategy_of_core_keeps_every_promise(offer):
    check_strategy(offer.spec)


@pytest.mark.parametrize("variant", ["dora", "ia3"])
def test_relatives_of_lora_keep_every_promise(variant):
    check_strategy(BUILT_IN.get(StrategySpec, "lora").spec, {"variant": variant})


def test_inline_shows_built_ins_and_what_it_is_given_and_nothing_that_is_installed():
    with inline(Inline) as plugins:
        assert current() is plugins
        assert plugins.get(StrategySpec, "mine").info.distribution == "inline"
        assert plugins.offers(BackboneSpec) == []
    assert current() is not plugins


def test_every_check_says_what_it_promises_and_what_it_guards_against():
    for checks in CHECKS.values():
        for check in checks:
            assert check.promise.endswith(".")
            assert check.guards
