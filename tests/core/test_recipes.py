"""What a recipe may leave out, and what cannot stand together: settled when it is read, before data and weights."""

import json

import pytest
import torch
from torch import nn

import exapt
from exapt import BackboneSpec, ComponentError, DataError, RecipeError, TokenizerSpec, hookimpl
from exapt.data.batching import collate
from exapt.parts import Encoding, Features, unit_spans
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from exapt.testing import inline
from exapt.testing.tiny import Letters, TinyBackbone
from runs import charges, recipe, training


@pytest.fixture
def table(tmp_path):
    return charges(tmp_path / "charges.csv")


def refusal(given):
    with pytest.raises((RecipeError, ComponentError, DataError)) as caught:
        exapt.train(given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        (["probe", "lora"], "strategy 'probe' says of the whole backbone what learns: it cannot stand beside 'lora'"),
        (
            ["lora", "scratch"],
            "strategy 'scratch' says of the whole backbone what learns: it cannot stand beside 'lora'",
        ),
        (["lora", {"name": "lora", "rank": 2}], "strategy 'lora' is named twice"),
    ],
)
def test_strategies_that_cannot_compose_are_refused_before_the_data_are_read(tmp_path, strategies, said):
    given = recipe(tmp_path / "there-is-no-such-table.csv")
    del given["strategy"]
    assert refusal(given | {"strategies": strategies}) == said


def test_partial_and_lora_compose(table, tmp_path):
    given = recipe(table)
    del given["strategy"]
    adapted = exapt.train(given | {"strategies": [{"name": "partial", "blocks": 1}, "lora"]}, tmp_path / "both")
    assert set(adapted.manifest["tensors"]) == {
        "adapter_model.safetensors",
        "backbone.safetensors",
        "heads.safetensors",
    }
    assert exapt.load(tmp_path / "both").predict(["MKTAYIAK"]).equals(adapted.predict(["MKTAYIAK"]))


def test_options_of_the_tokenizer_need_no_name(table):
    given = read_recipe(recipe(table, tokenizer={"max_unknown": 0.5}))
    resolved = resolve(given, current())
    assert resolved.tokenizer.options.max_unknown == 0.5
    assert resolved.as_recipe()["tokenizer"]["name"] == "esm2"


def test_a_head_reads_all_inputs_unless_it_says_which(table):
    pair = {"path": str(table), "inputs": {"first": "sequence", "second": "partner"}}
    head = {"name": "sequence-classification", "label": "like"}
    adapted = exapt.train(recipe(table, data=pair, head=head))
    assert adapted.manifest["recipe"]["heads"]["head"]["inputs"] == ["first", "second"]
    assert adapted.model.head("head").state_dict()["trunk.scale.mean"].shape == (64,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2**32}, "recipe: 'seed' is 4294967296: input should be less than 4294967296"),
        (
            training(learning_rate=float("inf")),
            "recipe: 'training.learning_rate' is inf: input should be a finite number",
        ),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(table, changes, said):
    assert refusal(recipe(table) | changes) == said


@pytest.mark.parametrize("text", ["{}", '["a", "b"]'])
def test_a_list_is_no_class(tmp_path, text):
    rows = [{"sequence": "MKTAYIAK" * 2, "label": json.loads(text) or ["c"]} for _ in range(12)]
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    said = refusal(recipe(path, split={}, head={"name": "sequence-classification", "label": "label"}))
    assert said == f"label 'label': is a list, not the name of a class: {rows[0]['label']!r}"


def test_labels_of_positions_as_text_are_split_like_lists(tmp_path):
    rows = [{"sequence": "MKTAYIAKQR", "label": "HE" * (row % 3) + "H" * (10 - 2 * (row % 3))} for row in range(20)]
    text, lists = tmp_path / "text.jsonl", tmp_path / "lists.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    lists.write_text("\n".join(json.dumps({**row, "label": list(row["label"])}) for row in rows))
    head = {"name": "position-classification", "label": "label"}
    parts = [exapt.train(recipe(path, split={}, head=head)).manifest["data"]["rows"] for path in (text, lists)]
    assert parts == [{"train": 16, "valid": 2, "test": 2}] * 2


def test_no_label_at_all_is_an_answer_of_its_own(tmp_path):
    rows = [{"sequence": f"MKTAYIAK{'AG'[row % 2]}", "label": [["x"], ["x", "y"], []][row % 3]} for row in range(24)]
    path = tmp_path / "sets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    head = {"name": "sequence-multilabel", "label": "label"}
    adapted = exapt.train(recipe(path, split={}, head=head))
    assert sum(adapted.manifest["data"]["rows"].values()) == 24


def test_an_array_without_padding_is_a_fact_of_the_whole_input():
    import numpy as np

    def encoding(length, species):
        arrays = {"input_ids": np.ones(length, dtype=np.int64), "species": np.array(species)}
        return Encoding(arrays, {"input_ids": 0}, unit_spans(length), length)

    batch = collate([encoding(3, 7), encoding(5, 8)])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["species"].tolist() == [7, 8]


def test_attention_without_a_token_gives_zeros():
    mask = torch.tensor([[True, True], [False, False]])
    spans = torch.tensor([[[0, 0], [1, 1]], [[-1, -1], [-1, -1]]])
    features = Features(torch.tensor([[[1.0], [3.0]], [[5.0], [5.0]]]), mask, spans, torch.tensor([2, 0]))
    score = nn.Linear(1, 1)
    nn.init.zeros_(score.weight)
    assert features.attend(score).tolist() == [[2.0], [0.0]]


class Remembering(TinyBackbone):
    """Keeps a table that its first pass made, as some rotary embeddings do."""

    table = None

    def stem(self, batch):
        hidden = super().stem(batch)
        if self.table is None:
            self.table = torch.linspace(0.9, 1.1, self.width)
        return hidden * self.table


class Plugin:
    """A plugin whose backbone remembers."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_tokenizers():
        yield TokenizerSpec(name="letters", summary="Letters.", build=lambda options: Letters())

    @staticmethod
    @hookimpl
    def exapt_backbones():
        yield BackboneSpec(
            name="remembering",
            summary="Remembers.",
            build=lambda options, weights: Remembering(),
            tokenizer="letters",
            modality="protein",
            probes=("MKT",),
        )


def test_what_a_backbone_remembers_of_a_pass_without_gradients_serves_in_training(table):
    with inline(Plugin):
        given = recipe(table, "full", backbone="remembering", **training(metric="accuracy"))
        assert exapt.train(given).metrics["test"]["loss"] > 0


def test_heads_answer_in_full_precision_under_bf16(table):
    adapted = exapt.train(recipe(table, "full", **training(precision="bf16")))
    answers = adapted.predict(["MKTAYIAK", "DDEDEEDD", "KKRKRKLL"])["probability_acid"].to_pylist()
    assert any(answer != float(torch.tensor(answer).bfloat16()) for answer in answers)
