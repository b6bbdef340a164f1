"""Published checkpoints, through the module that plugins read them with: whatever is wrong with a file is one sentence."""

import json
import pickle

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from exapt import DataError
from exapt.weights import Files, fill, read_tensors, refuse_missing


@pytest.fixture
def files(tmp_path):
    return Files(str(tmp_path), "", "tiny", "Tiny")


def refused(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


def test_shards_are_read_one_after_the_other(files, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {name: len(tensor) for name, tensor in files.tensors()} == {"a": 2, "b": 3}


@pytest.mark.parametrize("index", [{}, {"weight_map": [1]}, {"weight_map": None}, {"weight_map": {"a": "../config.json"}},
                                   {"weight_map": {"a": "x" * 5000}}, {"weight_map": {"a": "\u4e00" * 100}},
                                   {"weight_map": {"a": 1, "b": "x"}}, {"weight_map": {"a": ""}}])  # fmt: skip
def test_an_index_that_is_none(files, tmp_path, index):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert refused(lambda: list(files.tensors())) == f"'{path}' is no index of weights; download it again"


def damaged(path, whole, place):
    """Return what is said of a file with one byte turned over; nothing where the byte does not matter."""
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    try:
        read_tensors(path)
    except DataError as error:
        return str(error)
    return ""


def test_every_damage_to_a_pickle_is_one_sentence(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({f"layer.{n}.weight": torch.ones(4, n + 1) for n in range(6)}, path)
    whole = path.read_bytes()
    said = [damaged(path, whole, place) for place in range(0, len(whole), 41)]
    refusals = [text for text in said if text]
    assert len(refusals) > 10
    assert all(text.startswith(f"'{path}' ") for text in refusals)


@pytest.mark.parametrize("text", [b"hello world", b"Entry not found", b""])
def test_a_text_in_place_of_weights(tmp_path, text):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(text)
    assert refused(read_tensors, path) == (
        f"'{path}' is damaged, cut short, or holds more than tensors; download it again"
    )


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_named_and_never_run(tmp_path, capsys, old):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": Evil()}, path, pickle_module=pickle, _use_new_zipfile_serialization=not old)
    assert refused(read_tensors, path) == (
        f"'{path}' asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
    )
    assert capsys.readouterr().out == ""


def test_whole_numbers_are_no_weights(files):
    wanted = {"a": torch.zeros(2)}
    assert refused(fill, wanted, [("a", torch.ones(2, dtype=torch.int64))], files, {}) == (
        f"the weights of '{files.source}' hold 'a' as torch.int64, where Tiny has torch.float32; they are of another "
        "kind or damaged"
    )


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (torch.tensor([1.0, float("nan")]), torch.float32),
        (torch.tensor([1.0, float("-inf")]), torch.float32),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), torch.float32),
        (torch.tensor([1.0, 1e6]), torch.float16),
    ],
)
def test_weights_are_finite_in_the_model(files, given, kind):
    wanted = {"a": torch.zeros(2, dtype=kind)}
    assert refused(fill, wanted, [("a", given)], files, {}) == (
        f"the weights of '{files.source}' hold values in 'a' that are not finite as {kind}; they are damaged: download "
        "them again"
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (lambda: torch.ones(2).to_sparse(), "a sparse tensor"),
        (lambda: torch.empty(2, device="meta"), "a tensor without values"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantized tensor"),
    ],
    ids=["sparse", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_tensor_that_is_no_plain_one(files, tmp_path, given, what):
    torch.save({"a": given()}, tmp_path / "pytorch_model.bin")
    assert refused(fill, {"a": torch.zeros(2)}, files.tensors(), files, {}) == (
        f"the weights of '{files.source}' hold 'a' as {what}; save them as plain ones"
    )


def test_a_tensor_that_has_a_number_for_a_name(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({0: torch.ones(2)}, path)
    assert refused(read_tensors, path) == f"'{path}' holds something else than tensors by name"


@pytest.mark.parametrize("start", ["[", '{"a":'])
def test_a_config_that_is_too_deep(files, tmp_path, start):
    (tmp_path / "config.json").write_text(start * 200000)
    assert refused(files.json, "config.json") == (
        f"'{tmp_path / 'config.json'}' is not a JSON object; download it again"
    )


def test_every_tensor_is_accounted_for(files):
    wanted = {"a": torch.zeros(2), "b": torch.zeros(3)}
    missing = fill(
        wanted, [("a", torch.ones(2, dtype=torch.float16)), ("pooler.x", torch.ones(1))], files, {"pooler.": ""}
    )
    assert wanted["a"].tolist() == [1, 1]
    assert missing == {"b"}
    assert refused(refuse_missing, missing, files) == f"the weights of '{files.source}' lack 1 tensors, such as 'b'"
    assert refused(fill, wanted, [("c", torch.ones(1))], files, {}) == (
        f"the weights of '{files.source}' hold 'c', which Tiny does not have"
    )


def test_what_is_in_the_cache_is_taken_without_asking_the_hub(tmp_path, monkeypatch):
    """The .bin of a pinned revision is there: nobody looks for the .safetensors first, which would need a network."""
    revision = "0123456789012345678901234567890123456789"
    folder = tmp_path / "models--owner--tiny" / "snapshots" / revision
    folder.mkdir(parents=True)
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_OFFLINE", False)

    def no_network(*_, **__):
        raise AssertionError("asked the hub")

    monkeypatch.setattr("huggingface_hub.file_download._get_metadata_or_catch_error", no_network)
    assert [name for name, _ in Files("owner/tiny", revision, "tiny", "Tiny").tensors()] == ["a"]


@pytest.mark.parametrize("level", ["model_state_dict", "state_dict"])
def test_the_tensors_of_a_trainers_checkpoint(level, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"epoch": 3, level: {"a": torch.ones(2)}, "optimizer": {"state": [torch.zeros(1)]}}, path)
    assert {name: tensor.tolist() for name, tensor in read_tensors(path).items()} == {"a": [1, 1]}
    torch.save({level: {"a": 1.5}}, path)
    assert refused(read_tensors, path) == f"'{path}' holds something else than tensors by name"
    torch.save({level: {"a": print}}, path)
    assert refused(read_tensors, path) == (
        f"'{path}' asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
    )
