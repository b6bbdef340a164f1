"""Geneformer's tokenizer: ranks, ties, sums, names and perturbations; and what is told of a table's genes."""

import gc
import weakref

import numpy as np
import pytest

from exapt import DataError
from exapt.cells import Cell, Genes
from exapt_singlecell.geneformer.dictionaries import Dictionaries
from exapt_singlecell.geneformer.tokenizer import GeneformerTokenizer, falling
from exapt_singlecell.matching import Match, Matcher, MatchTally
from singlecell.geneformer_models import GIVEN, cell, ids, inputs_of, reader, table_of

GENES = [f"ENSG0000000000{number}" for number in range(8)]
BEFORE = {1: ["<pad>", "<mask>"], 2: ["<pad>", "<mask>", "<cls>", "<eos>"]}
A, B, C, D, E, F, G, H = range(4, 12)
LEVELS = dict(zip(GENES, [1.0, 1.0, 2.0, 0.5, 1.0, 4.0, 1.0, 1.0], strict=True))
NAMES = {"TP53": GENES[0], "C16orf74": GENES[1], "Abc": GENES[2], "ABC": GENES[3], "LOST": "ENSG00000000099"}
MAPPING = {gene: gene for gene in GENES} | {"ENSG00000000050": GENES[0], "P53": GENES[0], "ABC": GENES[4]}


def tokenizer(version=2, size=16, names=None, mapping=None, **options):
    tokens = {name: token for token, name in enumerate([*BEFORE[version], *GENES])}
    return GeneformerTokenizer(Dictionaries(tokens, LEVELS, names or {}, mapping or {}), size, **options)


def read(counts, reads=None, **options):
    return ids((reads or tokenizer(**options)).encode({"genes": list(counts), "counts": list(counts.values())}))


def by_letter(**counts):
    return {GENES["abcdefgh".index(letter)]: count for letter, count in counts.items()}


def test_genes_stand_by_falling_count_over_median():
    assert read(by_letter(a=3, b=5, c=8, d=3, f=4)) == [2, D, B, C, A, F, 3]


def test_version_1_has_no_special_tokens():
    assert read(by_letter(a=3, b=5), version=1) == [B - 2, A - 2]


def test_ties_stand_in_the_order_of_the_table():
    counts = by_letter(g=2, c=4, a=2, h=3, d=1, b=2)
    assert read(counts) == [2, H, G, C, A, D, B, 3]
    assert read(dict(reversed(counts.items()))) == [2, H, B, D, A, C, G, 3]


@pytest.mark.parametrize("seed", range(20))
def test_falling_order_is_that_of_a_stable_sort(seed):
    rng = np.random.default_rng(seed)
    values = rng.poisson(2, 3000) / rng.choice(rng.random(40), 3000) + 1e-3
    close = values[0] * (1 + np.arange(3000) % 5 * 2.0**-48)
    for each in (values, close, values[:1], values[:0], np.full(70_000, 2.0)):
        assert np.array_equal(falling(each), np.argsort(-each, kind="stable"))


def test_what_goes_beyond_the_input_is_cut_off():
    counts = by_letter(a=8, b=7, c=12, d=2, e=3)
    assert read(counts, size=5) == [2, A, B, C, 3]
    assert read(counts, size=5, version=1) == [A - 2, B - 2, C - 2, D - 2, E - 2]


def test_unknown_genes_are_counted_and_change_no_rank():
    reads = tokenizer()
    encoding = reads.encode(cell(ENSG00000000000=2, NOBODY=100, ENSG00000000001=3, OTHER=0))
    assert (ids(encoding), encoding.length, encoding.unknown) == ([2, B, A, 3], 3, 1)
    assert encoding.spans.tolist() == [[-1, -1], [2, 2], [0, 0], [-1, -1]]


def test_genes_that_stand_for_one_are_summed_under_the_first():
    counts = {"ENSG00000000001": 5, "ENSG00000000050": 2, "P53": 3, "ENSG00000000000.12": 1}
    reads = tokenizer(mapping=MAPPING)
    encoding = reads.encode({"genes": list(counts), "counts": list(counts.values())})
    assert ids(encoding) == [2, A, B, 3]
    assert encoding.spans.tolist() == [[-1, -1], [1, 1], [0, 0], [-1, -1]]
    assert (encoding.length, encoding.unknown) == (4, 0)
    assert read(counts | {"P53": 0, "ENSG00000000000.12": 0}, reads) == [2, B, A, 3]


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("ENSG00000000002", C),
        ("ensg00000000002", C),
        (" ENSG00000000002.15 ", C),
        ("ENSG00000000002.15_PAR_Y", C),
        ("ENSG00000000050.1", A),
        ("TP53", A),
        ("tp53", A),
        ("p53", A),
        ("C16ORF74", B),
        ("ENSG00000000077", None),
        ("ENSMUSG00000000002", None),
        ("LOST", None),
        ("<mask>", None),
        ("", None),
    ],
)
def test_names_of_all_kinds(name, token):
    found = tokenizer(names=NAMES, mapping=MAPPING)._finder.find([name])
    assert (found.tokens.tolist(), found.matched, found.ambiguous) == ([token or -1], int(token is not None), ())


@pytest.mark.parametrize(("name", "mapping"), [("ABC", MAPPING), ("abc", {})])
def test_a_symbol_that_could_be_several_genes_is_not_used(name, mapping):
    found = tokenizer(names=NAMES, mapping=mapping)._finder.find([name, "TP53"])
    assert (found.tokens.tolist(), found.unmatched, found.ambiguous) == ([-1, A], (), (name,))


def test_a_symbol_as_it_is_written_comes_before_its_other_spellings():
    assert tokenizer(names=NAMES)._finder.find(["Abc", "ABC"]).tokens.tolist() == [C, D]


@pytest.mark.parametrize(
    ("counts", "raw", "message"),
    [
        (
            {"A": 1.5},
            True,
            "holds 1.5 for 'A', and Geneformer reads raw counts, which are whole numbers: name their layer",
        ),
        (
            {"A": 2},
            False,
            "holds values that were normalised before, and Geneformer reads raw counts: name their layer",
        ),
    ],
)
def test_cells_that_are_not_raw_counts(counts, raw, message):
    with pytest.raises(DataError) as caught:
        tokenizer().encode(cell(raw, ENSG00000000000=1, **counts))
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_counts_that_are_no_numbers(value):
    odd = Cell(Genes(tuple(GENES[:2])), np.array([0, 1]), np.array([1, value], dtype=np.float32))
    with pytest.raises(DataError) as caught:
        tokenizer().encode(odd)
    assert str(caught.value) == "has counts that are no numbers"


@pytest.mark.parametrize("kind", ["i4", "i8", "f8"])
def test_counts_of_any_type(kind):
    table = Genes(tuple(GENES[:3]))
    of_type = Cell(table, np.array([0, 1, 2]), np.array([2, 5, 3], dtype=kind))
    assert ids(tokenizer().encode(of_type)) == ids(tokenizer().encode(Cell.from_dense(table, [2, 5, 3])))


def test_what_is_no_cell():
    with pytest.raises(DataError) as caught:
        tokenizer().encode("MKT")
    assert str(caught.value) == 'is \'MKT\', not a cell such as {"genes": ["CD3E"], "counts": [2]}'


def test_a_table_without_any_gene_of_the_model():
    table = Genes(("ENSMUSG01", "ENSMUSG02", "ENSMUSG03", "ENSMUSG04"), ("symbol", "old id"))
    with pytest.raises(DataError) as caught:
        tokenizer().encode(Cell.from_dense(table, [1, 0, 2, 0]))
    assert str(caught.value) == (
        "the model knows none of the 4 genes: the table has 'ENSMUSG01', 'ENSMUSG02', 'ENSMUSG03', the model "
        "'ENSG00000000000', 'ENSG00000000001', 'ENSG00000000002'; name the column of var that holds their Ensembl ids or "
        "symbols, --set reader.genes=COLUMN (data.reader.genes for train); var has the columns symbol, old id"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_empty_cells_are_kept(version):
    reads = tokenizer(version)
    for empty in (cell(ENSG00000000000=0), {"genes": ["NOBODY"], "counts": [3]}, {"genes": [], "counts": []}):
        encoding = reads.encode(empty)
        assert ids(encoding) == [[], [2, 3]][version - 1]
        assert encoding.spans.tolist() == [[-1, -1]] * encoding.tokens
        assert encoding.arrays["input_ids"].dtype == encoding.spans.dtype == np.int64


def test_genes_are_looked_up_once_for_a_table_and_forgotten_with_it():
    reads, asked = tokenizer(), []
    find = reads._matcher._find
    reads._matcher._find = lambda names: asked.append(len(names)) or find(names)
    table = Genes(tuple(GENES))
    for count in range(1, 5):
        reads.encode(Cell.from_dense(table, [count] * 8))
    assert asked == [8]
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None
    assert len(reads._plans) == 0


def test_a_cell_has_the_same_tokens_in_any_order_and_chunk():
    inputs = inputs_of("v2")
    table, rng = table_of(inputs), np.random.default_rng(1)
    cells = [Cell.from_dense(table, rng.poisson(0.7, len(table))) for _ in range(30)]
    reads = reader(GIVEN["v2"] / "model")
    first = [ids(reads.encode(each)) for each in cells]
    assert [ids(reads.encode(each)) for each in cells[::-1]] == first[::-1]
    assert [ids(reader(GIVEN["v2"] / "model").encode(each)) for each in cells[7:9]] == first[7:9]


def test_special_tokens_and_the_mask():
    assert (tokenizer(1).special, tokenizer(2).special) == ({0, 1}, {0, 1, 2, 3})
    assert tokenizer(1).mask == tokenizer(2).mask == 1
    assert tokenizer().encode({"genes": [], "counts": []}).pads == {"input_ids": 0}


TABLE = Genes((*GENES, "NOBODY"))
CELL = Cell.from_dense(TABLE, [5, 4, 6, 0, 2, 0, 0, 0, 9])


@pytest.mark.parametrize(
    ("genes", "how", "tokens", "units"),
    [
        ([], "delete", [A, B, C, E], [0, 1, 2, 3]),
        ([GENES[1]], "delete", [A, C, E], [0, 2, 3]),
        ([GENES[1], GENES[0]], "delete", [C, E], [2, 3]),
        ([GENES[3]], "delete", [A, B, C, E], [0, 1, 2, 3]),
        (["ENSG00000000001.9"], "delete", [A, C, E], [0, 2, 3]),
        (["P53"], "delete", [B, C, E], [1, 2, 3]),
        ([GENES[4]], "overexpress", [E, A, B, C], [3, 0, 1, 2]),
        ([GENES[3]], "overexpress", [D, A, B, C, E], [5, 0, 1, 2, 3]),
        ([GENES[7], GENES[4], GENES[3]], "overexpress", [H, E, D, A, B, C], [5, 3, 6, 0, 1, 2]),
        ([GENES[4], "P53", GENES[0]], "overexpress", [E, A, B, C], [3, 0, 1, 2]),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_perturbed_cells(version, genes, how, tokens, units):
    encoding = tokenizer(version, mapping={"P53": GENES[0]}).perturbed(CELL, genes, how)
    inside = slice(1, -1) if version == 2 else slice(None)
    assert ids(encoding)[inside] == [token - 2 * (version == 1) for token in tokens]
    assert encoding.spans[inside].tolist() == [[unit, unit] for unit in units]
    assert (encoding.length, encoding.unknown) == (max(5, *(unit + 1 for unit in units)), 1)
    assert version == 1 or ids(encoding)[:: len(tokens) + 1] == [2, 3]


def test_perturbing_nothing_is_encoding():
    reads = tokenizer()
    for how in ("delete", "overexpress"):
        assert ids(reads.perturbed(CELL, [], how)) == ids(reads.encode(CELL))


def test_what_was_cut_off_stays_so_when_a_gene_is_deleted_and_the_last_goes_for_one_in_front():
    reads = tokenizer(size=5)
    assert ids(reads.encode(CELL)) == [2, A, B, C, 3]
    assert ids(reads.perturbed(CELL, [GENES[0]], "delete")) == [2, B, C, 3]
    front = reads.perturbed(CELL, [GENES[4]], "overexpress")
    assert (ids(front), front.spans.tolist()[1], front.length) == ([2, E, A, B, 3], [3, 3], 5)


@pytest.mark.parametrize(
    ("gene", "message"),
    [
        ("NOBODY", "the model does not know the gene 'NOBODY'"),
        ("TYPO", "the model does not know the gene 'TYPO'"),
        ("ENSG00000000007", "the table has no gene 'ENSG00000000007'"),
    ],
)
@pytest.mark.parametrize("how", ["delete", "overexpress"])
def test_a_gene_that_the_table_or_the_model_does_not_know(how, gene, message):
    whole = cell(ENSG00000000000=1, NOBODY=2)
    with pytest.raises(DataError) as caught:
        tokenizer().perturbed(whole, [gene], how)
    assert str(caught.value) == message


def test_a_way_to_perturb_that_there_is_not():
    with pytest.raises(DataError) as caught:
        tokenizer().perturbed(CELL, [GENES[0]], "deleted")
    assert str(caught.value) == "there is no way 'deleted' to perturb a cell; the ways are delete and overexpress"


def counted(values, min_kept=0.0, names=None, mapping=None):
    reads = tokenizer(min_kept=min_kept, names=names or {}, mapping=mapping)
    tally = reads.tally()
    tally.count(values, [reads.encode(value) for value in values])
    return tally.lines("cell")


def test_it_is_told_that_all_is_known():
    assert counted([cell(ENSG00000000000=1, ENSG00000000001=4)]) == [
        "the model knows 2 of 2 genes of 'cell', 100.0% of the counts"
    ]


def test_what_is_told_of_a_table():
    table = Genes((*GENES[:3], "X", "Y", "Z", "W", "abc"))
    cells = [
        Cell.from_dense(table, counts)
        for counts in ([4, 0, 0, 1, 0, 0, 0, 0], [0, 0, 3, 0, 0, 1, 0, 1], [0] * 8, [0, 0, 0, 2, 0, 0, 0, 0])
    ]
    assert counted(cells, names={"Abc": GENES[2], "ABC": GENES[3]}) == [
        "the model knows 3 of 8 genes of 'cell', 58.3% of the counts; 4 unknown: X, Y, Z, ...; 1 could be several, and not "
        "used: abc",
        "2 of 4 cells of 'cell' express no gene that the model knows",
    ]


def test_columns_that_are_one_gene_are_told():
    table = Genes((GENES[0], f"{GENES[1]}.1", f"{GENES[1]}.2", "abc", GENES[2], "X"))
    cells = [Cell.from_dense(table, [1, 1, 0, 0, 0, 0]), Cell.from_dense(table, [0, 0, 1, 1, 0, 0])]
    assert counted(cells, names={"abc": GENES[2]}) == [
        "the model knows 5 of 6 genes of 'cell', 100.0% of the counts; 1 unknown: X; 4 read as 2 genes: "
        f"{GENES[1]}.1, {GENES[1]}.2, abc, ..."
    ]
    twice = Genes((GENES[0], f"{GENES[0]}.3"))
    assert counted([Cell.from_dense(twice, [1, 0])]) == [
        f"the model knows 2 of 2 genes of 'cell', 100.0% of the counts; 2 read as 1 gene: {GENES[0]}, {GENES[0]}.3"
    ]


def test_a_table_of_which_too_little_is_known():
    values = [cell(ENSG00000000000=2, X=5, Y=3)]
    assert counted(values, 0.2) == ["the model knows 1 of 3 genes of 'cell', 20.0% of the counts; 2 unknown: X, Y"]
    with pytest.raises(DataError) as caught:
        counted(values, 0.21)
    assert str(caught.value) == (
        "20.0% of the counts of 'cell' are of genes that the model knows, less than tokenizer.min_kept = 0.21 asks for; it "
        "does not know 'X', 'Y': name the column of var that holds their Ensembl ids or symbols, "
        "--set reader.genes=COLUMN (data.reader.genes for train), or lower min_kept"
    )


@pytest.mark.parametrize("share", [0.62, 0.66])
def test_the_share_is_that_of_all_cells_in_whatever_order_and_pieces(share):
    table, reads = Genes((GENES[0], "X")), tokenizer(min_kept=share)
    low, high = [Cell.from_dense(table, [3, 7])] * 100, [Cell.from_dense(table, [8, 2])] * 200
    for pieces in ([low + high], [low, high], [high, low], [[one] for one in high + low]):
        tally = reads.tally()
        for piece in pieces:
            tally.count(piece, [reads.encode(one) for one in piece])
        if share < 0.63:
            assert tally.lines("cell") == ["the model knows 1 of 2 genes of 'cell', 63.3% of the counts; 1 unknown: X"]
        else:
            with pytest.raises(DataError, match=r"^63\.3% of the counts of 'cell' are of genes that the model "):
                tally.lines("cell")


def test_genes_that_match_in_other_case_only_are_told():
    names, mapping = {"Tp53": GENES[0], "C1orf1": GENES[1]}, {"CD3E": GENES[2], "C1ORF1": GENES[1]}
    table = Genes(("TP53", "C1orf1", "Cd3e", GENES[3].lower(), "X"))
    assert counted([Cell.from_dense(table, [1, 1, 1, 1, 0])], names=names, mapping=mapping) == [
        "the model knows 4 of 5 genes of 'cell', 100.0% of the counts; 1 unknown: X",
        "2 genes of 'cell' match in other upper and lower case only: TP53, Cd3e; so do genes of another species",
    ]


def test_empty_cells_alone_are_not_judged():
    assert counted([cell(ENSG00000000000=0)], 1.0) == [
        "the model knows 1 of 1 genes of 'cell'",
        "1 of 1 cells of 'cell' express no gene that the model knows",
    ]


def test_a_match_of_any_family():
    match = Match.of(["a", "b", "c"], [{7}, (), [1, 2]])
    assert (match.tokens.tolist(), match.matched, match.unmatched, match.ambiguous) == ([7, -1, -1], 1, ("b",), ("c",))
    matcher = Matcher(lambda names: Match.of(names, [() for _ in names]))
    table = Genes(("a", "b"))
    assert matcher.of(table, needed=False).matched == 0
    with pytest.raises(DataError) as caught:
        matcher.of(table)
    assert str(caught.value) == (
        "the model knows none of the 2 genes: the table has 'a', 'b'; name the column of var that holds their Ensembl "
        "ids or symbols, --set reader.genes=COLUMN (data.reader.genes for train)"
    )
    tally = MatchTally(matcher, 0.0)
    tally.count([Cell.from_dense(table, [1, 0])], [])
    assert tally.lines("x") == [
        "the model knows 0 of 2 genes of 'x', 0.0% of the counts; 2 unknown: a, b",
        "1 of 1 cells of 'x' express no gene that the model knows",
    ]
