"""Every tensor of a DNABERT is accounted for, and every damaged or foreign checkpoint is refused in a sentence."""

import shutil

import pytest
import torch

from dna.kmer_models import DNABERT, GOLDEN, NT1, Copy, built, kmers, write_vocabulary
from exapt import DataError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
CODE = "asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
DAMAGED = "is damaged, cut short, or holds more than tensors; download it again"


@pytest.fixture
def copy(tmp_path):
    return Copy(DNABERT, tmp_path / "dnabert")


def refusal(copy, **options):
    with pytest.raises(DataError) as refused:
        built("dnabert", copy.folder, **options)
    return str(refused.value)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_of_the_file_is_left_out_but_the_pooler(copy):
    kept = built("dnabert", copy.folder).state_dict()
    left = {name for name in copy.tensors if name not in kept}
    assert left == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "cls.predictions.bias"}
    assert torch.equal(kept["cls.predictions.decoder.bias"], copy.tensors["cls.predictions.bias"])
    assert all(torch.equal(kept[name], copy.tensors[name]) for name in kept)


def old(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    "changed",
    [
        lambda tensors: {old(name): value for name, value in tensors.items()},
        lambda tensors: {name: value for name, value in tensors.items() if "pooler" not in name},
        lambda tensors: {name: value for name, value in tensors.items() if name != DECODER},
        lambda tensors: {name: value for name, value in tensors.items() if name != "cls.predictions.bias"},
        lambda tensors: {name: value for name, value in tensors.items() if name != "cls.predictions.decoder.bias"},
        lambda tensors: {name.removeprefix("bert."): value for name, value in tensors.items()},
        lambda tensors: tensors | {"bert.embeddings.position_ids": torch.arange(96)[None]},
        lambda tensors: tensors | {"cls.seq_relationship.weight": torch.zeros(2, 24)},
    ],
    ids=["gamma", "no-pooler", "no-decoder", "one-bias", "old-bias", "bare-names", "position-ids", "two-texts"],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_files_of_all_ages_give_the_same(name, changed, copy):
    copy.save({key: value.clone() for key, value in changed(copy.tensors).items()}, name)
    assert same(built("dnabert", copy.folder), built("dnabert", DNABERT / "model"))


def test_half_precision_files_are_read_into_fp32(copy):
    copy.save({name: value.half() for name, value in copy.tensors.items()})
    backbone = built("dnabert", copy.folder)
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}


def test_an_untied_decoder_has_a_bias_of_its_own(copy):
    copy.configure(tie_word_embeddings=False)
    own = copy.tensors["cls.predictions.decoder.bias"] + 1
    copy.save(copy.tensors | {DECODER: copy.tensors[WORDS] + 1, "cls.predictions.decoder.bias": own})
    backbone = built("dnabert", copy.folder)
    assert torch.equal(backbone.language.head.decoder.weight, copy.tensors[WORDS] + 1)
    assert torch.equal(backbone.language.head.decoder.bias, own)


def test_a_tied_decoder_that_differs_is_refused(copy):
    copy.save(copy.tensors | {DECODER: copy.tensors[WORDS] + 1})
    assert refusal(copy) == f"the weights of '{copy.folder}' hold two different tensors for '{WORDS}'"


def test_a_missing_tensor_is_refused(copy):
    del copy.tensors["bert.encoder.layer.1.output.dense.bias"]
    copy.save(copy.tensors)
    assert refusal(copy) == (
        f"the weights of '{copy.folder}' lack 1 tensors, such as 'bert.encoder.layer.1.output.dense.bias'"
    )


def test_half_a_language_model_head_is_refused(copy):
    del copy.tensors["cls.predictions.transform.dense.weight"]
    copy.save(copy.tensors)
    assert refusal(copy) == (
        f"the weights of '{copy.folder}' lack 1 tensors, such as 'cls.predictions.transform.dense.weight'"
    )


def test_an_unexpected_tensor_is_refused(copy):
    copy.save(copy.tensors | {"classifier.weight": torch.zeros(2)})
    assert refusal(copy) == f"the weights of '{copy.folder}' hold 'classifier.weight', which DNABERT does not have"


def test_a_wrong_k_is_refused(copy):
    write_vocabulary(copy.folder, [*SPECIAL, *kmers(5)])
    assert refusal(copy) == (
        f"'{copy.folder}' does not fit together: its vocab.txt has 1,029 tokens (k = 5), its config.json says 4,101"
    )
    copy.configure(vocab_size=1029)
    assert refusal(copy) == (
        f"'{WORDS}' in the weights of '{copy.folder}' has the shape [4101, 24], "
        "where its config.json asks for [1029, 24]"
    )


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        (["<!DOCTYPE", "html>"], "it lacks [PAD], [UNK], [CLS], [SEP], [MASK]"),
        ([*SPECIAL, *kmers(3), "AAA"], "it names a token twice"),
        ([*SPECIAL, *kmers(3)[:-2]], "it holds 62 of the 64 words of 3 bases"),
        ([*SPECIAL, *kmers(3), *kmers(2)], "it holds words of 2 and 3 bases, where all should have one length"),
        ([*SPECIAL, "the", "##ing", *kmers(3)], "it holds the, ##ing, which no words of A, C, G and T are"),
        (SPECIAL, "it holds no k-mer"),
    ],
)
def test_a_vocabulary_that_is_none(tokens, what, copy):
    write_vocabulary(copy.folder, tokens)
    assert refusal(copy) == f"'{copy.folder}/vocab.txt' is no vocabulary of DNABERT: {what}"


def test_a_binary_vocabulary(copy):
    (copy.folder / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    assert refusal(copy) == f"'{copy.folder}/vocab.txt' is not a text file; download it again"


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "pytorch_model.bin"])
def test_a_folder_that_lacks_a_file(name, copy):
    (copy.folder / name).unlink()
    what = "model.safetensors or pytorch_model.bin" if name == "pytorch_model.bin" else name
    assert refusal(copy) == f"the folder '{copy.folder}' has no {what}, so it is no DNABERT checkpoint"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder",
        ),
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page, not the weights; download it again"),
        (b"", DAMAGED),
    ],
)
def test_files_that_are_no_weights(content, message, copy):
    copy.file.write_bytes(content)
    assert refusal(copy) == f"'{copy.file}' {message}"


def test_weights_that_are_cut_short(copy):
    copy.file.write_bytes(copy.file.read_bytes()[:-1000])
    assert refusal(copy) == f"'{copy.file}' {DAMAGED}"


def test_weights_that_were_tampered_with(copy):
    content = bytearray(copy.file.read_bytes())
    content[:64] = b"\x00" * 64
    copy.file.write_bytes(content)
    assert refusal(copy) == f"'{copy.file}' {DAMAGED}"


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_with_code_is_not_executed(copy, capsys):
    torch.save({**copy.tensors, "payload": Payload()}, copy.file)
    assert refusal(copy) == f"'{copy.file}' {CODE}"
    assert capsys.readouterr().out == ""


def test_weights_of_dnabert_2_are_refused_with_the_reason(copy):
    name = "bert.encoder.layer.0.mlp.gated_layers.weight"
    copy.save({name: torch.zeros(128, 24)} | copy.tensors)
    assert refusal(copy) == (
        f"the weights of '{copy.folder}' hold '{name}', which is of DNABERT-2, not DNABERT; "
        f"name it as dnabert2:{copy.folder}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"alibi_starting_size": 512},
            "'{0}' is a DNABERT-2, whose attention has linear biases in place of DNABERT's learned positions; "
            "name it as dnabert2:{0}",
        ),
        ({"model_type": "esm"}, "'{0}' is a model of the type 'esm', not DNABERT"),
        ({"position_embedding_type": "relative_key"}, "'{0}' has relative_key positions; DNABERT has absolute ones"),
        ({"num_attention_heads": 5}, "'{0}' does not fit together: its width 24 makes no heads of one width out of 5"),
        ({"pad_token_id": 3}, "'{0}' does not fit together: [PAD] is 0 in its vocab.txt, 3 in its config.json"),
        (
            {"hidden_size": "wide"},
            "the config.json of '{0}' cannot be used: hidden_size: Input should be a valid integer, "
            "unable to parse string as an integer",
        ),
        ({"num_hidden_layers": None}, "the config.json of '{0}' cannot be used: num_hidden_layers: Field required"),
    ],
)
def test_a_config_of_another_model(changes, message, copy):
    copy.configure(**changes)
    assert refusal(copy) == message.format(copy.folder)


def test_a_folder_with_word_pieces_is_taken_for_dnabert_2(copy):
    (copy.folder / "vocab.txt").unlink()
    (copy.folder / "tokenizer.json").write_text("{}")
    assert refusal(copy) == (
        f"'{copy.folder}' has a tokenizer.json of word pieces, as DNABERT-2 has, in place of DNABERT's vocab.txt of "
        f"k-mers; name it as dnabert2:{copy.folder}"
    )


@pytest.mark.parametrize("golden", [NT1, GOLDEN / "esm2" / "given"], ids=["nucleotide-transformer", "esm2"])
def test_other_families_are_refused(golden, tmp_path):
    shutil.copytree(golden / "model", tmp_path / "other")
    with pytest.raises(DataError) as refused:
        built("dnabert", tmp_path / "other")
    assert str(refused.value) == f"'{tmp_path / 'other'}' is a model of the type 'esm', not DNABERT"
