"""``exapt score``: from a table of variants to a table of scores."""

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

WILD = "MKTAYIAKQRQISFVKSHFSRQ"
# As the reference has it, see tests/golden/esm2.
SCORES = {"K2A": -1.20749, "A4W:Q9E": -1.74598, "M1L": 7.60293, "Q22R:R21A:S20K": -3.82095}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mutations.csv"
    path.write_text(
        "\n".join(["id,sequence,mutation,effect", *(f"v{n},{WILD},{m},1" for n, m in enumerate(SCORES)), ""])
    )
    return path


@pytest.fixture
def protein(tmp_path):
    path = tmp_path / "protein.fasta"
    path.write_text(f">p\n{WILD}\n")
    return path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def rows_of(done):
    return rows(done.stdout)


def test_scores_go_to_stdout(exapt, table, esm2):
    done = exapt("score", table, "--backbone", esm2)
    found = rows(done.stdout)
    assert [list(row) for row in found] == [["id", "mutation", "score"]] * 4
    assert [(row["id"], row["mutation"]) for row in found] == [(f"v{n}", m) for n, m in enumerate(SCORES)]
    assert [float(row["score"]) for row in found] == pytest.approx(list(SCORES.values()), abs=1e-4)
    assert done.stderr == ""


def test_scores_go_to_files(exapt, table, esm2, tmp_path):
    for suffix in ("csv", "parquet", "jsonl"):
        out = tmp_path / f"s.{suffix}"
        assert exapt("score", table, "--backbone", esm2, "-o", out).stderr == f"4 rows in {out}\n"
    expected = [float(row["score"]) for row in rows((tmp_path / "s.csv").read_text())]
    assert [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == expected
    assert pq.read_table(tmp_path / "s.parquet")["score"].to_pylist() == pytest.approx(expected, abs=1e-6)


def test_rows_stream_in_pieces(exapt, table, esm2, monkeypatch):
    whole = rows(exapt("score", table, "--backbone", esm2).stdout)
    monkeypatch.setattr("exapt.scores._ROWS", 1)
    pieces = rows(exapt("score", table, "--backbone", esm2).stdout)
    scores = [[float(row.pop("score")) for row in some] for some in (whole, pieces)]
    assert pieces == whole
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_vcf_with_a_reference(exapt, protein, esm2, tmp_path):
    path = tmp_path / "v.vcf"
    path.write_text("##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\np\t2\trs7\tK\tA,*\np\t1\t.\tM\tL\n")
    done = exapt("score", path, "--backbone", esm2, "--reference", protein)
    found = rows(done.stdout)
    assert [tuple(row.values())[:5] for row in found] == [
        ("rs7", "p", "2", "K", "A"),
        ("rs7", "p", "2", "K", "*"),
        ("", "p", "1", "M", "L"),
    ]
    assert [float(row["score"] or "nan") for row in found] == pytest.approx(
        [SCORES["K2A"], float("nan"), SCORES["M1L"]], abs=1e-4, nan_ok=True
    )
    assert done.stderr == (
        "1 row without a score, for the allele '*', which spells no sequence; first v.vcf row 2 (p:2)\n"
    )


def test_columns_scorer_and_options(exapt, esm2, tmp_path, protein):
    path = tmp_path / "v.tsv"
    path.write_text("pos\twt\tmt\n2\tK\tA\n")
    words = [path, "--backbone", esm2, "--reference", protein]
    named = ["--column", "position=pos", "--column", "ref=wt", "--column", "alt=mt"]
    done = exapt("score", *words, *named, "--scorer", "pseudo-log-likelihood")
    over_units = exapt("score", *words, *named, "--scorer", "pseudo-log-likelihood", "--set", "scorer.units_only=true")
    (one,), (other,) = rows(done.stdout), rows(over_units.stdout)
    assert (one["id"], one["position"], one["ref"], one["alt"]) == ("1", "2", "K", "A")
    assert float(one["score"]) != pytest.approx(float(other["score"]), abs=1e-3)


def test_mismatches_are_refused_or_skipped(exapt, refused, esm2, protein, tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("chrom,position,ref,alt\np,2,K,A\np,3,G,A\n")
    words = ["score", path, "--backbone", esm2, "--reference", protein]
    assert refused(*words, "-o", tmp_path / "s.csv") == (
        "v.csv row 2 (p:3): the reference has 'T' where the table says 'G'"
    )
    assert not (tmp_path / "s.csv").exists()
    done = exapt(*words, "--skip-mismatches")
    assert [row["score"] != "" for row in rows(done.stdout)] == [True, False]
    assert done.stderr == (
        "1 row without a score, for letters that are others in the sequence; first v.csv row 2 (p:3)\n"
    )


def test_all_that_cannot_have_a_score_may_be_skipped_by_one_flag(exapt, refused, esm2, tmp_path):
    path = tmp_path / "v.csv"
    rows = [
        f"{WILD},K2A",
        f"{WILD},K3A",
        f"{WILD},K99A",
        f"MX{WILD[2:]},X2J",
        f"{WILD[:3]}?{WILD[3:]},K2A",
        f"{WILD},WT",
    ]
    path.write_text("\n".join(["sequence,mutation", *rows, ""]))
    words = ["score", path, "--backbone", esm2]
    for flag, said in (
        ((), "v.csv row 2 (K3A): the sequence has 'T' at position 3 where the table says 'K'"),
        (
            ("--skip-mismatches",),
            "v.csv row 4 (X2J): the model reads the wild type and the mutant alike; leave such rows without a score with "
            "--skip-incomparable",
        ),
        (("--skip-mismatches", "--skip-incomparable"), "v.csv row 5 (K2A): character '?' at position 4 is no residue"),
    ):
        assert refused(*words, *flag) == said
    done = exapt(*words, "--skip-unscorable")
    assert [row["score"] not in ("", "0.0") for row in rows_of(done)] == [True, *[False] * 5]
    assert [row["score"] for row in rows_of(done)][1:] == ["", "", "", "", "0.0"]
    assert done.stderr.splitlines() == [
        "1 row without a score, for a wild type and a mutant that the model reads alike; first v.csv row 4 (X2J)",
        "1 row without a score, for letters that are others in the sequence; first v.csv row 2 (K3A)",
        "1 row without a score, for letters that the model cannot read; first v.csv row 5 (K2A)",
        "1 row without a score, for positions beyond the end of the sequence; first v.csv row 3 (K99A)",
        "1 row is the wild type itself and scores 0; first v.csv row 6 (WT)",
        "1 unknown letter in 1 of 2 values of 'mutant'",
    ]


def test_mistakes_are_one_line(refused, table, esm2, tmp_path):
    assert refused("score", table, "--backbone", esm2, "--scorer", "log-likelihood") == (
        f"scorer 'log-likelihood' asks a causal language model, and '{esm2}' is a masked one; use one of masked-marginal, "
        "pseudo-log-likelihood, wild-type-marginal"
    )
    assert refused("score", table, "--backbone", esm2, "--set", "scorer.temperature=1").startswith(
        "scorer 'masked-marginal': unknown key 'temperature'"
    )
    for word in ("temperature=1", "scorer=1"):
        assert refused("score", table, "--backbone", esm2, "--set", word) == (
            f"'{word[:-2]}' cannot be set: there are options of scorer, backbone, tokenizer and reader, such as "
            "scorer.units_only=true"
        )
    assert refused("score", table, "--backbone", esm2, "--reference", tmp_path / "none.fa") == (
        f"'{tmp_path / 'none.fa'}' cannot be read: No such file or directory."
    )
    assert refused("score", table, "--backbone", esm2, "-o", table) == (
        f"'{table}' exists already. Remove it, or name another file."
    )


def test_scorers_and_augmentations_are_listed_and_shown(exapt):
    assert [line.split()[0] for line in exapt("list", "scorers").stdout.splitlines()] == [
        "name",
        "conditional",
        "decoding-orders",
        "log-likelihood",
        "masked-marginal",
        "pseudo-log-likelihood",
        "unconditional",
        "wild-type-marginal",
    ]
    shown = json.loads(exapt("show", "scorer", "masked-marginal", "--json").stdout)
    assert shown["objective"] == "masked"
    assert [name for name, *_ in shown["options"]] == ["units_only", "max_hidden"]
    assert "augmentations" in exapt("list").stdout
    assert (
        "scorers: masked-marginal, pseudo-log-likelihood, wild-type-marginal"
        in exapt("show", "backbone", "esm2").stdout
    )
