"""scGPT keeps every promise that the author's kit checks of readers of cells."""

import pytest

from exapt.testing import check_backbone, check_tokenizer
from singlecell.scgpt_models import BACKBONE, MODEL, TOKENIZER, genes_of

NAMES = genes_of(30)
INPUTS = (
    {"genes": NAMES, "counts": [place % 7 for place in range(30)]},
    {"genes": NAMES[:12], "counts": [place + 1 for place in range(12)]},
    {"genes": [*NAMES[:4], "NOT_A_GENE"], "counts": [3, 3, 0, 1, 2]},
)


@pytest.mark.slow
def test_the_backbone_conforms():
    check_backbone(BACKBONE, {"source": str(MODEL)}, tokenizer=TOKENIZER, inputs=INPUTS)


@pytest.mark.slow
def test_the_backbone_conforms_on_its_own_probes():
    check_backbone(BACKBONE, {"source": str(MODEL)}, tokenizer=TOKENIZER)


@pytest.mark.parametrize("options", [{}, {"max_length": 8}, {"max_length": 8, "surplus": "highest"}, {"bins": 7}])
def test_the_tokenizer_conforms(options):
    check_tokenizer(TOKENIZER, {"source": str(MODEL), **options}, inputs=INPUTS)
