"""Who votes, and what is unknown: labels among clouds of made up vectors."""

import numpy as np
import pytest

from exapt import DataError
from exapt_singlecell.labelling import Labeller, Neighbours, Prototypes, Transfer


def clouds(places, count=200, width=6, seed=0):
    """Return cells around some places of a space, and which they are around."""
    chance = np.random.default_rng(seed)
    middles = np.eye(width)[list(places)] * 10
    vectors = (middles[:, None] + chance.normal(size=(len(middles), count, width))).reshape(-1, width)
    return vectors.astype(np.float32), np.repeat([f"c{place}" for place in places], count).tolist()


def told(labeller, vectors):
    batch = labeller.answers([str(row) for row in range(len(vectors))], vectors, np.zeros(len(vectors), dtype=bool))
    return batch.to_pandas()


def test_votes_weigh_by_the_inverse_of_the_distance():
    reference = np.array([[0.0], [1.0], [3.0], [9.0]], dtype=np.float32)
    votes = Neighbours(reference, np.array([0, 0, 1, 1]), Transfer(k=3, metric="euclidean")).votes(
        np.array([[2.0], [3.0]], dtype=np.float32)
    )
    # From 2: distances 1 and 2 to the first class, 1 to the second. At 3 one stands itself.
    assert votes.shares[0] == pytest.approx([1.5 / 2.5, 1 / 2.5])
    assert votes.shares[1] == pytest.approx([0, 1], abs=1e-9)
    assert votes.distances == pytest.approx([4 / 3, 5 / 3])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_cell_of_the_reference_is_left_out_in_turn(metric):
    vectors, labels = clouds((0, 1), count=12)
    # More copies of a cell than it has neighbours.
    vectors[4:10] = vectors[3]
    codes, how = np.array([name == "c1" for name in labels], dtype=int), Transfer(k=4, metric=metric)
    space = how.space(vectors)
    for kind in (Neighbours, Prototypes):
        found = kind(space, codes, how).left_out(np.arange(24))
        for row in range(24):
            rest = np.arange(24) != row
            wanted = kind(space[rest], codes[rest], how).votes(space[[row]])
            assert found[row] == pytest.approx(wanted.distances[0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", ["neighbours", "prototypes"])
def test_what_the_reference_lacks_is_unknown(method, metric):
    vectors, labels = clouds((0, 1, 2))
    labeller = Labeller(vectors, labels, Transfer(method=method, metric=metric, unknown=0.95))
    others, truths = clouds((0, 1, 2, 4), seed=1)
    found = told(labeller, others)
    unknown = (found["prediction"] == "unknown").groupby(truths).mean()
    assert unknown["c4"] > 0.95
    assert unknown.drop("c4").between(0.01, 0.12).all()
    known = (found["prediction"] != "unknown") & (np.array(truths) != "c4")
    assert (found["prediction"][known] == np.array(truths)[known]).mean() > 0.99
    shares = found.filter(like="probability_")
    assert shares.columns.tolist() == ["probability_c0", "probability_c1", "probability_c2"]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)


def test_nothing_is_unknown_unless_asked_for():
    vectors, labels = clouds((0, 1))
    labeller = Labeller(vectors, labels, Transfer(unknown=None))
    assert set(told(labeller, clouds((5,))[0])["prediction"]) <= {"c0", "c1"}
    assert labeller.facts["limits"] == {}


def test_a_small_class_shares_the_limit_of_all():
    vectors, labels = clouds((0, 1), count=60)
    vectors[60:] = vectors[60:] * 3
    whole = Labeller(vectors, labels, Transfer(k=5, metric="euclidean", unknown=0.9))
    assert whole.limits[1] > 2 * whole.limits[0]
    few = Labeller(vectors[:69], labels[:69], Transfer(k=5, metric="euclidean", unknown=0.9))
    distances = Neighbours(vectors[:69], np.arange(69) // 60, few.how).left_out(np.arange(69))
    assert few.limits[1] == pytest.approx(np.quantile(distances, 0.9))
    assert few.limits[0] == pytest.approx(np.quantile(distances[:60], 0.9))


def test_prototypes_say_how_sure_they_are():
    # Two clouds of which about one cell in six lies nearer to the other's middle.
    vectors = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    vectors[300:, 0] += 2
    labels = np.repeat(["a", "b"], 300).tolist()
    found = told(Labeller(vectors, labels, Transfer("prototypes", metric="euclidean", unknown=None)), vectors)
    right = found["prediction"] == labels
    sure = found.filter(like="probability_").max(axis=1)
    assert 0.8 < right.mean() < 0.9
    assert sure.mean() == pytest.approx(right.mean(), abs=0.02)


def test_a_class_of_one_cell_has_no_distance_of_its_own():
    vectors, labels = clouds((0, 1), count=30)
    labeller = Labeller(vectors[:31], labels[:31], Transfer("prototypes"))
    assert np.isfinite(labeller.limits).all()
    with pytest.raises(DataError) as raised:
        Labeller(vectors[[0, 40]], ["a", "b"], Transfer("prototypes"))
    assert str(raised.value) == ("the reference has one cell of each class: nothing tells which distances are usual")
