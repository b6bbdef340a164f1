"""Every tensor of a checkpoint is accounted for, and every damaged or foreign one is refused in a sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import EsmConfig, EsmForMaskedLM

from exapt import DataError
from exapt.parts import Batch, unit_spans

EMBEDDINGS = "esm.embeddings.word_embeddings.weight"
DECODER = "lm_head.decoder.weight"
ROTARY = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(build, source, **options):
    with pytest.raises(DataError) as refused:
        build(source, **options)
    return str(refused.value)


def as_bin(copy, tensors, **how):
    (copy.folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(tensors, copy.folder / "pytorch_model.bin", **how)


def as_shards(copy, save, name):
    """Write the tensors in two files and an index, as large checkpoints are."""
    (copy.folder / "model.safetensors").unlink()
    stem, suffix = name.rsplit(".", 1)
    names = sorted(copy.tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        save({key: copy.tensors[key] for key in part}, copy.folder / shard)
        index |= dict.fromkeys(part, shard)
    (copy.folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_the_module_has_stock_names_and_nothing_that_gets_no_gradient(build):
    backbone = build()
    assert backbone.lm_head.decoder.weight is backbone.module.embeddings.word_embeddings.weight
    assert [name for name in backbone.state_dict() if "contact_head" in name or "pooler" in name] == []
    assert "encoder.layer.1.attention.self.query.weight" in dict(backbone.module.named_parameters())
    assert "encoder.layer.1.intermediate.dense.weight" in dict(backbone.module.named_parameters())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_file_gives_what_safetensors_give(legacy, copy, build):
    as_bin(copy, copy.tensors, _use_new_zipfile_serialization=not legacy)
    assert same(build(copy.folder), build())


def test_shards_give_what_one_file_gives(copy, build):
    as_shards(copy, save_file, "model.safetensors")
    assert same(build(copy.folder), build())


def test_shards_of_bin_files_give_what_one_file_gives(copy, build):
    as_shards(copy, torch.save, "pytorch_model.bin")
    assert same(build(copy.folder), build())


def test_half_precision_files_are_read_into_fp32(copy, build):
    copy.save({name: value.half() if value.is_floating_point() else value for name, value in copy.tensors.items()})
    backbone = build(copy.folder)
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(backbone.state_dict()[EMBEDDINGS], copy.tensors[EMBEDDINGS], atol=1e-3, rtol=1e-3)


def test_the_decoder_may_stand_in_the_file_if_it_is_the_embeddings(copy, build):
    copy.save(copy.tensors | {DECODER: copy.tensors[EMBEDDINGS].clone()})
    assert same(build(copy.folder), build())


def test_a_tied_decoder_that_differs_is_refused(copy, build):
    copy.save(copy.tensors | {DECODER: copy.tensors[EMBEDDINGS] + 1})
    assert refusal(build, copy.folder) == (
        f"the weights of '{copy.folder}' hold two different tensors for '{EMBEDDINGS}'"
    )


def test_an_untied_decoder_is_kept_apart(copy, build):
    copy.configure(tie_word_embeddings=False)
    copy.save(copy.tensors | {DECODER: copy.tensors[EMBEDDINGS] + 1})
    backbone = build(copy.folder)
    assert torch.equal(backbone.lm_head.decoder.weight, copy.tensors[EMBEDDINGS] + 1)
    assert torch.equal(backbone.module.embeddings.word_embeddings.weight, copy.tensors[EMBEDDINGS])


def test_frequencies_in_the_file_are_used_and_else_computed(copy, build):
    stored = torch.tensor([1.0, 0.5, 0.25, 0.125])
    copy.save(copy.tensors | {ROTARY.format(layer): stored.clone() for layer in (0, 1)})
    assert torch.equal(build(copy.folder).module.rotary_embeddings.inv_freq, stored)
    copy.save({name: value for name, value in copy.tensors.items() if not name.endswith("inv_freq")})
    computed = build(copy.folder).module.rotary_embeddings.inv_freq
    torch.testing.assert_close(computed, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_layers_that_disagree_on_frequencies_are_refused(copy, build):
    copy.save(copy.tensors | {ROTARY.format(1): torch.ones(4)})
    assert refusal(build, copy.folder) == (
        f"the weights of '{copy.folder}' hold two different tensors for 'esm.rotary_embeddings.inv_freq'"
    )


def test_a_checkpoint_of_the_bare_model_has_no_language_model_head(copy, build):
    bare = {name.removeprefix("esm."): value for name, value in copy.tensors.items() if name.startswith("esm.")}
    copy.save(bare)
    backbone = build(copy.folder)
    assert backbone.lm_head is None
    assert torch.equal(backbone.state_dict()[EMBEDDINGS], copy.tensors[EMBEDDINGS])


def test_a_missing_tensor_is_refused(copy, build):
    del copy.tensors["esm.encoder.layer.1.output.dense.bias"]
    copy.save(copy.tensors)
    assert refusal(build, copy.folder) == (
        f"the weights of '{copy.folder}' lack 1 tensors, such as 'esm.encoder.layer.1.output.dense.bias'"
    )


def test_half_a_language_model_head_is_refused(copy, build):
    del copy.tensors["lm_head.dense.weight"]
    copy.save(copy.tensors)
    assert refusal(build, copy.folder) == (
        f"the weights of '{copy.folder}' lack 1 tensors, such as 'lm_head.dense.weight'"
    )


def test_an_unexpected_tensor_is_refused(copy, build):
    copy.save(copy.tensors | {"classifier.dense.weight": torch.zeros(2)})
    assert refusal(build, copy.folder) == (
        f"the weights of '{copy.folder}' hold 'classifier.dense.weight', which ESM-2 does not have"
    )


def test_a_tensor_of_another_shape_is_refused(copy, build):
    name = "esm.encoder.layer.0.intermediate.dense.weight"
    copy.save(copy.tensors | {name: torch.zeros(256, 32)})
    assert refusal(build, copy.folder) == (
        f"'{name}' in the weights of '{copy.folder}' has the shape [256, 32], where its config.json asks for [128, 32]"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page, not the weights; download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder",
        ),
        (b"", "is damaged, cut short, or holds more than tensors; download it again"),
        (b"\x00" * 200, "is damaged, cut short, or holds more than tensors; download it again"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_no_weights(name, content, message, copy, build):
    (copy.folder / "model.safetensors").unlink()
    path = copy.folder / name
    path.write_bytes(content)
    assert refusal(build, copy.folder) == f"'{path}' {message}"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_cut_short(name, copy, build):
    path = copy.folder / name
    if path.suffix == ".bin":
        as_bin(copy, copy.tensors)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(build, copy.folder) == (
        f"'{path}' is damaged, cut short, or holds more than tensors; download it again"
    )


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_with_code_is_not_executed(copy, build, capsys):
    as_bin(copy, copy.tensors | {"payload": Payload()})
    assert refusal(build, copy.folder).startswith(f"'{copy.folder}/pytorch_model.bin' asks for 'print' to be run")
    assert capsys.readouterr().out == ""


def test_a_bin_file_of_something_else(copy, build):
    as_bin(copy, {"epoch": 3})
    assert refusal(build, copy.folder) == (
        f"'{copy.folder}/pytorch_model.bin' holds something else than tensors by name"
    )


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_folder_that_lacks_a_file(name, copy, build):
    (copy.folder / name).unlink()
    assert refusal(build, copy.folder) == f"the folder '{copy.folder}' has no {name}, so it is no ESM-2 checkpoint"


def test_a_folder_without_weights_still_gives_fresh_ones(copy, build):
    (copy.folder / "model.safetensors").unlink()
    assert refusal(build, copy.folder) == (
        f"the folder '{copy.folder}' has no model.safetensors or pytorch_model.bin, so it is no ESM-2 checkpoint"
    )
    assert build(copy.folder, weights=False).width == 32


def test_a_missing_shard(copy, build):
    as_shards(copy, save_file, "model.safetensors")
    (copy.folder / "model-00002-of-00002.safetensors").unlink()
    assert refusal(build, copy.folder) == (
        f"the folder '{copy.folder}' has no model-00002-of-00002.safetensors, so it is no ESM-2 checkpoint"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "'{}' is a model of the type 'bert', not ESM-2"),
        (
            {"position_embedding_type": "absolute"},
            "'{}' has absolute positions, as ESM-1b has; ESM-2 has rotary ones",
        ),
        ({"is_folding_model": True}, "'{}' is a folding model or a decoder, not ESM-2"),
        (
            {"vocab_size": 64},
            "'{}' does not fit together: its vocab.txt has 33 tokens, its config.json says 64",
        ),
        (
            {"num_attention_heads": 5},
            "'{}' does not fit together: its width 32 makes no heads of an even width out of 5",
        ),
        (
            {"pad_token_id": 0},
            "'{}' does not fit together: <pad> is 1 in its vocab.txt, 0 in its config.json",
        ),
        (
            {"mask_token_id": 4},
            "'{}' does not fit together: <mask> is 32 in its vocab.txt, 4 in its config.json",
        ),
    ],
)
def test_a_config_of_another_model(changes, message, copy, build):
    copy.configure(**changes)
    assert refusal(build, copy.folder) == message.format(copy.folder)


def test_a_config_that_makes_no_model(copy, build):
    copy.configure(hidden_size="wide")
    message = refusal(build, copy.folder)
    assert message.startswith(f"the config.json of '{copy.folder}' cannot be used: ")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["<html></html>", "[1, 2]", ""])
def test_a_config_that_is_no_json_object(text, copy, build):
    (copy.folder / "config.json").write_text(text)
    assert refusal(build, copy.folder) == f"'{copy.folder}/config.json' is not a JSON object; download it again"


@pytest.mark.parametrize("source", ["", "missing", "./missing", "/missing/esm2", "~missing", "a/b/c"])
def test_a_source_that_is_neither_folder_nor_hub_id(source, build):
    assert refusal(build, source) == (
        f"there is no folder '{source}'; name a folder with an ESM-2 checkpoint, or a hub id OWNER/NAME"
    )


def test_a_model_built_fresh_and_saved_by_transformers_loads(build, copy, tmp_path):
    torch.manual_seed(0)
    config = EsmConfig(**json.loads((copy.folder / "config.json").read_text()))
    stock = EsmForMaskedLM(config).eval()
    stock.save_pretrained(tmp_path / "fresh")
    shutil.copy(copy.folder / "vocab.txt", tmp_path / "fresh")
    ids = torch.tensor([[0, *range(4, 24), 2]])
    tokens = torch.ones_like(ids, dtype=torch.bool)
    spans = torch.from_numpy(unit_spans(20, 1, 1))[None]
    with torch.no_grad():
        expected = stock.esm(input_ids=ids, attention_mask=tokens.long()).last_hidden_state
        hidden = build(tmp_path / "fresh")(Batch({"input_ids": ids}, tokens, spans, torch.tensor([20]))).hidden
    assert torch.allclose(hidden, expected, atol=2e-5)
