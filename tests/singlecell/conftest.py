"""What several tests of real cells need; each of them brings the ``cells``."""

import pytest

from singlecell.real_cells import FAMILIES, model


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Keep what is cached, or noted of this machine, out of the caches of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def models(cells, folder):
    """Return the names of small models that know the genes of the cells, by family."""
    return {family: model(family, folder / family, cells) for family in FAMILIES}
