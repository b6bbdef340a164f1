"""Strategies beside each other: every pair is judged when the recipe is read, and a dozen compositions learn."""

from itertools import combinations

import numpy as np
import pytest

import exapt
from exapt import ExaptError, RecipeError
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from exapt.specs import StrategySpec
from transfer.modalities import BACKBONES, INPUTS, MODALITIES, recipe, table

SPECS = {offer.spec.name: offer.spec for offer in current().offers(StrategySpec) if offer.info.distribution == "exapt"}
AUGMENTATIONS = {"protein": "residue-substitution", "dna": "point-mutation", "cell": "gene-dropout"}
HEADS = {
    "heads": {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "size": {"name": "sequence-regression", "label": "size"},
    }
}


def composed(modality, names, near="near.csv", far="far.csv", teacher="teacher", **options):
    """Return a recipe that has all that the strategies need."""
    strategies = [{"name": name, **_options(name, teacher), **options.get(name, {})} for name in names]
    given = recipe(modality, near, strategies, target={"path": str(far), "input": INPUTS[modality]})
    if any("augmentations" in SPECS[name].needs for name in names):
        given["augmentation"] = AUGMENTATIONS[modality]
    if "uncertainty-weights" in names:
        del given["head"]
        given |= HEADS
    return given


def _options(name, teacher):
    return {"teacher": str(teacher)} if "teacher" in SPECS[name].options.model_fields else {}


def judge(given):
    """Return the strategies of a recipe that can be, or what is said of one that cannot."""
    try:
        return [chosen.offer.spec for chosen in resolve(given, current()).strategies], ""
    except RecipeError as error:
        return [], str(error)


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_pair_is_judged_before_any_weights_are_loaded(modality):
    judged = {True: set(), False: set()}
    for pair in combinations(sorted(SPECS), 2):
        # The files that the recipe names are not there: nothing but the recipe itself is read.
        strategies, said = judge(read_recipe(composed(modality, pair)))
        assert "\n" not in said
        assert any(f"'{name}'" in said for name in pair) or set(pair) <= {spec.name for spec in strategies}
        assert said or any(spec.selects for spec in strategies)
        judged[not said].add(frozenset(pair))
    alone = [name for name, spec in SPECS.items() if spec.alone]
    selecting = [name for name, spec in SPECS.items() if spec.selects]
    assert all(frozenset((one, other)) in judged[False] for one in alone for other in selecting if one != other)
    assert len(judged[True]) > len(judged[False])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("full", "lora"), "strategy 'full' says of the whole backbone what learns: it cannot stand beside 'lora'"),
        (
            ("probe", "l2-sp"),
            "strategy 'l2-sp' is about what learns in the backbone, and of a 'probe' nothing does: put another beside it, "
            "such as 'full' or 'lora'",
        ),
        (
            ("scratch", "l2-sp"),
            "strategy 'l2-sp' is about the pretrained weights, and 'scratch' has none: leave one of them out",
        ),
        (("lora", "lora"), "strategy 'lora' is named twice"),
    ],
)
def test_what_cannot_compose_says_so(names, said):
    with pytest.raises(RecipeError) as caught:
        resolve(read_recipe(composed("protein", names)), current())
    assert str(caught.value) == said


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if "target" in spec.needs))
def test_a_target_that_is_needed_is_asked_for(name):
    given = composed("protein", ["full", name])
    del given["target"]
    with pytest.raises(RecipeError) as caught:
        resolve(read_recipe(given), current())
    assert str(caught.value) == f"strategy '{name}' learns from rows of another domain: name their table as target.path"


def test_a_companion_alone_lets_all_learn():
    given = read_recipe(composed("protein", ["l2-sp"]))
    assert [chosen.offer.spec.name for chosen in resolve(given, current()).strategies] == ["full", "l2-sp"]


DOZEN = [
    ("lora", "adversarial", "l2-sp"),
    ("full", "gradual-unfreezing", "discriminative-rates"),
    ("partial", "coral", "label-smoothing"),
    ("bitfit", "mmd", "swa"),
    ("layernorm", "mixup", "early-stopping"),
    ("bottleneck", "gradual-unfreezing"),
    ("ia3", "distillation"),
    ("dora", "self-training"),
    ("full", "l2-sp", "wise-ft"),
    ("lora", "consistency", "head-dropout"),
    ("full", "discriminative-rates", "uncertainty-weights"),
    ("prompt", "label-smoothing", "weight-decay"),
    ("lora", "gradual-mixing", "swa"),
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    found = {}
    for modality in MODALITIES:
        near = table(modality, folder / f"{modality}.csv")
        exapt.train(recipe(modality, near, "full"), folder / modality)
        found[modality] = (near, table(modality, folder / f"{modality}-far.csv", shift=True), folder / modality)
    return found


@pytest.mark.parametrize(("place", "names"), list(enumerate(DOZEN)), ids=["+".join(names) for names in DOZEN])
def test_a_composition_learns_and_is_kept(place, names, tables, tmp_path):
    modality = MODALITIES[place % len(MODALITIES)]
    near, far, teacher = tables[modality]
    given = composed(modality, names, near, far, teacher)
    given["training"] = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3}
    adapted = exapt.train(given, tmp_path / "out")
    assert np.isfinite(adapted.metrics["valid"]["loss"])
    assert [strategy["name"] for strategy in adapted.manifest["recipe"]["strategies"]] == list(names)
    loaded = exapt.load(tmp_path / "out", backbone=BACKBONES[modality])
    assert loaded.metrics == adapted.metrics


def test_all_strategies_are_explained():
    """Each has a summary, its options a description, and its class names a source."""
    for name, spec in SPECS.items():
        assert spec.summary.endswith("."), name
        assert all(field.description for field in spec.options.model_fields.values()), name


def test_no_strategy_fails_with_anything_but_a_plain_line():
    for name in SPECS:
        with pytest.raises(ExaptError):
            exapt.train(composed("protein", [name], near="nowhere.csv"))
