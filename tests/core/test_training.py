"""The loop: what it learns, what it is told, what it never looks at."""

import csv
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import exapt
from exapt import BackboneSpec, RecipeError, TokenizerSpec
from exapt.recipe import TrainingOptions
from exapt.testing import LETTERS, TINY, inline
from exapt.testing.tiny import TinyBackbone
from exapt.trainer import rate_factor
from runs import DATA, QUERIES, charges, listened, recipe, training


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("tables") / "charges.csv", rows=48)


def heads_of(adapted):
    return {name: tensor.detach().clone() for name, tensor in adapted.model.heads.state_dict().items()}


@pytest.mark.parametrize("strategy", ["probe", "full", "lora"])
def test_what_can_be_learned_is_learned(table, strategy):
    rates = {"learning_rate": 3e-3, "head_learning_rate": 1e-2, "metric": "loss"}
    given = recipe(table, strategy, **training(epochs=30 if strategy == "probe" else 10, **rates))
    adapted, heard = listened(given)
    losses = heard.of("epoch", "train.loss")
    assert losses[-1] < 0.6 * losses[0]
    assert adapted.metrics["test"]["auroc"] > 0.8


def test_every_pooling_answers(table):
    said = set()
    for pooling in ("mean", "cls", "max", "attention"):
        head = {"name": "sequence-classification", "label": "kind", "pooling": pooling}
        adapted = exapt.train(recipe(table, head=head))
        said.add(str(adapted.predict(QUERIES).to_pydict()))
    assert len(said) == 4


def test_the_token_budget_splits_a_step_and_changes_nothing_else(table):
    given = recipe(table, {"name": "lora", "dropout": 0.0}, **training(max_tokens=4096))
    whole, heard = listened(given)
    split, heard_split = listened(recipe(table, {"name": "lora", "dropout": 0.0}, **training(max_tokens=64)))
    assert heard_split.of("step", "loss") == pytest.approx(heard.of("step", "loss"), abs=1e-6)
    one, other = whole.model.learned(), split.model.learned()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-6, rtol=0, msg=name)


def one_step(table, strategy, **options):
    """Return the backbone's tensors after a single step over all rows."""
    adapted = exapt.train(recipe(table, strategy, **training(epochs=1, batch_size=100, warmup=0.0, **options)))
    return {name: value.detach().clone() for name, value in adapted.model.backbone.named_parameters()}


def test_weight_decay_spares_biases_norms_and_scales(table):
    # Adam's first step is the same with and without decay, so that only decayed tensors can differ after it.
    for strategy in ("full", {"name": "lora", "variant": "ia3"}, {"name": "lora", "variant": "dora"}):
        plain, decayed = (one_step(table, strategy, weight_decay=decay) for decay in (0.0, 1.0))
        moved = {name for name in plain if not torch.equal(plain[name], decayed[name])}
        matrices = {name for name, value in plain.items() if value.ndim > 1 and "ia3" not in name}
        learns = {"full": matrices, "ia3": set(), "dora": {name for name in plain if "lora_A" in name}}
        kind = strategy if isinstance(strategy, str) else strategy["variant"]
        expected = {name for name in learns[kind] if name.startswith("esm.")}
        # lora_B starts at zero, of which nothing can decay.
        assert moved == expected, kind


def test_gradients_are_clipped(table):
    # Adam forgets the size of a gradient, but for its epsilon of 1e-8: far below that nothing moves any more.
    start = one_step(table, "full", learning_rate=1e-30, weight_decay=0.0)
    free = one_step(table, "full", learning_rate=1e-3, weight_decay=0.0, clip=0.0)
    bound = one_step(table, "full", learning_rate=1e-3, weight_decay=0.0, clip=1e-12)
    name = "esm.encoder.layer.0.intermediate.dense.weight"
    assert (free[name] - start[name]).abs().max() > 5e-4
    assert (bound[name] - start[name]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": 0.2, "schedule": "linear"}, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"warmup": 0.0, "schedule": "constant"}, [1.0] * 10),
        ({"warmup": 0.5, "schedule": "constant"}, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        ({"warmup": 0.0, "schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]),
    ],
)
def test_the_rate_rises_and_falls(options, expected):
    chosen = TrainingOptions(**options)
    assert [rate_factor(chosen, step, 10) for step in range(10)] == pytest.approx(expected, abs=1e-12)


def test_the_best_state_is_kept_and_patience_ends_the_run(table, tmp_path):
    # Trained on the opposite of what it is judged by, a probe is never better than after its first epoch.
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        if row["split"] != "train":
            row["kind"] = {"acid": "base", "base": "acid"}[row["kind"]]
    opposite = tmp_path / "opposite.csv"
    with opposite.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    steady = {"schedule": "constant", "warmup": 0.0, "metric": "loss", "head_learning_rate": 1e-2}
    best, heard = listened(recipe(opposite, **training(**steady | {"epochs": 9, "patience": 3})))
    losses = heard.of("epoch", "valid.loss")
    assert len(losses) == 4
    assert losses == sorted(losses)
    assert best.manifest["best_epoch"] == 1
    assert best.metrics["valid"]["loss"] == losses[0]
    first = exapt.train(recipe(opposite, **training(**steady | {"epochs": 1})))
    last = exapt.train(
        recipe(opposite, **training(**steady | {"epochs": 4, "metric": ""}), split={"fractions": [1, 0, 0]})
    )
    assert all(torch.equal(tensor, heads_of(first)[name]) for name, tensor in heads_of(best).items())
    assert last.manifest["best_epoch"] == 0


def test_a_metric_that_is_not_measured_is_refused_before_the_first_epoch(table):
    heard = []
    with pytest.raises(RecipeError) as caught:
        exapt.train(
            recipe(table, **training(metric="acuracy")), listeners=[lambda run, event: heard.append(event.name)]
        )
    assert str(caught.value) == (
        "training.metric 'acuracy' is not measured here. Did you mean 'accuracy'? "
        "Known: accuracy, auprc, auroc, balanced_accuracy, ece, loss, macro_f1, mcc"
    )
    assert "step" not in heard


def test_an_undefined_metric_is_judged_by_the_loss_until_it_is_defined(tmp_path):
    # One valid row has no Spearman correlation: the loss chooses, and is not compared with anything else.
    table = charges(tmp_path / "few.csv", rows=6)
    head = {"name": "sequence-regression", "label": "charge"}
    adapted, heard = listened(recipe(table, head=head, **training(epochs=4)))
    losses = heard.of("epoch", "valid.loss")
    assert "valid.spearman" not in heard.facts("epoch")[0]
    assert adapted.manifest["best_epoch"] == 1 + int(np.argmin(losses))


def test_class_weights_make_up_for_rare_classes(tmp_path):
    table = tmp_path / "same.csv"
    labels = ["often"] * 25 + ["rare"] * 5
    table.write_text("sequence,kind\n" + "".join(f"ACDEFGHIKL,{label}\n" for label in labels))
    shares = []
    for weights in ("none", "balanced"):
        head = {"name": "sequence-classification", "label": "kind", "class_weights": weights, "standardise": False}
        given = recipe(table, head=head, split={"fractions": [1, 0, 0]})
        adapted = exapt.train(given | training(epochs=60, batch_size=30, head_learning_rate=3e-2, weight_decay=0))
        shares.append(adapted.predict(["ACDEFGHIKL"])["probability_rare"][0].as_py())
    assert shares[0] == pytest.approx(5 / 30, abs=0.02)
    assert shares[1] == pytest.approx(0.5, abs=0.02)


def several(kind, charge):
    return {
        "heads": {
            "kind": {"name": "sequence-classification", "label": "kind", "weight": kind},
            "charge": {"name": "sequence-regression", "label": "charge", "weight": charge},
        }
    }


def test_several_heads_learn_together_by_weight(table, tmp_path):
    def first_loss(kind, charge):
        given = {key: value for key, value in recipe(table).items() if key != "head"} | several(kind, charge)
        adapted, heard = listened(given)
        return adapted, heard.of("step", "loss")[0]

    adapted, both = first_loss(1.0, 1.0)
    kind = (first_loss(3.0, 1.0)[1] - both) / 2
    charge = (first_loss(1.0, 3.0)[1] - both) / 2
    assert kind + charge == pytest.approx(both, rel=1e-5)
    assert {"loss", "kind.accuracy", "charge.spearman"} <= adapted.metrics["valid"].keys()
    adapted.save(tmp_path / "two")
    assert {name.partition(".")[0] for name in load_file(tmp_path / "two" / "heads.safetensors")} == {"kind", "charge"}
    answer = exapt.load(tmp_path / "two").predict(QUERIES)
    assert {"kind.prediction", "kind.probability_acid", "charge.prediction"} <= set(answer.column_names)
    assert answer.equals(adapted.predict(QUERIES))


@pytest.mark.parametrize("strategy", ["probe", "lora"])
def test_pairs_share_one_backbone(table, tmp_path, strategy):
    given = recipe(
        table,
        strategy,
        data={"path": str(table), "inputs": {"one": "sequence", "two": "partner"}},
        head={"name": "sequence-classification", "label": "like", "inputs": ["one", "two"]},
    )
    adapted = exapt.train(given, tmp_path / "pairs")
    pairs = {"one": QUERIES, "two": QUERIES[::-1]}
    answer = adapted.predict(pairs)
    assert exapt.load(tmp_path / "pairs").predict(pairs).equals(answer)
    assert not adapted.predict({"one": QUERIES[::-1], "two": QUERIES}).equals(answer)
    with pytest.raises(exapt.DataError) as caught:
        adapted.predict(QUERIES)
    assert str(caught.value) == "this adapter reads several inputs, one, two: give one list for each by name"


def test_labels_per_residue_are_learned():
    given = recipe(DATA / "disorder.csv", head={"name": "position-classification", "label": "labels"})
    adapted = exapt.train(given)
    answer = adapted.predict(["MKTAYIAK", "ACD"])
    assert [len(row) for row in answer["prediction"].to_pylist()] == [8, 3]
    assert {"accuracy", "auroc", "loss"} <= adapted.metrics["test"].keys()


@pytest.mark.parametrize("strategy", ["probe", "full", "lora"])
def test_the_test_part_is_never_selected_on(table, tmp_path, strategy):
    rows = list(csv.reader(table.read_text().splitlines()))
    kind, split = rows[0].index("kind"), rows[0].index("split")
    tested = [row for row in rows if row[split] == "test"]
    for row, label in zip(tested, [*[row[kind] for row in tested][1:], tested[0][kind]], strict=True):
        row[kind] = label
    with (tmp_path / "charges.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    one, heard = listened(recipe(table, strategy, **training(patience=1)))
    other, heard_other = listened(recipe(tmp_path / "charges.csv", strategy, **training(patience=1)))
    assert heard.facts("epoch") == heard_other.facts("epoch")
    assert one.metrics["valid"] == other.metrics["valid"]
    assert one.metrics["test"] != other.metrics["test"]
    left, right = one.model.learned(), other.model.learned()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("strategy", ["probe", "full", "lora"])
def test_bf16_on_a_cpu_stays_finite_and_near(table, strategy):
    coarse, heard = listened(recipe(table, strategy, **training(precision="bf16")))
    _, exact = listened(recipe(table, strategy, **training(precision="fp32")))
    assert heard.of("step", "loss") == pytest.approx(exact.of("step", "loss"), rel=0.05)
    assert heard.of("step", "loss") != exact.of("step", "loss")
    assert coarse.manifest["made_with"]["precision"] == "bf16"
    assert all(torch.isfinite(tensor).all() for tensor in coarse.model.learned().values())
    assert all(tensor.dtype == torch.float32 for tensor in coarse.model.learned().values())


def test_a_loss_that_is_not_finite_ends_the_run(table):
    with pytest.raises(
        exapt.DataError, match=r"^the loss became nan at step \d+; lower training.learning_rate or check the labels$"
    ):
        exapt.train(recipe(table, "full", **training(epochs=20, learning_rate=1e30, clip=0.0, warmup=0.0)))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (
            "sequence-classification",
            "the answers became nan or infinite in epoch 1; lower training.learning_rate or check the labels",
        ),
        (
            "ridge",
            "the features to which head 'head' is to be fitted became nan or infinite; lower training.learning_rate or check "
            "the backbone's weights",
        ),
    ],
)
def test_answers_that_are_not_finite_after_the_last_step_end_the_run(table, head, what):
    settings = training(epochs=1, batch_size=64, learning_rate=1e30, warmup=0.0)
    with pytest.raises(exapt.DataError) as ended:
        exapt.train(recipe(table, "full", head={"name": head, "label": "kind"}, **settings))
    assert str(ended.value) == what


def test_a_loss_of_valid_rows_that_is_not_finite_ends_the_run(table):
    settings = training(epochs=1, batch_size=64, head_learning_rate=1e25, warmup=0.0)
    with pytest.raises(exapt.DataError) as ended:
        exapt.train(recipe(table, "probe", head={"name": "sequence-regression", "label": "charge"}, **settings))
    assert str(ended.value) == (
        "the loss of rows that are only measured became inf in epoch 1; lower training.learning_rate or check the labels"
    )


class Restless(TinyBackbone):
    """Dropout and batch statistics in each block; remembers in which mode its blocks ran."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for layer in self.layers:
            layer.drop, layer.average = nn.Dropout(0.5), nn.BatchNorm1d(self.width)

    def run(self, hidden, batch, start, stop):
        for layer in self.blocks()[start:stop]:
            hidden = layer.drop(layer(hidden, batch.present))
            hidden = layer.average(hidden.transpose(1, 2)).transpose(1, 2)
        if self.training and torch.is_grad_enabled():
            self.seen.append([(layer.drop.training, layer.average.training) for layer in self.layers])
        return hidden


class Plugin:
    """Offers the restless backbone."""

    exapt_api = 1

    @staticmethod
    @exapt.hookimpl
    def exapt_backbones():
        def build(_options, weights):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return Restless()

        facts = {"summary": TINY.summary, "tokenizer": TINY.tokenizer, "modality": TINY.modality, "probes": TINY.probes}
        yield BackboneSpec(name="restless", build=build, **facts)

    @staticmethod
    @exapt.hookimpl
    def exapt_tokenizers():
        yield TokenizerSpec(name=LETTERS.name, summary=LETTERS.summary, build=LETTERS.build)


@pytest.mark.parametrize(("strategy", "modes"), [("full", [True, True]), ("partial", [False, True])])
def test_what_is_frozen_runs_in_evaluation_mode_and_what_learns_does_not(table, tmp_path, strategy, modes):
    with inline(Plugin):
        adapted = exapt.train(recipe(table, strategy, backbone="restless"), tmp_path / "restless")
        assert adapted.model.backbone.seen
        assert all(seen == [(mode, mode) for mode in modes] for seen in adapted.model.backbone.seen)
        # Batch statistics move without a gradient: they too are part of what learning changed.
        saved = load_file(tmp_path / "restless" / "backbone.safetensors")
        expected = {f"layers.{block}.average.running_mean" for block, mode in enumerate(modes) if mode}
        assert {name for name in saved if name.endswith("running_mean")} == expected
        assert exapt.load(tmp_path / "restless").predict(QUERIES).equals(adapted.predict(QUERIES))


def test_the_dropout_of_lora_is_on_while_it_learns(table):
    losses = [
        listened(recipe(table, {"name": "lora", "dropout": dropout}, **training(head_learning_rate=1e-9)))[1].of(
            "step", "loss"
        )
        for dropout in (0.0, 0.5)
    ]
    # At first lora_B is zero and the loss the same; from the second step on dropout is felt.
    assert losses[0][0] == losses[1][0]
    assert losses[0][2] != losses[1][2]


def test_a_listener_that_fails_is_dropped_with_a_note_and_the_run_goes_on(table):
    heard = []

    def broken(run, event):
        if event.name == "step":
            raise ValueError("the disk is full")

    exapt.train(recipe(table), listeners=[broken, lambda run, event: heard.append(event)])
    notes = [event.facts["text"] for event in heard if event.name == "note"]
    assert f"{__name__} failed on 'step' and hears no more: the disk is full" in notes
    assert [event.name for event in heard].count("epoch") == 2
