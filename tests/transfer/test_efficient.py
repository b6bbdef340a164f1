"""Efficient tuning: few parameters learn, exactly those that are named, from exactly what the pretrained model knew."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import exapt
from dna.kmer_models import NT1, NT2
from dna.long_models import DNABERT2, HYENA, Copy
from esm.mpnn import TINY as MPNN
from esm.structure_files import ZINC
from exapt import BackboneSpec, RecipeError, hookimpl
from exapt.building import build_backbone
from exapt.data.batching import collate
from exapt.model import backbone_state
from exapt.parts import Backbone
from exapt.plugins import current
from exapt.recipe import Component
from exapt.resolve import resolve_backbone
from exapt.specs import StrategySpec, TokenizerSpec
from exapt.testing import LETTERS, check_strategy, inline
from exapt.testing.tiny import TinyBackbone, seeded
from runs import QUERIES
from transfer.modalities import BACKBONES, MODALITIES, recipe, table

STRATEGIES = {
    "bottleneck": {"name": "bottleneck", "reduction": 8, "dropout": 0.1},
    "beside": {"name": "bottleneck", "placement": "beside", "width": 3, "activation": "relu", "scale": 2.0},
    "bitfit": "bitfit",
    "layernorm": "layernorm",
    "prompt": {"name": "prompt", "length": 4},
    "prefix": {"name": "prefix", "length": 3},
}
UPDATES = {"dora": {"name": "dora", "rank": 2}, "ia3": "ia3"}
FAST = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-2, "patience": 0}
CASES = [
    *[("protein", name) for name in (*STRATEGIES, *UPDATES)],
    *[("dna", name) for name in ("bottleneck", "bitfit", "prefix")],
    *[("cell", name) for name in ("beside", "layernorm", "prompt")],
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {modality: table(modality, folder / f"{modality}.csv") for modality in MODALITIES}


@pytest.fixture(scope="module")
def learned(tables, tmp_path_factory):
    """Return, by modality and strategy, the adapted model and its folder."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(folder / "cache"))
        yield (
            {
                case: (
                    exapt.train(
                        recipe(case[0], tables[case[0]], _given(case[1]), training=FAST), folder / "-".join(case)
                    )
                )
                for case in CASES
            },
            folder,
        )


def _given(name):
    return {**STRATEGIES, **UPDATES}[name]


def inputs_of(modality, tables):
    """Return some inputs of a modality's table."""
    if modality == "cell":
        return [json.loads(line)["cell"] for line in tables["cell"].read_text().splitlines()[:3]]
    return {"protein": QUERIES, "dna": ["ACGTACGTTAGCCGAT", "GGCGCGATATTATACC"]}[modality]


def published(modality):
    chosen, _, _ = resolve_backbone(current(), Component(name=BACKBONES[modality]))
    return build_backbone(chosen)


def expected_count(name, backbone):
    """Count by hand what is to learn."""
    blocks, width = len(backbone.blocks()), backbone.width
    inside = backbone.module
    narrow = {"bottleneck": max(1, round(width / 8)), "beside": 3}.get(name)
    if narrow:
        return blocks * (2 * width * narrow + narrow + width)
    if name == "bitfit":
        kinds = (nn.Linear, nn.LayerNorm)
        return sum(m.bias.numel() for m in inside.modules() if isinstance(m, kinds) and m.bias is not None)
    if name == "layernorm":
        return sum(p.numel() for m in inside.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters())
    return {"prompt": 4, "prefix": 3 * blocks}[name] * width


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_moved_is_what_learns_and_it_is_little(learned, case):
    adapted, (modality, name) = learned[0][case], case
    before, after = published(modality), backbone_state(adapted.model.backbone)
    start = backbone_state(before)
    names = {full for full, value in adapted.model.backbone.named_parameters() if value.requires_grad}
    plain = {full.replace(".base_layer.", "."): value.detach() for full, value in after.items()}
    moved = {full for full, value in plain.items() if full in start and not torch.equal(value, start[full].detach())}
    assert moved == names & start.keys()
    added = {full for full in plain if full not in start}
    assert added == names - start.keys()
    count = sum(value.numel() for value in adapted.model.backbone.parameters() if value.requires_grad)
    if name in STRATEGIES:
        assert count == expected_count(name, before)
    assert 0 < count < 0.15 * sum(value.numel() for value in before.module.parameters())


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_is_saved_loaded_and_answers_the_same(learned, tables, case):
    adapted, folder = learned[0][case], learned[1] / "-".join(case)
    values = inputs_of(case[0], tables)
    assert exapt.load(folder).predict(values).equals(adapted.predict(values))
    if case[1] in STRATEGIES:
        names = {full for full, value in adapted.model.backbone.named_parameters() if value.requires_grad}
        assert load_file(folder / "backbone.safetensors").keys() == names


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_was_learned_shows_in_the_features(learned, case):
    adapted = learned[0][case]
    batch = collate([adapted.tokenizer.encode(value) for value in adapted.manifest["probe"]["inputs"]])
    with torch.no_grad():
        before, after = published(case[0])(batch), adapted.model.backbone(batch)
    assert before.hidden.shape == after.hidden.shape
    assert torch.equal(before.mask, after.mask)
    assert (before.pool("mean") - after.pool("mean")).abs().max() > 1e-3


def test_vectors_of_a_prompt_are_what_answers_depend_on(learned):
    adapted, folder = learned[0]["protein", "prompt"], learned[1] / "protein-prompt"
    answers = adapted.predict(QUERIES)
    saved = load_file(folder / "backbone.safetensors")["prompt"]
    assert saved.shape == (1, 4, 32)
    assert torch.equal(saved, adapted.model.backbone.prompt)
    with torch.no_grad():
        adapted.model.backbone.prompt.zero_()
    try:
        assert not adapted.predict(QUERIES).equals(answers)
    finally:
        adapted.model.backbone.prompt.data.copy_(saved)


@pytest.mark.parametrize("name", ["prompt", "prefix", "bottleneck"])
def test_letters_are_explained_where_something_stands_before_or_behind_them(learned, name):
    adapted = learned[0]["protein", name]
    explained = adapted.explain(["MKTAYIAKQR"], method="gradient")
    assert explained["letter"].to_pylist() == list("MKTAYIAKQR")
    assert np.abs(explained["attribution"].to_numpy()).min() > 0


@pytest.mark.parametrize("name", ["bottleneck", "prompt"])
def test_states_of_single_places_are_those_of_the_whole(learned, name):
    adapted = learned[0]["protein", name]
    batch = collate(
        [adapted.tokenizer.encode(value) for value in ("MKTAYIAKQRQISFVKSHFSRQLEERLG", "MKTAYIAKQRQISFVKSHFSRQLEERAG")]
    )
    rows, places = torch.tensor([0, 1]), torch.tensor([5, 27])
    with torch.no_grad():
        some = adapted.model.backbone.at_places(batch, rows, places)
        whole = adapted.model.backbone.at_layer(batch, -1).hidden[rows, places]
    assert torch.allclose(some, whole, atol=1e-6)


def spec(name):
    return current().get(StrategySpec, name).spec


FAMILIES = {
    "esm2": (BACKBONES["protein"], None),
    "proteinmpnn": (f"proteinmpnn:{MPNN}", None),
    "dnabert": (BACKBONES["dna"], ("ACGTACGTTAGCCGAT", "ACGTTAGC")),
    "nucleotide-transformer-1": (f"nucleotide-transformer:{NT1 / 'model'}", ("ACGTACGTTAGCCGAT", "ACGTTAGC")),
    "nucleotide-transformer-2": (f"nucleotide-transformer:{NT2 / 'model'}", ("ACGTACGTTAGCCGAT", "ACGTTAGC")),
    "hyenadna": (f"hyenadna:{HYENA / 'hf'}", ("ACGTACGTTAGCCGAT", "ACGTTAGC")),
    "dnabert2": ("dnabert2:", ("ACGTACGTTAGCCGAT", "ACGTTAGC")),
    "scgpt": (BACKBONES["cell"], None),
}


@pytest.mark.parametrize("strategy", ["bottleneck", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_adapters_and_all_but_structures_take_vectors(family, strategy, tmp_path):
    name, inputs = FAMILIES[family]
    if family == "dnabert2":
        name += str(Copy(DNABERT2 / "model", tmp_path / "model").folder)
    offer, _, source = current().checkpoint(name)
    if strategy == "prefix" and not offer.spec.prompts:
        assert family == "proteinmpnn"
        return
    reads = current().get(TokenizerSpec, offer.spec.tokenizer).spec
    check_strategy(
        spec(strategy), backbone=offer.spec, backbone_options={"source": source}, tokenizer=reads, inputs=inputs
    )


def refusal(given, **options):
    with pytest.raises(RecipeError) as refused:
        exapt.train(given, **options)
    return str(refused.value)


def test_a_prompt_before_a_structure_is_refused_when_the_recipe_is_read():
    given = {
        "data": {"path": "nowhere.csv"},
        "backbone": "proteinmpnn:/nowhere.pt",
        "head": {"name": "inverse-folding"},
    }
    for name in ("prompt", "prefix"):
        assert refusal(given | {"strategy": name}) == (
            f"strategy '{name}' puts vectors before the tokens, which 'proteinmpnn' cannot take: its blocks read more of each "
            "token than its state"
        )


class Bare(Backbone):
    """One layer without a bias or a norm, and no blocks."""

    width = 8

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(40, 8)
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, batch):
        return batch.features(torch.tanh(self.mix(self.letters(batch["input_ids"]))))


class Peeking(TinyBackbone):
    """Blocks that look at the letters of the tokens."""

    def run(self, hidden, batch, start, stop):
        return super().run(hidden + self.letters(batch["input_ids"]), batch, start, stop)


class Others:
    exapt_api = 1

    @hookimpl
    def exapt_tokenizers(self):
        yield LETTERS

    @hookimpl
    def exapt_backbones(self):
        for kind in (Bare, Peeking, TinyBackbone):
            yield BackboneSpec(
                name=kind.__name__.lower(),
                summary="A model of the test.",
                build=lambda _options, weights, kind=kind: seeded(kind, weights),
                tokenizer=LETTERS.name,
                modality="protein",
                probes=("MKTAYIAKQR", "ACDEF"),
            )


@pytest.mark.parametrize(
    ("backbone", "strategy", "said"),
    [
        ("bare", "bitfit", "strategy 'bitfit' matches no parameter: this backbone has no biases"),
        ("bare", "layernorm", "strategy 'layernorm' matches no parameter: this backbone has no norms"),
        (
            "bare",
            "bottleneck",
            "strategy 'bottleneck' puts layers at the blocks of a model, and this backbone has none",
        ),
        (
            "bare",
            "prefix",
            "strategy 'prefix' puts vectors before the tokens, and this backbone does not run block by block: it cannot "
            "take them",
        ),
        (
            "peeking",
            "prompt",
            "vectors cannot stand before the tokens of this backbone: its blocks read 'input_ids' of each token",
        ),
        (
            "tinybackbone",
            {"name": "bitfit", "targets": ["querry"]},
            "strategy 'bitfit': no layer 'querry' with a bias. There are: key, norm, query, value",
        ),
        (
            "tinybackbone",
            {"name": "bottleneck", "targets": ["dense"]},
            "strategy 'bottleneck': no layer 'dense' in the backbone's blocks. There are: key, query, value",
        ),
        (
            "tinybackbone",
            {"name": "prompt", "length": 64},
            "strategy 'prompt': 64 vectors leave no room in the 64 tokens that this backbone takes",
        ),
        (
            "tinybackbone",
            ["dora", "lora"],
            "strategy 'dora' cannot stand beside 'lora': both put an update on the same layers; choose one of them",
        ),
        (
            "tinybackbone",
            ["prompt", "prefix"],
            "strategy 'prompt' cannot stand beside 'prefix': a prefix is a prompt before every block; choose one of them",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_training(backbone, strategy, said, tables):
    heard = []
    with inline(Others()):
        given = recipe("protein", tables["protein"], strategy, backbone=backbone)
        assert refusal(given, listeners=[lambda run, event: heard.append(event.name)]) == said
    assert "step" not in heard


def test_vectors_take_of_the_room_for_tokens(tables):
    given = recipe("protein", tables["protein"], {"name": "prompt", "length": 40}, training=FAST)
    with inline(Others()), pytest.raises(exapt.DataError, match=r"units; 'tinybackbone' takes at most 23"):
        exapt.train(given | {"backbone": "tinybackbone"})


def test_a_layer_that_is_never_called_as_a_whole_is_refused_before_training():
    given = {
        "data": {"path": str(ZINC), "labels": str(ZINC.with_suffix(".csv"))},
        "split": {"column": "split"},
        "backbone": f"proteinmpnn:{MPNN}",
        "head": {"name": "inverse-folding"},
        "strategy": {"name": "bottleneck", "targets": ["encoder_layers.0.W1"]},
    }
    said = "this backbone never calls its layer 'mpnn.encoder_layers.0.W1' as a whole; name other layers as its targets"
    assert refusal(given) == f"strategy 'bottleneck': {said}"


def test_adapters_behind_attention_and_feed_forward_layer_are_those_of_houlsby(tables):
    with_targets = {"name": "bottleneck", "targets": ["output.dense"], "width": 2}
    adapted = exapt.train(recipe("dna", tables["dna"], with_targets, training=FAST))
    blocks = len(adapted.model.backbone.blocks())
    assert len(adapted.model.backbone.bottlenecks) == 2 * blocks
    moved = [name for name, value in adapted.model.backbone.named_parameters() if value.requires_grad]
    assert len(moved) == 2 * blocks * 4


def test_only_what_the_heads_depend_on_gets_adapters_and_vectors(tables):
    for strategy, count in (("bottleneck", 4), ("prefix", 1)):
        adapted = exapt.train(recipe("protein", tables["protein"], strategy, layer=1, training=FAST))
        names = [name for name, value in adapted.model.backbone.named_parameters() if value.requires_grad]
        assert len(names) == count
        assert strategy != "prefix" or len(adapted.model.backbone.prompt) == 1


def test_efficient_strategies_stand_beside_each_other(tables, tmp_path):
    together = [
        {"name": "lora", "rank": 2},
        {"name": "bottleneck", "targets": ["output.dense"]},
        "bitfit",
        "layernorm",
        "prefix",
    ]
    adapted = exapt.train(recipe("protein", tables["protein"], together, training=FAST), tmp_path / "all")
    saved = load_file(tmp_path / "all" / "backbone.safetensors")
    assert {"prompt", "bottlenecks.0.up.weight", "esm.encoder.layer.0.attention.self.query.bias"} <= saved.keys()
    assert not any("base_layer" in name for name in saved)
    assert exapt.load(tmp_path / "all").predict(QUERIES).equals(adapted.predict(QUERIES))


def test_a_run_goes_on_from_dora_and_refuses_another_update(learned, tables, tmp_path):
    folder = learned[1] / "protein-dora"
    again = exapt.train(
        recipe("protein", tables["protein"], "dora", start=str(folder), training=FAST), tmp_path / "again"
    )
    assert again.manifest["recipe"]["strategies"][0] == {
        "name": "dora",
        "rank": 2,
        "alpha": 16.0,
        "rank_stabilised": False,
        "dropout": 0.0,
        "targets": again.manifest["recipe"]["strategies"][0]["targets"],
    }
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["use_dora"] is True
    said = refusal(recipe("protein", tables["protein"], "ia3", start=str(folder)))
    assert said == "'protein-dora' to start from is an adapter of 'dora', not of 'ia3'"
    said = refusal(recipe("protein", tables["protein"], {"name": "dora", "rank": 3}, start=str(folder)))
    assert re.fullmatch(r"strategy 'dora': rank is 3, but 'protein-dora' to start from has 2", said)


@pytest.mark.parametrize("parameters", ["scale", "shift"])
def test_scale_or_shift_of_norms_alone(tables, parameters):
    adapted = exapt.train(recipe("protein", tables["protein"], {"name": "layernorm", "parameters": parameters}))
    names = {name for name, value in adapted.model.backbone.named_parameters() if value.requires_grad}
    assert names
    assert {name.rpartition(".")[2] for name in names} == {{"scale": "weight", "shift": "bias"}[parameters]}
