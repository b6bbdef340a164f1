"""HyenaDNA as a backbone: other shapes, in steps, in half precision, learning, and no dearer than L log L."""

import json
import math
import random
import time

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import exapt
from dna.long_models import HYENA, Copy, built, drawn, encoded, refusal
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.specs import BackboneSpec, TokenizerSpec
from exapt.testing import check_backbone, check_tokenizer
from exapt_dna.hyenadna import layers
from exapt_dna.hyenadna.backbone import HyenaDna
from exapt_dna.hyenadna.shape import Shape

LENGTHS = (9, 23, 40, 2, 1)
INPUTS = ("GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC", "ACGTTGCATTAGCCGATCAGGACTTA", "ACGTACG")
SHAPES = [
    {"n_layer": 3, "d_inner": 48},
    {"d_model": 20, "d_inner": 80, "emb_dim": 3, "filter_order": 7},
    {"num_inner_mlps": 0, "max_seq_len": 50},
    {"num_inner_mlps": 4, "short_filter_order": 5},
    {"short_filter_order": 1, "layer_norm_epsilon": 1e-3},
]


@pytest.fixture(scope="module")
def batch():
    dice = random.Random(0)
    inputs = [[*(dice.randrange(7, 12) for _ in range(length - 1)), 1] for length in LENGTHS]
    return collate([encoded("hyenadna", numbers) for numbers in inputs])


@pytest.fixture
def backbone():
    return built("hyenadna", HYENA / "hf")


def plain(state, ids, shape):
    """Return the last states of one input, spelt out tensor by tensor, with the convolution as a sum of products."""

    def named(name):
        return state[f"hyena.backbone.{name}"]

    def norm(states, name, epsilon=1e-5):
        return functional.layer_norm(states, states.shape[-1:], named(f"{name}.weight"), named(f"{name}.bias"), epsilon)

    def linear(states, name):
        return functional.linear(states, named(f"{name}.weight"), state.get(f"hyena.backbone.{name}.bias"))

    def long_filter(name, tokens):
        states, last = named(f"{name}.pos_emb.z")[0, :tokens], 2 * shape["num_inner_mlps"] + 2
        for place in range(0, last, 2):
            states = linear(states, f"{name}.implicit_filter.{place}")
            states = torch.sin(named(f"{name}.implicit_filter.1.freq") * states)
        decay = torch.exp(-named(f"{name}.pos_emb.t")[0, :tokens] * named(f"{name}.modulation.deltas")[0].abs())
        return linear(states, f"{name}.implicit_filter.{last}") * (decay + 0.05)

    def before(states, weights):
        return sum(
            torch.cat([torch.zeros(back, states.shape[1]), states[: len(states) - back]]) * weights[back]
            for back in range(min(len(weights), len(states)))
        )

    hidden = named("embeddings.word_embeddings.weight")[ids]
    for layer in range(shape["n_layer"]):
        mixer = f"layers.{layer}.mixer"
        states = linear(norm(hidden, f"layers.{layer}.norm1"), f"{mixer}.in_proj")
        short = named(f"{mixer}.short_filter.weight")[:, 0].T.flip(0)
        first, second, signal = (before(states, short) + named(f"{mixer}.short_filter.bias")).chunk(3, -1)
        gated = signal * second
        far = before(gated, long_filter(f"{mixer}.filter_fn", len(ids))) + gated * named(f"{mixer}.filter_fn.bias")
        hidden = hidden + linear(far * first, f"{mixer}.out_proj")
        wide = functional.gelu(
            linear(norm(hidden, f"layers.{layer}.norm2"), f"layers.{layer}.mlp.fc1"), approximate="tanh"
        )
        hidden = hidden + linear(wide, f"layers.{layer}.mlp.fc2")
    return norm(hidden, "ln_f", shape["layer_norm_epsilon"])


@pytest.mark.parametrize("at_a_time", [1 << 20, 2000])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_other_shapes_do_what_the_formulas_say(shape, at_a_time, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "_AT_A_TIME", at_a_time)
    copy = Copy(HYENA / "hf", tmp_path / "other")
    copy.configure(**shape)
    copy.save(drawn(("hyenadna", copy.folder), weights=False).state_dict())
    backbone, config = built("hyenadna", copy.folder), json.loads((copy.folder / "config.json").read_text())
    with torch.inference_mode():
        hidden = backbone(batch).hidden
        for row, length in enumerate(LENGTHS):
            wanted = plain(backbone.state_dict(), batch["input_ids"][row, :length], config)
            torch.testing.assert_close(hidden[row, :length], wanted, atol=5e-5, rtol=0)


@pytest.mark.parametrize("at_a_time", [1, 500, 5000])
def test_working_in_pieces_changes_neither_answers_nor_gradients(at_a_time, backbone, batch, monkeypatch):
    def answer():
        backbone.zero_grad()
        hidden = backbone(batch).hidden
        hidden.square().sum().backward()
        return hidden.detach(), [value.grad.clone() for value in backbone.module.parameters()]

    whole, gradients = answer()
    monkeypatch.setattr(layers, "_AT_A_TIME", at_a_time)
    pieces, again = answer()
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(other / one.abs().max(), one / one.abs().max(), atol=1e-4, rtol=0)


def test_padding_behind_changes_nothing(backbone, batch):
    with torch.inference_mode():
        features = backbone(batch)
        for row, length in enumerate(LENGTHS):
            alone = backbone(collate([encoded("hyenadna", batch["input_ids"][row, :length].tolist())]))
            torch.testing.assert_close(features.hidden[row, :length], alone.hidden[0], atol=2e-6, rtol=0)
            torch.testing.assert_close(features.summary[row], alone.summary[0], atol=2e-6, rtol=0)


def test_no_token_sees_those_behind_it(backbone):
    one = collate([encoded("hyenadna", [7, 8, 9, 10, 7, 7, 7, 1])])
    other = collate([encoded("hyenadna", [7, 8, 9, 10, 9, 8, 9, 1])])
    with torch.inference_mode():
        torch.testing.assert_close(backbone(one).hidden[:, :4], backbone(other).hidden[:, :4], atol=1e-6, rtol=0)


def test_more_tokens_than_positions_are_refused(backbone):
    assert backbone.max_tokens == 66
    too_long = collate([encoded("hyenadna", [7] * 67)])
    assert refusal(backbone, too_long) == "an input has 67 tokens; this HyenaDNA has positions for 66"


def test_a_record_that_is_too_long_is_refused_with_its_length_and_the_limit():
    said = refusal(exapt.embed, ["ACGT", "ACGT" * 20], f"hyenadna:{HYENA / 'hf'}")
    assert said == (
        f"'input 2' has 80 units; 'hyenadna:{HYENA / 'hf'}' takes at most 65; shorten it, leave it out, or read it in "
        'windows: backbone.windows = "pool"'
    )


def test_a_record_that_is_too_long_is_read_in_windows_when_asked():
    settings = {"backbone": {"windows": "pool"}}
    (vector,) = exapt.embed(["ACGT" * 20], f"hyenadna:{HYENA / 'hf'}", settings=settings)
    assert vector.shape == (32,)


def test_bf16_autocast_is_finite_and_near_and_filters_stay_exact(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
        filters = backbone.blocks()[0].mixer.filter_fn
        assert filters(torch.ones(1, 32, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_the_filters_alone(dtype, backbone, batch):
    exact = {name: value.clone() for name, value in backbone.state_dict().items() if ".filter_fn." in name}
    backbone.to(dtype)
    assert backbone.blocks()[0].mixer.in_proj.weight.dtype == dtype
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in exact.items())
    with torch.inference_mode():
        assert backbone(batch).hidden.isfinite().all()


def test_filters_learn(backbone, batch):
    before = backbone.blocks()[0].mixer.filter_fn.filters(40).detach().clone()
    backbone(batch).pool("mean").square().sum().backward()
    with torch.no_grad():
        for parameter in backbone.blocks()[0].mixer.filter_fn.parameters():
            assert parameter.grad.abs().max() > 0
            parameter -= 0.1 * parameter.grad
    assert not torch.allclose(backbone.blocks()[0].mixer.filter_fn.filters(40), before, atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient(batch):
    plainly, again = built("hyenadna", HYENA / "hf"), built("hyenadna", HYENA / "hf")
    plainly(batch).pool("mean").square().sum().backward()
    checkpoint(again, batch, use_reentrant=False).pool("mean").square().sum().backward()
    pairs = zip(plainly.module.parameters(), again.module.parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-6) for one, other in pairs)


def test_lora_reaches_the_operators_projections_alone(backbone, batch):
    with torch.inference_mode():
        before = backbone(batch).hidden
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    names = {name.split(".lora_")[0] for name, _ in backbone.module.named_parameters() if ".lora_" in name}
    assert names == {f"backbone.layers.{layer}.mixer.{target}" for layer in (0, 1) for target in backbone.lora_targets}
    with torch.inference_mode():
        assert torch.equal(backbone.eval()(batch).hidden, before)


@pytest.mark.parametrize("strategy", ["probe", {"name": "lora", "rank": 2}, {"name": "partial", "blocks": 1}, "full"])
def test_it_learns_and_comes_back(strategy, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    dice, rows = random.Random(1), ["id,sequence,kind,split"]
    for row in range(24):
        sequence = "".join(dice.choice("GCGCA" if row % 2 else "ATATC") for _ in range(dice.randrange(20, 60)))
        rows.append(
            f"s{row},{sequence},{'rich' if row % 2 else 'poor'},{('train', 'train', 'valid', 'test')[row // 6]}"
        )
    (tmp_path / "content.csv").write_text("\n".join(rows) + "\n")
    recipe = {
        "data": {"path": str(tmp_path / "content.csv"), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": f"hyenadna:{HYENA / 'original'}",
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": strategy,
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3, "patience": 0},
    }
    exapt.train(recipe, tmp_path / "adapter")
    answers = exapt.load(tmp_path / "adapter").predict(["GCGCGGCGCAGCGC", "ATTATACTATATA"])
    assert set(answers["prediction"].to_pylist()) <= {"rich", "poor"}


@pytest.mark.parametrize("least", [1, 2, 7, 17, 1025, 2 * 1026, 2 * 32770, 2 * 1_000_002])
def test_transforms_have_a_length_of_small_factors(least):
    length = layers.fast_length(least)
    assert least <= length <= 1 << math.ceil(math.log2(max(least, 2)))
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1


@pytest.mark.slow
def test_cost_grows_hardly_faster_than_length():
    torch.manual_seed(0)
    shape = Shape(d_model=128, n_layer=2, max_seq_len=16_386, emb_dim=5, activation_freq=10)
    backbone = HyenaDna(shape).eval()
    lengths = (1024, 4096, 16_384)
    batches = [collate([encoded("hyenadna", [*[7, 8, 9, 10] * (length // 4 - 1), 7, 8, 9, 1])]) for length in lengths]
    best = np.full(len(lengths), np.inf)
    with torch.inference_mode():
        for _ in range(3):
            for place, batch in enumerate(batches):
                start = time.process_time()
                backbone(batch)
                best[place] = min(best[place], time.process_time() - start)
    assert np.polyfit(np.log(lengths), np.log(best), 1)[0] < 1.4


def specs():
    plugins = current()
    return plugins.get(BackboneSpec, "hyenadna").spec, plugins.get(TokenizerSpec, "hyenadna").spec


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_the_backbone_conforms(layout):
    spec, tokenizer = specs()
    check_backbone(spec, {"source": str(HYENA / layout)}, tokenizer=tokenizer, inputs=INPUTS)


@pytest.mark.parametrize("options", [{}, {"case": "keep", "max_unknown": 1}, {"rna": True}, {"ends": "cls-sep"}])
def test_the_tokenizer_conforms(options):
    check_tokenizer(specs()[1], {"source": str(HYENA / "hf"), **options}, inputs=INPUTS)
