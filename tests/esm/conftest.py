"""ESM-2 checkpoints to read: the golden one, and copies of it to spoil."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "esm2" / "given"


class Copy:
    """A copy of the golden checkpoint in a folder of its own."""

    def __init__(self, folder):
        shutil.copytree(GOLDEN / "model", folder)
        self.folder = folder
        self.tensors = load_file(folder / "model.safetensors")

    def save(self, tensors):
        save_file(tensors, self.folder / "model.safetensors")

    def configure(self, **changes):
        path = self.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "esm2")


@pytest.fixture(scope="session")
def build():
    """Build the backbone of a source, as exapt does: by name, over its options."""

    def _build(source=GOLDEN / "model", weights=True, **options):
        spec = current().get(BackboneSpec, "esm2").spec
        return spec.build(validated(spec.options, {"source": str(source), **options}, "backbone 'esm2'"), weights)

    return _build


@pytest.fixture(scope="session")
def tokenizer_of():
    """Build the tokenizer of a source."""

    def _tokenizer(source=GOLDEN / "model", **options):
        spec = current().get(TokenizerSpec, "esm2").spec
        return spec.build(validated(spec.options, {"source": str(source), **options}, "tokenizer 'esm2'"))

    return _tokenizer
