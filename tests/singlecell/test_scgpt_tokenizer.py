"""What scGPT reads of a cell is a function of the cell alone, and nothing of it is lost uncounted."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from exapt import DataError
from exapt.cells import Cell, Genes
from exapt.fingerprint import fingerprint_tokenizer
from exapt_singlecell.scgpt import PROBES, infer_lengths
from exapt_singlecell.scgpt.binning import binned
from exapt_singlecell.scgpt.genes import Symbols
from singlecell.scgpt_models import MODEL, TOKENIZER, Copy, cell, cells, genes_of, other, reader, tokens

NAMES = genes_of(200)
MAP = Path(__file__).parents[3] / "shared" / "data" / "gene_map.csv.gz"
CD3E, MS4A1, TP53 = "ENSG00000198851", "ENSG00000156738", "ENSG00000141510"


@pytest.fixture(scope="module")
def tokenizer():
    return reader()


def counted(rng, rows=40, mean=1.0, genes=200):
    return rng.poisson(mean, (rows, genes))


def expected_bins(values, bins=51):
    """Return the mean, rounded down, of the bins that the reference could draw."""
    edges = np.quantile(values, np.linspace(0, 1, bins - 1))
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    pairs = zip(left, right, strict=True)
    return [one if one == other else sum(range(other + 1, one + 1)) // (one - other) for one, other in pairs]


def refusal(call, kind=DataError):
    with pytest.raises(kind) as refused:
        call()
    return str(refused.value)


@pytest.mark.parametrize("bins", [2, 3, 7, 51, 101])
@pytest.mark.parametrize("kind", ["few counts", "large counts", "logarithms", "wide"])
def test_bins_are_those_of_numpys_quantiles(kind, bins):
    rng = np.random.default_rng(bins)
    draw = {
        "few counts": lambda size: rng.poisson(1, size) + 1,
        "large counts": lambda size: rng.integers(1, 60_000, size),
        "logarithms": lambda size: np.log1p(rng.poisson(2, size) + 1),
        "wide": lambda size: rng.lognormal(0, 5, size),
    }[kind]
    for size in (1, 2, 3, 49, 50, 51, 400):
        values = draw(size).astype(np.float32)
        assert binned(values, bins).tolist() == expected_bins(values, bins)


def test_equal_values_have_equal_bins_and_higher_values_no_lower_ones():
    values = np.random.default_rng(0).poisson(1.5, 500).astype(np.float32) + 1
    bins = binned(values, 51)
    by_value = [set(bins[values == value].tolist()) for value in np.unique(values)]
    assert all(len(found) == 1 for found in by_value)
    middles = [found.pop() for found in by_value]
    assert middles == sorted(middles)
    assert 1 <= middles[0] < middles[-1] <= 50


def test_logarithms_have_the_bins_of_their_counts():
    counts = {name: 3 * place + 1 for place, name in enumerate(NAMES[:99])}
    logarithms = {name: float(np.log1p(count)) for name, count in counts.items()}
    ours = reader(bins=50)
    # 99 values and 49 edges: each edge is a value, and no logarithm moves it.
    assert tokens(ours.encode(cell(counts))) == tokens(ours.encode(cell(logarithms, raw=False)))


def test_the_table_gives_the_order_and_the_vocabulary_the_ids(tmp_path):
    other(tmp_path, genes=30)
    tokenizer = reader(tmp_path)
    names = ["GENE7", "GENE0", "GENE29"]
    ids, _ = tokens(tokenizer.encode(cell(dict.fromkeys(names, 1))))
    assert ids == [tokenizer.vocabulary[name] for name in ("<cls>", *names)]


def test_spans_name_the_expressed_genes_that_tokens_stand_for(tokenizer):
    encoding = tokenizer.encode(cell({"NOT_A_GENE": 4, NAMES[3]: 1, NAMES[0]: 0, "OTHER": 1, NAMES[1]: 9}))
    assert encoding.spans.tolist() == [[-1, -1], [1, 1], [3, 3]]
    assert (encoding.length, encoding.unknown) == (4, 2)


def test_symbols_are_told_apart_by_case_and_special_tokens_are_no_genes(tokenizer):
    encoding = tokenizer.encode(cell({"tp53": 1, "<pad>": 5, "<cls>": 2, "TP53": 3}))
    assert tokens(encoding)[0] == [tokenizer.vocabulary["<cls>"], tokenizer.vocabulary["TP53"]]
    assert encoding.unknown == 3


def test_the_same_cell_in_any_order_company_and_table(tokenizer):
    rng = np.random.default_rng(1)
    rows = counted(rng)
    narrow = reader(max_length=40)
    together = [tokens(narrow.encode(one)) for one in cells(NAMES, rows)]
    alone = [tokens(narrow.encode({"genes": NAMES, "counts": row.tolist()})) for row in rows]
    assert together == alone
    turned = [narrow.encode(one) for one in cells(NAMES, rows[::-1])][::-1]
    assert [tokens(encoding) for encoding in turned] == together
    order = rng.permutation(len(NAMES))
    for ours, theirs in zip(cells([NAMES[at] for at in order], rows[:, order]), together, strict=True):
        assert sorted(zip(*tokens(narrow.encode(ours)), strict=True)) == sorted(zip(*theirs, strict=True))


@pytest.mark.parametrize("surplus", ["spread", "highest"])
def test_the_same_cell_in_another_process(surplus):
    row = counted(np.random.default_rng(2), 1)[0].tolist()
    mine = tokens(reader(max_length=20, surplus=surplus).encode({"genes": NAMES, "counts": row}))
    script = (
        "from exapt_singlecell.scgpt import TOKENIZERS as T\n"
        f"t = T[0].build(T[0].options(source={str(MODEL)!r}, max_length=20, surplus={surplus!r}))\n"
        f"e = t.encode({{'genes': {NAMES!r}, 'counts': {row!r}}})\n"
        "print((e.arrays['input_ids'].tolist(), e.arrays['values'].tolist()))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(mine)


def test_a_surplus_keeps_genes_of_all_levels_and_the_same_in_all_cells():
    narrow = reader(max_length=61)
    full = reader()
    values = [
        dict(zip(NAMES, row, strict=True)) for row in np.random.default_rng(3).permuted([range(1, 201)] * 2, axis=1)
    ]
    kept = [tokens(narrow.encode(cell(value))) for value in values]
    assert kept[0][0] == kept[1][0]
    assert len(kept[0][0]) == 61
    everything = dict(zip(*tokens(full.encode(cell(values[0]))), strict=True))
    assert all(everything[gene] == level for gene, level in zip(*kept[0], strict=True))
    levels = np.histogram(kept[0][1][1:], bins=5, range=(1, 50))[0]
    assert levels.min() >= 5


def test_a_surplus_may_keep_the_most_expressed():
    counts = {name: place + 1 for place, name in enumerate(NAMES)}
    ids, bins = tokens(reader(max_length=41, surplus="highest").encode(cell(counts)))
    vocabulary = reader().vocabulary
    assert ids[1:] == [vocabulary[name] for name in NAMES[-40:]]
    assert min(bins[1:]) == 40


def test_length_and_bins_come_from_the_checkpoint_unless_given(tmp_path):
    copy = Copy(tmp_path / "scgpt")
    copy.configure(max_seq_len=30, n_bins=11)
    counts = {name: place + 1 for place, name in enumerate(NAMES)}
    few = {name: counts[name] for name in NAMES[:20]}
    for options, length, highest in (({}, 30, 10), ({"max_length": 50, "bins": 21}, 50, 20)):
        tokenizer = reader(copy.folder, **options)
        assert tokenizer.encode(cell(counts)).tokens == length
        assert max(tokenizer.encode(cell(few)).arrays["values"]) == highest
    inferred = infer_lengths(TOKENIZER.options(source=str(copy.folder), bins=5))
    assert (inferred.max_length, inferred.bins) == (30, 5)
    copy.configure(max_seq_len=None, n_bins=...)
    inferred = infer_lengths(TOKENIZER.options(source=str(copy.folder)))
    assert (inferred.max_length, inferred.bins) == (1200, 51)


@pytest.mark.parametrize("field", ["max_length", "bins"])
def test_no_room_for_a_gene(field):
    said = refusal(lambda: TOKENIZER.options(source="", **{field: 1}), ValidationError)
    assert "1 leaves no room for a gene: give 2 or more, or 0 to read it from args.json" in said


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_are_no_expression_are_refused(tokenizer, value):
    odd = Cell(Genes(tuple(NAMES[:3])), np.array([0, 2]), np.array([1.0, value], dtype=np.float32), raw=False)
    assert refusal(lambda: tokenizer.encode(odd)) == (
        "has values that are negative or no numbers; scGPT reads counts, or logarithms of 1 + counts"
    )


def test_columns_of_one_gene_are_added_up(tmp_path):
    table = tmp_path / "map.csv"
    table.write_text(f"ensembl,symbol\n{TP53},TP53\n{MS4A1},TP53\n{CD3E},CD3E\n")
    tokenizer = reader(gene_map=str(table))
    ids = [tokenizer.vocabulary[name] for name in ("<cls>", "TP53", "CD3E")]
    names = {TP53: 2, CD3E: 4, MS4A1: 3}
    encoding = tokenizer.encode(cell(names))
    assert tokens(encoding) == (ids, [-2, 50, 1])
    assert encoding.spans[:, 0].tolist() == [-1, 0, 1]
    assert encoding.unknown == 0
    assert tokens(tokenizer.encode(cell(names, raw=False))) == (ids, [-2, 1, 50])


def test_ensembl_ids_need_a_table_of_symbols(tokenizer):
    assert refusal(lambda: tokenizer.encode(cell({f"{CD3E}.15": 1, MS4A1: 2}))) == (
        f"the genes are Ensembl ids ({CD3E}.15, {MS4A1}), and scGPT knows symbols: name the column of var that holds "
        "their symbols, --set reader.genes=COLUMN (data.reader.genes for train), or give a table of both as tokenizer.gene_map"
    )


def test_no_known_gene_names_both_sides(tokenizer):
    first = ", ".join(f"'{name}'" for name in NAMES[:3])
    assert refusal(lambda: tokenizer.encode(cell({"a": 1, "b": 2}))) == (
        f"the model knows none of the 2 genes: the table has 'a', 'b', the model {first}; name the column of var that "
        "holds their Ensembl ids or symbols, --set reader.genes=COLUMN (data.reader.genes for train)"
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"])
def test_ensembl_ids_through_a_table_whatever_their_versions(suffix, tmp_path):
    table, path = {"gene_id": [f"{CD3E}.4", MS4A1, TP53], "name": ["CD3E", "MS4A1", "TP53"]}, tmp_path / f"map{suffix}"
    if suffix == ".parquet":
        pa.parquet.write_table(pa.table(table), path)
    else:
        lines = ["\t".join(row) for row in [tuple(table), *zip(*table.values(), strict=True)]]
        text = "\n".join(lines).replace("\t", "," if "csv" in suffix else "\t") + "\n"
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    tokenizer = reader(gene_map=str(path), gene_map_ids="gene_id", gene_map_symbols="name")
    encoding = tokenizer.encode(cell({CD3E: 1, f"{MS4A1}.18": 5, "TP53": 3, "ENSG00000000003": 1}))
    assert tokens(encoding)[0] == [tokenizer.vocabulary[name] for name in ("<cls>", "CD3E", "MS4A1", "TP53")]
    assert encoding.unknown == 1


def test_an_id_of_several_known_symbols_is_not_used(tmp_path):
    table = tmp_path / "map.csv"
    table.write_text(f"ensembl,symbol\n{CD3E},CD3E\n{CD3E},OLD_NAME\n{TP53},TP53\n{TP53},MS4A1\n{MS4A1},\n")
    tokenizer = reader(gene_map=str(table))
    values = [cell({CD3E: 3, TP53: 4, MS4A1: 1})]
    encodings = [tokenizer.encode(value) for value in values]
    assert tokens(encodings[0])[0] == [tokenizer.vocabulary["<cls>"], tokenizer.vocabulary["CD3E"]]
    assert encodings[0].unknown == 2
    assert refusal(lambda: tokenizer.perturbed(values[0], [TP53], "delete")) == (
        f"the gene '{TP53}' could be several genes of scGPT; name it by its symbol"
    )


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("map.csv", "id,symbol\n", "{name} has no column 'ensembl'. Its columns are: id, symbol. "
         "Name one as tokenizer.gene_map_ids"),
        ("map.csv", "ensembl,gene\n", "{name} has no column 'symbol'. Its columns are: ensembl, gene. "
         "Name one as tokenizer.gene_map_symbols"),
        ("map.csv", "ensembl,symbol\n", "{name} holds no Ensembl id with a symbol; give another table as "
         "tokenizer.gene_map"),
        ("map.xlsx", "", "'{path}' is no .csv, .tsv or .parquet file; give tokenizer.gene_map as one of these"),
        ("map.csv", None, "there is no file '{path}'; give a table of Ensembl ids and symbols as tokenizer.gene_map"),
        ("map.csv", "a,b\n1\n", "'{path}' cannot be read: CSV parse error: Expected 2 columns, got 1: 1"),
    ],
)  # fmt: skip
def test_a_table_of_genes_that_cannot_be_used(name, text, why, tmp_path):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert refusal(lambda: reader(gene_map=str(path))) == why.format(name=name, path=path)


@pytest.mark.skipif(not MAP.exists(), reason="the table of human genes is not in ../shared/data")
def test_the_whole_table_of_human_genes():
    tokenizer = reader(gene_map=str(MAP))
    encoding = tokenizer.encode(cell({f"{CD3E}.15": 5, MS4A1: 2, TP53: 1}))
    assert tokens(encoding)[0] == [tokenizer.vocabulary[name] for name in ("<cls>", "CD3E", "MS4A1", "TP53")]


def test_what_is_told_of_many_cells(tokenizer):
    values = cells([*NAMES[:3], "lost"], [[5, 1, 0, 1], [0, 0, 0, 0], [0, 3, 0, 0]])
    tally = tokenizer.tally()
    tally.count(values, [tokenizer.encode(value) for value in values])
    assert tally.lines("cell") == [
        "the model knows 3 of 4 genes of 'cell', 90.0% of the counts; 1 unknown: lost",
        "1 of 3 cells of 'cell' express no gene that the model knows",
    ]
    strict = reader(min_kept=0.95).tally()
    strict.count(values, [])
    said = refusal(lambda: strict.lines("cell"))
    assert said.startswith(
        "90.0% of the counts of 'cell' are of genes that the model knows, less than tokenizer.min_kept = 0.95 asks for"
    )


def test_a_deleted_gene_is_left_out_and_all_else_stays(tokenizer):
    value = cell({NAMES[0]: 5, NAMES[1]: 1, NAMES[2]: 3, "lost": 1})
    before, after = tokenizer.encode(value), tokenizer.perturbed(value, [NAMES[2]], "delete")
    assert tokens(after) == tuple(kept[:3] for kept in tokens(before))
    assert after.spans.tolist() == before.spans[:3].tolist()
    assert (after.length, after.unknown) == (4, 1)
    assert tokens(tokenizer.perturbed(value, [NAMES[9]], "delete")) == tokens(before)
    assert tokens(tokenizer.perturbed(value, [], "overexpress")) == tokens(before)


def test_an_over_expressed_gene_has_the_highest_bin_and_joins_if_need_be(tokenizer):
    value = cell({NAMES[0]: 5, NAMES[1]: 1, NAMES[2]: 3})
    ids, bins = tokens(tokenizer.encode(value))
    after = tokenizer.perturbed(value, [NAMES[1], NAMES[7]], "overexpress")
    assert tokens(after) == ([*ids, tokenizer.vocabulary[NAMES[7]]], [bins[0], bins[1], 50, bins[3], 50])
    assert after.spans[:, 0].tolist() == [-1, 0, 1, 2, 3]
    assert after.length == 4


@pytest.mark.parametrize("surplus", ["spread", "highest"])
def test_over_expressed_genes_have_room_in_a_cell_of_too_many(surplus):
    narrow = reader(max_length=30, surplus=surplus)
    value = cell({name: place + 1 for place, name in enumerate(NAMES[:150])})
    before = set(tokens(narrow.encode(value))[0])
    late = next(name for name in NAMES[:150] if narrow.vocabulary[name] not in before)
    after = narrow.perturbed(value, [late, NAMES[180]], "overexpress")
    joined = {narrow.vocabulary[late], narrow.vocabulary[NAMES[180]]}
    assert after.tokens == 30
    assert set(tokens(after)[0]) > joined
    assert len(before - set(tokens(after)[0])) == 2


def test_deleting_from_a_cell_of_too_many_lets_no_other_gene_in():
    narrow = reader(max_length=30)
    value = cell({name: place + 1 for place, name in enumerate(NAMES[:150])})
    ids = tokens(narrow.encode(value))[0]
    names = {token: name for name, token in narrow.vocabulary.items()}
    assert tokens(narrow.perturbed(value, [names[ids[4]]], "delete"))[0] == ids[:4] + ids[5:]


def test_a_gene_to_perturb_that_there_is_not(tokenizer):
    assert refusal(lambda: tokenizer.perturbed(cell({NAMES[0]: 1}), ["tp53"], "delete")) == (
        "scGPT knows no gene 'tp53'; name genes by symbol, case and all"
    )


def test_the_fingerprint_knows_bins_and_vocabulary(tokenizer, tmp_path):
    copy = Copy(tmp_path / "scgpt")
    assert fingerprint_tokenizer(reader(copy.folder), PROBES) == fingerprint_tokenizer(tokenizer, PROBES)
    # What no probe shows, because it has few genes, is known too.
    for others in ({"bins": 11}, {"max_length": 100}, {"surplus": "highest"}):
        assert fingerprint_tokenizer(reader(**others), PROBES) != fingerprint_tokenizer(tokenizer, PROBES)
    copy.rename(TP53=301, CD3E=300)
    assert fingerprint_tokenizer(reader(copy.folder), PROBES) != fingerprint_tokenizer(tokenizer, PROBES)


def test_probes_are_read_whatever_the_vocabulary(tokenizer):
    assert [tokenizer.encode(probe).tokens for probe in PROBES] == [4, 4, 3]
    assert len({str(tokens(tokenizer.encode(probe))) for probe in PROBES}) == len(PROBES)


def test_the_genes_of_a_table_are_looked_up_once(tokenizer, monkeypatch):
    looked_up = []
    find = Symbols.__call__
    monkeypatch.setattr(Symbols, "__call__", lambda self, names: looked_up.append(names) or find(self, names))
    fresh, values = reader(), cells(NAMES[:4], [[1, 0, 2, 3]] * 3)
    tally = fresh.tally()
    tally.count(values, [fresh.encode(value) for value in values])
    assert looked_up == [tuple(NAMES[:4])]
