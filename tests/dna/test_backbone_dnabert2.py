"""DNABERT-2 as a backbone: other shapes, in steps, in half precision, learning, and small in memory."""

import math
import random
import subprocess
import sys
import time

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import exapt
from dna.long_models import DNABERT2, Copy, built, drawn, encoded, reader
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt.testing import check_backbone, check_tokenizer

LENGTHS = (9, 23, 23, 4, 2)
INPUTS = ("GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC", "ACGTTGCATTAGCCGATCAGGACTTA", "ACGTACG")
SHAPES = [
    {"num_attention_heads": 12},
    {"num_attention_heads": 8},
    {"num_attention_heads": 6, "alibi_starting_size": 8},
    {"num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40},
    {"num_attention_heads": 1, "hidden_size": 20, "type_vocab_size": 1},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Copy(DNABERT2 / "model", tmp_path_factory.mktemp("backbone") / "dnabert2").folder


@pytest.fixture(scope="module")
def batch():
    dice = random.Random(0)
    inputs = [[1, *(dice.randrange(5, 4096) for _ in range(length - 2)), 2] for length in LENGTHS]
    return collate([encoded("dnabert2", numbers) for numbers in inputs])


@pytest.fixture
def backbone(folder):
    return built("dnabert2", folder)


def slope(head, heads):
    """Return the slope of a head as the paper on linear biases has it."""
    lower = 2 ** math.floor(math.log2(heads))
    return 2 ** (-8 * (head + 1) / lower) if head < lower else 2 ** (-8 * (2 * (head - lower) + 1) / (2 * lower))


def plain(state, ids, heads, layers):
    """Return the last states of one input, spelt out tensor by tensor, with biases for every pair of tokens."""

    def norm(states, name):
        weight, bias = state[f"bert.{name}.weight"], state[f"bert.{name}.bias"]
        return functional.layer_norm(states, weight.shape, weight, bias, 1e-12)

    def linear(states, name):
        return functional.linear(states, state[f"bert.{name}.weight"], state.get(f"bert.{name}.bias"))

    words = state["bert.embeddings.word_embeddings.weight"][ids]
    hidden = norm(words + state["bert.embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    places = torch.arange(len(ids))
    apart = (places[:, None] - places).abs()
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        states = linear(hidden, f"{at}.attention.self.Wqkv").chunk(3, -1)
        gathered = []
        for head, parts in enumerate(zip(*(each.chunk(heads, -1) for each in states), strict=True)):
            query, key, value = parts
            scores = query @ key.T / math.sqrt(query.shape[-1]) - slope(head, heads) * apart
            gathered.append(scores.softmax(-1) @ value)
        attended = linear(torch.cat(gathered, -1), f"{at}.attention.output.dense")
        hidden = norm(attended + hidden, f"{at}.attention.output.LayerNorm")
        gate, passed = linear(hidden, f"{at}.mlp.gated_layers").chunk(2, -1)
        hidden = norm(linear(functional.gelu(gate) * passed, f"{at}.mlp.wo") + hidden, f"{at}.mlp.layernorm")
    return hidden


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_other_shapes_do_what_the_formulas_say(shape, batch, tmp_path):
    copy = Copy(DNABERT2 / "model", tmp_path / "other")
    copy.configure(**shape)
    copy.save(drawn(("dnabert2", copy.folder), weights=False).state_dict(), "pytorch_model.bin")
    backbone = built("dnabert2", copy.folder)
    with torch.inference_mode():
        hidden = backbone(batch).hidden
        for row, length in enumerate(LENGTHS):
            wanted = plain(
                backbone.state_dict(), batch["input_ids"][row, :length], backbone.heads, len(backbone.blocks())
            )
            torch.testing.assert_close(hidden[row, :length], wanted, atol=2e-5, rtol=0)


def test_padding_changes_nothing(backbone, batch):
    with torch.inference_mode():
        hidden = backbone(batch).hidden
        for row, length in enumerate(LENGTHS):
            alone = backbone(collate([encoded("dnabert2", batch["input_ids"][row, :length].tolist())])).hidden[0]
            torch.testing.assert_close(hidden[row, :length], alone, atol=2e-6, rtol=0)


def test_bf16_autocast_is_finite_and_near(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(dtype, backbone, batch):
    with torch.inference_mode():
        assert backbone.to(dtype)(batch).hidden.isfinite().all()


def test_gradient_checkpointing_changes_no_gradient(folder, batch):
    plainly, again = built("dnabert2", folder), built("dnabert2", folder)
    plainly(batch).pool("mean").square().sum().backward()
    checkpoint(again, batch, use_reentrant=False).pool("mean").square().sum().backward()
    pairs = zip(plainly.module.parameters(), again.module.parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-6) for one, other in pairs)


def test_lora_has_the_published_names_and_starts_from_the_pretrained_answer(backbone, batch):
    with torch.inference_mode():
        before = backbone(batch).hidden
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    names = {name.split(".lora_")[0] for name, _ in backbone.module.named_parameters() if ".lora_" in name}
    assert names == {f"encoder.layer.{layer}.attention.self.Wqkv" for layer in (0, 1)}
    with torch.inference_mode():
        assert torch.equal(backbone.eval()(batch).hidden, before)


def table(path):
    """Write sequences whose class is how much of them is G and C."""
    dice = random.Random(1)
    rows = ["id,sequence,kind,split"]
    for row in range(24):
        letters = "GCGCA" if row % 2 else "ATATC"
        sequence = "".join(dice.choice(letters) for _ in range(dice.randrange(20, 60)))
        rows.append(
            f"s{row},{sequence},{'rich' if row % 2 else 'poor'},{('train', 'train', 'valid', 'test')[row // 6]}"
        )
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("strategy", ["probe", {"name": "lora", "rank": 2}, {"name": "partial", "blocks": 1}, "full"])
def test_it_learns_and_comes_back(strategy, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    recipe = {
        "data": {"path": str(table(tmp_path / "content.csv")), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": f"dnabert2:{folder}",
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": strategy,
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3, "patience": 0},
    }
    exapt.train(recipe, tmp_path / "adapter")
    answers = exapt.load(tmp_path / "adapter").predict(["GCGCGGCGCAGCGC", "ATTATACTATATA"])
    assert set(answers["prediction"].to_pylist()) <= {"rich", "poor"}


# Attention of 3,000 tokens in 12 heads: the biases of every pair would take 412 MiB in fp32, and the scores as much.
MEMORY = """
import resource, torch
from exapt_dna.dnabert2.layers import Packing, SelfAttention
from exapt_dna.dnabert.modules import BertShape
torch.set_num_threads(1)
sizes = {"vocab_size": 8, "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 8}
shape = BertShape(**sizes, attention_probs_dropout_prob=0)
attention = SelfAttention(shape)
def peak(tokens):
    hidden = torch.zeros(1, tokens, 384)
    packing = Packing(torch.ones(1, tokens, dtype=torch.bool), 12)
    attention(packing.pack(hidden), packing).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = peak(64)
print((peak(3000) - small) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells memory in KiB on Linux alone")
def test_attention_takes_no_memory_for_pairs_of_tokens():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150


def test_word_pieces_cost_no_more_than_their_length(folder):
    tokenizer = reader("dnabert2", folder)
    dice = random.Random(0)

    def seconds(length):
        sequence = "".join(dice.choices("ACGT", k=length))
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            encoding = tokenizer.encode(sequence)
            best = min(best, time.process_time() - start)
        assert encoding.spans[1:-1, 0].tolist() == [0, *(encoding.spans[1:-2, 1] + 1)]
        return best

    # A cost that grew with the square would make this 100.
    assert seconds(100_000) < 30 * seconds(10_000)


def specs():
    plugins = current()
    return plugins.get(BackboneSpec, "dnabert2").spec, plugins.get(TokenizerSpec, "dnabert2").spec


@pytest.mark.slow
def test_the_backbone_conforms(folder):
    spec, tokenizer = specs()
    check_backbone(spec, {"source": str(folder)}, tokenizer=tokenizer, inputs=INPUTS)


@pytest.mark.parametrize("options", [{}, {"case": "keep", "max_unknown": 1}, {"rna": True}])
def test_the_tokenizer_conforms(options, folder):
    check_tokenizer(specs()[1], {"source": str(folder), **options}, inputs=INPUTS)
