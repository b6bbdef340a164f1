"""Several adapters on one backbone: its weights are in memory once, and each adapter answers as it does alone."""

import csv
import json

import pytest
from click.testing import CliRunner

import exapt
from exapt import AdapterError, DataError, RecipeError
from exapt.cli import cli
from exapt.model import backbone_state
from runs import MODEL, QUERIES, charges
from runs import recipe as charged
from transfer.modalities import recipe, table

FAST = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-2, "patience": 0}
NAMES = ("lora", "bitfit", "bottleneck", "prefix", "partial", "probe")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Return a folder with adapters of several strategies on the tiny ESM-2, and some that are not of their kind."""
    folder = tmp_path_factory.mktemp("several")
    proteins = charges(folder / "charges.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(folder / "cache"))
        for name in (*NAMES, "scratch"):
            exapt.train(charged(proteins, name, training=FAST), folder / name)
        number = {"head": {"name": "sequence-regression", "label": "charge"}, "training": FAST}
        exapt.train(charged(proteins, "layernorm", **number), folder / "charge")
        upper = {"base": str(folder / "lora"), "training": FAST}
        exapt.train(charged(proteins, "bitfit", **upper), folder / "upper")
        exapt.train(charged(proteins, "ia3", **upper), folder / "higher")
        exapt.train(recipe("dna", table("dna", folder / "dna.csv"), "probe", training=FAST), folder / "dna")
        yield folder


@pytest.fixture(autouse=True)
def _cache(learned, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(learned / "cache"))


def places(adapted):
    """Return where in memory each tensor of a backbone is, by its published name."""
    state = adapted.model.backbone.state_dict(keep_vars=True)
    return {name.replace(".base_layer.", "."): tensor.data_ptr() for name, tensor in state.items()}


def own(adapted):
    """Return the published names of what an adapter changed."""
    return {name.replace(".base_layer.", ".") for name in adapted.model.changed}


def test_memory_is_shared_but_for_what_each_changed(learned):
    adapters = exapt.load_all([learned / name for name in NAMES])
    assert list(adapters) == list(NAMES)
    common = places(adapters["probe"])
    for name in NAMES:
        found = places(adapters[name])
        shared = {key for key in common if found[key] == common[key]}
        assert shared == common.keys() - own(adapters[name]), name
    total = {
        tensor.data_ptr(): tensor.numel()
        for one in adapters.values()
        for tensor in backbone_state(one.model.backbone).values()
    }
    alone = sum(tensor.numel() for tensor in backbone_state(adapters["probe"].model.backbone).values())
    changed = sum(
        backbone_state(one.model.backbone)[name].numel() for one in adapters.values() for name in one.model.changed
    )
    assert sum(total.values()) == alone + changed


def test_each_answers_as_it_does_alone(learned):
    adapters = exapt.load_all({name.upper(): learned / name for name in NAMES})
    for name in NAMES:
        alone = exapt.load(learned / name).predict(QUERIES)
        assert adapters.predict(QUERIES, adapter=name.upper()).equals(alone), name
        assert adapters[name.upper()].predict(QUERIES).equals(alone), name


def test_adapters_upon_one_adapter_share_it_too(learned):
    adapters = exapt.load_all([learned / name for name in ("probe", "upper", "higher")])
    probe, upper, higher = (places(adapters[name]) for name in ("probe", "upper", "higher"))
    laid = {name for name in probe if ".query.weight" in name or ".value.weight" in name}
    assert laid
    assert all(upper[name] == higher[name] != probe[name] for name in laid)
    assert sum(upper[name] == probe[name] for name in probe) > len(probe) // 3
    for name in ("upper", "higher"):
        assert adapters.predict(QUERIES, adapter=name).equals(exapt.load(learned / name).predict(QUERIES))


def test_each_input_is_answered_by_the_adapter_that_is_named_for_it(learned):
    adapters = exapt.load_all([learned / name for name in ("lora", "prefix", "charge")])
    whose = ["charge", "lora", "prefix", "lora"]
    answers = adapters.predict(QUERIES, adapter=whose)
    assert answers["adapter"].to_pylist() == whose
    assert answers["id"].to_pylist() == ["1", "2", "3", "4"]
    found = answers.to_pylist()
    for name in ("lora", "prefix", "charge"):
        rows = [row for row, other in enumerate(whose) if other == name]
        # Asked of the same inputs together: what is batched beside an input moves the last bits of its answer.
        alone = exapt.load(learned / name).predict([QUERIES[row] for row in rows], [str(row + 1) for row in rows])
        for row, answer in zip(rows, alone.to_pylist(), strict=True):
            # Both kinds of answers are called prediction: a word of the one, a number of the other.
            named = {f"{name}.{key}" if key == "prediction" else key: value for key, value in answer.items()}
            assert found[row] == dict.fromkeys(found[row]) | named | {"adapter": name}


def written(path, names, sequences=QUERIES):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "whose"])
        writer.writerows(
            [f"q{row}", sequence, name] for row, (sequence, name) in enumerate(zip(sequences, names, strict=True))
        )
    return path


def predicted(*words):
    return CliRunner().invoke(cli, ["predict", *map(str, words)])


def test_a_column_says_which_adapter_answers_for_a_row(learned, tmp_path):
    data = written(tmp_path / "rows.csv", ["lora", "second", "second", "lora"])
    words = [learned / "lora", data, "--also", f"second={learned / 'bitfit'}", "--adapter-column", "whose"]
    done = predicted(*words, "-o", tmp_path / "answers.csv")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"4 rows in {tmp_path / 'answers.csv'}\n")
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["adapter"]) for row in rows] == [
        ("q0", "lora"),
        ("q1", "second"),
        ("q2", "second"),
        ("q3", "lora"),
    ]
    for name, which in (("lora", "lora"), ("second", "bitfit")):
        own = [row for row in rows if row["adapter"] == name]
        alone = exapt.load(learned / which).predict([QUERIES[int(row["id"][1:])] for row in own]).to_pylist()
        for row, answer in zip(own, alone, strict=True):
            assert row["prediction"] == answer["prediction"]
            assert float(row["probability_acid"]) == answer["probability_acid"]
    assert predicted(*words).stdout.splitlines()[0] == "id,adapter,prediction,probability_acid,probability_base"


def test_what_cannot_be_switched_is_said_in_one_line(learned, tmp_path):
    data, lora, bitfit = (
        written(tmp_path / "rows.csv", ["lora", "bitfti", "bitfit", "lora"]),
        learned / "lora",
        learned / "bitfit",
    )
    unnamed = written(tmp_path / "unnamed.csv", ["lora", "", "", "lora"])
    facts = {name: json.loads((learned / name / "exapt.json").read_text())["backbone"] for name in ("lora", "dna")}
    words = {name: fact["fingerprint"][:12] for name, fact in facts.items()}
    together = "--also and --adapter-column go together: other adapters, and the column that says whose a row is"
    for given, said in (
        (
            (lora, data, "--also", bitfit, "--adapter-column", "whose"),
            "'q1' names the adapter 'bitfti', which there is not. Did you mean 'bitfit'? There are: lora, bitfit.",
        ),
        ((lora, unnamed, "--also", bitfit, "--adapter-column", "whose"), "'q1' names no adapter in the column 'whose'"),
        (
            (lora, data, "--also", bitfit, "--adapter-column", "who"),
            "there is no column 'who'. The columns are: id, sequence, whose.",
        ),
        ((lora, data, "--also", bitfit), together),
        ((lora, data, "--adapter-column", "whose"), together),
        (
            (lora, data, "--also", lora, "--adapter-column", "whose"),
            "two adapters are called 'lora': give one of them another name, NAME=FOLDER",
        ),
        (
            (lora, data, "--also", learned / "scratch", "--adapter-column", "whose"),
            "'scratch' was learned from fresh weights, none of which it could share with other adapters: load it alone",
        ),
        (
            (lora, data, "--also", learned / "dna", "--adapter-column", "whose"),
            f"'lora' was learned on {facts['lora']['name']} with fingerprint {words['lora']}, but 'dna' on "
            f"{facts['dna']['name']} with {words['dna']}: adapters are switched on one backbone",
        ),
    ):
        done = predicted(*given)
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"exapt: {said}\n")


def test_in_a_program_too(learned):
    adapters = exapt.load_all([learned / "lora", learned / "bitfit"])
    with pytest.raises(
        RecipeError, match=r"^there is no adapter 'lorra'\. Did you mean 'lora'\? There are: lora, bitfit\.$"
    ):
        adapters.predict(QUERIES, adapter="lorra")
    with pytest.raises(DataError, match=r"^1 adapters are named for 4 inputs: name one for each$"):
        adapters.predict(QUERIES, adapter=["lora"])
    with pytest.raises(RecipeError, match=r"^there is no adapter to load: name at least one folder$"):
        exapt.load_all([])
    with pytest.raises(AdapterError, match=r"^'scratch' was learned from fresh weights"):
        exapt.load_all([learned / "scratch"])


def test_windows_and_limits_are_each_adapters_own(learned, tmp_path):
    windowed = charged(learned / "charges.csv", "bitfit", training=FAST)
    windowed["backbone"] = {"name": f"esm2:{MODEL}", "windows": "pool", "max_tokens": 20}
    exapt.train(windowed, tmp_path / "windowed")
    adapters = exapt.load_all([learned / "lora", tmp_path / "windowed"])
    one, other = (adapters[name].model.backbone for name in ("lora", "windowed"))
    assert (one.windows, one.max_tokens) == (None, 1024)
    assert (other.windows.mode, other.max_tokens) == ("pool", 20)
    same = places(adapters["lora"]).items() & places(adapters["windowed"]).items()
    assert len(same) == len(places(adapters["windowed"])) - len(own(adapters["windowed"]))
