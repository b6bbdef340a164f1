"""Who votes among equals, what is unknown at the ends of the scale, and names of classes as they are."""

import numpy as np
import pytest

from exapt import DataError
from exapt_singlecell.labelling import Labeller, Neighbours, Prototypes, Transfer

both = pytest.mark.parametrize("metric", ["cosine", "euclidean"])


def told(labeller, vectors):
    return labeller.answers([str(row) for row in range(len(vectors))], vectors, np.zeros(len(vectors), dtype=bool))


def cloud(count=60, width=32, middle=2.0, seed=0):
    return (np.random.default_rng(seed).normal(size=(count, width)) + middle).astype(np.float32)


@both
@pytest.mark.parametrize(("width", "middle"), [(64, 0.0), (8, 20.0), (2, 0.0), (256, 100.0), (32, 1e4)])
def test_copies_of_a_cell_vote_alike_wherever_they_stand(metric, width, middle):
    vectors, labels = cloud(width=width, middle=middle), np.array(["a", "b"] * 30)
    copies = np.random.default_rng(1).permutation(60)[:5]
    vectors[copies], labels[copies] = vectors[copies[0]], ["a", "b", "b", "b", "b"]
    labeller = Labeller(vectors, labels.tolist(), Transfer(k=5, metric=metric, unknown=None))
    alone = told(labeller, vectors[copies[:1]])
    # All five stand where the cell asked about stands, and no other does.
    assert alone["probability_b"].to_pylist() == [pytest.approx(0.8)]
    assert alone["prediction"].to_pylist() == ["b"]
    assert alone["distance"].to_pylist() == [0]


@both
@pytest.mark.parametrize("method", ["neighbours", "prototypes"])
@pytest.mark.parametrize("middle", [0.0, 20.0, 1e4])
def test_a_cell_has_the_same_answer_alone_and_among_others(method, metric, middle):
    vectors = cloud(300, middle=middle)
    labels = np.where(vectors[:, 0] > middle, "a", "b").tolist()
    labeller = Labeller(vectors, labels, Transfer(method, k=7, metric=metric))
    asked = np.concatenate([cloud(40, middle=middle, seed=1), vectors[:9]])
    together = told(labeller, asked)
    for row in range(len(asked)):
        assert told(labeller, asked[[row]]).drop_columns("id").to_pylist() == (
            together.slice(row, 1).drop_columns("id").to_pylist()
        )
    turned = told(labeller, np.asfortranarray(asked)[::-1])
    assert turned.drop_columns("id").to_pylist() == together.drop_columns("id").to_pylist()[::-1]


@pytest.mark.parametrize("middle", [0.0, 1e3, 1e5])
def test_neighbours_are_those_of_exact_distances(middle):
    vectors, asked = cloud(500, 16, middle), cloud(30, 16, middle, seed=1)
    codes = np.arange(500) % 3
    squared, found = Neighbours(vectors, codes, Transfer(k=9, metric="euclidean"))._nearest(asked, 9)
    exact = np.square(asked.astype(np.float64)[:, None] - vectors.astype(np.float64)).sum(-1)
    assert found.tolist() == np.argsort(exact, axis=1, kind="stable")[:, :9].tolist()
    assert squared == pytest.approx(np.sort(exact, axis=1)[:, :9], rel=1e-12)


def test_of_equally_near_cells_the_first_of_the_reference_vote():
    # Around 0, at the same distance, one of each class after the other.
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [9, 9], [8, 8]], dtype=np.float32)
    labels = ["a", "b", "b", "b", "c", "c"]
    asked = np.zeros((1, 2), dtype=np.float32)
    for order, wanted in (
        ([0, 1, 2, 3, 4, 5], [0.5, 0.5]),
        ([1, 2, 0, 3, 4, 5], [0, 1]),
        ([5, 3, 0, 4, 1, 2], [0.5, 0.5]),
    ):
        named = [labels[place] for place in order]
        labeller = Labeller(vectors[order], named, Transfer(k=2, metric="euclidean", unknown=None))
        found = told(labeller, asked)
        assert [found[f"probability_{name}"][0].as_py() for name in "ab"] == wanted


@pytest.mark.parametrize("name", ["unknown", "Unknown", "UNKNOWN"])
def test_a_class_called_unknown_is_refused_however_it_is_written(name):
    with pytest.raises(DataError) as refused:
        Labeller(cloud(), [name, "a", "b"] * 20, Transfer())
    assert str(refused.value) == f"the reference has a class '{name}' of its own: rename it, or leave those labels out"


def test_names_of_classes_stay_as_they_are():
    names = ["a", "a\0", " a", "a ", "A", "", "unknown cells"]
    vectors = cloud(70)
    labeller = Labeller(vectors, names * 10, Transfer(k=1, unknown=None))
    assert labeller.names == sorted(names)
    assert told(labeller, vectors)["prediction"].to_pylist() == names * 10


def own_distances(kind, vectors, codes, how):
    return kind(how.space(vectors), codes, how).left_out(np.arange(len(codes)))


@pytest.mark.parametrize(("method", "kind"), [("neighbours", Neighbours), ("prototypes", Prototypes)])
def test_ten_cells_have_a_limit_of_their_own_at_nine_tenths_and_nine_have_none(method, kind):
    for count in (10, 9):
        vectors, codes = cloud(60 + count), np.array([0] * 60 + [1] * count)
        vectors[60:] *= 4
        how = Transfer(method, k=5, metric="euclidean", unknown=0.9)
        limits = Labeller(vectors, ["ab"[code] for code in codes], how).limits
        distances = own_distances(kind, vectors, codes, how)
        wanted = distances[60:] if count == 10 else distances
        assert limits[1] == pytest.approx(np.quantile(wanted, 0.9))
        assert np.quantile(distances[60:], 0.9) != pytest.approx(np.quantile(distances, 0.9))


@pytest.mark.parametrize(("method", "kind"), [("neighbours", Neighbours), ("prototypes", Prototypes)])
def test_at_1_the_limit_is_a_classs_own_largest_distance(method, kind):
    vectors, codes = cloud(66), np.array([0] * 60 + [1] * 5 + [2])
    vectors[60:] *= 4
    how = Transfer(method, k=5, metric="euclidean", unknown=1)
    labeller = Labeller(vectors, ["abc"[code] for code in codes], how)
    distances = own_distances(kind, vectors, codes, how)
    assert labeller.limits[0] == distances[:60].max()
    assert labeller.limits[1] == distances[60:65].max()
    # Of one cell alone there is no distance to its own class: it shares the largest of all.
    assert labeller.limits[2] == (distances[65] if method == "neighbours" else np.nanmax(distances))
