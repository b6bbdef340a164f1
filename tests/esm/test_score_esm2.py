"""Variant effects by ESM-2 are those of the reference: masked and wild-type marginals, pseudo-log-likelihoods."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import exapt
from exapt import RecipeError
from exapt.data.batching import collate


@pytest.fixture(scope="module")
def inputs(golden):
    return json.loads((golden / "inputs.json").read_text())


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "expected.safetensors")


@pytest.fixture(scope="module")
def wild(inputs):
    return inputs["variant_sequence"]


@pytest.fixture
def scores(golden, tmp_path, wild):
    """Score mutations of the reference's sequence."""

    def _scores(mutations, **options):
        table = tmp_path / "mutations.csv"
        table.write_text("\n".join(["sequence,mutation", *(f"{wild},{one}" for one in mutations), ""]))
        return exapt.score(table, f"esm2:{golden / 'model'}", **options)

    return _scores


@pytest.mark.parametrize(
    ("scorer", "name"), [("masked-marginal", "masked_marginal"), ("wild-type-marginal", "wt_marginal")]
)
def test_every_substitution(scores, inputs, expected, wild, scorer, name):
    order = inputs["aa_order"]
    places = [(row, column) for row in range(len(wild)) for column in range(20) if order[column] != wild[row]]
    found = scores([f"{wild[row]}{row + 1}{order[column]}" for row, column in places], scorer=scorer)
    theirs = [float(expected[f"variants.{name}"][place]) for place in places]
    np.testing.assert_allclose(found, theirs, atol=1e-4, rtol=0)


def test_several_substitutions_are_hidden_together(scores, inputs):
    variants = inputs["variants"]
    np.testing.assert_allclose(scores(variants["mutants"]), variants["masked_marginal_joint_mask"], atol=1e-4, rtol=0)
    found = scores(variants["mutants"], scorer="wild-type-marginal")
    np.testing.assert_allclose(found, variants["wt_marginal_sum"], atol=1e-4, rtol=0)


def test_pseudo_log_likelihoods(golden, build, tokenizer_of, expected, wild):
    tokenizer, backbone = tokenizer_of(), build()

    def total(sequence):
        encoding, found = tokenizer.encode(sequence), 0.0
        for place, token in enumerate(encoding.arrays["input_ids"][1:-1], 1):
            batch = collate([encoding])
            batch["input_ids"][0, place] = tokenizer.mask
            with torch.no_grad():
                logits = backbone.language.head(backbone(batch).hidden[0, place])
            found += float(logits.log_softmax(-1)[token])
        return found

    assert total(wild) == pytest.approx(float(expected["variants.pseudo_log_likelihood"]), abs=1e-4)
    mutants = ["W" + wild[1:], wild[:5] + wild[7:], wild[:9] + "GGP" + wild[9:]]
    found = exapt.score(
        [(wild, mutant) for mutant in mutants], f"esm2:{golden / 'model'}", scorer="pseudo-log-likelihood"
    )
    np.testing.assert_allclose(found, [total(mutant) - total(wild) for mutant in mutants], atol=2e-4, rtol=0)


def test_masked_marginals_are_what_esm2_takes_unless_told(scores):
    assert scores(["K2A"]) == scores(["K2A"], scorer="masked-marginal")


def test_letters_that_esm2_does_not_know_are_told(exapt_notes, golden, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"sequence,mutation\n{'MKTAY' * 10}J,K2A\n")
    assert exapt_notes(table, f"esm2:{golden / 'model'}") == [
        "1 unknown letter in 1 of 1 value of 'wild type'",
        "1 unknown letter in 1 of 1 value of 'mutant'",
    ]


@pytest.mark.parametrize(
    ("change", "mutant"),
    [
        ({"mutation": "K2J"}, ""),
        ({"mutation": "J8K"}, ""),
        ({"mutation": "K2J:J8K"}, ""),
        ({"mutation": "K2A:J8K"}, ""),
        ({}, "MKJJTAYAWWWW"),
    ],
)
@pytest.mark.parametrize("scorer", ["masked-marginal", "wild-type-marginal", "pseudo-log-likelihood"])
def test_no_score_is_made_of_letters_that_esm2_does_not_know(golden, tmp_path, change, mutant, scorer):
    wild = "MKTAYWWJWWWW"
    options = {"scorer": scorer, "settings": {"tokenizer": {"max_unknown": 0.5}}}
    what, said = ("mutation", change["mutation"]) if change else ("mutant", mutant)
    table = tmp_path / "t.csv"
    table.write_text(f"sequence,{what}\n{wild},{said}\n")
    with pytest.raises(exapt.DataError) as refusal:
        exapt.score(table, f"esm2:{golden / 'model'}", **options)
    assert str(refusal.value) == (
        f"t.csv row 1{f' ({said})' if change else ''}: the model does not know the letters that change, or what they change "
        "into; leave such rows without a score with --skip-incomparable"
    )
    assert exapt.score(table, f"esm2:{golden / 'model'}", skip_incomparable=True, **options) == [None]


def test_x_of_esm2_is_a_letter_and_what_it_does_not_know_may_stand_beside_a_change(golden):
    settings = {"tokenizer": {"max_unknown": 0.5}}
    pairs = [("MKTAY", "MXTAY"), ("MKTJYA", "MATJYW"), ("MKJTAY", "MKJATAY")]
    scores = exapt.score(pairs, f"esm2:{golden / 'model'}", scorer="pseudo-log-likelihood", settings=settings)
    assert all(abs(score) > 1e-4 for score in scores)


@pytest.fixture
def exapt_notes():
    """Score a table and return what is told at its end."""

    def _notes(table, backbone):
        told = []
        exapt.score(table, backbone, tell=told.append)
        return told

    return _notes


def test_dna_is_refused(golden):
    pairs = [("ACGT" * 20, "ACGT" * 19 + "ACGA")]
    with pytest.raises(exapt.DataError) as refusal:
        exapt.score(pairs, f"esm2:{golden / 'model'}")
    assert str(refusal.value) == (
        f"all 1 sequences are made of A, C, G, T alone: they look like DNA or RNA, which 'esm2:{golden / 'model'}' does "
        "not read"
    )


def test_a_checkpoint_without_its_language_model_cannot_score(copy):
    copy.save({name: value for name, value in copy.tensors.items() if not name.startswith("lm_head.")})
    with pytest.raises(RecipeError) as refusal:
        exapt.score([("MKTAY", "MKTAW")], f"esm2:{copy.folder}")
    assert str(refusal.value) == (
        f"'esm2:{copy.folder}' has no language model, or was saved without it, and cannot score variants"
    )
