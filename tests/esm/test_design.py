"""``exapt design``: what is designed, what is kept, what a sample depends on, and where the sequences go."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import exapt
from esm.designs import FINGER, complex_of, exapt_design, published, structure, tiny
from esm.structure_files import MODEL, ZINC, command, golden
from exapt.structures import Structure
from exapt_esm import DesignOptions, design
from exapt_esm.designing.model import Designer
from exapt_esm.designing.plan import Plan
from exapt_esm.designing.sampling import Canvas, Draws

WARM = 1.0
NATIVE = "RPYACPVESCDRRFSRSDELTRHIRIHTGQK"
COLUMNS = [
    *("id", "structure", "sample", "temperature", "seed", "score", "global_score", "perplexity", "recovery"),
    *("chains", "designed", "backbone", "sequence"),
]


@pytest.fixture(scope="module")
def backbone():
    return tiny()


def designs(structures, backbone, **options):
    """Return the designs as rows, without the structures' own sequences."""
    rows = design(structures, backbone, DesignOptions(**{"temperature": WARM, **options})).to_pylist()
    return [row for row in rows if row["sample"]]


def sequences(structures, backbone, **options):
    return [row["sequence"] for row in designs(structures, backbone, **options)]


def test_fasta_as_the_field_has_it(backbone, tmp_path):
    out, noted = exapt_design(FINGER, "--backbone", backbone, "--number", 2, "-o", tmp_path / "designs.fasta")
    assert (out, noted) == ([], [f"3 sequences in {tmp_path / 'designs.fasta'}"])
    lines = (tmp_path / "designs.fasta").read_text().splitlines()
    rows = design(FINGER, backbone, DesignOptions(number=2)).to_pylist()
    assert lines[1::2] == [row["sequence"] for row in rows]
    own, first, _ = rows
    assert lines[0] == (
        f">1zaa1 structure=1zaa1 sample=0 score={own['score']} global_score={own['score']} "
        f"perplexity={own['perplexity']} chains=A designed=A backbone={backbone}"
    )
    assert lines[2] == (
        f">1zaa1_1 structure=1zaa1 sample=1 temperature=0.1 seed=0 score={first['score']} "
        f"global_score={first['score']} perplexity={first['perplexity']} recovery={first['recovery']} chains=A designed=A "
        f"backbone={backbone}"
    )
    assert exapt_design(FINGER, "--backbone", backbone, "--number", 2)[0] == lines


def test_exapt_reads_the_fasta_as_a_table(backbone, tmp_path):
    exapt_design(FINGER, "--backbone", backbone, "--number", 2, "-o", tmp_path / "designs.fa")
    read = pa.Table.from_batches(list(exapt.open_table(tmp_path / "designs.fa")))
    assert set(read.column_names) == {*COLUMNS, "description"}
    rows = design(FINGER, backbone, DesignOptions(number=2))
    assert read["recovery"].to_pylist() == [None, *map(str, rows["recovery"].to_pylist()[1:])]
    for column in ("id", "chains", "sequence", "structure", "backbone"):
        assert read[column].to_pylist() == rows[column].to_pylist()


def test_designs_are_embedded_and_scored(backbone, tmp_path):
    exapt_design(FINGER, "--backbone", backbone, "--number", 2, "-o", tmp_path / "designs.fasta")
    command("embed", tmp_path / "designs.fasta", "--backbone", f"esm2:{MODEL}", "-o", tmp_path / "vectors.parquet")
    assert pq.read_table(tmp_path / "vectors.parquet")["id"].to_pylist() == ["1zaa1", "1zaa1_1", "1zaa1_2"]
    result = command("score", tmp_path / "designs.fasta", "--structure", FINGER, "--backbone", backbone)
    rows = [line.split(",") for line in result.stdout.splitlines()]
    assert rows[0][-1] == "score"
    assert [row[0] for row in rows[1:]] == ["1zaa1", "1zaa1_1", "1zaa1_2"]
    assert float(rows[1][-1]) == 0
    assert all(abs(float(row[-1])) > 0 for row in rows[2:])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_of_designs(backbone, tmp_path, suffix):
    out = tmp_path / f"designs{suffix}"
    exapt_design(FINGER, "--backbone", backbone, "--number", 1, "--temperature", "0.1,0.5", "-o", out)
    read = pa.Table.from_batches(list(exapt.open_table(out)))
    rows = design(FINGER, backbone, DesignOptions(number=1, temperature=(0.1, 0.5)))
    assert read.column_names == rows.column_names == COLUMNS
    assert read["sequence"].to_pylist() == rows["sequence"].to_pylist()
    assert [float(one) for one in read["score"].to_pylist()] == rows["score"].to_pylist()
    assert rows["id"].to_pylist() == ["1zaa1", "1zaa1_1", "1zaa1_2"]
    assert rows["temperature"].to_pylist() == [None, 0.1, 0.5]
    assert rows["sample"].to_pylist() == [0, 1, 1]


def test_a_sample_depends_on_seed_structure_and_number_alone(backbone, tmp_path):
    eight = sequences(FINGER, backbone, number=8)
    assert len(set(eight)) == 8
    assert sequences(FINGER, backbone, number=3) == eight[:3]
    assert sequences(FINGER, backbone, number=8, batch=3) == eight
    assert sequences(FINGER, backbone, number=8, temperature=(0.2, WARM))[8:] == eight
    shutil.copy(FINGER, tmp_path / "renamed.pdb")
    shutil.copy(ZINC / "1ard.pdb", tmp_path / "1ard.pdb")
    folder = designs(tmp_path, backbone, number=8)
    assert [row["sequence"] for row in folder if row["structure"] == "renamed"] == eight
    assert [row["id"] for row in folder][8] == "renamed_1"
    assert not set(eight) & set(sequences(FINGER, backbone, number=8, seed=1))
    assert designs(FINGER, backbone, number=1, seed=2**63 - 1)[0]["seed"] == 2**63 - 1


def test_the_own_sequence_does_not_tell_what_is_sampled(backbone):
    one = structure()
    assert sequences(one.with_letters("G" * len(one)), backbone) == sequences(one, backbone)


def test_numbers_told_of_a_design_are_those_of_its_sequence(backbone):
    row = designs(FINGER, backbone, number=1, fixed="A:5-20")[0]
    kept = structure().numbers.index("5"), structure().numbers.index("20") + 1
    designed = [place for place in range(len(NATIVE)) if not kept[0] <= place < kept[1]]
    same = [row["sequence"][place] == NATIVE[place] for place in designed]
    assert row["recovery"] == pytest.approx(np.mean(same), abs=5e-5)
    assert row["perplexity"] == pytest.approx(np.exp(row["score"]), abs=2e-3)
    assert row["score"] != row["global_score"]


def kept_at(sequence, own):
    return [place for place, letter in enumerate(own) if sequence[place] == letter]


def test_fixed_places_keep_their_residues(backbone):
    numbers = structure().numbers
    kept = [numbers.index(number) for number in ("5", "6", "7", "8", "20")]
    for sequence in sequences(FINGER, backbone, fixed=("A:5-8", "A:20"), number=4):
        assert set(kept) <= set(kept_at(sequence, NATIVE))
        assert len(kept_at(sequence, NATIVE)) < 20


def test_design_only_is_the_opposite(backbone):
    numbers = structure().numbers
    chosen = {numbers.index(number) for number in ("5", "6", "7", "8", "20")}
    found = sequences(FINGER, backbone, design_only=("A:5-8", "A:20"), number=4)
    assert len(set(found)) > 1
    for sequence in found:
        assert set(range(len(NATIVE))) - set(kept_at(sequence, NATIVE)) <= chosen


def test_other_chains_are_kept_and_seen(backbone):
    pair = complex_of("A", "B")
    own = NATIVE
    rows = designs(pair, backbone, chains=("B",), number=3)
    assert {row["designed"] for row in rows} == {"B"}
    assert {row["chains"] for row in rows} == {"A/B"}
    parts = [row["sequence"].split("/") for row in rows]
    assert {first for first, _ in parts} == {own}
    assert own not in {second for _, second in parts}
    # The same as to keep all of the other chain, place by place.
    assert sequences(pair, backbone, fixed=("A",), number=3) == [row["sequence"] for row in rows]
    other = pair.with_letters("W" * len(own) + own)
    assert sequences(other, backbone, chains=("B",), number=3, temperature=1e-6) != sequences(
        pair, backbone, chains=("B",), number=3, temperature=1e-6
    )


def test_what_is_omitted_is_never_sampled(backbone):
    everything = "".join(sequences(FINGER, backbone, number=20, temperature=20))
    assert set(everything) == set("ACDEFGHIKLMNPQRSTVWY")
    left = "".join(sequences(FINGER, backbone, number=20, temperature=20, omit="CWX"))
    assert set(left) == set("ADEFGHIKLMNPQRSTVY")
    place = structure().numbers.index("5")
    omitted = "A:5=ACDEFGHIKLMNPQRSTV,A:6-7=G"
    found = sequences(FINGER, backbone, number=20, temperature=20, omit_at=omitted)
    assert {sequence[place] for sequence in found} == {"W", "Y"}
    assert "G" not in {letter for sequence in found for letter in sequence[place + 1 : place + 3]}


def test_a_bias_makes_residues_more_frequent(backbone):
    biases = ({}, {"bias": "V=1"}, {"bias": {"V": -1}})
    plain, more, less = ("".join(sequences(FINGER, backbone, number=10, **bias)) for bias in biases)
    assert less.count("V") < plain.count("V") < more.count("V")
    # It is added to logits, so that a low temperature makes more of it.
    assert set(sequences(FINGER, backbone, number=2, bias="K=50", temperature=5)) == {"K" * len(NATIVE)}


def test_numbers_at_the_end_of_all_numbers(backbone):
    assert sequences(FINGER, backbone, number=1, bias="K=1e308", temperature=0.1) == ["K" * len(NATIVE)]
    cold = sequences(FINGER, backbone, number=1, temperature=1e-6)
    assert sequences(FINGER, backbone, number=1, temperature=1e-320) == cold


def test_tied_stretches_get_one_sequence(backbone):
    pair = complex_of("A", "B")
    for sequence in sequences(pair, backbone, tied="A:12-20=B:12-20", number=4):
        first, second = sequence.split("/")
        assert first[1:10] == second[1:10]
        assert first != second


def test_a_chain_that_repeats_itself(backbone):
    for sequence in sequences(FINGER, backbone, tied="A:3-9=A:10-16=A:17-23", number=4):
        start = structure().numbers.index("3")
        assert sequence[start : start + 7] * 3 == sequence[start : start + 21]


def test_tied_chains_get_one_sequence(backbone):
    three = complex_of("A", "B", "C")
    for sequence in sequences(three, backbone, tied_chains="A,B,C", number=4):
        assert len(set(sequence.split("/"))) == 1
    for sequence in sequences(three, backbone, tied_chains=("A,C",), number=2):
        first, second, third = sequence.split("/")
        assert first == third != second


class Overheard(torch.nn.Module):
    """Tells logits, and keeps what it told."""

    def __init__(self, out):
        super().__init__()
        self.out, self.told = out, []

    def forward(self, states):
        self.told.append(self.out(states))
        return self.told[-1]


def logits_in(designer, encoding, ids, rank):
    """Return the logits [units, letters] of all units at once, each of them seeing the letters of lower rank."""
    arrays = {name: torch.from_numpy(array)[None] for name, array in encoding.arrays.items()}
    with torch.inference_mode():
        state = designer.model.encode(exapt.parts.Batch(arrays, arrays["resolved"] | True, None, None))
        states = designer.model.decode(state, torch.from_numpy(ids)[None], torch.from_numpy(rank)[None])
        return designer.out(states)[0].numpy()


def test_what_is_tied_is_decoded_at_once_each_without_the_others_letters(backbone):
    designer = Designer.of(backbone, {})
    encoding = designer.encode("finger", structure())
    options = DesignOptions(tied=[f"A:{number}=A:{number + 1}=A:{number + 2}" for number in range(3, 33, 3)])
    plan = Plan.of("finger", structure(), encoding.arrays["resolved"], options)
    draws, out = Draws.of(encoding, 0, 1), Overheard(designer.out)
    (sample,) = Canvas(designer.model, out, encoding, plan).samples([draws], 1e-9)
    apart, turns = draws.rank(plan)
    assert sorted(len(units) for units in turns) == [1] + [3] * 10
    told = np.concatenate([logits.numpy() for logits in out.told[: len(NATIVE)]])
    order, together = np.concatenate(turns), np.empty_like(apart)
    for number, units in enumerate(turns):
        together[units] = number
    expected = logits_in(designer, encoding, sample.ids, together)
    np.testing.assert_allclose(told, expected[order], atol=1e-5)
    assert np.abs(expected - logits_in(designer, encoding, sample.ids, apart)).max() > 1e-2
    for units in turns:
        likeliest = np.where(plan.allowed[units[0]], expected[units].mean(0), -np.inf).argmax()
        assert set(sample.ids[units]) == {likeliest}


def without(pair, unit):
    """Return the structure without the residue of a unit, which stays as a gap."""
    atoms = pair.atoms.copy()
    atoms[unit] = np.nan
    return pair.with_atoms(atoms).with_letters(pair.letters[:unit] + "-" + pair.letters[unit + 1 :])


def test_tied_chains_may_lack_residues(backbone):
    gapped = without(complex_of("A", "B"), 3)
    for sequence in sequences(gapped, backbone, tied_chains="A,B", number=4):
        first, second = sequence.split("/")
        assert first[3] == "X" != second[3]
        assert first[:3] + first[4:] == second[:3] + second[4:]


def test_residues_of_tied_chains_without_a_partner_are_told(backbone):
    pair = complex_of("A", "B")
    numbers = pair.numbers[: len(NATIVE)] + tuple(str(int(number) + 2) for number in pair.numbers[len(NATIVE) :])
    shifted = Structure(pair.chains, pair.starts, pair.letters, numbers, pair.atoms)
    told = []
    rows = design({"pair": shifted}, backbone, DesignOptions(tied_chains="A,B", temperature=WARM), tell=told.append)
    assert told == ["pair: residues of the chains A, B without a partner, not tied: 4"]
    for sequence in rows["sequence"].to_pylist()[1:]:
        first, second = sequence.split("/")
        assert first[2:] == second[:-2]


def test_what_is_tied_is_sampled_from_the_mean_of_its_logits(backbone):
    """Decoded step by step, or whole sequences at once with the members of a group blind to one another, is the same."""
    pair, designer = complex_of("A", "B"), Designer.of(backbone, {})
    encoding = designer.encode("pair", pair)
    plan = Plan.of("pair", pair, encoding.arrays["resolved"], DesignOptions(tied_chains="A,B", fixed="A:11-14,B:11-14"))
    draws = Draws.of(encoding, 0, 1)
    (sample,) = Canvas(designer.model, designer.out, encoding, plan).samples([draws], 1e-6)
    rank, turns = draws.rank(plan)
    assert sorted(rank[~plan.designed]) == list(range(8))
    for turn in turns:
        assert np.ptp(turn) == len(NATIVE)
        rank[turn] = rank[turn].min()
    batch = {name: torch.from_numpy(array)[None] for name, array in encoding.arrays.items()}
    with torch.inference_mode():
        state = designer.model.encode(exapt.parts.Batch(batch, batch["resolved"] | True, None, None))
        ids = torch.from_numpy(sample.ids)[None]
        logits = designer.out(designer.model.decode(state, ids, torch.from_numpy(rank)[None]))[0, :, :-1].numpy()
    for turn in turns:
        assert set(sample.ids[turn]) == {logits[turn].mean(0).argmax()}


def test_a_step_costs_one_residue(backbone):
    one, designer, computed = structure(), Designer.of(backbone, {}), []
    encoding = designer.encode("finger", one)
    plan = Plan.of("finger", one, encoding.arrays["resolved"], DesignOptions())
    canvas = Canvas(designer.model, designer.out, encoding, plan)
    first, *_ = designer.model.mpnn.decoder_layers
    first.W2.register_forward_hook(lambda module, given, made: computed.append(len(made)))
    canvas.samples([Draws.of(encoding, 0, number) for number in (1, 2, 3)], 0.1)
    # Three residues a step, one of each sample, and all of them once more to be scored.
    assert computed == [3] * len(one) + [3 * len(one)]


def test_numbers_of_residues_are_those_of_the_file_or_places(backbone):
    one = structure()
    renumbered = Structure(one.chains, one.starts, one.letters, ("52", "52A", *one.numbers[2:]), one.atoms)
    by_file = sequences(renumbered, backbone, fixed="A:52a", number=4)
    assert by_file == sequences(renumbered, backbone, fixed="A:2", numbering="index", number=4)
    assert {sequence[1] for sequence in by_file} == {NATIVE[1]}
    assert len({sequence[0] for sequence in by_file}) > 1


def test_negative_numbers(backbone):
    one = structure()
    numbers = tuple(str(number) for number in range(-5, len(one) - 5))
    shifted = Structure(one.chains, one.starts, one.letters, numbers, one.atoms)
    for sequence in sequences(shifted, backbone, fixed="A:-4--2,A:-1-1", number=4):
        assert sequence[1:7] == NATIVE[1:7]


def test_structures_come_alone_in_a_list_or_by_name(backbone):
    one, other = structure(), structure(ZINC / "1ard.pdb")
    assert [row["id"] for row in designs(one, backbone, number=1)] == ["structure_1"]
    named = designs({"x": one, "y": other}, backbone, number=1)
    assert [row["id"] for row in named] == ["x_1", "y_1"]
    listed = designs([one, other], backbone, number=1)
    assert [row["sequence"] for row in listed] == [row["sequence"] for row in named]


def test_options_of_the_reader(backbone):
    rows = design(FINGER, backbone, DesignOptions(number=1), settings={"reader": {"separate": True}}).to_pylist()
    assert [row["id"] for row in rows] == ["1zaa1_A", "1zaa1_A_1"]


def test_what_a_model_cannot_place_is_told_and_stays(backbone):
    gapped, told = without(structure(), 4), []
    rows = design({"gapped": gapped}, backbone, DesignOptions(number=2), tell=told.append).to_pylist()
    assert told == [
        "1 of 31 positions of 'structure', in 1 of 1 structures, lack atoms of the backbone: they have no features"
    ]
    assert {row["sequence"][4] for row in rows} == {"X"}


def recipe(backbone):
    return {
        "data": {"path": str(ZINC)},
        "split": {"fractions": (0.6, 0.2, 0.2)},
        "backbone": backbone,
        "head": {"name": "inverse-folding"},
        "strategy": {"name": "lora", "rank": 2},
        "training": {"epochs": 1, "learning_rate": 0.05},
    }


def test_an_adapter_of_the_native_objective_designs(backbone, tmp_path):
    trained = exapt.train(recipe(backbone), tmp_path / "family")
    before, after = sequences(FINGER, backbone, number=3), sequences(FINGER, trained, number=3)
    assert before != after
    out, _ = exapt_design(FINGER, "--adapter", tmp_path / "family", "--number", 3, "--temperature", WARM)
    assert out[3::2] == after
    assert out[0].endswith("backbone=family")


def test_a_lora_step_by_step_is_a_lora_all_at_once(backbone):
    designer = Designer.of_adapter(exapt.train(recipe(backbone)))
    encoding = designer.encode("finger", structure())
    plan = Plan.of("finger", structure(), encoding.arrays["resolved"], DesignOptions(fixed="A:5-8"))
    draws = Draws.of(encoding, 0, 1)
    (sample,) = Canvas(designer.model, designer.out, encoding, plan).samples([draws], 1e-6)
    batch = {name: torch.from_numpy(array)[None] for name, array in encoding.arrays.items()}
    with torch.inference_mode():
        state = designer.model.encode(exapt.parts.Batch(batch, batch["resolved"] | True, None, None))
        rank, ids = draws.rank(plan)[0], torch.from_numpy(sample.ids)[None]
        logits = designer.out(designer.model.decode(state, ids, torch.from_numpy(rank)[None]))[0, :, :-1]
    assert np.array_equal(sample.ids[plan.designed], logits.argmax(-1).numpy()[plan.designed])


def test_the_model_of_ca_atoms_designs():
    name = published("proteinmpnn-ca-020")
    row = designs(golden("pdbs/edge_caonly.pdb"), name, number=1)[0]
    assert len(row["sequence"]) == 12
    assert np.isfinite(row["score"])


def test_ids_are_words_in_fasta(backbone, tmp_path):
    shutil.copy(FINGER, tmp_path / "my finger é.pdb")
    exapt_design(tmp_path / "my finger é.pdb", "--backbone", backbone, "--number", 1, "-o", tmp_path / "designs.fasta")
    (batch,) = exapt.open_table(tmp_path / "designs.fasta")
    assert batch.column("id").to_pylist() == [r"my_finger_\xe9", r"my_finger_\xe9_1"]
    assert batch.column("structure").to_pylist() == [r"my finger \xe9"] * 2
