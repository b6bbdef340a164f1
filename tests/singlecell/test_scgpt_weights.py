"""Every tensor of a scGPT is read or counted, and every damaged or foreign checkpoint is refused in a sentence."""

import json

import pytest
import torch
from safetensors.torch import save_file

from exapt import DataError, RecipeError
from exapt.parts import HeadContext
from exapt.testing import LETTERS
from singlecell.scgpt_models import HEAD, MODEL, Copy, built, other, reader

ATTENTION = "transformer_encoder.layers.1.self_attn."
PACKED = f"{ATTENTION}Wqkv.weight"


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "scgpt")


def refusal(call):
    with pytest.raises(DataError) as refused:
        call()
    return str(refused.value)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def renamed(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def test_projections_are_taken_apart_and_all_else_is_as_it_stands(copy):
    state, width = built().state_dict(), 32
    for layer in (0, 1):
        attention = f"transformer_encoder.layers.{layer}.self_attn."
        for place, name in enumerate("qkv"):
            part = slice(place * width, (place + 1) * width)
            for kind in ("weight", "bias"):
                ours = state.pop(f"scgpt.{attention}{name}_proj.{kind}")
                assert torch.equal(ours, copy.tensors[f"{attention}Wqkv.{kind}"][part])
    assert all(torch.equal(tensor, copy.tensors[name.removeprefix("scgpt.")]) for name, tensor in state.items())
    inside = ("encoder.", "value_encoder.", "transformer_encoder.", "decoder.")
    assert len(state) == sum(name.startswith(inside) and "Wqkv" not in name for name in copy.tensors)


@pytest.mark.parametrize(
    "changed",
    [
        lambda tensors: renamed(tensors, "self_attn.Wqkv.", "self_attn.in_proj_"),
        lambda tensors: renamed(tensors, "self_attn.Wqkv.", "self_attn._impl.Wqkv."),
        lambda tensors: renamed(tensors, "self_attn.", "self_attn._impl."),
        lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith("flag_encoder")},
        lambda tensors: tensors | {"bn.num_batches_tracked": torch.tensor(3), "batch_encoder.x": torch.zeros(2)},
        lambda tensors: dict(reversed(tensors.items())),
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: (
            {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()} | {"loss.weight": torch.ones(1)}
        ),
        lambda tensors: {f"module._orig_mod.model.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"epoch": 3, "model_state_dict": tensors, "optimizer_state_dict": {"state": {}, "lr": 1e-4}},
        lambda tensors: {"state_dict": {f"model.{name}": tensor for name, tensor in tensors.items()}, "global_step": 7},
    ],
    ids=[
        *("torch", "wrapped-projection", "wrapped", "no-flags", "more-outside", "reversed"),
        *("module", "compiled", "several", "trainer", "lightning"),
    ],
)
def test_files_of_all_layouts_give_the_same(changed, copy):
    copy.save(changed(copy.tensors))
    assert same(built(copy.folder), built())


def test_the_same_weights_as_safetensors(copy):
    (copy.folder / "best_model.pt").unlink()
    save_file(copy.tensors, copy.folder / "model.safetensors")
    assert same(built(copy.folder), built())


def test_the_notes_on_a_wrapped_file_are_those_on_a_bare_one(copy):
    copy.save({f"module.{name}": tensor for name, tensor in copy.tensors.items()})
    assert built(copy.folder).notes == built().notes
    assert built(copy.folder).language is not None


def test_a_file_of_two_models_is_read_by_the_names_of_one(copy):
    copy.save(copy.tensors | {f"module.{name}": tensor + 1 for name, tensor in copy.tensors.items()})
    backbone = built(copy.folder)
    assert same(backbone, built())
    assert f"module {len(copy.tensors)}" in backbone.notes[0]


def test_half_precision_files_are_read_into_fp32(copy):
    copy.save({name: value.half() for name, value in copy.tensors.items()})
    assert {value.dtype for value in built(copy.folder).state_dict().values()} == {torch.float32}


def test_tensors_outside_the_model_are_counted(copy):
    assert built().notes == ["14 tensors of the checkpoint are not read: cls_decoder 10, flag_encoder 1, mvc_decoder 3"]
    assert len(built().unread) == 14
    inside = ("encoder.", "value_encoder.", "transformer_encoder.")
    copy.save({name: tensor for name, tensor in copy.tensors.items() if name.startswith(inside)})
    assert built(copy.folder).notes == []


def test_a_batch_normalisation_that_changes_the_states_is_said_to(copy):
    normalising = {"bn.weight": torch.ones(32), "dsbn.bns.0.weight": torch.ones(32), "dsbn.bns.0.bias": torch.ones(32)}
    copy.save(copy.tensors | normalising | {"batch_encoder.embedding.weight": torch.ones(3, 32)})
    assert built(copy.folder).notes == [
        "18 tensors of the checkpoint are not read: batch_encoder 1, bn 1, cls_decoder 10, dsbn 2, flag_encoder 1, "
        "mvc_decoder 3",
        "the checkpoint was trained with a batch normalisation in front of its blocks (bn 1, dsbn 2), which exapt does not "
        "apply: its states differ from those of the published program",
    ]


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        (lambda tensors: tensors | {"decoder.fc.0.weight": torch.zeros(32, 64)}, 6),
        (lambda tensors: {name: value for name, value in tensors.items() if name != "decoder.fc.4.bias"}, 5),
    ],
    ids=["batch-labels", "incomplete"],
)
def test_a_decoder_that_does_not_read_states_alone_is_not_read(changed, count, copy):
    copy.save(changed(copy.tensors))
    backbone = built(copy.folder)
    assert backbone.language is None
    assert backbone.notes == [
        f"{14 + count} tensors of the checkpoint are not read: "
        f"cls_decoder 10, decoder {count}, flag_encoder 1, mvc_decoder 3"
    ]


def test_more_of_the_decoder_than_exapt_reads_is_counted(copy):
    copy.save(copy.tensors | {"decoder.zero_logit.0.bias": torch.zeros(32)})
    backbone = built(copy.folder)
    assert backbone.language is not None
    assert "decoder.zero_logit.0.bias" in backbone.unread


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        (PACKED, 3),
        (f"{ATTENTION}out_proj.bias", 1),
        ("value_encoder.linear1.weight", 1),
        ("encoder.embedding.weight", 1),
    ],
)
def test_a_missing_tensor_is_refused(name, lost, copy):
    del copy.tensors[name]
    copy.save(copy.tensors)
    first = f"{ATTENTION}k_proj.weight" if name == PACKED else name
    assert refusal(lambda: built(copy.folder)) == (
        f"the weights of '{copy.folder}' lack {lost} tensors, such as '{first}'"
    )


@pytest.mark.parametrize(
    "name",
    ["encoder.extra", "value_encoder.norm.scale", f"{ATTENTION}rotary", "transformer_encoder.layers.2.norm1.bias"],
)
def test_an_unexpected_tensor_inside_is_refused(name, copy):
    copy.save(copy.tensors | {name: torch.zeros(32)})
    assert refusal(lambda: built(copy.folder)) == (
        f"the weights of '{copy.folder}' hold '{name}', which scGPT does not have"
    )


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        (PACKED, [64, 32], "args.json asks for [96, 32]"),
        (f"{ATTENTION}Wqkv.bias", [97], "args.json asks for [96]"),
        ("value_encoder.linear1.weight", [32, 2], "args.json asks for [32, 1]"),
        ("encoder.embedding.weight", [300, 32], "vocab.json has tokens for [306, 32]"),
        ("encoder.embedding.weight", [306, 16], "args.json asks for [306, 32]"),
    ],
)
def test_a_tensor_of_another_shape_is_refused(name, shape, said, copy):
    copy.save(copy.tensors | {name: torch.zeros(shape)})
    assert refusal(lambda: built(copy.folder)) == (
        f"'{name}' in the weights of '{copy.folder}' has the shape {shape}, where its {said}"
    )


def test_the_projections_twice_and_different(copy):
    copy.save(copy.tensors | {f"{ATTENTION}in_proj_bias": copy.tensors[f"{ATTENTION}Wqkv.bias"] + 1})
    assert refusal(lambda: built(copy.folder)) == (
        f"the weights of '{copy.folder}' hold two different tensors for '{ATTENTION}q_proj.bias'"
    )


def test_an_args_json_of_another_model(copy):
    copy.configure(nlayers=3)
    assert refusal(lambda: built(copy.folder)) == (
        f"the weights of '{copy.folder}' lack 16 tensors, such as 'transformer_encoder.layers.2.linear1.bias'"
    )
    copy.configure(nlayers=2, embsize=16)
    assert refusal(lambda: built(copy.folder)) == (
        f"'transformer_encoder.layers.0.self_attn.Wqkv.weight' in the weights of '{copy.folder}' has the shape [96, 32], "
        "where its args.json asks for [48, 16]"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nheads": 5}, "its width 32 makes no heads of one width out of 5"),
        ({"nheads": ...}, "nheads: Field required"),
        ({"nlayers": 0}, "nlayers: Input should be greater than 0"),
        ({"n_bins": 1}, "n_bins: Input should be greater than or equal to 2"),
        ({"input_emb_style": "category"}, "input_emb_style: Input should be 'continuous'"),
        ({"input_style": "log1p"}, "input_style: Input should be 'binned'"),
        ({"pre_norm": True}, "pre_norm: Input should be False"),
        ({"norm_scheme": "pre"}, "norm_scheme: Input should be 'post'"),
        ({"activation": "gelu"}, "activation: Input should be 'relu'"),
        ({"domain_spec_batchnorm": True}, "domain_spec_batchnorm: Input should be False"),
        ({"domain_spec_batchnorm": "dsbn"}, "domain_spec_batchnorm: Input should be False"),
    ],
)
def test_an_args_json_that_cannot_be_used(changes, why, copy):
    copy.configure(**changes)
    said = f"the args.json of '{copy.folder}' cannot be used: {why}"
    assert refusal(lambda: built(copy.folder)) == said
    assert refusal(lambda: reader(copy.folder)) == said


@pytest.mark.parametrize("unused", ["", "none", "None", None, ...])
def test_an_args_json_that_leaves_the_architecture_as_published(unused, copy):
    of_heads = {"cell_emb_style": "avg-pool", "use_batch_labels": True, "n_layers_cls": 7}
    copy.configure(pre_norm=unused, norm_scheme=unused, activation=unused, domain_spec_batchnorm=unused, **of_heads)
    assert same(built(copy.folder), built())
    copy.configure(pre_norm=False, norm_scheme="post", activation="relu", domain_spec_batchnorm=False)
    assert same(built(copy.folder), built())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"TP53": 301},
            "gives its 306 tokens other ids than 0 to 305, each once; take the file that belongs to the weights",
        ),
        (
            {"NEW": 400},
            "gives its 307 tokens other ids than 0 to 306, each once; take the file that belongs to the weights",
        ),
        (
            {"TP53": "x"},
            "gives its 306 tokens other ids than 0 to 305, each once; take the file that belongs to the weights",
        ),
        (
            {"<cls>": ..., "<eoc>": 304},
            "has no '<cls>', so that it is a list of genes and not the vocabulary of a model; take the file that belongs "
            "to the weights",
        ),
    ],
    ids=["twice", "gap", "text", "no-cls"],
)
def test_a_vocabulary_that_cannot_be_used(changes, why, copy):
    copy.rename(**changes)
    assert refusal(lambda: reader(copy.folder)) == f"the vocab.json of '{copy.folder}' {why}"


def test_the_vocabulary_of_another_model(copy):
    copy.rename(NEW=306)
    assert refusal(lambda: built(copy.folder)) == (
        f"'encoder.embedding.weight' in the weights of '{copy.folder}' has the shape [306, 32], where its vocab.json has "
        "tokens for [307, 32]"
    )


@pytest.mark.parametrize("name", ["args.json", "vocab.json"])
def test_a_file_that_is_missing_or_no_json(name, copy):
    (copy.folder / name).write_text("[1, 2")
    assert refusal(lambda: built(copy.folder)) == f"'{copy.folder / name}' is not a JSON object; download it again"
    (copy.folder / name).unlink()
    assert refusal(lambda: built(copy.folder)) == (
        f"the folder '{copy.folder}' has no {name}, so it is no scGPT checkpoint"
    )


def test_weights_that_are_missing_damaged_or_code(copy):
    path = copy.folder / "best_model.pt"
    torch.save({"encoder.embedding.weight": print}, path)
    assert refusal(lambda: built(copy.folder)) == (
        f"'{path}' asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
    )
    path.write_bytes((MODEL / "best_model.pt").read_bytes()[:5000])
    damaged = f"'{path}' is damaged, cut short, or holds more than tensors; download it again"
    assert refusal(lambda: built(copy.folder)) == damaged
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    assert refusal(lambda: built(copy.folder)) == f"'{path}' holds something else than tensors by name"
    path.unlink()
    assert refusal(lambda: built(copy.folder)) == (
        f"the folder '{copy.folder}' has no best_model.pt or model.safetensors, so it is no scGPT checkpoint"
    )


def test_a_source_that_is_no_folder():
    assert refusal(lambda: built("nowhere")) == (
        "there is no folder 'nowhere'; name a folder with a scGPT checkpoint, or a hub id OWNER/NAME"
    )


def test_a_padding_token_and_values_of_their_own(tmp_path):
    other(tmp_path, pad_token="[PAD]", pad_value=-7, mask_value=-5)
    path = tmp_path / "vocab.json"
    path.write_text(path.read_text().replace("<pad>", "[PAD]"))
    tokenizer = reader(tmp_path)
    encoding = tokenizer.encode({"genes": ["GENE1"], "counts": [3]})
    assert encoding.arrays["values"][0] == -7
    assert encoding.pads == {"input_ids": json.loads(path.read_text())["[PAD]"], "values": -7}
    assert tokenizer.hidden == -5
    assert built(tmp_path).scgpt.encoder.embedding.padding_idx == encoding.pads["input_ids"]


def test_hidden_expression_needs_scgpts_tokens():
    with pytest.raises(RecipeError) as refused:
        HEAD.build(HEAD.options(), HeadContext({"cell": 8}, {}, LETTERS.build(LETTERS.options())))
    assert str(refused.value) == (
        "head 'masked-expression' hides values of genes, which only the tokenizer 'scgpt' gives; use a backbone of scGPT, "
        "or head 'masked-lm' where tokens themselves are hidden"
    )
