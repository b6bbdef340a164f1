"""Episodes of n ways and k shots: what is reported, and what is refused before any weights are loaded."""

import csv
import json
import random

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import exapt
from exapt import few_shot
from exapt.cli import cli
from runs import MODEL, charges, recipe
from transfer.modalities import BACKBONES, INPUTS, MODALITIES, table

BACKBONE = f"esm2:{MODEL}"
LETTERS = {"acid": "DE", "base": "KR", "aromatic": "FWY", "small": "GAS"}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Four classes of sequences, told by the letters they prefer; 12 rows of each."""
    path, dice = tmp_path_factory.mktemp("episodes") / "families.csv", random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label", "chance", "split"])
        for row in range(48):
            kind = list(LETTERS)[row % 4]
            letters = "".join(dice.choice(LETTERS[kind] * 3 + "LTVNQPIHM") for _ in range(15))
            writer.writerow([f"s{row}", letters, kind, dice.choice("xyz"), "train" if row < 24 else "test"])
    return path


def asked(path, *flags):
    return CliRunner().invoke(cli, ["episodes", str(path), "--backbone", BACKBONE, *flags])


@pytest.mark.parametrize("head", ["prototypes", "nearest-neighbours", "ridge"])
def test_features_that_tell_classes_beat_chance_and_labels_that_mean_nothing(families, head):
    found = exapt.episodes(families, BACKBONE, head=head, ways=3, shots=3)
    at_random = exapt.episodes(families, BACKBONE, head=head, ways=3, shots=3, label="chance")
    assert found.accuracy.low > 0.6 > at_random.accuracy.high
    assert found.log_loss.high < np.log(3) < at_random.log_loss.high
    assert found.chance == pytest.approx(1 / 3)


def test_the_interval_is_students_over_all_episodes(families):
    found = exapt.episodes(families, BACKBONE, ways=2, shots=1, episodes=120)
    assert len(found.accuracies) == len(found.losses) == 120
    low, high = stats.t.interval(0.95, 119, np.mean(found.accuracies), stats.sem(found.accuracies))
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((low, high))
    assert found.told == "120 episodes of 2 ways and 1 shots, from 48 rows of 4 classes; chance is 0.5"


def test_more_shots_answer_better_and_the_same_seed_the_same(families):
    few, more = (exapt.episodes(families, BACKBONE, ways=4, shots=shots, queries=4) for shots in (1, 6))
    assert more.accuracy.low > few.accuracy.high
    again, other = (exapt.episodes(families, BACKBONE, ways=4, shots=1, queries=4, seed=seed) for seed in (0, 1))
    assert again.accuracies == few.accuracies != other.accuracies


def test_an_adapter_that_learned_the_classes_needs_fewer_examples(tmp_path):
    path = charges(tmp_path / "t.csv", rows=60)
    adapted = exapt.train(
        recipe(path, "full", training={"epochs": 4, "batch_size": 8, "learning_rate": 3e-3}), tmp_path / "adapter"
    )
    of_test = {"ways": 2, "shots": 1, "queries": 4, "only": {"split": "test"}}
    learned = exapt.episodes(path, adapter=tmp_path / "adapter", **of_test)
    published = exapt.episodes(path, recipe(path)["backbone"], label="kind", **of_test)
    assert learned.accuracy.low > published.accuracy.mean
    assert learned.classes == {"acid": 5, "base": 5}
    assert exapt.episodes(path, adapter=adapted, **of_test).accuracies == learned.accuracies


@pytest.mark.parametrize("modality", MODALITIES)
def test_episodes_are_drawn_in_every_modality(modality, tmp_path):
    path = table(modality, tmp_path / "t.csv", classes=3)
    found = exapt.episodes(path, BACKBONES[modality], label="kind", ways=3, shots=2, queries=3, inputs=INPUTS[modality])
    assert found.accuracy.low > found.chance
    scratch = exapt.episodes(
        path, BACKBONES[modality], label="kind", ways=3, shots=2, queries=3, inputs=INPUTS[modality], scratch=True
    )
    assert scratch.accuracies != found.accuracies


def test_the_command_prints_a_table_or_json(families):
    shown = asked(families, "--ways", "2", "--classes", "acid,base", "--set", "head.distance=cosine")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split() == ["prototypes", "mean", "95", "%", "interval"]
    assert "100 episodes of 2 ways and 5 shots, from 24 rows of 2 classes; chance is 0.5" in shown.stdout
    plain = json.loads(asked(families, "--ways", "2", "--json").stdout)
    assert plain["ways"] == 2
    assert plain["accuracy"]["low"] < plain["accuracy"]["mean"] < plain["accuracy"]["high"]
    assert plain["classes"] == {"acid": 12, "aromatic": 12, "base": 12, "small": 12}


REFUSED = [
    (
        ["--shots", "12", "--ways", "2", "--classes", "acid,base"],
        "12 shots and a query need 13 examples of each class, and 'acid' has 12, 'base' has 12; lower shots, or name the "
        "classes to draw from",
    ),
    (["--ways", "9"], "9 ways need 9 classes, and there are 4: acid, aromatic, base, small; lower ways"),
    (["--episodes", "20"], "episodes is 20: give 100 or more"),
    (["--ways", "1"], "ways is 1: give 2 or more"),
    (["--shots", "0"], "shots is 0: give 1 or more"),
    (["--ways", "2", "--classes", "acid,bases"], "no row is of the class 'bases'. Did you mean 'base'?"),
    (["--only", "part=test"], "there is no column 'part'."),
    (["--only", "split=tests"], "no row has 'tests' in column 'split'. Did you mean 'test'?"),
    (["--adapter", "x"], "give a backbone or an adapter, one of them: under what model are episodes to be?"),
    (["--set", "writer.a=1"], "of episodes, nothing of 'writer' can be set"),
    (
        ["--head", "sequence-classification"],
        "head 'sequence-classification' cannot answer in episodes, where nothing learns by steps: use nearest-neighbours, "
        "prototypes, ridge",
    ),
    (
        ["--head", "contrastive"],
        "head 'contrastive' cannot answer in episodes, where nothing learns by steps: use nearest-neighbours, prototypes, "
        "ridge",
    ),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_makes_no_episode_is_refused_before_weights_are_loaded(families, flags, message, monkeypatch):
    monkeypatch.setattr(few_shot, "build_backbone", lambda *_: pytest.fail("weights were loaded"))
    outcome = asked(families, *flags)
    assert (outcome.exit_code, outcome.stderr) == (2, f"exapt: {message}\n")
