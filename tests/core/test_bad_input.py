"""Every mistake of a user gives one line on stderr and exit code 2, and leaves the folder as it was."""

import gzip
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

SEQUENCES = ("MKTAYIAK", "QRQISFVK", "SHFSRQLE", "ERLGLIEV", "QAPILSRV", "GDGTQDNL", "SGAEKAVQ", "VKVKALPD")
GOOD = "id,sequence,label,split\n" + "".join(
    f"r{number},{sequence},{number % 2},{'valid' if number > 5 else 'train'}\n"
    for number, sequence in enumerate(SEQUENCES)
)


@pytest.fixture
def table(tmp_path):
    """A small good table, to be spoilt."""
    path = tmp_path / "rna.csv"
    path.write_text(GOOD)
    return path


def listing(folder):
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*"))


@pytest.fixture
def spoilt(refused, flags, tmp_path):
    """Train on a table and return the refusal, after seeing that nothing was left behind."""

    def run(path, *more, **changes):
        before = listing(tmp_path)
        said = refused("train", *flags(data=path, **changes), *more, "--out", tmp_path / "adapter")
        assert listing(tmp_path) == before
        return said

    return run


def edited(old, new, count=1):
    return GOOD.replace(old, new, count).encode()


TABLES = {
    "empty": ("rna.csv", b"", "rna.csv is empty."),
    "no-rows": ("rna.csv", b"id,sequence,label,split\n", "rna.csv has a header but no rows."),
    "no-column": (
        "rna.csv",
        edited("sequence", "seq"),
        "rna.csv has no column 'sequence'. Its columns are: id, seq, label, split.",
    ),
    "no-label-column": (
        "rna.csv",
        edited("label", "class"),
        "rna.csv has no column 'label'. Its columns are: id, sequence, class, split.",
    ),
    "no-split-column": (
        "rna.csv",
        edited("split", "part"),
        "the table has no column 'split'. Its columns are: id, sequence, label, part.",
    ),
    "missing-label": ("rna.csv", edited("K,0,t", "K,,t"), "MISSING"),
    "nan-label": ("rna.csv", edited("K,0,t", "K,nan,t"), "MISSING"),
    "two-contents": (
        "rna.csv",
        edited("r1", "r0"),
        "rna.csv: id 'r0' has two different inputs, in rows 1 and 2.",
    ),
    "header-only-fasta": ("rna.fasta", b">a label=1\n", "rna.fasta: record 'a' has no sequence."),
    "html": (
        "rna.csv",
        b"<!DOCTYPE html><html>404</html>",
        "rna.csv is an HTML page, not data. Fetch the file itself.",
    ),
    "html-as-fasta": (
        "rna.fasta",
        b"<html>404</html>",
        "rna.fasta is an HTML page, not data. Fetch the file itself.",
    ),
    "binary": ("rna.csv", b"PK\x03\x04rest", "rna.csv is a zip archive or an Excel workbook, not text."),
    "nul": ("rna.csv", edited("MKTA", "MK\0A"), "rna.csv is binary, not text: line 2, byte 6 is NUL."),
    "utf-16": ("rna.csv", GOOD.encode("utf-16"), "rna.csv is UTF-16 text. Save it as UTF-8."),
    "truncated-gzip": (
        "rna.csv.gz",
        gzip.compress(GOOD.encode() * 50, mtime=0)[:-20],
        "rna.csv.gz is cut off: its gzip data end too early. Fetch it again.",
    ),
    "illegal-character": (
        "rna.csv",
        edited("MKTA", "MK!A"),
        "'r0': character '!' at position 3 is no residue",
    ),
    "unknown-letters": (
        "rna.csv",
        edited("MKTA", "MKJA"),
        "'r0': 1 of 8 letters (J) are unknown to the model, more than max_unknown = 0.05 allows",
    ),
    "a-part-of-no-name": (
        "rna.csv",
        edited("K,0,train", "K,0,trian"),
        "the split column 'split' holds 'trian' at id 'r0'; write train, valid or test, or say with valid and "
        "test which values are held out.",
    ),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_table_that_cannot_be_used(spoilt, tmp_path, fault):
    name, content, said = TABLES[fault]
    (tmp_path / name).write_bytes(content)
    message = spoilt(tmp_path / name)
    if said == "MISSING":
        assert message.startswith("rna.csv")
        assert "'label'" in message
        assert "r0" in message
    else:
        assert message == said


def test_a_table_that_is_not_there(spoilt, tmp_path):
    assert spoilt(tmp_path / "none.csv") == f"there is no file '{tmp_path / 'none.csv'}'."


def test_one_class_only(spoilt, table):
    table.write_text(GOOD.replace(",1,", ",0,"))
    assert spoilt(table) == "label 'label': has one class only, '0'; classification needs two"


def test_one_number_only(spoilt, table):
    table.write_text(GOOD.replace(",1,", ",0,"))
    said = spoilt(table, head="sequence-regression")
    assert said == "label 'label': has one value only, 0; regression needs two"


def test_dna_given_for_protein(spoilt, tmp_path, esm2):
    path = tmp_path / "rna.csv"
    path.write_text("sequence,label,split\n" + "".join(f"{'ACGT' * 5},{n % 2},train\n" for n in range(4)))
    assert spoilt(path) == (
        f"all 4 sequences are made of A, C, G, T alone: they look like DNA or RNA, which '{esm2}' does not read"
    )


def test_a_sequence_longer_than_the_model_takes(spoilt, table, esm2):
    assert spoilt(table, "--set", "backbone.max_tokens=9") == (
        f"'r0' has 8 units; '{esm2}' takes at most 7 (8 records are too long); shorten it, "
        'leave it out, or read it in windows: backbone.windows = "pool"'
    )


def test_bom_and_crlf_are_simply_read(exapt, flags, table, tmp_path):
    table.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert exapt("train", *flags(data=table), "--out", tmp_path / "adapter").stderr.startswith("rna.csv: 8 rows\n")


def test_dropped_rows_are_counted_and_named(exapt, flags, table, tmp_path):
    table.write_text(GOOD.replace("K,0,train", "K,,train", 1))
    words = [*flags(data=table), "--set", "data.missing_labels=drop", "--out", tmp_path / "adapter"]
    assert exapt("train", *words).stderr.startswith(
        "rna.csv: 8 rows\nrna.csv: 1 row dropped for want of a label, first id 'r0'\n"
    )


NAMES = {
    "backbone": ("esm2-8mm", "unknown backbone 'esm2-8mm'. Did you mean 'esm2-8m'? Installed: "),
    "head": ("sequence-clasification", "unknown head 'sequence-clasification'. Did you mean 'sequence-classification'? "
             "Installed: causal-lm, "),
    "strategy": ("loraa", "unknown strategy 'loraa'. Did you mean 'lora'? Installed: adversarial, bitfit, bottleneck, "),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_unknown_components(spoilt, table, kind):
    name, said = NAMES[kind]
    assert spoilt(table, **{kind: name}).startswith(said)


def test_a_backbone_folder_that_is_not_there(spoilt, table, tmp_path):
    assert spoilt(table, backbone=f"esm2:{tmp_path / 'none'}") == (
        f"there is no folder '{tmp_path / 'none'}'; name a folder with an ESM-2 checkpoint, or a hub id OWNER/NAME"
    )


SETTINGS = {
    "training.epoch=3": "recipe: unknown key 'training.epoch'. Did you mean 'epochs'? Known: batch_size, ",
    "splitt.column=x": "recipe: unknown key 'splitt'. Did you mean 'split'? Known: augmentations, backbone, base, data, ",
    "data.pth=x": "recipe: unknown key 'data.pth'. Did you mean 'path'? Known: domain, format, id, inputs, labels, ",
    "strategy.rnk=3": "strategies.0 'probe': unknown key 'rnk'. Known: none",
    "head.poling=max": "heads.head 'sequence-classification': unknown key 'poling'. Did you mean 'pooling'? Known: class",
    "head.pooling=sum": "heads.head 'sequence-classification': 'pooling' is 'sum': input should be 'mean', 'cls', ",
    "training.epochs=0": "recipe: 'training.epochs' is 0: input should be greater than or equal to 1",
    "training.epochs=many": "recipe: 'training.epochs' is 'many': input should be a valid integer, unable to parse ",
    "split.fractions=[1,1,1]": "recipe: 'split.fractions' is [1, 1, 1]: train, valid and test must be shares that add",
    "training=3": "recipe: 'training' is 3: input should be a valid dictionary or instance of TrainingOptions",
    "heads.head.name=x": "recipe: head is short for heads.head: write one of them",
    "epochs": "--set takes KEY=VALUE, not 'epochs'",
    "layer=5": "there is no layer 5: 'esm2:",
    "head.inputs=['other']": "head 'head' reads the input 'other', which data.inputs does not name: sequence",
    "data.format=cvs": "unknown reader 'cvs'. Did you mean 'csv'? Installed: ",
    "data.inputs={}": "recipe: 'data.inputs' is {}: name at least one input and its column",
    "start=/no/such/adapter": "there is no folder '/no/such/adapter' to start from",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_recipe_that_cannot_be_run(refused, flags, table, tmp_path, setting):
    before = listing(tmp_path)
    # What is wrong with training itself must not be hidden by the flags' own two epochs.
    words = flags(data=table)[:-2] if setting == "training=3" else flags(data=table)
    said = refused("train", *words, "--set", setting, "--out", tmp_path / "adapter")
    assert said.startswith(SETTINGS[setting])
    assert listing(tmp_path) == before


def test_a_metric_that_nobody_measures_is_refused_before_training(exapt, flags, table, tmp_path):
    before = listing(tmp_path)
    words = [*flags(data=table), "--set", "training.metric=aurocc", "--out", tmp_path / "adapter"]
    done = exapt("train", *words, code=2)
    assert done.stderr.splitlines()[-1] == (
        "exapt: training.metric 'aurocc' is not measured here. Did you mean 'auroc'? "
        "Known: accuracy, auprc, auroc, balanced_accuracy, ece, loss, macro_f1, mcc"
    )
    assert "epoch 1" not in done.stderr
    assert listing(tmp_path) == before


RECIPES = {
    "r.toml": ("[data\n", "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 6)"),
    "r.json": ("{'data'}", "is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    "list.json": ("[1]", "holds no table of keys"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_cannot_be_read(refused, tmp_path, name):
    path = tmp_path / name
    path.write_text(RECIPES[name][0])
    assert refused("train", path, "--out", tmp_path / "adapter") == f"recipe '{path}' {RECIPES[name][1]}"


def test_a_recipe_that_is_not_there_or_not_whole(refused, tmp_path):
    path = tmp_path / "r.toml"
    assert refused("train", path, "--out", tmp_path / "adapter") == f"there is no recipe '{path}'"
    path.write_text("[data]\npath = 'x.csv'")
    assert refused("train", path, "--out", tmp_path / "adapter") == "recipe: 'backbone' is missing"
    assert refused("train", "--out", tmp_path / "adapter") == (
        "give a recipe file, or --data, --label, --backbone, --head and --strategy"
    )


def test_flags_cannot_say_which_of_several_heads(refused, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[heads.one]\nname = 'x'\n[heads.two]\nname = 'y'")
    assert refused("train", path, "--label", "z", "--out", tmp_path / "adapter") == (
        "the recipe has several heads, one, two: change one with --set heads.NAME.label=COLUMN"
    )


HEADS = {
    "type": "no head can be called 'type': torch has taken that name; choose another",
    "a.b": "recipe: 'a.b' is no name for a head: use letters, digits, '-' and '_'",
    "": "recipe: '' is no name for a head: use letters, digits, '-' and '_'",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_name_that_no_head_can_have(exapt, table, esm2, tmp_path, name):
    recipe = tmp_path / "r.json"
    recipe.write_text(
        json.dumps(
            {
                "data": {"path": str(table)},
                "split": {"column": "split"},
                "backbone": esm2,
                "heads": {name: {"name": "sequence-classification"}},
                "strategy": "probe",
            }
        )
    )
    before = listing(tmp_path)
    assert exapt("train", recipe, "--out", tmp_path / "adapter", code=2).stderr.splitlines()[-1] == (
        f"exapt: {HEADS[name]}"
    )
    assert listing(tmp_path) == before


def test_a_column_of_numbers_is_no_sequence(spoilt, tmp_path):
    columns = {"id": ["a", "b"], "sequence": [5, 6], "label": ["x", "y"], "split": ["train", "train"]}
    pq.write_table(pa.table(columns), tmp_path / "n.parquet")
    assert spoilt(tmp_path / "n.parquet") == "'a': is 5, not a sequence"


BROKEN = """
from exapt import TokenizerSpec, hookimpl
exapt_api = 1

def build(options):
    from exapt.testing.tiny import Letters

    class Broken(Letters):
        def encode(self, value):
            return super().encode(value if value != "QRQISFVK" else None)

    return Broken()

@hookimpl
def exapt_tokenizers():
    yield TokenizerSpec(name="broken", summary="Fails on one of them.", build=build)
"""


def test_a_tokenizer_that_fails_is_named_with_the_record(refused, flags, table, tmp_path, site):
    site.install("exapt-broken", BROKEN)
    said = refused("train", *flags(data=table), "--set", "tokenizer=broken", "--out", tmp_path / "adapter", code=1)
    assert said == ("tokenizer 'broken' of exapt-broken fails on 'r1': TypeError: 'NoneType' object is not iterable")


def test_an_output_folder_that_exists(refused, flags, table, tmp_path):
    out = tmp_path / "adapter"
    out.mkdir()
    before = listing(tmp_path)
    assert refused("train", *flags(data=table), "--out", out) == (
        f"'{out}' exists already; choose another folder, or remove it"
    )
    assert listing(tmp_path) == before


def test_an_output_in_no_folder(refused, flags, table, tmp_path):
    for parent in (tmp_path / "none", table):
        said = refused("train", *flags(data=table), "--out", parent / "adapter")
        assert said == f"there is no folder '{parent}' to write 'adapter' in"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission(refused, flags, table, tmp_path):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o555)
    assert refused("train", *flags(data=table), "--out", shut / "adapter") == f"no permission to write in '{shut}'"


def test_an_unknown_device(spoilt, table):
    assert spoilt(table, device="gpu") == "unknown device 'gpu'. Known: auto, cpu, cuda, mps"


@pytest.fixture
def adapter(exapt, flags, table, tmp_path):
    """An adapter on a copy of the tiny model, both to be spoilt."""
    from exapt.places import BACKBONES, remembered

    shutil.copytree(flags()[flags().index("--backbone") + 1].partition(":")[2], tmp_path / "weights")
    exapt("train", *flags(data=table, backbone=f"esm2:{tmp_path / 'weights'}"), "--out", tmp_path / "adapter")
    assert remembered(BACKBONES, backbone_of(tmp_path / "adapter")["fingerprint"])
    return tmp_path / "adapter"


def backbone_of(folder):
    return json.loads((folder / "exapt.json").read_text())["backbone"]


@pytest.fixture
def unusable(refused, table, tmp_path):
    """Predict with an adapter and return the refusal, after seeing that nothing was left behind."""

    def run(adapter, *more, env=None, code=2, data=table):
        before = listing(tmp_path)
        said = refused("predict", adapter, data, *more, "-o", tmp_path / "answers.csv", env=env, code=code)
        assert listing(tmp_path) == before
        return said

    return run


def test_an_adapter_of_another_backbone(unusable, adapter, tmp_path):
    there = backbone_of(adapter)["fingerprint"][:12]
    weights = tmp_path / "weights" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file({**tensors, name: tensors[name] + 1e-3}, weights, metadata={"format": "pt"})
    said = unusable(adapter, "--backbone", f"esm2:{tmp_path / 'weights'}")
    assert said.startswith(
        f"'adapter' was learned on a backbone with fingerprint {there}, but the backbone of 'esm2:weights' here has "
    )
    assert there not in said.partition("here has")[2]


def test_an_adapter_with_another_tokenizer(unusable, adapter, tmp_path):
    vocabulary = tmp_path / "weights" / "vocab.txt"
    words = vocabulary.read_text().split()
    place, other = words.index("A"), words.index("C")
    words[place], words[other] = "C", "A"
    vocabulary.write_text("\n".join(words))
    said = unusable(adapter, "--backbone", f"esm2:{tmp_path / 'weights'}")
    assert said.startswith("'adapter' was learned on a tokenizer with fingerprint ")


def test_an_adapter_of_another_family(unusable, adapter):
    assert unusable(adapter, "--backbone", "antiberty").startswith("unknown backbone 'antiberty'.")


def test_an_adapter_whose_weights_this_machine_has_not_seen(unusable, adapter, tmp_path):
    env = {"EXAPT_CACHE": str(tmp_path / "elsewhere")}
    assert unusable(adapter, env=env) == (
        "'adapter' was learned on the local weights 'esm2:weights', which are not where they were, or which this machine "
        "has not seen: say where they are with --backbone esm2:PATH"
    )


def test_an_adapter_whose_plugin_is_disabled(unusable, adapter):
    assert unusable(adapter, env={"EXAPT_DISABLE_PLUGINS": "esm"}) == (
        "'adapter' needs the plugin exapt-esm 0.4.0, which is not installed (or disabled): pip install exapt-esm"
    )


def test_no_adapter_at_all(unusable, tmp_path):
    assert unusable(tmp_path / "none") == f"there is no adapter folder '{tmp_path / 'none'}'"
    (tmp_path / "empty").mkdir()
    assert unusable(tmp_path / "empty") == f"'{tmp_path / 'empty'}' is no exapt adapter: it has no exapt.json"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[:100], "is damaged: "),
        (lambda text: "[]", "is damaged: "),
        (lambda text: '{"exapt": {"format": 1}}', "is damaged: it lacks 'recipe'"),
        (lambda text: text.replace('"format": 1,', '"format": 2,', 1), "'adapter' has format 2; this exapt reads format 1: "
         "upgrade exapt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_a_damaged_manifest(refused, unusable, adapter, spoil, said, command):
    path = adapter / "exapt.json"
    path.write_text(spoil(path.read_text()))
    message = refused("inspect", adapter) if command == "inspect" else unusable(adapter)
    assert said in message


def test_damaged_tensors(unusable, adapter):
    path = adapter / "heads.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert unusable(adapter).startswith(f"'{path}' cannot be read: ")
    tensors = load_file_bytes(whole, path)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, path, metadata={"format": "pt"})
    assert unusable(adapter).startswith(f"'adapter/heads.safetensors': '{name}' has sha256 ")
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    assert unusable(adapter) == f"'adapter/heads.safetensors' lacks the tensor '{name}' that exapt.json lists"
    path.unlink()
    assert unusable(adapter).startswith(f"'{path}' cannot be read: ")


def load_file_bytes(whole, path):
    path.write_bytes(whole)
    return load_file(path)


def test_data_that_an_adapter_cannot_read(unusable, adapter, esm2, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("id,sequence\na,MKT\nb,M!T\n")
    assert unusable(adapter, data=bad) == "'b': character '!' at position 2 is no residue"
    bad.write_text("id,seq\na,MKT\n")
    assert unusable(adapter, data=bad) == "bad.csv has no column 'sequence'. Its columns are: id, seq."
    bad.write_text("id,sequence\n" + "".join(f"{n},{'ACGT' * 9}\n" for n in range(3)))
    assert unusable(adapter, data=bad).startswith("all 3 sequences are made of A, C, G, T alone: they look like DNA")
    bad.write_text(f"id,sequence\na,{'M' * 1023}\n")
    assert unusable(adapter, data=bad) == (
        "'a' has 1,023 units; 'esm2:weights' takes at most 1,022; shorten it, leave it out, or read it in "
        'windows: backbone.windows = "pool"'
    )


def test_an_interrupted_prediction_leaves_nothing(exapt, adapter, table, tmp_path, monkeypatch):
    from exapt.adapted import Adapted

    def interrupted(*_):
        raise KeyboardInterrupt

    before = listing(tmp_path)
    monkeypatch.setattr(Adapted, "answer", interrupted)
    done = exapt("predict", adapter, table, "-o", tmp_path / "answers.csv", code=130)
    assert done.stderr == "\nexapt: interrupted\n"
    assert listing(tmp_path) == before


def test_output_files_that_cannot_be_written(refused, adapter, table, tmp_path):
    for out, said in (
        (tmp_path / "none" / "a.csv", f"there is no folder '{tmp_path / 'none'}' to write 'a.csv' to."),
        (table / "a.csv", f"there is no folder '{table}' to write 'a.csv' to."),
        (tmp_path / "a.docx", "no installed writer writes 'a.docx'"),
        (table, f"'{table}' exists already. Remove it, or name another file."),
    ):
        assert refused("predict", adapter, table, "-o", out).startswith(said)


def test_words_that_the_command_line_does_not_know(refused):
    assert refused("train", "--backbon", "x") == "No such option '--backbon'. Did you mean '--backbone'?"
    assert refused("train", "r.toml") == "Missing option '--out'."
    assert refused("list", "head") == (
        "Invalid value for '[KIND]': 'head' is not one of 'backbones', 'checkpoints', 'tokenizers', 'heads', "
        "'strategies', 'augmentations', 'scorers', 'readers', 'writers'."
    )
    assert refused("compare", "r.toml", "--seeds", "a").endswith("there is no recipe 'r.toml'")


def test_a_comparison_of_one_run(refused, flags, table):
    assert refused("compare", *flags(data=table), "--seeds", "1") == (
        "a comparison needs at least two seeds, all different: one run cannot tell gain from luck"
    )
    assert (
        refused("compare", *flags(data=table), "--seeds", "1,b") == "--seeds takes whole numbers with commas, not '1,b'"
    )
