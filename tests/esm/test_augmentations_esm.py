"""Substituted residues: how many, by which, and never of a structure."""

import numpy as np
import pytest

from exapt import RecipeError
from exapt.recipe import validated
from exapt.testing import check_augmentation
from exapt_esm._augmentations import RESIDUES, SIMILAR
from exapt_esm.augmentations import AUGMENTATIONS

(SPEC,) = AUGMENTATIONS
LONG = RESIDUES * 500 + "XBZ"


def changed(value=LONG, seed=0, **options):
    return SPEC.build(validated(SPEC.options, options, "options")).change(value, np.random.default_rng(seed)).value


def test_the_kit_is_content():
    check_augmentation(SPEC, inputs=["MKTAYIAKQRQISFVKSHF", "ACD"])


@pytest.mark.parametrize("by", ["similar", "any"])
def test_about_the_share_asked_for_is_replaced(by):
    after = changed(rate=0.1, by=by)
    moved = [(one, other) for one, other in zip(LONG, after, strict=True) if one != other]
    able = sum(letter in SIMILAR if by == "similar" else letter in RESIDUES for letter in LONG)
    assert len(moved) == pytest.approx(0.1 * able, rel=0.1)
    assert all(other in (SIMILAR[one] if by == "similar" else RESIDUES) for one, other in moved)
    assert after.endswith("XBZ")


def test_likeness_goes_both_ways():
    assert all(one in SIMILAR[other] for one, others in SIMILAR.items() for other in others)


def test_a_structure_is_refused():
    with pytest.raises(RecipeError, match="this backbone reads structures: use 'backbone-noise'"):
        changed(value=object())
