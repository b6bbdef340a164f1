"""Several inputs joined: side by side, one minus the other, or the same in both orders; and what interacts with what."""

import csv
import random

import pytest
import torch

import exapt
from exapt.errors import RecipeError
from exapt.parts import Features, HeadContext, Pooled
from exapt.plugins import Plugins, current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from exapt.specs import HeadSpec
from exapt.testing import check_head
from runs import listened, recipe, training

HEADS = {offer.spec.name: offer.spec for offer in Plugins(()).offers(HeadSpec)}
WIDTH = 6
LABELS = {
    "sequence-classification": ["a", "b", "c"] * 2,
    "sequence-multilabel": ["a;b", "b", "c", "a;c", "a", "b;c"],
    "sequence-regression": [1.5, 2, 3.25, -4.0, 0.0, 60.0],
    "interaction": [0, 1] * 3,
}
POOLINGS = ("mean", "max", "cls", "attention")
PAIR = {"inputs": ("one", "two")}


def made(name, widths=(WIDTH, WIDTH), **options):
    spec = HEADS[name]
    torch.manual_seed(0)
    inferred = spec.infer(spec.options(**PAIR, **options), LABELS[name])
    return spec.build(inferred, HeadContext(dict(zip(PAIR["inputs"], widths, strict=True))))


def some(seed, *lengths):
    """Features with one token per unit and garbage for padding."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(*mask.shape, WIDTH, generator=torch.Generator().manual_seed(seed))
    spans = torch.where(mask, torch.arange(max(lengths)), -1)[..., None].expand(-1, -1, 2)
    return Features(torch.where(mask[..., None], hidden, 99.0), mask, spans, torch.tensor(lengths), hidden[:, 0])


ONE, TWO = some(1, 5, 2, 9), some(2, 3, 7, 1)


KIT = [
    ("interaction", {"pooling": "attention"}),
    ("sequence-classification", {"join": "difference"}),
    ("sequence-multilabel", {"join": "symmetric", "pooling": "max", "hidden": 3}),
    ("sequence-regression", {"join": "difference", "pooling": "attention"}),
    ("sequence-regression", {"join": "symmetric", "pooling": "cls"}),
]


@pytest.mark.parametrize(("name", "options"), KIT)
def test_the_author_kit_finds_no_fault(name, options):
    check_head(HEADS[name], PAIR | options, labels=LABELS[name])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", LABELS)
def test_symmetric_answers_are_the_same_in_both_orders_to_the_last_bit(name, pooling):
    head = made(name, pooling=pooling, join="symmetric", hidden=5)
    head.adjust({"one": ONE, "two": TWO})
    assert torch.equal(head({"one": ONE, "two": TWO}), head({"one": TWO, "two": ONE}))
    beside = made("sequence-regression", pooling=pooling)
    assert not torch.allclose(beside({"one": ONE, "two": TWO}), beside({"one": TWO, "two": ONE}))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_difference_turns_its_sign_with_the_order_and_is_nothing_of_equal_inputs(pooling):
    head = made("sequence-regression", pooling=pooling, join="difference", standardise=False)
    bias = head.trunk.layers[-1].bias
    ahead, back = (head({"one": one, "two": two}) - bias for one, two in ((ONE, TWO), (TWO, ONE)))
    torch.testing.assert_close(ahead, -back)
    assert ahead.abs().min() > 1e-3
    assert torch.equal(head({"one": ONE, "two": ONE}), bias.expand(3, 1))


def test_what_joins_is_the_first_minus_the_second_or_sum_product_and_distance():
    vectors = {"one": torch.tensor([[1.0, -2.0]]), "two": torch.tensor([[4.0, 3.0]])}
    kept = {name: Pooled("mean", vector) for name, vector in vectors.items()}
    joined = {
        join: made("sequence-regression", (2, 2), join=join).trunk.reader(kept).tolist()
        for join in ("concatenate", "difference", "symmetric")
    }
    assert joined == {
        "concatenate": [[1, -2, 4, 3]],
        "difference": [[-3, -5]],
        "symmetric": [[5, 1, 4, -6, 3, 5]],
    }


def test_inputs_of_different_widths_cannot_be_compared():
    with pytest.raises(RecipeError) as caught:
        made("interaction", (4, 8))
    assert (
        str(caught.value) == "inputs that are compared need features of one width; these are 'one' of 4 and 'two' of 8"
    )


TWO_ARE_NEEDED = {
    "one": (
        {"head": {"name": "interaction", "label": "kind"}},
        """heads.head 'interaction': join = "symmetric" takes two inputs, and the head reads sequence: name two in """
        "data.inputs and, if there are more, in the head's inputs",
    ),
    "three": (
        {
            "data": {"path": "t.csv", "inputs": {"a": "a", "b": "b", "c": "c"}},
            "head": {"name": "sequence-regression", "label": "kind", "join": "difference"},
        },
        """heads.head 'sequence-regression': join = "difference" takes two inputs, and the head reads a, b, c: name two in """
        "data.inputs and, if there are more, in the head's inputs",
    ),
    "twice": (
        {
            "head": {
                "name": "sequence-multilabel",
                "label": "k",
                "join": "symmetric",
                "inputs": ["sequence", "sequence"],
            }
        },
        """heads.head 'sequence-multilabel': join = "symmetric" takes two inputs, and the head reads sequence, sequence: """
        "name two in data.inputs and, if there are more, in the head's inputs",
    ),
    "fixed": (
        {"head": {"name": "interaction", "label": "kind", "join": "concatenate"}},
        "heads.head 'interaction': 'join' is 'concatenate': input should be 'symmetric'",
    ),
}


@pytest.mark.parametrize(("changes", "message"), TWO_ARE_NEEDED.values(), ids=TWO_ARE_NEEDED)
def test_another_number_of_inputs_is_refused_when_the_recipe_is_read(changes, message):
    """No table is there to be read."""
    with pytest.raises(RecipeError) as caught:
        resolve(read_recipe(recipe("t.csv", **changes)), current())
    assert str(caught.value) == message


# Proteins that interact


def proteins(count, seed):
    """Return acid and base proteins, half of each."""
    dice = random.Random(seed)
    return [
        "".join(dice.choice(("DE", "KR")[place % 2] * 4 + "AGLSTVNQ") for _ in range(dice.randrange(12, 30)))
        for place in range(count)
    ]


@pytest.fixture
def pairs(tmp_path):
    """Write pairs of proteins, the parts of which have none in common: opposite charges interact."""
    path = tmp_path / "pairs.csv"
    dice = random.Random(5)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["protein_a", "protein_b", "interacts", "split"])
        for seed, (part, rows) in enumerate({"train": 160, "valid": 30, "test": 60}.items()):
            known = proteins(40, seed)
            for _ in range(rows):
                one, other = dice.sample(range(len(known)), 2)
                table.writerow([known[one], known[other], int(one % 2 != other % 2), part])
    return path


def turned(path):
    """Write the same pairs, each in the other order."""
    out = path.with_name("turned.csv")
    with path.open() as file, out.open("w", newline="") as other:
        rows = list(csv.DictReader(file))
        table = csv.DictWriter(other, list(rows[0]))
        table.writeheader()
        table.writerows(row | {"protein_a": row["protein_b"], "protein_b": row["protein_a"]} for row in rows)
    return out


def interactions(path, **head):
    return recipe(
        path,
        data={"path": str(path), "inputs": {"a": "protein_a", "b": "protein_b"}},
        head={"name": "interaction", "label": "interacts"} | head,
        **training(epochs=12, head_learning_rate=2e-2, batch_size=32),
    )


def test_interactions_are_learned_that_no_sum_of_the_two_tells(pairs):
    """Opposite charges: a linear model of the two side by side cannot say more than chance."""
    learned, heard = listened(interactions(pairs))
    assert learned.metrics["test"]["auroc"] > 0.9
    assert not [line for line in heard.of("note", "text") if "pairs" in line.replace("pairs.csv", "")]
    beside = exapt.train(interactions(pairs, name="sequence-classification"))
    assert beside.metrics["test"]["auroc"] < 0.7


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_the_other_order_is_answered_and_measured_the_same(pairs, pooling, tmp_path):
    given = interactions(pairs, pooling=pooling)
    exapt.train(given, tmp_path / "adapter")
    learned = exapt.load(tmp_path / "adapter")
    with pairs.open() as file:
        rows = list(csv.DictReader(file))[-20:]
    one, other = ([row[name] for row in rows] for name in ("protein_a", "protein_b"))
    assert learned.predict({"a": one, "b": other}).equals(learned.predict({"a": other, "b": one}))
    metrics = [_measured(learned, path) for path in (pairs, turned(pairs))]
    assert metrics[0] == metrics[1]
    assert metrics[0]["rows"] == 250


def _measured(adapted, path):
    from exapt.prediction import evaluate_file

    return evaluate_file(adapted, path)[0]["all"]


def test_the_linear_model_stands_beside_an_interaction(pairs):
    outcome = exapt.compare({**interactions(pairs), **training(epochs=2)}, seeds=[0, 1], scratch={"epochs": 1})
    assert [one.name.partition(" ")[0] for one in outcome.contenders] == ["probe", "scratch", "k-mers,"]


def test_partners_on_both_sides_of_a_split_are_told(tmp_path):
    a, b, c, d, e, f = proteins(6, 0)
    path = tmp_path / "t.csv"
    rows = [(a, b, 1, "train"), (b, c, 0, "train"), (d, d, 1, "train"), (b, a, 1, "valid")]
    rows += [(c, a, 1, "test"), (a, e, 0, "test"), (e, f, 1, "test"), (c, b, 0, "test"), (f, f, 0, "test")]
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["protein_a,protein_b,interacts,split", *lines, ""]))
    _, heard = listened(interactions(path))
    assert heard.of("note", "text")[1:] == [
        "of 1 valid pairs, 1 have both sequences in train, 0 one and 0 none: the last tell most of pairs that are new",
        "1 of 1 valid pairs stand in train in the other order",
        "of 5 test pairs, 2 have both sequences in train, 1 one and 2 none: the last tell most of pairs that are new",
        "1 of 5 test pairs stand in train in the other order",
    ]
    _, heard = listened(interactions(path, name="sequence-classification"))
    assert len(heard.of("note", "text")) == 1
