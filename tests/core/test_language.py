"""Language-model heads: continued pretraining on sequences without labels, masked and causal."""

import csv
import json

import numpy as np
import pytest
import torch

import exapt
from exapt import BackboneSpec, HeadSpec, RecipeError, TokenizerSpec, hookimpl
from exapt.builtin.language import CausalOptions, MaskedOptions
from exapt.data.batching import collate
from exapt.data.tables import read_examples
from exapt.parts import Backbone, Encoding, HeadContext, LanguageModel, Tokenizer
from exapt.plugins import current
from exapt.prediction import predict_file
from exapt.recipe import DataOptions
from exapt.testing import inline

LETTERS = {letter: number for number, letter in enumerate("^ACGT?.")}


class Words(Tokenizer):
    """Overlapping words of k letters, none special but '^' before them; '.' pads and '?' hides."""

    mask = LETTERS["?"]
    special = frozenset({LETTERS["^"], LETTERS["?"], LETTERS["."]})

    def __init__(self, k):
        self.k = k
        self.vocabulary = LETTERS

    def encode(self, value):
        words = max(0, len(value) - self.k + 1)
        ids = np.array([LETTERS["^"], *(LETTERS[letter] for letter in value[:words])])
        first = np.arange(words)
        spans = np.concatenate([[[-1, -1]], np.stack([first, first + self.k - 1], 1)])
        return Encoding({"input_ids": ids}, {"input_ids": LETTERS["."]}, spans, len(value))


def context(tokenizer, objective="masked"):
    head = torch.nn.Linear(4, len(LETTERS))
    return HeadContext({"sequence": 4}, {"sequence": LanguageModel(head, objective)}, tokenizer)


def head(name, options, tokenizer, objective="masked"):
    return current().get(HeadSpec, name).spec.build(options, context(tokenizer, objective))


def posed(options, k, sequence, seed=0):
    tokenizer = Words(k)
    encoding = tokenizer.encode(sequence)
    seen, target = head("masked-lm", options, tokenizer).pose(encoding, np.random.default_rng(seed))
    return encoding.arrays["input_ids"], seen.arrays["input_ids"], target


SEQUENCE = "ACGTTGCAAC" * 60


@pytest.mark.parametrize("k", [1, 3, 6])
def test_about_the_chosen_share_of_tokens_is_asked_for(k):
    shares = [(posed(MaskedOptions(probability=0.15), k, SEQUENCE, seed)[2] != -100).mean() for seed in range(20)]
    assert np.mean(shares) == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("probability", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_large_share_of_words_that_overlap_is_what_was_chosen(k, probability):
    options = MaskedOptions(probability=probability)
    shares = [(posed(options, k, SEQUENCE, seed)[2] != -100).mean() for seed in range(40)]
    assert np.mean(shares) == pytest.approx(probability, abs=0.02)


def test_words_that_overlap_are_hidden_together():
    """In every run of hidden words at least one letter is under no word that is left in sight."""
    _, seen, target = posed(MaskedOptions(probability=0.1, masked=1, random=0), 4, SEQUENCE)
    hidden = seen[1:] == LETTERS["?"]
    assert (hidden == (target[1:] != -100)).all()
    in_sight = np.zeros(len(SEQUENCE), dtype=bool)
    for place in np.flatnonzero(~hidden):
        in_sight[place : place + 4] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden, [0]])))
    runs = edges.reshape(-1, 2)
    assert len(runs) > 5
    for start, stop in runs:
        assert stop - start >= 4 or start == 0 or stop == len(hidden)
        assert not in_sight[start : stop + 3].all()


def test_hidden_replaced_or_left_but_always_asked_for():
    before, seen, target = posed(MaskedOptions(probability=0.5), 1, SEQUENCE)
    asked = target != -100
    assert (target[asked] == before[asked]).all()
    assert (seen[~asked] == before[~asked]).all()
    hidden, same = seen[asked] == LETTERS["?"], seen[asked] == before[asked]
    assert 0.7 < hidden.mean() < 0.9
    # Three in four of the random ones are other letters.
    assert 0.03 < (~hidden & ~same).mean() < 0.15
    assert not asked[0]


def test_an_input_is_never_asked_nothing():
    for seed in range(20):
        _, _, target = posed(MaskedOptions(probability=0.01), 1, "ACG", seed)
        assert (target != -100).sum() >= 1


def test_an_input_without_tokens_is_left_alone():
    before, seen, target = posed(MaskedOptions(), 4, "AC")
    assert seen.tolist() == before.tolist()
    assert (target == -100).all()


def test_shares_of_one_whole():
    with pytest.raises(ValueError, match="add up to 1 at most"):
        MaskedOptions(masked=0.8, random=0.3)


def test_a_causal_head_asks_for_the_next_token():
    tokenizer = Words(1)
    encoding = tokenizer.encode("ACGT")
    seen, target = head("causal-lm", CausalOptions(), tokenizer, "causal").pose(encoding, np.random.default_rng(0))
    assert seen is encoding
    assert target.tolist() == [1, 2, 3, 4, -100]


def test_the_head_is_a_copy_of_the_pretrained_one_and_learns():
    tokenizer = Words(1)
    given = context(tokenizer)
    built = current().get(HeadSpec, "masked-lm").spec.build(MaskedOptions(), given)
    pretrained = given.language["sequence"].head
    assert torch.equal(built.decoder.weight, pretrained.weight)
    assert built.decoder.weight is not pretrained.weight
    assert all(parameter.requires_grad for parameter in built.parameters())


def test_what_is_kept_to_be_measured_gives_the_same_loss():
    built = head("masked-lm", MaskedOptions(), Words(1))
    output = torch.randn(2, 5, len(LETTERS), generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[-100, 1, 2, -100, 3], [4, -100, -100, 1, -100]])
    kept = built.condense(output, target)
    torch.testing.assert_close(built.loss(kept, target), built.loss(output, target))
    found = built.metrics(list(kept.detach().numpy()), list(target.numpy()))
    assert found["perplexity"] == pytest.approx(float(torch.exp(built.loss(output, target) / built.weigh(target))))
    hits = (output.argmax(-1) == target)[target != -100].float().mean()
    assert found["accuracy"] == pytest.approx(float(hits))


def test_a_backbone_without_a_language_model():
    with pytest.raises(RecipeError) as caught:
        current().get(HeadSpec, "masked-lm").spec.build(MaskedOptions(), HeadContext({"sequence": 4}, {}, Words(1)))
    assert str(caught.value) == (
        "the input 'sequence' has no language model: its backbone, or this checkpoint of it, came without one, or the "
        "recipe reads another layer than the last"
    )


# Through the public face, on the tiny ESM-2.


@pytest.fixture
def unlabelled(data, esm2):
    return [
        *("--data", data / "germline.fasta", "--backbone", esm2, "--head", "masked-lm"),
        *("--set", "training.epochs=4", "--set", "training.learning_rate=0.003"),
        *("--set", "training.head_learning_rate=0.003"),
    ]


def test_pretraining_goes_on_without_labels_and_the_model_gets_better_at_it(exapt, unlabelled, tmp_path):
    before = exapt("train", *unlabelled, "--strategy", "full", "--out", tmp_path / "a", "--json", "--set", "training.epochs=1",
                   "--set", "training.learning_rate=1e-12", "--set", "training.head_learning_rate=1e-12")  # fmt: skip
    after = exapt("train", *unlabelled, "--strategy", "full", "--out", tmp_path / "b", "--json")
    untouched, learned = (json.loads(result.stdout)["metrics"]["test"]["perplexity"] for result in (before, after))
    assert learned < 0.8 * untouched


def test_predict_says_how_surprising_each_sequence_is(exapt, unlabelled, data, tmp_path):
    exapt("train", *unlabelled, "--strategy", "lora", "--out", tmp_path / "lm")
    answers = exapt("predict", tmp_path / "lm", data / "germline.fasta").stdout.splitlines()
    rows = list(csv.DictReader(answers))
    assert list(rows[0]) == ["id", "cross_entropy", "perplexity"]
    for row in rows:
        assert float(row["perplexity"]) == pytest.approx(np.exp(float(row["cross_entropy"])))
    assert exapt("predict", tmp_path / "lm", data / "germline.fasta").stdout.splitlines() == answers


def test_what_was_learned_without_labels_is_started_from_with_labels(exapt, unlabelled, data, esm2, tmp_path):
    exapt("train", *unlabelled, "--strategy", "full", "--out", tmp_path / "lm")
    flags = ("--data", data / "germline.fasta", "--set", f"data.labels={data / 'germline_labels.csv'}")
    flags = (*flags, "--label", "organism", "--backbone", esm2, "--head", "sequence-classification")
    flags = (*flags, "--strategy", "probe", "--set", "training.epochs=1", "--set", f"start={tmp_path / 'lm'}")
    exapt("train", *flags, "--out", tmp_path / "labelled")
    manifest = json.loads((tmp_path / "labelled" / "exapt.json").read_text())
    assert "backbone.safetensors" in manifest["tensors"]
    assert exapt("predict", tmp_path / "labelled", data / "germline.fasta").stdout.startswith("id,prediction,")


def test_masks_are_drawn_anew_in_each_epoch_but_the_same_in_each_run(esm2, data):
    recipe = {
        "data": {"path": str(data / "germline.fasta")},
        "backbone": esm2,
        "head": "masked-lm",
        "strategy": "probe",
        "training": {"epochs": 3, "learning_rate": 1e-12, "head_learning_rate": 1e-12},
    }
    runs = []
    for _ in range(2):
        losses = []
        exapt.train(recipe, listeners=[lambda run, event, kept=losses: kept.append((event.name, event.facts))])
        runs.append([facts["train.loss"] for name, facts in losses if name == "epoch"])
    assert runs[0] == runs[1]
    assert len({round(loss, 3) for loss in runs[0]}) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--head", "causal-lm"], "the backbone is a masked language model: use head 'masked-lm', not 'causal-lm'"),
        (["--label", "organism"], "heads.head: 'masked-lm' learns without labels; leave 'label' out"),
        (
            ["--set", "layer=1"],
            "the input 'sequence' has no language model: its backbone, or this checkpoint of it, came without one, or "
            "the recipe reads another layer than the last",
        ),
    ],
)
def test_what_does_not_go_together(refused, unlabelled, tmp_path, more, message):
    assert refused("train", *unlabelled, "--strategy", "probe", *more, "--out", tmp_path / "x") == message
    assert not (tmp_path / "x").exists()


class Next(Backbone):
    """A causal model with an embedding and a running mean of what came before."""

    width = 4

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(len(LETTERS), 4)
        self.decoder = torch.nn.Linear(4, len(LETTERS))

    @property
    def language(self):
        return LanguageModel(self.decoder, "causal")

    def forward(self, batch):
        hidden = self.table(batch["input_ids"]).cumsum(1)
        return batch.features(hidden / torch.arange(1, hidden.shape[1] + 1)[:, None])


class CausalPlugin:
    """One causal backbone with its tokenizer, of words of ``k`` letters."""

    exapt_api = 1

    def __init__(self, k=1):
        self.k = k

    @hookimpl
    def exapt_tokenizers(self):
        yield TokenizerSpec(name="bases", summary="Letters.", build=lambda options: Words(self.k))

    @hookimpl
    def exapt_backbones(self):
        yield BackboneSpec(
            name="next",
            summary="Causal.",
            build=lambda options, weights: Next(),
            tokenizer="bases",
            modality="dna",
            probes=("ACGT",),
        )


def test_a_causal_model_learns_what_follows(tmp_path):
    table = tmp_path / "dna.csv"
    table.write_text("sequence\n" + "".join(f"{'ACGT'[n % 4 :] + 'ACGT' * (5 + n % 7)}\n" for n in range(40)))
    recipe = {
        "data": {"path": str(table)},
        "backbone": "next",
        "head": "causal-lm",
        "strategy": "full",
        "training": {"epochs": 60, "learning_rate": 0.05, "head_learning_rate": 0.05},
    }
    with inline(CausalPlugin()):
        adapted = exapt.train(recipe)
    # Which of four letters comes next is certain here, and chance would be a perplexity of 4.
    assert adapted.metrics["test"]["perplexity"] < 2.5


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_thousand_inputs_of_which_nothing_is_asked_come_before_one_that_is(tmp_path, suffix):
    """The first chunk has nothing but missing numbers, and the second has a number."""
    table, out = tmp_path / "dna.csv", tmp_path / f"out.{suffix}"
    table.write_text("sequence\n" + "ACGTACGT\n" * 20)
    short = tmp_path / "short.csv"
    short.write_text("sequence\n" + "AC\n" * 1024 + "ACGTACGT\n")
    recipe = {"data": {"path": str(table)}, "backbone": "next", "head": "causal-lm", "strategy": "full"}
    with inline(CausalPlugin(3)):
        adapted = exapt.train({**recipe, "training": {"epochs": 1}})
        assert predict_file(adapted, short, out) == 1025
    (rows, _) = read_examples(DataOptions(path=str(out), inputs={"x": "id"}), {})
    losses = rows.table["cross_entropy"].to_pylist()
    assert all(loss in (None, "") for loss in losses[:1024])
    assert float(losses[1024]) > 0


def test_encodings_are_padded_with_their_targets():
    tokenizer = Words(1)
    built = head("causal-lm", CausalOptions(), tokenizer, "causal")
    short, long = (built.pose(tokenizer.encode(text), np.random.default_rng(0))[0] for text in ("AC", "ACGTAC"))
    assert collate([short, long])["input_ids"].shape == (2, 7)


def test_variants_are_scored_by_what_was_learned(exapt, refused, unlabelled, data, tmp_path):
    exapt("train", *unlabelled, "--strategy", "full", "--out", tmp_path / "lm")
    table = tmp_path / "variants.csv"
    table.write_text("sequence,mutation\nMKTAYIAKQR,K2A\nMKTAYIAKQR,A4W\n")
    by_adapter = exapt("score", table, "--adapter", tmp_path / "lm").stdout
    by_backbone = exapt("score", table, *unlabelled[2:4]).stdout
    assert by_adapter.splitlines()[0] == by_backbone.splitlines()[0]
    assert by_adapter != by_backbone
    assert refused("score", table) == "give --backbone, or --adapter: one of them"
    assert refused("score", table, "--adapter", tmp_path / "lm", "--set", "backbone.windows=pool") == (
        "an adapter has the options of its backbone and tokenizer already: only scorer can be set"
    )


def test_an_adapter_of_another_question_scores_no_variants(exapt, refused, flags, tmp_path):
    exapt("train", *flags(), "--out", tmp_path / "classes")
    table = tmp_path / "variants.csv"
    table.write_text("sequence,mutation\nMKTAYIAKQR,K2A\n")
    assert refused("score", table, "--adapter", tmp_path / "classes") == (
        "the adapter has no language-model head, such as masked-lm or causal-lm, and cannot score variants"
    )


def test_whether_pretraining_helped_can_be_asked_without_labels(exapt, unlabelled):
    words = (*unlabelled, "--strategy", "full", "--seeds", "0,1", "--json", "--set", "training.epochs=1")
    said = json.loads(exapt("compare", *words).stdout)
    assert said["metric"] == "perplexity"
    assert len(said["contenders"]) == 2
