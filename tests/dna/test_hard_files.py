"""Files that are nearly right: each is refused in a sentence, and no id or base is shifted silently."""

import json
import shutil
from pathlib import Path

import pytest

import exapt
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = {
    "dnabert": GOLDEN / "dnabert" / "given" / "model",
    "nucleotide-transformer": GOLDEN / "nucleotide_transformer" / "v1" / "given" / "model",
}
PIECES = Path(__file__).parents[3] / "shared" / "golden" / "dnabert2" / "given" / "model" / "tokenizer.json"


def built(kind, name, folder, *arguments, **options):
    spec = current().get(kind, name).spec
    return spec.build(validated(spec.options, {"source": str(folder), **options}, "here"), *arguments)


@pytest.fixture(params=MODELS)
def family(request):
    return request.param


@pytest.fixture
def copy(family, tmp_path):
    return Path(shutil.copytree(MODELS[family], tmp_path / "copy"))


def change(folder, **changes):
    path = folder / "config.json"
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{"max_position_embeddings": 0}, {"max_position_embeddings": -1}, {"initializer_range": -1}, {"layer_norm_eps": 0}],
    ids=str,
)
def test_numbers_that_cannot_be(family, copy, changes, weights):
    change(copy, **changes)
    with pytest.raises(exapt.DataError) as caught:
        built(BackboneSpec, family, copy, weights)
    ((name, _),) = changes.items()
    assert str(caught.value) == (f"the config.json of '{copy}' cannot be used: {name}: Input should be greater than 0")


@pytest.mark.parametrize(("spoil", "line"), [(lambda lines: [*lines[:9], "", *lines[9:]], 10),
                                             (lambda lines: [*lines[:9], " ".join(lines[9:11]), *lines[11:]], 10)],
                         ids=["blank", "two"])  # fmt: skip
def test_a_line_of_the_vocabulary_that_is_not_one_token(family, copy, spoil, line):
    path = copy / "vocab.txt"
    path.chmod(0o644)
    lines = spoil(path.read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(exapt.DataError) as caught:
        built(TokenizerSpec, family, copy)
    model = {"dnabert": "DNABERT", "nucleotide-transformer": "Nucleotide Transformer"}[family]
    assert str(caught.value) == (
        f"'{path}' is no vocabulary of {model}: line {line} holds not one token, but {lines[line - 1]!r}"
    )


def test_windows_line_ends_and_blank_lines_at_the_end_change_nothing(family, copy):
    path = copy / "vocab.txt"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert built(TokenizerSpec, family, copy).vocabulary == built(TokenizerSpec, family, MODELS[family]).vocabulary


@pytest.mark.skipif(not PIECES.is_file(), reason="DNABERT-2's tokenizer.json is read from ../shared only")
@pytest.mark.parametrize("spoil", [
    {"normalizer": {"type": "Lowercase"}},
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
], ids=["lower case", "bytes"])  # fmt: skip
def test_word_pieces_that_do_not_spell_dna(tmp_path, spoil):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(PIECES.read_text()) | spoil))
    with pytest.raises(exapt.DataError) as caught:
        built(TokenizerSpec, "dnabert2", tmp_path)
    assert str(caught.value) == (
        f"'{path}' is no vocabulary of DNABERT-2: its word pieces do not spell ACGTTGCATTAGCCGNNATCGGA"
    )


def test_exactly_the_share_of_unknown_letters_that_is_allowed():
    tokenizer = built(TokenizerSpec, "dnabert", MODELS["dnabert"], max_unknown=0.29)
    assert tokenizer.encode("N" * 29 + "A" * 71).unknown == 29


def test_an_adapter_crosses_the_layouts_of_hyenadna(tmp_path):
    """The same weights, published twice with two tokenizers: an adapter keeps which of them it was trained with."""
    folder = GOLDEN / "hyenadna" / "given"
    table = tmp_path / "dna.csv"
    table.write_text(
        "sequence,label\n" + "".join(f"{'ACGT'[n % 4 :] + 'GATTACA' * (1 + n % 3)},{n % 2}\n" for n in range(12))
    )
    recipe = {
        "data": {"path": str(table)},
        "backbone": f"hyenadna:{folder / 'hf'}",
        "head": {"name": "sequence-classification", "label": "label"},
        "strategy": "probe",
        "training": {"epochs": 1},
    }
    trained = exapt.train(recipe, tmp_path / "adapter")
    assert trained.manifest["recipe"]["tokenizer"]["ends"] == "sep"
    moved = exapt.load(tmp_path / "adapter", backbone=f"hyenadna:{folder / 'original'}")
    here, there = (one.predict(["ACGTACGT"])["probability_1"].to_pylist() for one in (trained, moved))
    assert there == pytest.approx(here, abs=1e-5)
