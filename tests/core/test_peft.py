"""PEFT's own two files: plain PEFT opens ours without exapt, and we start from theirs."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import EsmForSequenceClassification, EsmModel

import exapt
from exapt import AdapterError, RecipeError
from exapt.features import forward_all
from runs import MODEL, QUERIES, STRATEGIES, charges, fresh, listened, recipe

# Plain PEFT, used as its users do, calls what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# Stock transformers and plain PEFT; whoever imports exapt there fails.
PLAIN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("exapt"):
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Blocked())
import torch
from peft import PeftModel
from transformers import EsmModel

model, folders, ids = given
answers = {}
for name, folder in folders.items():
    for pooler in (False, True):
        stock = EsmModel.from_pretrained(model, add_pooling_layer=pooler)
        adapted = PeftModel.from_pretrained(stock, folder).eval()
        with torch.inference_mode():
            rows = [adapted(input_ids=torch.tensor([row])).last_hidden_state[0].tolist() for row in ids]
        answers[f"{name} {pooler}"] = rows
assert "exapt" not in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("tables") / "charges.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("peft")
    variants = ("lora", "dora", "ia3")
    return {name: (exapt.train(recipe(table, name), folder / name), folder / name) for name in variants}


def hidden_of(adapted):
    """Return exapt's states [tokens, width] of each query, special tokens included."""
    backbone, encodings = adapted.model.backbone, [adapted.tokenizer.encode(query) for query in QUERIES]
    return [features.hidden[0].numpy() for _, features in forward_all(backbone, encodings, -1, "fp32", 1)]


@pytest.mark.slow
def test_plain_peft_gives_the_same_states_without_exapt(trained):
    ids = [
        trained["lora"][0].tokenizer.encode(query).arrays["input_ids"].tolist() for query in sorted(QUERIES, key=len)
    ]
    folders = {name: str(folder) for name, (_, folder) in trained.items()}
    answers = fresh(PLAIN, str(MODEL), folders, ids)
    for name, (adapted, _) in trained.items():
        for pooler in (False, True):
            for ours, theirs in zip(hidden_of(adapted), answers[f"{name} {pooler}"], strict=True):
                np.testing.assert_allclose(ours, np.array(theirs), atol=1e-5, err_msg=f"{name} {pooler}")


def test_the_config_is_sorted_and_the_same_every_time(trained, table, tmp_path):
    text = (trained["lora"][1] / "adapter_config.json").read_text()
    config = json.loads(text)
    assert list(config) == sorted(config)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["peft_type"] == "LORA"
    assert config["r"] == STRATEGIES["lora"]["rank"]
    exapt.train(recipe(table, "lora"), tmp_path / "again")
    assert (tmp_path / "again" / "adapter_config.json").read_text() == text


def test_a_config_that_was_edited_is_refused_with_both_values(trained, tmp_path):
    folder = shutil.copytree(trained["lora"][1], tmp_path / "edited")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 64.0, "peft_version": "0.1"}))
    with pytest.raises(AdapterError) as caught:
        exapt.load(folder)
    said = "'edited/adapter_config.json' says lora_alpha = 64.0, but the adapter's recipe makes it"
    assert str(caught.value) == f"{said} {config['lora_alpha']}"


def elsewhere(folder, stock=None, **options):
    """Write a LoRA folder as plain PEFT does, on ESM-2 as the given class builds it, and return that model."""
    torch.manual_seed(5)
    stock = stock or EsmModel.from_pretrained(MODEL, add_pooling_layer=False)
    facts = {"r": 3, "lora_alpha": 6, "target_modules": ["query", "value"], "init_lora_weights": False} | options
    model = peft.get_peft_model(stock, peft.LoraConfig(**facts))
    model.save_pretrained(folder)
    return model.eval()


def still(table, folder, **changes):
    """Return a recipe that starts from a folder and learns nothing to speak of."""
    rest = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "patience": 0}
    return recipe(table, "lora") | {"strategy": "lora", "start": str(folder), "training": rest} | changes


def test_exapt_starts_from_a_folder_of_plain_peft(table, tmp_path):
    model = elsewhere(tmp_path / "theirs")
    adapted = exapt.train(still(table, tmp_path / "theirs"), tmp_path / "ours")
    said = adapted.manifest["recipe"]["strategies"][0]
    assert (said["rank"], said["alpha"], said["targets"]) == (3, 6.0, ["query", "value"])
    assert_same_states(adapted, model.base_model.model)
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def assert_same_states(adapted, stock):
    for query, ours in zip(sorted(QUERIES, key=len), hidden_of(adapted), strict=True):
        ids = torch.from_numpy(adapted.tokenizer.encode(query).arrays["input_ids"])[None]
        with torch.inference_mode():
            theirs = stock(input_ids=ids).last_hidden_state[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def classifier():
    torch.manual_seed(1)
    return EsmForSequenceClassification.from_pretrained(MODEL, num_labels=2)


def test_exapt_starts_from_a_classifier_and_says_that_it_leaves_its_head_out(table, tmp_path):
    model = elsewhere(tmp_path / "theirs", classifier(), task_type="SEQ_CLS")
    assert "classifier" in json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())["modules_to_save"]
    adapted, heard = listened(still(table, tmp_path / "theirs"))
    notes = heard.of("note", "text")
    assert (
        "'theirs': 4 tensors of its own head left out: classifier.dense.bias, classifier.dense.weight, "
        "classifier.out_proj.bias, classifier.out_proj.weight"
    ) in notes
    assert_same_states(adapted, model.base_model.model.esm)


def test_a_start_without_head_of_its_own_leaves_nothing_out(table, tmp_path):
    model = elsewhere(tmp_path / "theirs", classifier())
    adapted, heard = listened(still(table, tmp_path / "theirs"))
    assert not [text for text in heard.of("note", "text") if "left out" in text]
    assert_same_states(adapted, model.base_model.model.esm)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"bias": "all"}, "'theirs' has bias = 'all', which strategy 'lora' does not do"),
        ({"rank_pattern": {"query": 2}}, "'theirs' has rank_pattern = {'query': 2}, which strategy 'lora' does not do"),
        ({"layers_to_transform": [0]}, "'theirs' has layers_to_transform = [0], which strategy 'lora' does not do"),
        ({"init_lora_weights": "pissa"}, "'theirs' has init_lora_weights = 'pissa', which strategy 'lora' does not do"),
        (
            {"target_modules": ".*query"},
            "'theirs' names its target_modules by a pattern, '.*query'; exapt needs a list",
        ),
    ],
)
def test_a_lora_that_exapt_cannot_be_is_refused(table, tmp_path, options, refusal):
    elsewhere(tmp_path / "theirs", **options)
    with pytest.raises(RecipeError) as caught:
        exapt.train(still(table, tmp_path / "theirs"))
    assert str(caught.value) == refusal


def test_an_option_that_disagrees_with_the_folder_is_refused(table, tmp_path):
    elsewhere(tmp_path / "theirs")
    with pytest.raises(RecipeError) as caught:
        exapt.train(still(table, tmp_path / "theirs", strategy={"name": "lora", "rank": 8}))
    assert str(caught.value) == "strategy 'lora': rank is 8, but 'theirs' to start from has 3"


def test_every_tensor_has_to_find_its_place(table, tmp_path):
    # PEFT adapts the pooler too, which no published ESM-2 has and exapt leaves out.
    pooled = EsmModel.from_pretrained(MODEL, add_pooling_layer=True)
    elsewhere(tmp_path / "theirs", pooled, target_modules=["query", "dense"])
    with pytest.raises(AdapterError) as caught:
        exapt.train(still(table, tmp_path / "theirs"))
    assert str(caught.value).startswith(
        "'theirs' does not fit the backbone: it has besides 'pooler.dense.lora_A.weight'"
    )
    shutil.rmtree(tmp_path / "theirs")
    elsewhere(tmp_path / "theirs", exclude_modules=["encoder.layer.0.attention.self.query"])
    with pytest.raises(AdapterError) as caught:
        exapt.train(still(table, tmp_path / "theirs"))
    assert str(caught.value).startswith(
        "'theirs' does not fit the backbone: it lacks 'encoder.layer.0.attention.self.query."
    )


def test_a_run_goes_on_from_our_own_lora(trained, table, tmp_path):
    adapted, folder = trained["lora"]
    again = exapt.train(still(table, folder, strategy="lora"), tmp_path / "again")
    ours = load_file(folder / "adapter_model.safetensors")
    kept = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], ours[name]) for name in ours)
    assert again.manifest["recipe"]["strategies"][0]["rank"] == STRATEGIES["lora"]["rank"]
    assert exapt.load(tmp_path / "again").predict(QUERIES).equals(again.predict(QUERIES))
    assert adapted.manifest["backbone"]["fingerprint"] == again.manifest["backbone"]["fingerprint"]
