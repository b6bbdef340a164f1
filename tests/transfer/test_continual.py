"""Tasks one after the other: what is forgotten, what keeps it from being forgotten, and the arithmetic of both."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import exapt
from exapt import OutputError, RecipeError
from exapt.builtin._likelihood import drawn, surprise
from exapt.builtin._memory import read_memory
from exapt.builtin._replay import _read
from exapt.cli import cli
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from exapt.sequence_matrix import Sequenced
from runs import MODEL, QUERIES, recipe, training
from transfer.conflicting import conflicting, plan
from transfer.modalities import BACKBONES, INPUTS
from transfer.modalities import recipe as asked
from transfer.modalities import table as rows_of


def test_the_three_numbers_of_a_matrix_are_those_of_their_definitions():
    matrix = [[0.9, None, None], [0.7, 0.8, None], [0.75, 0.5, 0.6]]
    one = Sequenced("finetune", ("a", "b", "c"), ("accuracy",) * 3, matrix)
    assert one.average == pytest.approx((0.75 + 0.5 + 0.6) / 3)
    assert one.backward_transfer == pytest.approx(((0.75 - 0.9) + (0.5 - 0.8)) / 2)
    assert one.forgetting == pytest.approx(((0.9 - 0.75) + (0.8 - 0.5)) / 2)
    # A task that another one made better was at its best then, and not when it was learned.
    better = Sequenced(
        "ewc", ("a", "b", "c"), ("accuracy",) * 3, [[0.5, None, None], [0.9, 0.8, None], [0.6, 0.8, 0.7]]
    )
    assert better.forgetting == pytest.approx(((0.9 - 0.6) + 0.0) / 2)
    assert better.backward_transfer == pytest.approx(((0.6 - 0.5) + 0.0) / 2)
    assert one.verdict == (
        "After all 3 tasks, accuracy is 0.617 on average; forgetting is +0.225, backward transfer -0.225."
    )


def test_of_errors_less_is_better_and_different_metrics_have_no_mean():
    errors = Sequenced("finetune", ("a", "b"), ("rmse", "rmse"), [[1.0, None], [1.5, 2.0]])
    assert (errors.average, errors.forgetting, errors.backward_transfer) == (1.75, 0.5, -0.5)
    mixed = Sequenced("finetune", ("a", "b"), ("rmse", "accuracy"), [[1.0, None], [1.5, 0.9]])
    assert (mixed.average, mixed.forgetting, mixed.backward_transfer) == (None, None, None)
    assert mixed.verdict == "The tasks are measured by different metrics: there is no mean over them."


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return conflicting(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def naive(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("naive") / "out"
    return exapt.learn_in_sequence(plan(tables), out), out


def test_fine_tuning_forgets_and_says_so(naive, tables):
    found, out = naive
    assert found.matrix[0][0] == found.matrix[1][1] == 1.0
    assert found.forgetting > 0.5
    kept = json.loads((out / "sequence.json").read_text())
    assert kept == json.loads(json.dumps(found.as_dict()))
    assert (
        out / "matrix.csv"
    ).read_text() == f",one,two\nafter one,1.0000,\nafter two,{found.matrix[1][0]:.4f},1.0000\n"
    # Each adapter answers by itself, as its own task left the model.
    first, last = exapt.load(out / "one"), exapt.load(out / "two")
    assert first.metrics["test"]["accuracy"] == 1.0
    rows = exapt.load(out / "two").predict(QUERIES).to_pylist()
    assert [row["prediction"] for row in rows] != [row["prediction"] for row in first.predict(QUERIES).to_pylist()]
    assert last.resolved.heads["head"].options.classes == first.resolved.heads["head"].options.classes


@pytest.mark.parametrize(
    "method", [{"name": "ewc", "weight": 1e5}, {"name": "replay", "size": 16}], ids=["ewc", "replay"]
)
def test_what_is_held_or_learned_again_is_forgotten_less(naive, tables, tmp_path, method):
    found = exapt.learn_in_sequence(plan(tables, method), tmp_path / "out")
    assert found.forgetting < naive[0].forgetting - 0.3
    assert found.matrix[0] == naive[0].matrix[0]
    assert found.average > naive[0].average
    manifest = json.loads((tmp_path / "out" / "two" / "exapt.json").read_text())
    told = manifest["transfer"][method["name"]]
    assert told["tasks"] == 1 if method["name"] == "ewc" else told == {"rows": 16, "of": 32}
    # What is kept between tasks stays out of the adapters, and so does where it stood.
    assert manifest["tensors"].keys() == {"heads.safetensors", "backbone.safetensors"}
    strategy = next(one for one in manifest["recipe"]["strategies"] if one["name"] == method["name"])
    assert (strategy["memory"], strategy["keep"]) == ("one.safetensors", "")


def test_heads_of_their_own_stand_in_the_end_over_the_last_backbone(tables, tmp_path):
    given = plan(tables, {"name": "replay", "size": 6}, head="own", strategy={"name": "lora", "rank": 2})
    given["training"]["epochs"] = 2
    found = exapt.learn_in_sequence(given, tmp_path / "out")
    final, first = exapt.load(tmp_path / "out" / "final" / "one"), exapt.load(tmp_path / "out" / "one")
    assert final.metrics["test"]["accuracy"] == pytest.approx(found.matrix[1][0])
    assert exapt.load(tmp_path / "out" / "final" / "two").metrics["test"]["accuracy"] == pytest.approx(
        found.matrix[1][1]
    )
    assert final.predict(QUERIES).to_pylist() != first.predict(QUERIES).to_pylist()
    for name, tensor in first.model.heads.state_dict().items():
        assert torch.equal(final.model.heads.state_dict()[name], tensor)
    rows, asked, facts = _read(str(tmp_path / "out" / "memory" / "one.safetensors"))
    assert (len(rows), facts["seen"], [one.name for one in asked.values()]) == (6, 32, ["one"])


def test_an_adapter_a_task_forgets_nothing(tables, tmp_path):
    given = plan(tables, "separate", head="own", strategy="probe", training={"epochs": 2})
    found = exapt.learn_in_sequence(given, tmp_path / "out")
    assert found.matrix[1][0] == found.matrix[0][0]
    assert (found.forgetting, found.backward_transfer) == (0.0, 0.0)
    assert not (tmp_path / "out" / "final").exists()
    assert json.loads((tmp_path / "out" / "two" / "exapt.json").read_text())["recipe"]["start"] == ""


def test_an_interrupted_sequence_goes_on_with_the_task_it_was_at(tables, tmp_path):
    short = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    given = plan(tables, {"name": "ewc", "rows": 4}, strategy={"name": "partial", "blocks": 1}, training=short)
    whole = exapt.learn_in_sequence(given, tmp_path / "whole")

    def stop(run, event):
        if event.name == "step" and "/two" in str(run.folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.learn_in_sequence(given, tmp_path / "again", listeners=[stop])
    with pytest.raises(OutputError) as error:
        exapt.learn_in_sequence(given, tmp_path / "again")
    assert str(error.value).endswith("exists already; choose another folder, or remove it")
    with pytest.raises(RecipeError) as error:
        exapt.learn_in_sequence(given, tmp_path / "again", method="finetune", resume=True)
    assert str(error.value) == (
        f"'{tmp_path / 'again'}' holds another sequence: give back its tasks and its method, or choose another folder"
    )
    assert exapt.learn_in_sequence(given, tmp_path / "again", resume=True) == whole
    for file in ("sequence.json", "two/backbone.safetensors", "two/heads.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_fisher_information_is_the_mean_of_squared_gradients(tables, tmp_path):
    keep = tmp_path / "kept.safetensors"
    given = recipe(
        tables / "one.csv", strategies=["full", {"name": "ewc", "keep": str(keep), "rows": 3}], **training(epochs=1)
    )
    del given["strategy"]
    adapted = exapt.train(given)
    tensors, facts = read_memory(str(keep), "ewc")
    assert facts["tasks"] == 1
    import numpy as np

    order = np.random.default_rng(0).permutation(32)[:3]
    lines = (tables / "one.csv").read_text().splitlines()[1:]
    head, bias = adapted.model.head("head"), adapted.model.head("head").trunk.layers[-1].bias
    squares = torch.zeros_like(bias)
    for row in order:
        _, sequence, kind, _ = lines[row].split(",")
        answer = adapted.model.features(_batch(adapted, sequence))["mean"]
        loss = torch.nn.functional.cross_entropy(
            head({"sequence": answer}), torch.tensor([["acid", "base"].index(kind)])
        )
        squares += torch.autograd.grad(loss, bias)[0].square()
    torch.testing.assert_close(tensors[_bias(tensors)], squares / 3)
    anchor = load_file(keep)[_bias(tensors).replace("fisher", "anchor")]
    assert torch.equal(anchor, bias.detach())


def _batch(adapted, sequence):
    from exapt.data.batching import collate

    return collate([adapted.tokenizer.encode(sequence)])


def _bias(tensors):
    return next(name for name in tensors if name.startswith("fisher.0.heads.") and name.endswith("bias"))


def test_answers_are_drawn_from_what_a_head_says():
    from exapt.builtin._heads import Classification
    from exapt.builtin._trunk import Pool
    from exapt.builtin.heads import ClassificationOptions
    from exapt.parts import HeadContext

    torch.manual_seed(0)
    options = ClassificationOptions(classes=("a", "b"))
    head = Classification(options, Pool(options, HeadContext({"sequence": 2})))
    output = torch.tensor([0.25, 0.75]).log().expand(4000, 2)
    said = drawn(head, output, torch.zeros(4000, dtype=torch.int64))
    assert float(said.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert drawn(head, output[:2], torch.tensor([-100, 0]))[0] == -100


def fisher_of_bias(tmp_path, head, fisher, rows=0, name="sequence"):
    """Return what a run keeps of a head's bias, and its model and rows."""
    keep, path = tmp_path / f"{head['name']}-{fisher}.safetensors", tmp_path / "rows.csv"
    rows_of("protein", path, rows=24)
    given = asked(
        "protein", path, ["full", {"name": "ewc", "keep": str(keep), "fisher": fisher, "rows": rows}], head=head
    )
    adapted = exapt.train(given)
    with path.open() as file:
        kept = [row for row in csv.DictReader(file) if row["split"] == "train"]
    tensors, _ = read_memory(str(keep), "ewc")
    return tensors[_bias(tensors)], adapted, kept


@pytest.mark.parametrize(
    "how", [{}, {"class_weights": [1.0, 20.0]}, {"loss": "focal", "gamma": 5.0}], ids=["plain", "weighted", "focal"]
)
def test_fisher_information_is_of_the_likelihood_whatever_loss_is_learned(tmp_path, how):
    head = {"name": "sequence-classification", "label": "kind", **how}
    found, adapted, rows = fisher_of_bias(tmp_path, head, "labels")
    answers = adapted.predict([row["sequence"] for row in rows]).to_pylist()
    wrong = [answer["probability_k0"] - (row["kind"] == "k0") for answer, row in zip(answers, rows, strict=True)]
    # The gradient of -log p with respect to a logit's bias is what the answer lacks.
    assert found.tolist() == pytest.approx([sum(one**2 for one in wrong) / len(wrong)] * 2, rel=1e-4)


def test_information_of_numbers_and_of_units_is_on_one_scale_with_that_of_classes(tmp_path):
    # Of -log p = (f - y)^2 / 2, with y drawn around f at a deviation of 1, the mean squared gradient is 1.
    numbers, _, _ = fisher_of_bias(tmp_path, {"name": "sequence-regression", "label": "size"}, "sampled")
    assert 0.3 < float(numbers) < 3
    path, keep = tmp_path / "units.jsonl", tmp_path / "units.safetensors"
    with path.open("w") as file:
        for row in range(24):
            letters = "MKTAYIAKQRQISFVKSHF"[row % 5 :]
            part = "train" if row < 16 else "valid"
            sites = ["x" if letter in "KR" else "o" for letter in letters]
            file.write(json.dumps({"id": f"r{row}", "sequence": letters, "sites": sites, "split": part}) + "\n")
    head = {"name": "position-classification", "label": "sites"}
    strategies = ["full", {"name": "ewc", "keep": str(keep), "fisher": "sampled", "rows": 0}]
    adapted = exapt.train(asked("protein", path, strategies, head=head))
    tensors, _ = read_memory(str(keep), "ewc")
    # Of independent units the information of a row is the sum of theirs: p (1 - p) each.
    given = [json.loads(line) for line in path.read_text().splitlines()][:16]
    answers = adapted.predict([row["sequence"] for row in given]).to_pylist()
    expected = sum(p * (1 - p) for answer in answers for p in answer["probability_x"]) / 16
    assert float(tensors[_bias(tensors)][0]) == pytest.approx(expected, rel=0.6)


def test_pairs_have_information_too(tmp_path):
    from exapt.builtin._contact import Contact
    from exapt.builtin.contact import ContactOptions
    from exapt.parts import HeadContext

    head = Contact(ContactOptions(min_separation=1), HeadContext({"sequence": 4}))
    target = torch.tensor([[[-1, 1], [1, -1]]], dtype=torch.int8)
    output = torch.full((1, 2, 2), 0.5)
    assert float(surprise(head, output, target)) == pytest.approx(-float(torch.sigmoid(output[0, 0, 0]).log()))
    torch.manual_seed(0)
    said = torch.stack([drawn(head, torch.full((1, 2, 2), 1.0), target) for _ in range(2000)])
    assert said[:, 0, 0, 0].unique().tolist() == [-1]
    assert float(said[:, 0, 0, 1].float().mean()) == pytest.approx(0.731, abs=0.04)


def test_a_memory_of_another_model_is_not_learned_from_again(tmp_path):
    keep = str(tmp_path / "kept.safetensors")
    exapt.train(
        asked("protein", rows_of("protein", tmp_path / "p.csv", rows=18), ["full", {"name": "replay", "keep": keep}])
    )
    other = asked("dna", rows_of("dna", tmp_path / "d.csv", rows=18), ["full", {"name": "replay", "memory": keep}])
    with pytest.raises(RecipeError) as error:
        exapt.train(other)
    assert str(error.value) == (
        "strategy 'replay': its memory is of another model: its rows were encoded by another tokenizer than this one's"
    )


def test_a_reservoir_holds_each_row_with_the_same_probability(tables, tmp_path):
    """Over many seeds: the first and the last half of all rows stand in memory about as often."""
    import numpy as np

    from exapt.builtin._replay import Replay
    from exapt.builtin.continual import ReplayOptions

    counts = np.zeros(20)
    for seed in range(400):
        memory = Replay(ReplayOptions(size=4, keep="nowhere"))
        memory._remembered = lambda run, row: run.numbers[row]
        for numbers in (range(5), range(5, 20)):
            run = type("Run", (), {"seed": seed, "numbers": list(numbers), "train": [None] * len(numbers)})()
            memory._take_in(run)
        counts[memory._rows] += 1
    assert counts.sum() == 400 * 4
    assert counts / 400 == pytest.approx(np.full(20, 0.2), abs=0.08)


def test_cells_are_replayed_too(tmp_path):
    names = [rows_of("cell", tmp_path / f"{name}.csv", rows=12, seed=seed) for seed, name in enumerate(("a", "b"))]
    given = {
        "backbone": BACKBONES["cell"],
        "strategy": {"name": "partial", "blocks": 1},
        "split": {"column": "split"},
        "data": {"input": INPUTS["cell"]},
        "training": {"epochs": 1, "batch_size": 8},
        "sequence": {"method": {"name": "replay", "size": 4}},
        "tasks": [
            {
                "name": "kinds",
                "data": {"path": str(names[0])},
                "head": {"name": "sequence-classification", "label": "kind"},
            },
            {
                "name": "sizes",
                "data": {"path": str(names[1])},
                "head": {"name": "sequence-regression", "label": "size"},
            },
        ],
    }
    found = exapt.learn_in_sequence(given, tmp_path / "out")
    assert found.metrics == ("macro_f1", "spearman")
    assert found.average is None
    assert found.matrix[1][0] is not None


@pytest.mark.parametrize("name", ["ewc", "replay"])
def test_without_a_memory_and_a_place_for_one_there_is_nothing_to_do(name):
    with pytest.raises(RecipeError) as error:
        resolve(read_recipe(recipe("rows.csv", strategy={"name": name})), current())
    assert str(error.value) == (
        f"strategy '{name}' is about tasks one after the other: name the memory of an earlier one, or where to keep one for "
        "the next; 'exapt learn-in-sequence' does both"
    )


def test_another_file_is_no_memory(tables, tmp_path):
    other = MODEL / "model.safetensors"
    given = recipe(tables / "one.csv", strategies=["full", {"name": "ewc", "memory": str(other)}])
    del given["strategy"]
    with pytest.raises(RecipeError) as error:
        exapt.train(given)
    assert str(error.value) == f"strategy 'ewc': '{other}' is no memory that 'ewc' kept"


def test_the_command_prints_the_matrix(tables, tmp_path):
    written = tmp_path / "tasks.toml"
    tasks = "".join(f'[[tasks]]\nname = "{name}"\ndata = {{path = "{tables / name}.csv"}}\n' for name in ("one", "two"))
    written.write_text(
        f'backbone = "esm2:{MODEL}"\nstrategy = "probe"\nhead = {{name = "sequence-classification", label = "kind"}}\n'
        f'[split]\ncolumn = "split"\n[training]\nepochs = 1\n{tasks}'
    )
    words = ["learn-in-sequence", str(written), "--out", str(tmp_path / "out"), "--method", "separate"]
    result = CliRunner().invoke(cli, words, prog_name="exapt")
    assert result.exit_code == 0, result.output
    first, *lines = result.stdout.splitlines()
    assert first.split() == ["separate", "one", "two"]
    assert [line.split()[:2] for line in lines[:2]] == [["after", "one"], ["after", "two"]]
    assert lines[-1].startswith("After all 2 tasks, macro_f1 is ")
