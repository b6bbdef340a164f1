"""DNABERT and Nucleotide Transformer in use: embedded per base, trained in every way, opened by plain PEFT."""

import csv
import random

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertModel, EsmModel

import exapt
from dna.kmer_models import DNABERT, NT, NT1, NT2, built, reader
from exapt import DataError
from exapt.data.batching import collate

MODELS = [f"dnabert:{DNABERT / 'model'}", f"{NT}:{NT1 / 'model'}", f"{NT}:{NT2 / 'model'}"]
NAMES = ["dnabert", "nt-v1", "nt-v2"]
every_model = pytest.mark.parametrize("model", MODELS, ids=NAMES)


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def table(tmp_path):
    """Write a table whose label is readable from the letters: rich in A and T, or in G and C; and per base likewise."""
    dice = random.Random(3)
    path = tmp_path / "dna.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "bases", "split"])
        for row in range(36):
            letters = "ATATATGC" if row % 2 else "GCGCGCAT"
            sequence = "".join(dice.choices(letters, k=dice.randrange(20, 60)))
            bases = "".join("S" if letter in "GC" else "W" for letter in sequence)
            split = "train" if row < 24 else "valid" if row < 30 else "test"
            writer.writerow([f"s{row}", sequence, "weak" if row % 2 else "strong", bases, split])
    return path


def recipe(table, model, strategy, **changes):
    return {
        "data": {"path": str(table), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": model,
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": strategy,
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "patience": 0},
    } | changes


@every_model
def test_there_is_a_vector_for_each_base(model):
    sequences = ["GATTACAGGCATGCCTAAGTCCAATT", "ACGTTGCATTAGCC"]
    per_base = exapt.embed(sequences, model, pooling="none")
    assert [len(one) for one in per_base] == [26, 14]
    assert all(np.isfinite(one).all() for one in per_base)
    assert exapt.embed(sequences, model).shape == (2, 24)


@pytest.mark.parametrize(
    ("model", "bases", "message"),
    [
        (
            MODELS[0],
            200,
            "'input 1' has 200 units in 197 tokens; 'dnabert:{0}' takes at most 96 tokens; "
            'shorten it, leave it out, or read it in windows: backbone.windows = "pool"',
        ),
        (
            MODELS[1],
            260,
            "'input 1' has 260 units in 46 tokens; 'nucleotide-transformer:{0}' takes at most 40 tokens; "
            'shorten it, leave it out, or read it in windows: backbone.windows = "pool"',
        ),
    ],
    ids=NAMES[:2],
)
def test_a_sequence_beyond_the_context_is_refused(model, bases, message):
    with pytest.raises(DataError) as refusal:
        exapt.embed([("ACGT" * 65)[:bases]], model)
    assert str(refusal.value) == message.format(model.partition(":")[2])


@every_model
@pytest.mark.parametrize("strategy", ["probe", {"name": "lora", "rank": 2}, {"name": "partial", "blocks": 1}, "full"])
def test_an_adapter_answers_alike_after_it_was_loaded(strategy, model, table, tmp_path):
    learned = exapt.train(recipe(table, model, strategy), tmp_path / "adapter")
    queries = ["ATTATATATTTAATGCATAT", "GCGGCGCCGCGGCATGCCGC"]
    first = learned.predict(queries)
    assert exapt.load(tmp_path / "adapter").predict(queries) == first


@every_model
def test_a_label_per_base_comes_back_per_base(model, table, tmp_path):
    head = {"name": "position-classification", "label": "bases"}
    learned = exapt.train(recipe(table, model, "probe", head=head), tmp_path / "adapter")
    answers = learned.predict(["ATTATATATTTAATGCATATG", "GCGGCGCCGC"])
    assert [len(one) for one in answers["prediction"]] == [21, 10]


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["dnabert", NT])
def test_the_folder_of_a_lora_adapter_opens_in_plain_peft(family, table, tmp_path):
    golden = DNABERT if family == "dnabert" else NT1
    learned = exapt.train(
        recipe(table, f"{family}:{golden / 'model'}", {"name": "lora", "rank": 2}), tmp_path / "adapter"
    )
    stock = _stock(family, golden)
    theirs = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
    batch = collate([reader(family, golden / "model").encode("GATTACAGGCATGCCTAAGT")])
    with torch.inference_mode():
        ours = learned.model.backbone(batch).hidden
        hidden = theirs(batch["input_ids"], attention_mask=batch.present.long()).last_hidden_state
        before = built(family, golden / "model")(batch).hidden
    torch.testing.assert_close(ours, hidden, atol=2e-5, rtol=0)
    assert not torch.equal(ours, before)


def _stock(family, golden):
    if family == NT:
        return EsmModel.from_pretrained(golden / "model", add_pooling_layer=False)
    stock = BertModel(BertConfig.from_pretrained(golden / "model"), add_pooling_layer=False)
    stock.load_state_dict(dict(built(family, golden / "model").module.state_dict()), strict=False)
    return stock
