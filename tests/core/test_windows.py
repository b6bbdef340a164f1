"""Inputs longer than the model takes: refused unless windows are asked for, then pooled or scored."""

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import exapt
from exapt import AugmentationSpec, hookimpl
from exapt.building import Tallies
from exapt.data.batching import collate
from exapt.data.splits import Split
from exapt.data.tables import Examples
from exapt.labelled import Table
from exapt.parts import Augmentation, Backbone, Changed, Encoding, LanguageModel, Windows, unit_spans
from exapt.specs import Windowed
from exapt.testing import LETTERS, TINY, inline
from exapt.testing.tiny import Letters
from exapt.windows import Cuts, pieces, starts


class Local(Backbone):
    """Tells each token its own number and the first of its window; takes ten tokens."""

    width = 2
    max_tokens = 10

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        assert batch.present.shape[1] <= self.max_tokens
        ids = batch["input_ids"].float()
        hidden = torch.stack([ids, ids[:, 1:2].expand_as(ids)], -1) * self.scale
        return batch.features(hidden, hidden[:, 0])


def encoding(units):
    ids = np.concatenate([[-1], np.arange(units), [-2]])
    return Encoding({"input_ids": ids}, {"input_ids": -9}, unit_spans(units, 1, 1), units)


@pytest.fixture
def backbone():
    backbone = Local()
    backbone.windows = Windows("pool", 0.25)
    return backbone


@pytest.mark.parametrize(
    ("tokens", "room", "overlap"), [(100, 8, 0.25), (9, 8, 0.0), (8, 8, 0.5), (3, 8, 0.5), (1000, 7, 0.9)]
)
def test_windows_cover_everything_and_overlap_as_asked(tokens, room, overlap):
    first = starts(tokens, room, overlap)
    assert first[0] == 0
    assert first[-1] == max(0, tokens - room)
    assert (np.diff(first) <= max(1, room * (1 - overlap))).all()
    assert (np.diff(first) > 0).all()


def test_every_token_of_a_long_input_comes_back_in_its_place(backbone):
    lengths = (30, 8, 3)
    batch = collate([encoding(units) for units in lengths])
    features = backbone.at_layer(batch, 0)
    assert features.hidden.shape == (3, 32, 2)
    for row, units in enumerate(lengths):
        assert features.hidden[row, 1 : units + 1, 0].tolist() == list(range(units))
    assert torch.equal(features.mask, batch.spans[..., 0] >= 0)


def test_a_token_is_seen_from_the_window_in_which_it_stands_farthest_from_the_ends(backbone):
    hidden = backbone.at_layer(collate([encoding(30)]), 0).hidden[0, 1:31]
    inside = (hidden[:, 0] - hidden[:, 1])[8:-8]
    # Windows of eight units that share a quarter: none of them is the first or the last of the one it is taken from.
    assert inside.min() >= 1
    assert inside.max() <= 6


def test_short_inputs_are_what_they_are_beside_long_ones(backbone):
    alone = backbone.at_layer(collate([encoding(5)]), 0)
    beside = backbone.at_layer(collate([encoding(5), encoding(40)]), 0)
    assert torch.equal(beside.hidden[0, :7], alone.hidden[0])
    assert torch.equal(beside.summary[0], alone.summary[0])


def test_the_vector_of_the_whole_is_the_mean_of_those_of_the_windows(backbone):
    features = backbone.at_layer(collate([encoding(14)]), 0)
    assert starts(14, 8, 0.25).tolist() == [0, 6]
    assert features.summary[0].tolist() == [-1, 3]


def test_gradients_reach_what_learns(backbone):
    backbone.at_layer(collate([encoding(30)]), 0).hidden.sum().backward()
    assert backbone.scale.grad is not None


class Before(Local):
    """A causal model: it tells each token how many tokens of its window stand before it."""

    @property
    def language(self):
        return LanguageModel(torch.nn.Identity(), "causal")

    def forward(self, batch):
        ids = batch["input_ids"].float()
        before = torch.arange(ids.shape[1]).expand_as(ids).float()
        return batch.features(torch.stack([ids, before], -1))


def test_under_a_causal_model_a_token_is_seen_from_where_most_stands_before_it():
    backbone = Before()
    backbone.windows = Windows("pool", 0.5)
    hidden = backbone.at_layer(collate([encoding(30)]), 0).hidden[0, :32]
    assert hidden[1:31, 0].tolist() == list(range(30))
    # Eight units at a time, each window with three or four of the one before it.
    assert hidden[1:9, 1].tolist() == list(range(1, 9))
    assert hidden[9:31, 1].min() >= 5


@pytest.fixture
def windows_at_once(monkeypatch):
    """The number of windows in each pass."""
    seen = []
    forward = Local.forward
    monkeypatch.setattr(Local, "forward", lambda self, batch: seen.append(len(batch.lengths)) or forward(self, batch))
    return seen


def test_few_windows_are_held_at_once_unless_their_gradient_is_wanted(backbone, windows_at_once):
    batch = collate([encoding(8000)])
    with torch.no_grad():
        few = backbone.at_layer(batch, 0)
    assert max(windows_at_once) == 1024 // 10
    assert len(windows_at_once) > 10
    windows_at_once.clear()
    together = backbone.at_layer(batch, 0)
    assert len(windows_at_once) == 1
    assert torch.equal(few.hidden, together.hidden)
    assert torch.equal(few.summary, together.summary)
    windows_at_once.clear()
    backbone.requires_grad_(False).at_layer(batch, 0)
    assert max(windows_at_once) == 1024 // 10


def test_pieces_are_inputs_of_their_own():
    parts = pieces(encoding(14), 10, 0.25)
    assert [(part.first, part.last) for part in parts] == [(0, 7), (6, 13)]
    assert parts[1].encoding.arrays["input_ids"].tolist() == [-1, *range(6, 14), -2]
    assert parts[1].encoding.length == 8
    assert parts[1].encoding.spans[1:-1, 0].tolist() == list(range(8))


# Through the public face.

LONG = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"


def test_an_embedding_of_one_window_is_that_of_the_model(esm2):
    whole = exapt.embed([LONG], esm2)
    windowed = exapt.embed([LONG], esm2, settings={"backbone": {"max_tokens": 72, "windows": "pool"}})
    np.testing.assert_array_equal(whole, windowed)


def test_pooled_windows_stay_close_to_the_whole_and_get_closer_with_their_size(esm2):
    (whole,) = exapt.embed([LONG], esm2, pooling="none")

    def error(tokens):
        options = {"backbone": {"max_tokens": tokens, "windows": "pool", "overlap": 0.5}}
        (units,) = exapt.embed([LONG], esm2, pooling="none", settings=options)
        assert units.shape == whole.shape
        return np.abs(units - whole).mean()

    assert error(60) < error(12)


def peptides(data):
    """The sequences, by the ids that rows without any get."""
    rows = csv.DictReader((data / "peptides.csv").read_text().splitlines())
    return {str(number): row["sequence"] for number, row in enumerate(rows, 1)}


@pytest.fixture
def windowed(data, esm2):
    return [
        *("--data", data / "peptides.csv", "--label", "label", "--split", "split", "--backbone", esm2),
        *("--set", "backbone.max_tokens=12", "--strategy", "probe", "--set", "training.epochs=1"),
    ]


def test_training_and_predicting_in_windows(exapt, windowed, data, tmp_path):
    flags = (*windowed, "--head", "sequence-classification", "--set", "backbone.windows=pool")
    exapt("train", *flags, "--out", tmp_path / "pooled")
    rows = list(csv.DictReader(exapt("predict", tmp_path / "pooled", data / "peptides.csv").stdout.splitlines()))
    assert [row["id"] for row in rows] == list(peptides(data))


def test_scored_windows_are_rows_of_their_own_with_their_places(exapt, windowed, data, tmp_path):
    flags = (*windowed, "--head", "sequence-classification", "--set", "backbone.windows=score")
    told = exapt("train", *flags, "--out", tmp_path / "scored").stderr
    assert "inputs are longer than the model takes" in told
    given = peptides(data)
    rows = list(csv.DictReader(exapt("predict", tmp_path / "scored", data / "peptides.csv").stdout.splitlines()))
    assert {row["id"] for row in rows} == set(given)
    for name, sequence in given.items():
        places = [(int(row["start"]), int(row["end"])) for row in rows if row["id"] == name]
        assert {unit for start, end in places for unit in range(start, end + 1)} == set(range(1, len(sequence) + 1))
        assert all(end - start < 10 for start, end in places)


def test_windows_of_one_row_stay_in_its_part():
    ids, values = ["a", "b", "c"], ["M" * 20, "K" * 5, "A" * 30]
    examples = Examples(ids, {"sequence": values}, {"head": [1, 2, 3]}, pa.table({"id": ids, "sequence": values}))
    table = Table(examples, Split(np.array([0]), np.array([1]), np.array([2])), (), {}, {}, Tallies(Letters()))
    cuts = Cuts.of([encoding(len(value)) for value in values], 10, 0.25)
    cut_up = table.cut_up(cuts, ["sequence"])
    for part, letter, label in (("train", "M", 1), ("valid", "K", 2), ("test", "A", 3)):
        rows = cut_up.examples.take(getattr(cut_up.split, part))
        assert {letter} == set("".join(rows.inputs["sequence"]))
        assert set(rows.labels["head"]) == {label}
    assert cut_up.notes == ("2 inputs are longer than the model takes: 9 windows in all are learned from",)
    # The text of a chromosome is not repeated beside each of its windows.
    assert cut_up.examples.table.column_names == ["id"]


class Words(Letters):
    """Two letters in one token where the first is an A, as words of a vocabulary are."""

    def encode(self, value):
        starts = [at for at in range(len(value)) if at == 0 or value[at - 1] != "A" or value[at - 2 : at] == "AA"]
        ids = np.array([1, *(self.vocabulary[value[at]] for at in starts)])
        stops = [*starts[1:], len(value)]
        spans = np.array([[-1, -1], *([start, stop - 1] for start, stop in zip(starts, stops, strict=True))])
        return Encoding({"input_ids": ids}, {"input_ids": 0}, spans, len(value))


class Mirror(Augmentation):
    """The same from its end, in training and answering."""

    def change(self, value, rng):
        return self.views(value)[0]

    def views(self, value):
        return (Changed(value[::-1], np.arange(len(value))[::-1]),)


class InWindows(Windowed):
    """Options of the tiny model."""


class WordsPlugin:
    """The tiny model in windows, over words."""

    exapt_api = 1

    @hookimpl
    def exapt_tokenizers(self):
        yield replace(LETTERS, name="words", build=lambda _options: Words())

    @hookimpl
    def exapt_backbones(self):
        yield replace(
            TINY, name="wordy", tokenizer="words", options=InWindows, build=lambda _options, _weights: wordy()
        )

    @hookimpl
    def exapt_augmentations(self):
        yield AugmentationSpec(name="mirror", summary="Mirrors.", build=lambda _options: Mirror())


def wordy():
    backbone = TINY.build(None, True)
    backbone.max_tokens = 10
    return backbone


def test_a_window_that_has_more_tokens_from_its_other_side_is_read_in_windows(tmp_path):
    """Two letters AC are one token, and two as CA: the other side of a full window is too long."""
    text = "AC" * 30
    assert Words().encode(text[:18]).tokens == 10
    assert Words().encode(text[:18][::-1]).tokens > 10
    table = tmp_path / "table.csv"
    table.write_text("sequence,label\n" + f"{text},1\nDEDE,0\n" * 10)
    given = {
        "data": {"path": str(table)},
        "backbone": {"name": "wordy", "windows": "score"},
        "head": {"name": "sequence-classification", "label": "label"},
        "strategy": "probe",
        "augmentation": "mirror",
        "training": {"epochs": 1},
    }
    with inline(WordsPlugin()):
        adapted = exapt.train(given)
        answers = adapted.predict([text])
    assert answers.num_rows > 1
    assert answers["end"].to_pylist()[-1] == 60


def test_a_label_for_each_unit_needs_the_windows_put_together_again(refused, windowed, tmp_path):
    flags = (*windowed, "--head", "position-classification", "--set", "backbone.windows=score")
    assert refused("train", *flags, "--out", tmp_path / "x") == (
        "head 'head' answers for each unit: use backbone windows = \"pool\""
    )


def test_an_embedding_is_of_the_whole_input(refused, data, esm2, tmp_path):
    words = ("--backbone", esm2, "--set", "backbone.windows=score", "-o", tmp_path / "x.parquet")
    assert refused("embed", data / "peptides.csv", *words) == (
        'an embedding is of the whole input: use backbone windows = "pool"'
    )


def test_only_backbone_and_tokenizer_have_options_in_embed(refused, data, esm2, tmp_path):
    words = ("--backbone", esm2, "-o", tmp_path / "x.parquet")
    assert refused("embed", data / "peptides.csv", *words, "--set", "head.x=1") == (
        "there are options of backbone and tokenizer here, not of 'head'"
    )
    assert refused("embed", data / "peptides.csv", *words, "--set", "backbone=3") == (
        "'backbone' is 3: name an option, backbone.KEY=VALUE"
    )


def test_recomputing_activations_changes_nothing_but_the_memory(esm2, data):
    recipe = {
        "data": {"path": str(data / "peptides.csv")},
        "split": {"column": "split"},
        "backbone": esm2,
        "head": "sequence-classification",
        "strategy": "lora",
        "training": {"epochs": 1},
    }
    kept = exapt.train(recipe)
    again = exapt.train({**recipe, "training": {"epochs": 1, "recompute": True}})
    assert again.metrics["test"]["loss"] == pytest.approx(kept.metrics["test"]["loss"], abs=1e-6)


def test_recomputing_is_seen_by_the_gradient(esm2, data):
    """Of each block only what goes into it is kept: the graph holds checkpoints."""
    recipe = {
        "data": {"path": str(data / "peptides.csv")},
        "backbone": esm2,
        "head": "sequence-classification",
        "strategy": "lora",
        "training": {"epochs": 1, "recompute": True},
    }
    adapted = exapt.train(recipe)
    batch = collate([adapted.tokenizer.encode(LONG)])
    model = adapted.model.train()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        model.backbone.at_layer(batch, len(model.backbone.blocks()))
        fewer = sum(kept)
        kept.clear()
        model.backbone.recompute = False
        model.backbone.at_layer(batch, len(model.backbone.blocks()))
    assert fewer < 0.5 * sum(kept)
