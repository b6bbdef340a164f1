"""exapt-antiberty keeps every promise that the author's kit checks, on the real weights."""

import pytest

from exapt.testing import check_plugin


@pytest.mark.slow
def test_the_plugin_conforms():
    assert check_plugin("exapt_antiberty") == {"backbone 'antiberty'": "checked", "tokenizer 'antiberty'": "checked"}
