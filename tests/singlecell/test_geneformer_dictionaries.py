"""Geneformer's dictionaries are found where they are published, and every other or damaged one is refused in a sentence."""

import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import constants

from exapt import DataError
from exapt_singlecell.geneformer import REVISION
from singlecell.geneformer_models import GIVEN, STEMS, Copy, bare, built, dictionaries, reader, write

MODEL = {version: GIVEN[version] / "model" for version in GIVEN}
DAMAGED = "is damaged, cut short, or holds more than names and numbers; download it again"
TOKENS, MEDIANS, NAMES, MAPPING = STEMS
# Few bytes, and without end when written out.
DEEP: dict[str, object] = {}
for _ in range(60):
    DEEP = {"a": DEEP, "b": DEEP}


@pytest.fixture
def copy(tmp_path):
    """Return a copy of version 2's checkpoint without dictionaries."""
    copied = Copy("v2", tmp_path / "Geneformer-V2-104M")
    bare(copied.folder)
    return copied


def refusal(folder, **options):
    with pytest.raises(DataError) as caught:
        reader(folder, **options)
    return str(caught.value)


def damaged(copy, content, stem=TOKENS):
    """Return what is said of a pickle of some content."""
    write(copy.folder, dictionaries("v2"))
    path = copy.folder / f"{stem}.pkl"
    path.write_bytes(content)
    said = refusal(copy.folder)
    assert said.startswith(f"'{path}' ")
    return said.removeprefix(f"'{path}' ")


@pytest.mark.parametrize("place", ["", "geneformer", "../geneformer", "..", "../geneformer/gene_dictionaries_30m"])
@pytest.mark.parametrize("suffix", ["_gc104M", "_gc95M", "_gc30M", ""])
def test_dictionaries_are_found_where_they_are_published(place, suffix, copy):
    write(copy.folder / place, dictionaries("v2"), suffix)
    assert reader(copy.folder).vocabulary == dictionaries("v2")[TOKENS]


@pytest.mark.parametrize("ending", [".pkl", ".json", ".parquet"])
def test_all_formats_say_the_same(ending, copy):
    found = dictionaries("v2")
    if ending == ".parquet":
        for stem, content in found.items():
            table = pa.table({"key": list(content), "value": list(content.values())})
            parquet.write_table(table, copy.folder / f"{stem}{ending}")
    else:
        write(copy.folder, found, "", ending)
    cell = {"genes": list(found[NAMES]), "counts": [1 + place % 9 for place in range(len(found[NAMES]))]}
    theirs = reader(MODEL["v2"]).encode(cell).arrays["input_ids"].tolist()
    assert reader(copy.folder).encode(cell).arrays["input_ids"].tolist() == theirs


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_medians_of_numpy_in_every_protocol(kind, protocol, copy):
    found = dictionaries("v2")
    medians = {gene: kind(1 + place % 50) for place, gene in enumerate(found[MEDIANS])}
    write(copy.folder, found)
    (copy.folder / f"{MEDIANS}.pkl").write_bytes(pickle.dumps(medians, protocol))
    genes = list(found[MEDIANS])[:40]
    encoding = reader(copy.folder).encode({"genes": genes, "counts": [7] * 40})
    ranked = sorted(genes, key=lambda gene: float(medians[gene]))
    assert encoding.arrays["input_ids"].tolist()[1:-1] == [found[TOKENS][gene] for gene in ranked]


def test_names_that_are_missing_are_nobodys(copy):
    found = dictionaries("v2")
    found[NAMES] |= {float("nan"): "ENSG00000002330", "NOBODY": float("nan")}
    write(copy.folder, found)
    (name,) = [name for name, gene in dictionaries("v2")[NAMES].items() if gene == "ENSG00000002330"]
    encoding = reader(copy.folder).encode({"genes": [name, "NOBODY"], "counts": [1, 2]})
    assert encoding.arrays["input_ids"].tolist() == [2, found[TOKENS]["ENSG00000002330"], 3]


def test_the_dictionaries_that_fit_the_weights_are_taken(copy):
    write(copy.folder / "../geneformer", dictionaries("v1"), "_gc104M")
    write(copy.folder / "../geneformer/gene_dictionaries_30m", dictionaries("v2"), "_gc30M")
    assert len(reader(copy.folder).vocabulary) == 204


def test_two_releases_that_both_fit(copy):
    place = copy.folder / "geneformer"
    for suffix in ("_gc95M", "_gc104M"):
        write(place, dictionaries("v2"), suffix)
    first, second = (f"'{copy.folder}/geneformer/{TOKENS}{suffix}.pkl'" for suffix in ("_gc104M", "_gc95M"))
    assert refusal(copy.folder) == (
        f"{first} and {second} both fit the weights; name the one of their release as tokenizer.token_dictionary"
    )
    named = reader(copy.folder, token_dictionary=str(place / f"{TOKENS}_gc95M.pkl"))
    assert len(named.vocabulary) == 204


def test_the_wrong_dictionary_for_the_weights(copy):
    write(copy.folder / "../geneformer", dictionaries("v1"), "_gc30M")
    path = copy.folder / f"../geneformer/{TOKENS}_gc30M.pkl"
    said = (
        f"'{path}' has 202 tokens, but the weights of '{copy.folder}' know 204: it is the token dictionary of another "
        "Geneformer; name the folder of their own dictionaries as tokenizer.dictionaries"
    )
    assert refusal(copy.folder) == said
    for named in ({"dictionaries": str(path.parent)}, {"token_dictionary": str(path)}):
        assert refusal(copy.folder, **named).endswith(said.partition("' ")[2])


def test_dictionaries_that_are_named(copy, tmp_path):
    write(tmp_path / "mine", dictionaries("v2"), "_gc104M", ".json")
    assert len(reader(copy.folder, dictionaries=str(tmp_path / "mine")).vocabulary) == 204
    files = {stem: str(tmp_path / "mine" / f"{stem}_gc104M.json") for stem in STEMS}
    # The other three are those beside the one that is named.
    assert len(reader(copy.folder, token_dictionary=files[TOKENS]).vocabulary) == 204
    flat = dict.fromkeys(dictionaries("v2")[MEDIANS], 1.0)
    write(tmp_path / "flat", {MEDIANS: flat})
    tokenizer = reader(
        *(copy.folder,),
        token_dictionary=files[TOKENS],
        gene_medians=str(tmp_path / "flat" / f"{MEDIANS}.pkl"),
        gene_names=files[NAMES],
        gene_mapping=files[MAPPING],
    )
    genes = list(flat)[:3]
    tokens = dictionaries("v2")[TOKENS]
    encoding = tokenizer.encode({"genes": genes, "counts": [1, 3, 2]})
    assert encoding.arrays["input_ids"].tolist() == [2, *(tokens[genes[place]] for place in (1, 2, 0)), 3]


def test_what_is_named_and_not_there(copy, tmp_path):
    where = str(tmp_path / "nowhere")
    assert refusal(copy.folder, dictionaries=where) == (
        f"there is no folder '{where}', which tokenizer.dictionaries names"
    )
    write(copy.folder, dictionaries("v2"))
    assert refusal(copy.folder, gene_medians=where) == (
        f"there is no file '{where}', which is named for the gene_median_dictionary"
    )


@pytest.mark.parametrize("stem", [TOKENS, MEDIANS])
def test_a_checkpoint_without_dictionaries(stem, copy):
    write(copy.folder, {name: content for name, content in dictionaries("v2").items() if name != stem})
    assert refusal(copy.folder) == (
        f"'{copy.folder}' has no {stem} (.parquet, .json, .pkl) in its folder, in 'geneformer' there or beside it, or in "
        "the folder above; name the folder that has it as tokenizer.dictionaries"
    )


def test_names_and_mapping_can_do_without(copy):
    write(copy.folder, {stem: dictionaries("v2")[stem] for stem in (TOKENS, MEDIANS)})
    encoding = reader(copy.folder).encode({"genes": ["ENSG00000002330.4", "BAD"], "counts": [1, 1]})
    assert (encoding.arrays["input_ids"].tolist(), encoding.unknown) == ([2, 4, 3], 1)


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("stem", STEMS)
def test_a_pickle_with_code_is_refused_and_runs_nothing(stem, protocol, copy, capsys):
    content = pickle.dumps({"a": Payload(print, "executed")}, protocol)
    home = "__builtin__" if protocol < 3 else "builtins"
    assert damaged(copy, content, stem) == (
        f"asks for '{home}.print' to be run, which exapt does not do; take the dictionary as JSON or Parquet"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"cos\nsystem\n(S'touch executed'\ntR.", "os.system"),
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n(Vx\ntR.", "numpy.load"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(Vx\ntR.", "numpy.core.multiarray._reconstruct"),
        (b"\x80\x04\x8c\x05numpy\x8c\rcore.fromfile\x93\x8c\x01x\x85R.", "numpy.core.fromfile"),
        (b"cnumpy\ndtype.__class__\n.", "numpy.dtype.__class__"),
    ],
)
def test_any_other_call_is_named(content, asked, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert damaged(copy, content) == (
        f"asks for '{asked}' to be run, which exapt does not do; take the dictionary as JSON or Parquet"
    )
    assert not (tmp_path / "executed").exists()


SCALAR, DTYPE = b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"}",
        b"}.}.",
        b"\x80\x04}r\xff\xff\xff\xff.",
        b"}p4000000000\n.",
        b"\x80\xff}.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"(i" + b"os\nsystem\n.",
        b"\x80\x02}Pid\n.",
        b"\x80\x02}\x82\x01.",
        b"\x80\x02" + b"N" + b"\x85" * 100_000 + b".",
        b"]q\x00h\x00a.",
        b"}(]1es.",
        DTYPE + b"(VO8\ntR.",
        DTYPE + b"(VV16\ntR.",
        SCALAR + b"(Vx\nVy\ntR.",
        SCALAR + b"(" + DTYPE + b"(Vf8\ntRC\x03abctR.",
        SCALAR + b"}Vx\nVy\nsb.",
        DTYPE + b"(Vf8\ntR(I3\nV%\ntb.",
        DTYPE + b"(Vf8\ntRNb.",
        pickle.dumps(b"x" * 10),
        pickle.dumps(["<pad>", "<mask>"]),
        pickle.dumps({("<pad>", "<mask>"): 1}),
        pickle.dumps({"<pad>": {1, 2}}),
        pickle.dumps({"<pad>": np.arange(3)}),
    ],
)
def test_oddities_of_the_format(content, copy):
    said = damaged(copy, content)
    assert said in (DAMAGED, "holds bytes, not a dictionary") or said.startswith("asks for 'numpy")


def test_every_place_to_cut_and_every_bit_to_turn(copy):
    whole = pickle.dumps(dictionaries("v2")[MEDIANS])
    for place in range(0, len(whole), 97):
        assert damaged(copy, whole[:place], MEDIANS) == DAMAGED
    rng = np.random.default_rng(0)
    write(copy.folder, dictionaries("v2"))
    path = copy.folder / f"{MEDIANS}.pkl"
    outcomes = set()
    for place in rng.integers(0, len(whole), 200).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            reader(copy.folder)
        except DataError as error:
            outcomes.add(str(error).startswith(f"'{path}' "))
    assert outcomes == {True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], DAMAGED),
        ("text", "holds str, not a dictionary"),
        ({}, "is not the dictionary that its name says: it is empty"),
        ({"<pad>": 0, "<mask>": "one"}, "is not the dictionary that its name says: '<mask>' stands for 'one'"),
        ({"<pad>": 0, "<mask>": True}, "is not the dictionary that its name says: '<mask>' stands for True"),
        ({"<pad>": 0, "<mask>": 1.5}, "is not the dictionary that its name says: '<mask>' stands for 1.5"),
        ({0: 0}, "is not the dictionary that its name says: 0 stands for 0"),
        (
            {"<pad>": 0, "<mask>": DEEP},
            "is not the dictionary that its name says: '<mask>' stands for a value of the type dict",
        ),
        (
            {"<pad>": 10**9999, "<mask>": 10**9999},
            "is not the dictionary that its name says: '<pad>' stands for a number of many digits",
        ),
        ({"<pad>": 0, "<mask>": 0}, "is no token dictionary: id 0 stands twice"),
        ({"<pad>": 1, "<mask>": 2}, "is no token dictionary: its ids are not 0 to 1"),
        ({"<pad>": -1, "<mask>": 0}, "is no token dictionary: its ids are not 0 to 1"),
        ({"ENSG00000000003": 0}, "is no token dictionary: it lacks <pad> and <mask>"),
    ],
)
def test_token_dictionaries_that_are_none(content, message, copy):
    assert damaged(copy, pickle.dumps(content)) == message


@pytest.mark.parametrize(
    ("level", "said"), [(0.0, "0.0"), (-1.0, "-1.0"), (float("nan"), "nan"), (1e999, "inf"), (10**400, "inf")]
)
def test_medians_that_are_no_levels(level, said, copy):
    medians = dictionaries("v2")[MEDIANS] | {"ENSG00000002330": level}
    assert damaged(copy, pickle.dumps(medians), MEDIANS) == (
        f"is no median dictionary: the level of ENSG00000002330 is {said}, not above 0"
    )


def test_medians_of_another_release(copy):
    said = damaged(copy, pickle.dumps(dictionaries("v1")[MEDIANS]), MEDIANS)
    lacking = [
        gene for gene in dictionaries("v2")[TOKENS] if gene.startswith("E") and gene not in dictionaries("v1")[MEDIANS]
    ]
    assert said == (
        f"lacks {len(lacking)} of the 200 genes of '{copy.folder}/{TOKENS}.pkl', such as {lacking[0]}: the two are not of "
        "one release"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("json", b"{", "is not JSON, is cut short, or names a gene twice; download it again"),
        ("json", b'{"a": 1, "a": 2}', "is not JSON, is cut short, or names a gene twice; download it again"),
        ("json", b"[" * 100_000, "is not JSON, is cut short, or names a gene twice; download it again"),
        ("json", b"[]", "holds list, not a dictionary"),
        ("parquet", b"PAR1", "is not Parquet with the columns key and value; download it again"),
        (
            "pkl",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder",
        ),
    ],
)
def test_files_that_are_no_dictionaries(name, content, message, copy):
    path = copy.folder / f"{TOKENS}.{name}"
    path.write_bytes(content)
    assert refusal(copy.folder) == f"'{path}' {message}"


@pytest.mark.parametrize("columns", [{"key": ["a"], "id": [1]}, {"gene": ["a"], "value": [1]}])
def test_parquet_of_other_columns(columns, copy):
    path = copy.folder / f"{TOKENS}.parquet"
    parquet.write_table(pa.table(columns), path)
    assert refusal(copy.folder) == f"'{path}' is not Parquet with the columns key and value; download it again"


def test_parquet_that_names_a_gene_twice(copy):
    path = copy.folder / f"{TOKENS}.parquet"
    parquet.write_table(pa.table({"key": ["a", "a"], "value": [1, 2]}), path)
    assert refusal(copy.folder) == f"'{path}' names a gene twice; download it again"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the cached snapshot of the published repository: two checkpoints, and the dictionaries of both."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--ctheodoris--Geneformer" / "snapshots" / REVISION
    for version, name in (("v1", "Geneformer-V1-10M"), ("v2", "Geneformer-V2-104M")):
        shutil.copytree(MODEL[version], snapshot / name)
        bare(snapshot / name)
    write(snapshot / "geneformer", dictionaries("v2"), "_gc104M")
    write(snapshot / "geneformer" / "gene_dictionaries_30m", dictionaries("v1"), "_gc30M")
    return snapshot


@pytest.mark.parametrize(("name", "size"), [("Geneformer-V1-10M", 202), ("Geneformer-V2-104M", 204)])
def test_a_folder_inside_a_repository_of_the_hub(name, size, hub):
    source = f"ctheodoris/Geneformer/{name}"
    assert len(reader(source, revision=REVISION).vocabulary) == size
    words = built(source, revision=REVISION).bert.embeddings.word_embeddings.weight
    assert words.shape == (size, 32)


@pytest.mark.parametrize(("name", "size"), [("Geneformer-V1-10M", 202), ("Geneformer-V2-104M", 204)])
def test_a_folder_of_the_hub_with_a_slash_behind_it(name, size, hub):
    source = f"ctheodoris/Geneformer/{name}/"
    assert len(reader(source, revision=REVISION).vocabulary) == size
    assert len(built(source, revision=REVISION).bert.embeddings.word_embeddings.weight) == size


def test_a_repository_whose_own_folder_is_the_checkpoint(hub):
    for path in (hub / "Geneformer-V2-104M").iterdir():
        shutil.copy(path, hub)
    assert len(reader("ctheodoris/Geneformer", revision=REVISION).vocabulary) == 204


def test_a_hub_folder_that_is_not_in_the_cache(hub):
    source = "ctheodoris/Geneformer/Geneformer-V2-316M"
    said = (
        f"'{source}' is no folder here, and its config.json is neither on the hub nor in the cache of this machine; "
        "connect once to download it, or name a local folder as geneformer:PATH"
    )
    assert refusal(source, revision=REVISION) == said


def test_a_source_that_leads_out_of_its_repository(hub):
    source = "ctheodoris/Geneformer/../../secret"
    assert refusal(source, revision=REVISION) == (
        f"there is no folder '{source}'; name a folder with a Geneformer checkpoint, or a hub id OWNER/NAME"
    )
