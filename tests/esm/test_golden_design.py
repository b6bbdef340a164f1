"""Sampling says what the reference says: orders, the likeliest sequences, scores; and at random, what was published."""

import re

import numpy as np
import pytest

from esm.designs import Golden, published
from esm.structure_files import golden
from exapt import DataError
from exapt_esm import DesignOptions, design

KINDS = ("real/given", "tiny/given")
EDGES = ("chains", "chains_A", "gap", "models", "negnum", "odd", "one", "short20", "two")
SAMPLED = {
    "real/given": ["5L33", "6MRR", "6MRR_fixed", "6MRR_seq", *(f"edge_{name}" for name in EDGES)],
    "tiny/given": ["6MRR", "6MRR_fixed", *(f"edge_{name}" for name in EDGES)],
}
# Too large for the reference to have sampled them; and a structure without a backbone.
SCORED, NOTHING = {"real/given": ["3HTN_AB", "3HTN_all"], "tiny/given": []}, ["edge_caonly"]
COLD = 1e-6


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def recording(kind):
    return Golden(kind)


def cases(of):
    return [pytest.param(kind, name, id=f"{kind}-{name}") for kind in KINDS for name in of(kind)]


def test_every_entry_is_tested(kind, recording):
    assert set(recording.entries) == {*SAMPLED[kind], *SCORED[kind], *NOTHING}
    sampled = {name for name in recording.entries if f"{name}.greedy_sample_S" in recording.expected}
    assert sampled == set(SAMPLED[kind])


@pytest.mark.parametrize(("kind", "name"), cases(lambda kind: SAMPLED[kind]), indirect=["kind"])
def test_the_likeliest_sequences_in_the_recorded_orders(recording, name):
    canvas, plan, draws = recording.canvas(name)
    rank, _ = draws.rank(plan)
    assert np.array_equal(np.argsort(rank), recording.tensor(name, "decoding_order_from_randn"))
    (sample,) = canvas.samples([draws], COLD)
    assert np.array_equal(sample.ids, recording.tensor(name, "greedy_sample_S"))
    score = float(recording.expected[f"{name}.greedy_sample_score"][0])
    assert sample.losses[plan.designed].mean() == pytest.approx(score, abs=2e-5)


@pytest.mark.parametrize(("kind", "name"), cases(lambda kind: SAMPLED[kind] + SCORED[kind]), indirect=["kind"])
def test_own_sequences_score_as_in_the_reference(recording, name):
    canvas, plan, draws = recording.canvas(name)
    losses = canvas.native([draws]).losses
    resolved = recording.tensor(name, "mask").astype(bool)
    assert losses[plan.designed].mean() == pytest.approx(float(recording.expected[f"{name}.score_randn"][0]), abs=2e-5)
    assert losses[resolved].mean() == pytest.approx(
        float(recording.expected[f"{name}.global_score_randn"][0]), abs=2e-5
    )


def test_several_orders_side_by_side_and_alone(recording):
    canvas, _, draws = recording.canvas("6MRR_fixed")
    others = [type(draws)(np.random.default_rng(seed).normal(size=len(draws.order)), draws.letters) for seed in (1, 2)]
    together = canvas.samples([others[0], draws, others[1]], COLD)
    alone = [canvas.samples([one], COLD)[0] for one in (others[0], draws, others[1])]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.ids, other.ids)


def test_no_backbone_no_design(recording):
    said = "'edge_caonly': has CA atoms alone, and this model reads N, CA, C and O; use one of proteinmpnn-ca-002, "
    with pytest.raises(DataError, match=f"^{re.escape(said)}proteinmpnn-ca-010, proteinmpnn-ca-020$"):
        recording.canvas("edge_caonly")


def records(name):
    """Return scores and recoveries of the published samples, and the score of the sequence itself."""
    text = golden(f"published_outputs/example_1_outputs/seqs/{name}.fa").read_text()
    scores = [float(score) for score in re.findall(r"^>.*?\bscore=([\d.]+)", text, re.M)]
    return scores[0], scores[1:], [float(share) for share in re.findall(r"seq_recovery=([\d.]+)", text)]


@pytest.mark.parametrize("name", ["5L33", "6MRR"])
def test_samples_of_the_published_model_are_as_good_as_the_published_ones(name):
    own, scores, recoveries = records(name)
    options = DesignOptions(number=16, batch=16, seed=37)
    native, *samples = design(golden(f"pdbs/{name}.pdb"), published("proteinmpnn-vanilla-020"), options).to_pylist()
    # One order scores a sequence to within 0.02 or so, the mean of eight of them better.
    assert native["score"] == pytest.approx(own, abs=0.04)
    for what, theirs in (("score", scores), ("recovery", recoveries)):
        ours = np.array([sample[what] for sample in samples])
        assert len(theirs) == 2
        # The mean of two lies within four of its standard errors.
        assert abs(ours.mean() - np.mean(theirs)) < 4 * ours.std(ddof=1) * np.sqrt(1 / 2 + 1 / 16)
        assert ours.std() > 0
