"""Every strategy: exactly what it says learns, exactly that is saved, and a fresh process gives the very same answers."""

import re

import pytest
import torch
from safetensors.torch import load_file

import exapt
from exapt import RecipeError
from exapt.adapter import canonical
from exapt.model import backbone_state
from runs import MODEL, QUERIES, STRATEGIES, charges, fresh, recipe

BLOCK = r"esm\.encoder\.layer\.1\."
LORA = r"esm\.encoder\.layer\.[01]\.attention\.self\.(query|key|value)\."
CHANGES = {
    "probe": "",
    "full": r"esm\..*",
    "partial": BLOCK + ".*",
    "lora": LORA + r"lora_[AB]\.default\.weight",
    "dora": LORA + r"lora_([AB]|magnitude_vector)\.default\.weight",
    "ia3": LORA + r"ia3_l\.default",
    "scratch": r"esm\..*",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the table, and by strategy the adapted model and its folder."""
    folder = tmp_path_factory.mktemp("strategies")
    table = charges(folder / "charges.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(folder / "cache"))
        found = {}
        for name in STRATEGIES:
            given = recipe(table, name)
            # Two steps in all, so that everything that can learn has moved.
            found[name] = (exapt.train(given, folder / name), folder / name)
    return table, found, folder / "cache"


def start_of(name):
    """Return the backbone's tensors, by exapt's names, from before a run: the file's own, or fresh ones of the same seed."""
    if name != "scratch":
        # Of what the file holds exapt drops the contact head and the pooler; both are no part of what learns.
        return load_file(MODEL / "model.safetensors")
    from exapt.building import build_backbone
    from exapt.plugins import current
    from exapt.recipe import Component
    from exapt.resolve import resolve_backbone

    chosen, _, _ = resolve_backbone(current(), Component(name=f"esm2:{MODEL}"))
    return {key: value.detach() for key, value in backbone_state(build_backbone(chosen, False, 0)).items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_learns_is_what_the_strategy_says(trained, name):
    adapted, _ = trained[1][name]
    before = start_of(name)
    after = backbone_state(adapted.model.backbone)
    changed = {
        full
        for full, tensor in after.items()
        if canonical(full) not in before or not torch.equal(tensor.detach(), before[canonical(full)])
    }
    expected = {full for full in after if CHANGES[name] and re.fullmatch(CHANGES[name], full)}
    # The table of rotary angles is computed: files need not hold it.
    assert changed - {"esm.rotary_embeddings.inv_freq"} == expected - {"esm.rotary_embeddings.inv_freq"}
    assert {full for full, value in adapted.model.backbone.named_parameters() if value.requires_grad} == changed - {
        "esm.rotary_embeddings.inv_freq"
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_learned_is_saved_and_nothing_else(trained, name):
    adapted, folder = trained[1][name]
    files = {path.name for path in folder.iterdir()}
    everything = {"README.md", "exapt.json", "heads.safetensors"}
    learning = {canonical(full) for full, value in adapted.model.backbone.named_parameters() if value.requires_grad}
    if name in ("lora", "dora", "ia3"):
        everything |= {"adapter_config.json", "adapter_model.safetensors"}
        # PEFT's own names: without the adapter's, and without `weight` after the magnitudes of DoRA.
        short = {full.removeprefix("esm.").replace(".default", "") for full in learning}
        short = {re.sub(r"(magnitude_vector)\.weight$", r"\1", full) for full in short}
        saved = load_file(folder / "adapter_model.safetensors")
        assert saved.keys() == {f"base_model.model.{full}" for full in short}
    elif learning:
        everything |= {"backbone.safetensors"}
        saved = load_file(folder / "backbone.safetensors")
        assert saved.keys() == learning
    assert files == everything


def test_a_fresh_process_gives_the_same_answers_bit_by_bit(trained):
    _, found, cache = trained
    answers = fresh(
        "import exapt\n"
        "folders, queries = given\n"
        "print(json.dumps({name: exapt.load(folder).predict(queries).to_pydict() for name, folder in folders.items()}))",
        {name: str(folder) for name, (_, folder) in found.items()},
        QUERIES,
        EXAPT_CACHE=str(cache),
    )
    for name, (adapted, _) in found.items():
        assert answers[name] == adapted.predict(QUERIES).to_pydict(), name


def test_what_an_adapter_started_from_is_saved_with_what_was_learned_since(trained, tmp_path):
    table, found, _ = trained
    _, partial = found["partial"]
    given = recipe(table, "lora") | {"start": str(partial)}
    adapted = exapt.train(given, tmp_path / "second")
    started = load_file(partial / "backbone.safetensors")
    kept = load_file(tmp_path / "second" / "backbone.safetensors")
    assert kept.keys() == started.keys()
    assert all(torch.equal(kept[name], started[name]) for name in started)
    assert (tmp_path / "second" / "adapter_model.safetensors").is_file()
    assert exapt.load(tmp_path / "second").predict(QUERIES).equals(adapted.predict(QUERIES))


def test_a_start_with_the_same_question_takes_its_head_along(trained, tmp_path):
    table, found, _ = trained
    adapted, probe = found["probe"]
    rested = recipe(table, "probe") | {"start": str(probe)}
    rested["training"] = {"epochs": 1, "head_learning_rate": 1e-30, "weight_decay": 0.0, "patience": 0}
    assert exapt.train(rested).predict(QUERIES).equals(adapted.predict(QUERIES))


def test_a_start_on_other_weights_is_refused_with_both_named(trained, tmp_path):
    table, found, _ = trained
    _, full = found["full"]
    other = spoiled_model(tmp_path)
    with pytest.raises(
        RecipeError, match=r"^'full' was learned on weights [0-9a-f]{12}, but 'esm2:.*other' here has [0-9a-f]{12}$"
    ):
        exapt.train(recipe(table, "probe") | {"start": str(full), "backbone": f"esm2:{other}"})
    with pytest.raises(
        RecipeError, match="was learned on the pretrained weights of esm2:model; strategy 'scratch' has none"
    ):
        exapt.train(recipe(table, "scratch") | {"start": str(full)})


def spoiled_model(tmp_path):
    """Return a copy of the model in which one number differs."""
    import shutil

    from safetensors.torch import save_file

    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    tensors = load_file(other / "model.safetensors")
    tensors["esm.encoder.layer.0.attention.self.query.bias"][0] += 1e-3
    save_file(tensors, other / "model.safetensors")
    return other


def test_a_start_that_is_nothing_is_refused(trained, tmp_path):
    table, found, _ = trained
    with pytest.raises(RecipeError, match=f"^there is no folder '{tmp_path}/none' to start from$"):
        exapt.train(recipe(table) | {"start": str(tmp_path / "none")})
    with pytest.raises(RecipeError, match=f"^'{tmp_path}' is neither an exapt adapter nor a PEFT one$"):
        exapt.train(recipe(table) | {"start": str(tmp_path)})
    with pytest.raises(
        RecipeError, match=r"^'lora' holds a PEFT adapter, which none of the strategies takes up: use strategy 'lora'$"
    ):
        exapt.train(recipe(table, "full") | {"start": str(found["lora"][1])})


def test_the_fresh_weights_of_scratch_are_drawn_by_the_seed(trained):
    table, found, _ = trained
    again = exapt.train(recipe(table, "scratch"))
    other = exapt.train(recipe(table, "scratch") | {"seed": 1})
    first = found["scratch"][0].predict(QUERIES)
    assert again.predict(QUERIES).equals(first)
    assert not other.predict(QUERIES).equals(first)


@pytest.mark.parametrize(
    ("layer", "strategy", "refusal"),
    [
        (0, "lora", "all that the strategies let learn lies above layer 0, which the heads read"),
        (0, "partial", "all that the strategies let learn lies above layer 0, which the heads read"),
        (3, "probe", rf"there is no layer 3: 'esm2:{MODEL}' has layers 0 to 2"),
    ],
)
def test_a_layer_below_which_nothing_learns_is_refused(trained, layer, strategy, refusal):
    with pytest.raises(RecipeError) as caught:
        exapt.train(recipe(trained[0], strategy) | {"layer": layer})
    assert str(caught.value) == refusal


def test_lora_below_a_layer_learns_only_what_the_heads_can_feel(trained, tmp_path):
    adapted = exapt.train(recipe(trained[0], "lora") | {"layer": 1}, tmp_path / "one")
    learning = {name for name, value in adapted.model.backbone.named_parameters() if value.requires_grad}
    assert learning == {name for name in learning if name.startswith("esm.encoder.layer.0.")} != set()
    assert exapt.load(tmp_path / "one").predict(QUERIES).equals(adapted.predict(QUERIES))


def test_partial_below_a_layer_learns_the_top_block_of_those_that_the_heads_feel(trained):
    adapted = exapt.train(recipe(trained[0], "partial") | {"layer": 1})
    learning = {name for name, value in adapted.model.backbone.named_parameters() if value.requires_grad}
    assert learning == {name for name in learning if name.startswith("esm.encoder.layer.0.")} != set()


def test_each_layer_gives_the_probe_other_features(trained):
    answers = [exapt.train(recipe(trained[0]) | {"layer": layer}) for layer in (0, 1, 2, -1)]
    said = [str(adapted.predict(QUERIES).to_pydict()) for adapted in answers]
    assert len(set(said)) == 3
    assert said[2] == said[3]
    assert [adapted.manifest["recipe"]["layer"] for adapted in answers] == [0, 1, 2, 2]
