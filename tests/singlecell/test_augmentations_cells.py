"""Cells with fewer molecules or fewer genes."""

import numpy as np
import pytest

from exapt import RecipeError, TokenizerSpec
from exapt.cells import Cell, Genes
from exapt.recipe import validated
from exapt.testing import check_augmentation
from exapt_singlecell.augmentations import AUGMENTATIONS
from singlecell.scgpt_models import MODEL, genes_of, reader

THINNING, DROPOUT = AUGMENTATIONS
GENES = Genes(tuple(f"G{number}" for number in range(400)))
SCGPT = TokenizerSpec(name="scgpt", summary="Of the golden checkpoint.", build=lambda _options: reader(MODEL))
CELL = Cell.from_dense(GENES, np.arange(400) % 40)


def changed(spec, cell=CELL, seed=0, **options):
    return spec.build(validated(spec.options, options, "options")).change(cell, np.random.default_rng(seed))


@pytest.mark.parametrize("spec", AUGMENTATIONS, ids=lambda spec: spec.name)
def test_the_kit_is_content(spec):
    names = genes_of(30)
    given = [Cell.from_dense(Genes(tuple(names)), np.arange(30) % 9), {"genes": names[:2], "counts": [3, 1]}]
    check_augmentation(spec, inputs=given, tokenizer=SCGPT)


def test_molecules_are_kept_one_by_one():
    shares = [changed(THINNING, seed=seed, least=0.4).value.total / CELL.total for seed in range(40)]
    assert 0.38 < min(shares) < 0.5
    assert 0.9 < max(shares) < 1.01
    one = changed(THINNING, least=0.4)
    assert (one.value.values <= CELL.values[one.units]).all()
    assert (one.value.values % 1 == 0).all()
    assert one.value.names == [CELL.names[unit] for unit in one.units]


def test_the_share_of_genes_asked_for_goes_unseen():
    one = changed(DROPOUT, rate=0.25)
    assert len(one.value.names) == pytest.approx(0.75 * len(CELL.names), rel=0.1)
    assert (one.value.values == CELL.values[one.units]).all()


def test_a_cell_keeps_something():
    lonely = Cell.from_dense(Genes(("A",)), [1])
    assert all(changed(DROPOUT, lonely, seed, rate=0.99).value.names == ["A"] for seed in range(5))


def test_normalised_values_are_no_molecules():
    with pytest.raises(RecipeError, match="these values are normalised: give raw counts, or use 'gene-dropout'"):
        changed(THINNING, Cell.from_dense(GENES, np.arange(400) / 7, raw=False))
