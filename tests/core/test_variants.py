"""Tables of variants: every way to tell a change, the reference that they stand in, and what is refused."""

import gzip
import random

import pytest

import exapt
from bases import bases
from exapt import DataError
from exapt.data import reference
from exapt.data.reference import Reference

CHROMOSOME = "".join(random.Random(0).choices("ACGT", k=500))
MITOCHONDRION = "".join(random.Random(1).choices("ACGT", k=90))
HEADER = "##fileformat=VCFv4.3\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def fasta(width=60, end="\n", **sequences):
    sequences = sequences or {"chr1": CHROMOSOME, "chrM": MITOCHONDRION}
    lines = []
    for name, text in sequences.items():
        lines += [f">{name} of a test", *(text[at : at + width] for at in range(0, len(text), width))]
    return end.join([*lines, ""])


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(fasta())
    return path


@pytest.fixture
def score(tmp_path):
    """Score a table that is written for it on the toy; return the scores, or what is told at the end too."""

    def _score(text, name="variants.csv", told=None, toy=None, **options):
        path = tmp_path / name
        path.write_text(text)
        tell = {"tell": told.append} if told is not None else {}
        with bases(**(toy or {})):
            return exapt.score(path, "toy", **tell, **options)

    return _score


@pytest.fixture
def refused(score):
    """Score a table and return the error with which it is refused."""

    def _refused(*arguments, **options):
        with pytest.raises(DataError) as refusal:
            score(*arguments, **options)
        return str(refusal.value)

    return _refused


@pytest.mark.parametrize("width", [60, 7, 500, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_any_stretch_of_a_reference_is_read_from_its_place(tmp_path, monkeypatch, width, end, packed):
    monkeypatch.setattr(reference, "_BLOCK", 16)
    path = tmp_path / "genome.fa"
    text = fasta(width, end).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    found = Reference(path)
    assert found.names == ["chr1", "chrM"]
    for name, sequence in (("chr1", CHROMOSOME), ("chrM", MITOCHONDRION)):
        assert found.length(name) == len(sequence)
        for start in range(0, len(sequence), 13):
            for stop in (start, start + 1, start + 59, start + 61, len(sequence), len(sequence) + 5):
                assert found.fetch(name, start, stop) == sequence[start:stop]


def test_a_reference_may_end_without_a_line_end(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(">a\nACGT\nAC\n>b\nGGG")
    found = Reference(path)
    assert (found.fetch("a", 0, 9), found.fetch("b", 0, 9)) == ("ACGTAC", "GGG")


UNEVEN = "genome.fa: the lines of 'a' are not all of one length; fold them anew, as with: seqkit seq -w 60"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "genome.fa is empty."),
        ("ACGT\n", "genome.fa line 1 is not FASTA: the first record must begin with '>'."),
        ("<!doctype html><html>", "genome.fa is an HTML page, not data. Fetch the file itself."),
        (">a\nACGT\n>\nACGT\n", "genome.fa: record 2 has no name."),
        (">a\nACGT\n>b\n\n>c\nAC\n", "genome.fa: record 'b' has no sequence."),
        (">a\nACGT\n>b", "genome.fa: record 'b' has no sequence."),
        (">a\nACGT\n>a\nACGT\n", "genome.fa has two sequences 'a'."),
        (">a\nACGT\nAC\nACGT\n", UNEVEN),
        (">a\nACGT\nACGTA\n", UNEVEN),
        (">a\n\nACGT\n", UNEVEN),
        (">a\nACGT\n\nACGT\n", UNEVEN),
        (">a\nACGTAC\nACG\nACG\n", UNEVEN),
    ],
)
def test_what_is_no_reference_is_refused(tmp_path, text, message):
    path = tmp_path / "genome.fa"
    path.write_text(text)
    with pytest.raises(DataError) as refusal:
        Reference(path)
    assert str(refusal.value) == message


def test_all_ways_to_tell_a_change_give_the_same_score(score, genome, tmp_path):
    piece = CHROMOSOME[:90]
    ref, alt = piece[40], "A" if piece[40] != "A" else "C"
    mutant = piece[:40] + alt + piece[41:]
    vcf = HEADER.replace("chr1", "piece") + f"piece\t41\trs1\t{ref}\t{alt}\t.\t.\t.\n"
    (tmp_path / "piece.fa").write_text(fasta(piece=piece))
    given = {"reference": tmp_path / "piece.fa", "context": 90}
    found = [
        score(f"sequence,position,ref,alt\n{piece},41,{ref},{alt}\n"),
        score(f"sequence,mutation\n{piece},{ref}41{alt}\n"),
        score(f"sequence,mutant\n{piece},{mutant}\n"),
        score(f"chrom,position,ref,alt\npiece,41,{ref},{alt}\n", **given),
        score(f"mutation\n{ref}41{alt}\n", **given),
        score(f"mutant\n{mutant}\n", **given),
        score(f"sequence\tposition\tref\talt\n{piece}\t41\t{ref}\t{alt}\n", "t.tsv"),
        score(
            f"wild,pos,wt,mt\n{piece},41,{ref},{alt}\n",
            columns={"sequence": "wild", "position": "pos", "ref": "wt", "alt": "mt"},
        ),
        score(vcf, "t.vcf", **given),
    ]
    with bases():
        assert found == [exapt.score([(piece, mutant)], "toy")] * len(found)


def test_variants_of_a_reference_are_scored_in_the_window_that_the_model_takes(score, genome):
    place = 300
    ref, alt = CHROMOSOME[place : place + 2], CHROMOSOME[place] + "GG"
    (found,) = score(
        f"chrom,position,ref,alt\nchr1,{place + 1},{ref},{alt}\n", reference=genome, toy={"max_tokens": 42}
    )
    # 42 tokens, two of them special; the mutant is a base longer, so that the wild type has 39 bases.
    start = place - (39 - 2) // 2
    piece = CHROMOSOME[start : start + 39]
    mutant = piece[: place - start] + alt + piece[place - start + 2 :]
    with bases():
        assert found == exapt.score([(piece, mutant)], "toy")[0]


@pytest.mark.parametrize("place", [0, 1, 498, 499])
def test_a_context_ends_at_the_ends_of_a_chromosome(score, genome, place):
    ref, alt = CHROMOSOME[place], "A" if CHROMOSOME[place] != "A" else "C"
    (found,) = score(f"chrom,position,ref,alt\nchr1,{place + 1},{ref},{alt}\n", reference=genome, context=12)
    start = max(0, place - 12)
    piece = CHROMOSOME[start : place + 13]
    with bases():
        assert exapt.score([(piece, piece[: place - start] + alt + piece[place - start + 1 :])], "toy") == [found]


def test_a_soft_masked_reference_has_the_same_letters(score, tmp_path, genome):
    (tmp_path / "masked.fa").write_text(fasta(chr1=CHROMOSOME.lower()))
    table = f"chrom,position,ref,alt\nchr1,100,{CHROMOSOME[99]},{'A' if CHROMOSOME[99] != 'A' else 'C'}\n"
    plain = score(table, reference=genome, context=20)
    assert score(table, reference=tmp_path / "masked.fa", context=20) == plain


def test_a_model_without_a_limit_asks_for_a_context(score, genome):
    table = f"chrom,position,ref,alt\nchr1,1,{CHROMOSOME[0]},{'A' if CHROMOSOME[0] != 'A' else 'C'}\n"
    with pytest.raises(exapt.RecipeError) as refusal:
        score(table, reference=genome)
    assert str(refusal.value) == (
        "'toy' takes inputs of any length: say with --context how many letters to keep on each side of a variant"
    )


SEQUENCE = "ACGTTGCAAC"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,A,T", "row 1: the sequence has 'G' at position 3 where the table says 'A'"),
        ("3,GA,T", "row 1: the sequence has 'GT' at position 3 where the table says 'GA'"),
        ("0,A,T", "row 1: there is no position 0: positions count from 1"),
        ("-4,A,T", "row 1: there is no position -4: positions count from 1"),
        ("11,A,T", "row 1: position 11 lies beyond the end: there are 10 letters"),
        ("10,CA,T", "row 1: position 11 lies beyond the end: there are 10 letters"),
        ("x,A,T", "row 1: position 'x' is no whole number"),
        ("1.5,A,T", "row 1: position '1.5' is no whole number"),
        ("\u0663,A,T", "row 1: position '\u0663' is no whole number"),
        (f"{'9' * 19},A,T", f"row 1: position '{'9' * 19}' is no whole number"),
        (f"{'9' * 18},A,T", f"row 1: position {'9' * 18} lies beyond the end: there are 10 letters"),
        (",A,T", "row 1: there is no 'position'"),
        ("1,,T", "row 1: there is no 'ref'"),
        ("1,A,", "row 1: there is no 'alt'"),
        ("1,A,-", "row 1: alt '-' is not made of letters; write an insertion with the letter before it"),
        ("3,A,A", "row 1: the sequence has 'G' at position 3 where the table says 'A'"),
    ],
)
def test_a_variant_that_is_not_there_is_refused(refused, row, message):
    assert refused(f"sequence,position,ref,alt\n{SEQUENCE},{row}\n") == f"variants.csv {message}"


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        ("A3T", "(A3T): the sequence has 'G' at position 3 where the table says 'A'"),
        ("G3T:A1", "(G3T:A1): 'A1' is no substitution such as A23G; several are joined with colons, A23G:K41R"),
        ("3T", "(3T): '3T' is no substitution such as A23G; several are joined with colons, A23G:K41R"),
        ("G3T:G3A", "(G3T:G3A): position 3 changes twice"),
        ("WT:G3A", "(WT:G3A): 'WT' is no substitution such as A23G; several are joined with colons, A23G:K41R"),
        (
            "G\u0663A",
            "(G\u0663A): 'G\u0663A' is no substitution such as A23G; several are joined with colons, A23G:K41R",
        ),
        ("A3A", "(A3A): the sequence has 'G' at position 3 where the table says 'A'"),
        ("A0T", "(A0T): there is no position 0: positions count from 1"),
    ],
)
def test_a_mutation_that_is_none_is_refused(refused, mutation, message):
    assert refused(f"sequence,mutation\n{SEQUENCE},{mutation}\n") == f"variants.csv row 1 {message}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("chr1,5,{other},T", "row 1 (chr1:5): the reference has '{base}' where the table says '{other}'"),
        ("chr1,501,A,T", "row 1 (chr1:501): position 501 lies beyond the end: there are 500 letters"),
        (
            "1,5,A,T",
            "row 1 (1:5): genome.fa has no sequence '1'. Did you mean 'chr1'? It has: chr1, chrM.",
        ),
        (
            "MT,5,A,T",
            "row 1 (MT:5): genome.fa has no sequence 'MT'. Did you mean 'chrM'? It has: chr1, chrM.",
        ),
        ("X,5,A,T", "row 1 (X:5): genome.fa has no sequence 'X'. It has: chr1, chrM."),
        (
            "chr11,5,A,T",
            "row 1 (chr11:5): genome.fa has no sequence 'chr11'. Did you mean 'chr1'? It has: chr1, chrM.",
        ),
        (",5,A,T", "row 1: there is no 'chrom'"),
    ],
)
def test_a_place_that_is_not_in_the_reference_is_refused(refused, genome, row, message):
    base = CHROMOSOME[4]
    facts = {"base": base, "other": "A" if base != "A" else "C"}
    text = f"chrom,position,ref,alt\n{row.format(**facts)}\n"
    assert refused(text, reference=genome, context=9) == f"variants.csv {message.format(**facts)}"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            f"sequence,pos\n{SEQUENCE},3\n",
            {},
            "variants.csv does not tell what changes: it needs a column 'mutation', the columns 'position', 'ref' and "
            "'alt', or a column 'mutant'. Its columns are: sequence, pos.",
        ),
        ("mutation\nA3G\n", {}, "variants.csv has no column 'sequence'. Its columns are: mutation."),
        (
            "chrom,position,ref,alt\nchr1,3,A,G\n",
            {},
            "variants.csv names places on chromosomes: name the FASTA file of their sequences with --reference.",
        ),
        (
            f"sequence,mutation\n{SEQUENCE},G3A\n",
            {"columns": {"sequence": "seq"}},
            "variants.csv has no column 'seq'. Its columns are: sequence, mutation.",
        ),
        (
            f"sequence,mutation\n{SEQUENCE},G3A\n",
            {"columns": {"id": "name"}},
            "variants.csv has no column 'name'. Its columns are: sequence, mutation.",
        ),
        (f"sequence,mutant\n{SEQUENCE},\n", {}, "variants.csv row 1: there is no 'mutant'"),
        (f"sequence,mutant\n,{SEQUENCE}\n", {}, "variants.csv row 1: there is no 'sequence'"),
    ],
)
def test_a_table_that_tells_no_variants_is_refused(refused, text, options, message):
    assert refused(text, **options) == message


def test_a_column_that_cannot_be_is_refused(score):
    with pytest.raises(exapt.RecipeError) as refusal:
        score(f"sequence,mutation\n{SEQUENCE},G3A\n", columns={"pos": "position"})
    assert str(refusal.value) == (
        "'pos' is nothing that a column of variants can be: id, sequence, mutant, mutation, chrom, position, ref, alt"
    )


def test_a_reference_of_several_needs_a_column_that_says_which(refused, genome):
    assert refused("mutation\nA3G\n", reference=genome) == (
        "variants.csv row 1 (A3G): genome.fa has 2 sequences, and no column 'chrom' says which"
    )


def test_a_column_that_the_user_names_wins(score):
    both = f"sequence,mutation,mutant\n{SEQUENCE},nothing,G3A\n"
    assert score(both, columns={"mutation": "mutant"}) == score(f"sequence,mutation\n{SEQUENCE},G3A\n")


def test_several_changes_are_made_together(score):
    (together,) = score(f"sequence,mutation\n{SEQUENCE},A9C:G3A\n")
    with bases():
        assert exapt.score([(SEQUENCE, "ACATTGCACC")], "toy") == [together]


def test_alleles_that_spell_no_sequence_keep_their_rows_and_are_counted(score, genome):
    base = CHROMOSOME[9]
    first, second = (one for one in "ACG" if one != base) if base in "ACG" else "AC"
    records = [
        f"chr1\t10\trs1\t{base}\t{first},<DEL>,{second}",
        f"chr1\t10\t.\t{base}\t*",
        f"chr1\t10\t.\t{base}\t.",
        f"chr1\t10\t.\t{base}\t]chrM:7]{base}",
        f"chr1\t10\t.\t{base}\t*",
        f"chr1\t10\t.\t{base}\t{base}.",
        f"chr1\t10\t.\t{base}\t.{base}",
    ]
    told = []
    found = score(HEADER + "\n".join(records) + "\n", "t.vcf", told, reference=genome, context=9)
    assert [value is None for value in found] == [False, True, False, *[True] * 6]
    assert told == [
        "2 rows without a score, for the allele '*', which spells no sequence; first t.vcf row 4 (chr1:10)",
        "1 row without a score, for the allele '.', which spells no sequence; first t.vcf row 5 (chr1:10)",
        f"1 row without a score, for the allele '.{base}', which spells no sequence; first t.vcf row 9 (chr1:10)",
        "1 row without a score, for the allele '<DEL>', which spells no sequence; first t.vcf row 2 (chr1:10)",
        f"1 row without a score, for the allele '{base}.', which spells no sequence; first t.vcf row 8 (chr1:10)",
        f"1 row without a score, for the allele ']chrM:7]{base}', which spells no sequence; first t.vcf row 6 (chr1:10)",
    ]


def test_rows_that_do_not_fit_the_reference_may_be_skipped_and_are_counted(score):
    told = []
    text = f"sequence,mutation\n{SEQUENCE},A3T\n{SEQUENCE},G3T\n{SEQUENCE},T3A\n"
    found = score(text, told=told, skip_mismatches=True)
    assert [value is None for value in found] == [True, False, True]
    assert told == [
        "2 rows without a score, for letters that are others in the sequence; first variants.csv row 1 (A3T)"
    ]


def test_what_is_not_in_the_reference_may_be_skipped_too(score, genome):
    told, base = [], CHROMOSOME[9]
    alt = "A" if base != "A" else "C"
    rows = [f"chr1,10,{base},{alt}", "chr7,10,A,C", "chr1,501,A,C", f"chr1,10,{alt},{base}", "chrX,3,A,C"]
    text = "\n".join(["chrom,position,ref,alt", *rows, ""])
    found = score(text, told=told, reference=genome, context=9, skip_mismatches=True)
    assert [value is None for value in found] == [False, True, True, True, True]
    assert told == [
        "1 row without a score, for letters that are others in the sequence; first variants.csv row 4 (chr1:10)",
        "1 row without a score, for positions beyond the end of the sequence; first variants.csv row 3 (chr1:501)",
        "2 rows without a score, for sequences that the reference does not have; first variants.csv row 2 (chr7:10)",
    ]


def test_wild_types_score_0_and_are_counted(score, genome):
    told = []
    named = [f"{SEQUENCE},{word}" for word in ("WT", "_wt", "wt", "G3G", "G3G:A1A", "G3A", "G3A:A1A")]
    found = score("\n".join(["sequence,mutation", *named, ""]), told=told)
    assert found[:5] == [0.0] * 5
    assert found[5] == found[6] != 0
    assert told == ["5 rows are the wild type itself and score 0; first variants.csv row 1 (WT)"]
    told = []
    same = score(f"sequence,mutant\n{SEQUENCE},{SEQUENCE.lower()}\n{SEQUENCE},{SEQUENCE[1:]}\n", told=told)
    assert (same[0], same[1] != 0) == (0.0, True)
    assert told == ["1 row is the wild type itself and scores 0; first variants.csv row 1"]
    base = CHROMOSOME[9]
    vcf = score(HEADER + f"chr1\t10\t.\t{base}\t{base.lower()}\n", "t.vcf", reference=genome, context=9)
    assert vcf == [0.0]


def test_positions_may_be_whole_floats(score):
    rows = f"{SEQUENCE},3.0,G,A\n{SEQUENCE},,,\n"
    assert score(f"sequence,position,ref,alt\n{SEQUENCE},3.0,G,A\n") == score(f"sequence,mutation\n{SEQUENCE},G3A\n")
    with pytest.raises(DataError) as refusal:
        score(f"sequence,position,ref,alt\n{rows}")
    assert str(refusal.value) == "variants.csv row 2: there is no 'position'"


@pytest.mark.parametrize(
    ("last", "options", "message"),
    [
        ("chr1,5,{other},T", {}, "row 701 (chr1:5): the reference has '{base}' where the table says '{other}'"),
        (
            "chr11,5,A,T",
            {},
            "row 701 (chr11:5): genome.fa has no sequence 'chr11'. Did you mean 'chr1'? It has: chr1, chrM.",
        ),
        (
            "chr1,10,{long},A",
            {"toy": {"max_tokens": 32}},
            "row 701 (chr1:10): what lies between the letters that change makes 62 tokens; 'toy' takes at most 32",
        ),
    ],
)
def test_a_bad_row_is_found_before_the_first_is_scored(genome, tmp_path, last, options, message):
    base, place = CHROMOSOME[4], CHROMOSOME[9]
    facts = {"base": base, "other": "A" if base != "A" else "C", "long": CHROMOSOME[9:69]}
    good = f"chr1,10,{place},{'A' if place != 'A' else 'C'}"
    path = tmp_path / "variants.csv"
    path.write_text("\n".join(["chrom,position,ref,alt", *[good] * 700, last.format(**facts), ""]))
    given = {"reference": genome, **({} if options else {"context": 9})}
    with bases(**options.get("toy", {})) as toy:
        with pytest.raises(DataError) as refusal:
            exapt.score(path, "toy", **given)
        assert toy.built.read == []
        if options:
            told = []
            assert exapt.score(path, "toy", skip_unscorable=True, tell=told.append, **given)[-1] is None
            assert told == [
                "1 row without a score, for more tokens than the model takes; first variants.csv row 701 (chr1:10)"
            ]
    assert str(refusal.value) == f"variants.csv {message.format(**facts)}"


def test_vcf_may_be_compressed(score, genome, tmp_path):
    text = HEADER + f"chr1\t10\t.\t{CHROMOSOME[9:12]}\t{CHROMOSOME[9]}\t.\t.\t.\n"
    plain = score(text, "t.vcf", reference=genome, context=9)
    (tmp_path / "t.vcf.gz").write_bytes(gzip.compress(text.encode()))
    with bases():
        assert exapt.score(tmp_path / "t.vcf.gz", "toy", reference=genome, context=9) == plain
    piece = CHROMOSOME[:21]
    with bases():
        assert exapt.score([(piece, piece[:10] + piece[12:])], "toy") == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t10\t.\tA\tC\n", "t.vcf is not VCF: its first line must begin with '##fileformat=VCF'."),
        (HEADER, "t.vcf has no records."),
        (
            HEADER + "chr1 10 . A C\n",
            "t.vcf line 4 has 1 of the fields chromosome, position, id, ref and alt; tabs part them.",
        ),
        *(
            (
                HEADER + f"chr1\t{position}\t.\tA\tC\n",
                f"t.vcf line 4 has the position '{position}', which is no whole number of at most 18 digits.",
            )
            for position in ("ten", "1.0", "9223372036854775808", "\u0663")
        ),
    ],
)
def test_what_is_no_vcf_is_refused(refused, genome, text, message):
    assert refused(text, "t.vcf", reference=genome) == message
