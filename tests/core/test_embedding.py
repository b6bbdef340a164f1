"""Embeddings from a script: stock transformers' states, pooled or per residue, in memory that does not grow."""

import random
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import EsmModel

import exapt
from exapt import DataError, RecipeError
from exapt.embedding import Embedder, embed_file
from runs import MODEL

ESM2 = f"esm2:{MODEL}"
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "ACD", "GLWSKIKEVGKEAAKAAAKAAGKAALGAVSEAV", "WXA"]


@pytest.fixture(scope="module")
def stock():
    """Return stock states [tokens, width] of each layer, by sequence, one sequence at a time."""
    model = EsmModel.from_pretrained(MODEL, add_pooling_layer=False).eval()
    words = (MODEL / "vocab.txt").read_text().split()

    def states(sequence):
        ids = [words.index(word) for word in ("<cls>", *sequence, "<eos>")]
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        return [layer[0].numpy() for layer in hidden]

    return states


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_each_residue_has_its_stock_state(stock, layer):
    arrays = exapt.embed(SEQUENCES, ESM2, pooling="none", layer=layer)
    assert [array.shape for array in arrays] == [(len(sequence), 32) for sequence in SEQUENCES]
    for sequence, array in zip(SEQUENCES, arrays, strict=True):
        np.testing.assert_allclose(array, stock(sequence)[layer][1:-1], atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda states: states[1:-1].mean(0)),
        ("max", lambda states: states[1:-1].max(0)),
        ("cls", lambda states: states[0]),
    ],
)
def test_pooled_is_what_its_name_says(stock, pooling, pool):
    array = exapt.embed(SEQUENCES, ESM2, pooling=pooling)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, [pool(stock(sequence)[-1]) for sequence in SEQUENCES], atol=1e-5)


def test_nothing_gives_nothing():
    assert exapt.embed([], ESM2).shape == (0, 32)
    assert exapt.embed([], ESM2, pooling="none") == []


def test_what_cannot_be_embedded_is_refused():
    with pytest.raises(
        RecipeError, match=r"^unknown pooling 'sum' for embeddings; poolings are mean, max, cls and none$"
    ):
        exapt.embed(SEQUENCES, ESM2, pooling="sum")
    with pytest.raises(RecipeError, match=rf"^there is no layer 3: '{ESM2}' has layers 0 to 2$"):
        exapt.embed(SEQUENCES, ESM2, layer=3)
    with pytest.raises(DataError, match=r"^'input 2': .*7"):
        exapt.embed(["ACD", "AC7"], ESM2)


def test_memory_does_not_grow_with_the_table(tmp_path):
    dice = random.Random(0)
    embedder = Embedder.of(ESM2)
    peaks = []
    for rows in (2100, 6300):
        table, out = tmp_path / f"{rows}.csv", tmp_path / f"{rows}.parquet"
        letters = ("".join(dice.choices("ACDEFGHIKL", k=6)) for _ in range(rows))
        table.write_text("id,sequence\n" + "".join(f"s{row},{text}\n" for row, text in enumerate(letters)))
        tracemalloc.start()
        embed_file(embedder, table, out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pq.ParquetFile(out).metadata.num_rows == rows
    # What is kept of each row is a digest of its id and one of its contents, in a dictionary: some 150 bytes.
    assert peaks[1] - peaks[0] < 4200 * 300
