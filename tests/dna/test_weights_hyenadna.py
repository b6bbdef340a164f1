"""Every tensor of a HyenaDNA is accounted for, in both layouts, and every damaged or foreign file is refused in a sentence."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from dna.long_models import DAMAGED, DNABERT2, EXACT, HYENA, Copy, Payload, built, ids, reader, refusal
from exapt.plugins import current
from exapt_dna.hyenadna import CHECKPOINTS
from exapt_dna.hyenadna.backbone import HyenaDna
from exapt_dna.hyenadna.shape import Shape

EMBEDDINGS = "hyena.backbone.embeddings.word_embeddings.weight"
SIZES = {
    "hyenadna-tiny-1k": (128, 2, 1_026),
    "hyenadna-tiny-1k-d256": (256, 2, 1_026),
    "hyenadna-tiny-16k-d128": (128, 2, 16_386),
    "hyenadna-small-32k": (256, 4, 32_770),
    "hyenadna-medium-160k": (256, 8, 160_002),
    "hyenadna-medium-450k": (256, 8, 450_002),
    "hyenadna-large-1m": (256, 8, 1_000_002),
}


@pytest.fixture
def hf(tmp_path):
    return Copy(HYENA / "hf", tmp_path / "hyena-hf")


@pytest.fixture
def original(tmp_path):
    return Copy(HYENA / "original", tmp_path / "hyena")


def build(copy, **options):
    return built("hyenadna", copy.folder, **options)


def refused(copy):
    return refusal(built, "hyenadna", copy.folder)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_tensor_of_the_file_is_in_the_model_and_no_other(hf):
    state = build(hf).state_dict()
    assert state.keys() == hf.tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in hf.tensors.items())


def test_both_layouts_give_the_same_model(hf, original):
    assert same(build(hf), build(original))


def test_positions_and_decays_are_read_and_never_computed_anew(hf):
    at = "hyena.backbone.layers.1.mixer.filter_fn"
    moved = {
        f"{at}.{name}": hf.tensors[f"{at}.{name}"] + 0.25 for name in ("pos_emb.z", "pos_emb.t", "modulation.deltas")
    }
    hf.save(hf.tensors | moved)
    state = build(hf).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in moved.items())


def test_computed_positions_and_decays_are_those_of_the_reference(hf):
    fresh, state = build(hf, weights=False).state_dict(), build(hf).state_dict()
    constants = [name for name in state if name.endswith((".z", ".t", ".deltas"))]
    assert len(constants) == 6
    for name in constants:
        torch.testing.assert_close(fresh[name], state[name], atol=1e-5, rtol=0)


def test_recomputed_blocks_have_one_more_name_around_them(original):
    plain = build(original)
    infixed = {
        name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): tensor
        for name, tensor in original.tensors.items()
    }
    original.configure(checkpoint_mixer=True, checkpoint_mlp=True)
    original.save(infixed)
    assert same(build(original), plain)


def test_a_head_that_differs_from_the_embeddings_is_kept_apart(original):
    original.save(original.tensors | {"model.lm_head.weight": original.tensors["model.lm_head.weight"] + 1})
    backbone = build(original)
    assert torch.equal(backbone.lm_head.weight, original.tensors["model.lm_head.weight"] + 1)
    assert not torch.equal(backbone.state_dict()[EMBEDDINGS], backbone.lm_head.weight)


def test_a_head_tied_by_the_config_need_not_be_in_the_file(hf):
    hf.configure(tie_word_embeddings=True)
    hf.save({name: tensor for name, tensor in hf.tensors.items() if name != "lm_head.weight"})
    backbone = build(hf)
    assert backbone.lm_head.weight is backbone.hyena.backbone.embeddings.word_embeddings.weight


def test_a_checkpoint_of_the_bare_model_has_no_language_model(hf):
    bare = {name.removeprefix("hyena."): value for name, value in hf.tensors.items() if name.startswith("hyena.")}
    hf.save(bare)
    backbone = build(hf)
    assert backbone.language is None
    assert torch.equal(backbone.state_dict()[EMBEDDINGS], hf.tensors[EMBEDDINGS])


def test_sines_of_one_filter_that_disagree_are_refused(original):
    name = "model.backbone.layers.0.mixer.filter_fn.implicit_filter.5.freq"
    original.save(original.tensors | {name: original.tensors[name] + 1})
    assert refused(original) == (
        f"the weights of '{original.folder}' hold two different tensors for "
        "'hyena.backbone.layers.0.mixer.filter_fn.implicit_filter.1.freq'"
    )


def test_counts_of_metrics_are_left_out(original):
    plain = build(original)
    original.save(original.tensors | {"train_torchmetrics.Perplexity.total_log_probs": torch.tensor(3.0)})
    assert same(build(original), plain)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("decoder.weight", torch.zeros(2), "the weights of '{}' hold 'decoder.weight', which HyenaDNA does not have"),
        (
            "hyena.backbone.layers.0.mixer.in_proj.bias",
            torch.zeros(64),
            "'hyena.backbone.layers.0.mixer.in_proj.bias' in the weights of '{}' has the shape [64], where its "
            "config.json asks for [96]",
        ),
        (
            "hyena.backbone.layers.1.mixer.filter_fn.pos_emb.z",
            None,
            "the weights of '{}' lack 1 tensors, such as 'hyena.backbone.layers.1.mixer.filter_fn.pos_emb.z'",
        ),
    ],
)
def test_tensors_that_do_not_fit(name, tensor, message, hf):
    kept = {key: value for key, value in hf.tensors.items() if key != name}
    hf.save(kept if tensor is None else kept | {name: tensor})
    assert refused(hf) == message.format(hf.folder)


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_files_that_are_no_weights(content, message, layout, request):
    copy = request.getfixturevalue(layout)
    copy.file.write_bytes(content)
    assert refused(copy) == f"'{copy.file}' {message}"


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_weights_cut_short(layout, request):
    copy = request.getfixturevalue(layout)
    copy.file.write_bytes(copy.file.read_bytes()[:-1000])
    assert refused(copy) == f"'{copy.file}' is damaged, cut short, or holds more than tensors; download it again"


def test_a_pickle_with_code_is_refused_by_its_name_and_not_executed(original, capsys):
    original.save(original.tensors, hyper_parameters=Payload())
    assert refused(original) == (
        f"'{original.file}' asks for 'builtins.print' to be run, which exapt does not do; use the -hf checkpoint"
    )
    assert capsys.readouterr().out == ""


def test_an_old_pickle_with_code_is_refused_and_not_executed(original, capsys):
    torch.save({"state_dict": Payload()}, original.file, _use_new_zipfile_serialization=False)
    assert refused(original) == (
        f"'{original.file}' asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
    )
    assert capsys.readouterr().out == ""


@pytest.fixture
def settings(monkeypatch):
    """Return notes of settings as training programs pickle them, by classes that are not there when they are read."""
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self, content):
            self.content = content

        def __setstate__(self, state):
            raise AssertionError("a class of the training program was used")

    DictConfig.__module__, DictConfig.__qualname__ = module.__name__, "DictConfig"
    module.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return DictConfig({"lr": np.float64(6e-4), "nested": DictConfig({"layers": [2, 4]})})


def test_settings_beside_the_tensors_are_passed_over(settings, original):
    plain = build(original)
    notes = {"train": settings, "loss": np.float32(1.5), "anything": [1, "two", None]}
    original.save(original.tensors, hyper_parameters=notes, epoch=3)
    assert same(build(original), plain)


def test_a_ckpt_without_tensors(original):
    torch.save({"epoch": 3}, original.file)
    assert refused(original) == f"'{original.file}' has no tensors by name under 'state_dict'"


@pytest.mark.parametrize(
    ("layout", "name", "what"),
    [
        ("hf", "config.json", "config.json"),
        ("hf", "model.safetensors", "model.safetensors or pytorch_model.bin"),
        ("original", "weights.ckpt", "weights.ckpt"),
    ],
)
def test_a_folder_that_lacks_a_file(layout, name, what, request):
    copy = request.getfixturevalue(layout)
    (copy.folder / name).unlink()
    assert refused(copy) == f"the folder '{copy.folder}' has no {what}, so it is no HyenaDNA checkpoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "'{}' is a model of the type 'bert', not HyenaDNA"),
        ({"vocab_size": 16}, "'{}' does not fit together: HyenaDNA has 12 tokens, its config.json says 16"),
        ({"hyena_order": 3}, "the config.json of '{}' cannot be used: hyena_order is 3, HyenaDNA has 2"),
        ({"use_bias": False}, "the config.json of '{}' cannot be used: use_bias is false, HyenaDNA has biases"),
        (
            {"emb_dim": 4},
            "the config.json of '{}' cannot be used: emb_dim is 4, but sines, cosines and time make an odd number",
        ),
        ({"d_model": None}, "the config.json of '{}' cannot be used: d_model: Field required"),
        (
            {"num_inner_mlps": 3},
            "'hyena.backbone.layers.0.mixer.filter_fn.implicit_filter.6.weight' in the weights of '{}' has the shape "
            "[32, 16], where its config.json asks for [16, 16]",
        ),
    ],
)
def test_a_config_of_another_model(changes, message, hf):
    hf.configure(**changes)
    assert refused(hf) == message.format(hf.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_name_": "mha"}, "'{}' is a model of the type 'mha', not HyenaDNA"),
        (
            {"bidirectional": True},
            "the config.json of '{}' cannot be used: bidirectional is true, HyenaDNA reads in one direction",
        ),
        (
            {"normalized": True},
            "the config.json of '{}' cannot be used: normalized is true, HyenaDNA's filters are not normalised",
        ),
    ],
)
def test_an_original_config_of_another_model(changes, message, original):
    layer = json.loads((original.folder / "config.json").read_text())["layer"]
    original.configure(layer=layer | changes)
    assert refused(original) == message.format(original.folder)


def test_other_families_are_refused():
    source = DNABERT2 / "model"
    assert refusal(built, "hyenadna", source) == f"'{source}' is a model of the type 'None', not HyenaDNA"


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACGUACGU", "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T"),
        ("MKTAYIAKQR", "character 'I' at position 6 is no nucleotide; the sequence looks like protein"),
        ("ACGTNNACGT", "2 of 10 letters (N) are unknown to the model, more than max_unknown = 0.05 allows"),
    ],
)
def test_sequences_that_are_refused(sequence, message):
    assert refusal(reader("hyenadna", HYENA / "hf").encode, sequence) == message


def test_rna_and_lower_case():
    tokenizer = reader("hyenadna", HYENA / "hf", rna=True)
    assert ids(tokenizer.encode("acguUGCA")) == ids(tokenizer.encode("ACGTTGCA"))
    assert ids(reader("hyenadna", HYENA / "hf", **EXACT).encode("aCgT")) == [6, 8, 6, 10, 1]


def test_no_token_is_hidden_from_a_causal_model():
    tokenizer = reader("hyenadna", HYENA / "hf")
    assert (tokenizer.mask, tokenizer.special) == (None, {0, 1, 2, 3, 4, 5, 6})


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
def test_published_parameters_width_and_context(checkpoint):
    width, layers, longest = SIZES[checkpoint.name]
    with torch.device("meta"):
        backbone = HyenaDna(Shape(d_model=width, n_layer=layers, max_seq_len=longest, emb_dim=5, activation_freq=10))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters
    assert (checkpoint.width, checkpoint.context) == (backbone.width, backbone.max_tokens)


def test_all_published_sizes_are_offered_with_revision_and_licence():
    assert [checkpoint.name for checkpoint in CHECKPOINTS] == list(SIZES)
    for checkpoint in CHECKPOINTS:
        assert checkpoint.source.startswith("LongSafari/hyenadna-")
        assert checkpoint.source.endswith("-hf")
        assert len(checkpoint.revision) == 40
        assert (checkpoint.licence, checkpoint.commercial) == ("BSD-3-Clause", True)
    assert len({checkpoint.revision for checkpoint in CHECKPOINTS}) == len(CHECKPOINTS)
    assert current().checkpoint("hyenadna-tiny-1k")[2] == "LongSafari/hyenadna-tiny-1k-seqlen-hf"
