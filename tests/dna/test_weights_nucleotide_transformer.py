"""Every tensor of a Nucleotide Transformer is accounted for, and every foreign checkpoint is refused in a sentence."""

import pytest
import torch

from dna.kmer_models import DNABERT, GOLDEN, NT, NT1, NT2, Copy, built, kmers, write_vocabulary
from exapt import DataError

ESM2 = GOLDEN / "esm2" / "given"
V1 = ["<unk>", "<pad>", "<mask>", "<cls>"]
WORDS = "esm.embeddings.word_embeddings.weight"
CODE = "asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
DAMAGED = "is damaged, cut short, or holds more than tensors; download it again"


@pytest.fixture(params=[NT1, NT2], ids=["v1", "v2"])
def golden(request):
    return request.param


@pytest.fixture
def copy(golden, tmp_path):
    return Copy(golden, tmp_path / "nt")


def refusal(folder, family=NT, **options):
    with pytest.raises(DataError) as refused:
        built(family, folder, **options)
    return str(refused.value)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def left_out(copy):
    kept = built(NT, copy.folder).state_dict()
    assert all(torch.equal(kept[name], copy.tensors[name]) for name in kept if "inv_freq" not in name)
    return {name for name in copy.tensors if name not in kept}


def test_what_is_left_out_of_version_1(tmp_path):
    contacts = {"esm.contact_head.regression.weight", "esm.contact_head.regression.bias"}
    assert left_out(Copy(NT1, tmp_path / "nt")) == contacts


def test_what_is_left_out_of_version_2(tmp_path):
    copy = Copy(NT2, tmp_path / "nt")
    frequencies = {f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq" for layer in (0, 1)}
    contacts = {"esm.contact_head.regression.weight", "esm.contact_head.regression.bias"}
    assert left_out(copy) == contacts | frequencies | {"esm.embeddings.position_embeddings.weight"}
    stored = copy.tensors[min(frequencies)]
    assert torch.equal(built(NT, copy.folder).module.rotary_embeddings.inv_freq, stored)


@pytest.mark.parametrize(
    "changed",
    [
        lambda tensors: {name: value for name, value in tensors.items() if "contact_head" not in name},
        lambda tensors: {name: value for name, value in tensors.items() if "inv_freq" not in name},
        lambda tensors: {name.removeprefix("esm."): value for name, value in tensors.items()},
        lambda tensors: tensors | {"esm.embeddings.position_ids": torch.arange(40)[None]},
        lambda tensors: tensors | {"esm.pooler.dense.weight": torch.zeros(24, 24)},
    ],
    ids=["no-contacts", "no-frequencies", "bare-names", "position-ids", "pooler"],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_files_of_all_ages_give_the_same(name, changed, copy, golden):
    copy.save(changed(copy.tensors), name)
    assert same(built(NT, copy.folder), built(NT, golden / "model"))


def test_a_column_major_file_gives_the_same(copy, golden):
    (copy.folder / "model.safetensors").unlink()
    turned = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in copy.tensors.items()}
    torch.save(turned, copy.folder / "pytorch_model.bin")
    assert same(built(NT, copy.folder), built(NT, golden / "model"))


def test_layers_that_disagree_on_frequencies_are_refused(tmp_path):
    copy = Copy(NT2, tmp_path / "nt")
    copy.save(copy.tensors | {"esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq": torch.ones(6)})
    assert refusal(copy.folder) == (
        f"the weights of '{copy.folder}' hold two different tensors for 'esm.rotary_embeddings.inv_freq'"
    )


def test_weights_of_the_other_version_are_refused_with_the_reason(tmp_path):
    first, second = Copy(NT1, tmp_path / "first"), Copy(NT2, tmp_path / "second")
    widening = "esm.encoder.layer.0.intermediate.dense.weight"
    first.save({widening: torch.zeros(128, 24)} | {n: t for n, t in first.tensors.items() if n != widening})
    assert refusal(first.folder) == (
        f"the weights of '{first.folder}' have gated feed-forward layers, as version 2 of Nucleotide Transformer has; "
        "its config.json is of version 1"
    )
    second.save({widening: torch.zeros(40, 24)} | {n: t for n, t in second.tensors.items() if n != widening})
    assert refusal(second.folder) == (
        f"the weights of '{second.folder}' have plain feed-forward layers, as version 1 of Nucleotide Transformer has; "
        "its config.json is of version 2"
    )


def test_learned_positions_are_needed_in_version_1(tmp_path):
    copy = Copy(NT1, tmp_path / "nt")
    del copy.tensors["esm.embeddings.position_embeddings.weight"]
    copy.save(copy.tensors)
    assert refusal(copy.folder) == (
        f"the weights of '{copy.folder}' lack 1 tensors, such as 'esm.embeddings.position_embeddings.weight'"
    )


def test_an_untied_decoder_is_needed(copy):
    del copy.tensors["lm_head.decoder.weight"]
    copy.save(copy.tensors)
    assert refusal(copy.folder) == (f"the weights of '{copy.folder}' lack 1 tensors, such as 'lm_head.decoder.weight'")


def test_an_unexpected_tensor_is_refused(copy):
    copy.save(copy.tensors | {"classifier.weight": torch.zeros(2)})
    assert refusal(copy.folder) == (
        f"the weights of '{copy.folder}' hold 'classifier.weight', which Nucleotide Transformer does not have"
    )


def test_a_wrong_k_is_refused(tmp_path):
    copy = Copy(NT1, tmp_path / "nt")
    write_vocabulary(copy.folder, [*V1, *kmers(5), *"ATCGN"])
    assert refusal(copy.folder) == (
        f"'{copy.folder}' does not fit together: its vocab.txt has 1,033 tokens (k = 5), its config.json says 4,105"
    )
    copy.configure(vocab_size=1033)
    copy.save({WORDS: copy.tensors[WORDS]} | copy.tensors)
    assert refusal(copy.folder) == (
        f"'{WORDS}' in the weights of '{copy.folder}' has the shape [4105, 24], "
        "where its config.json asks for [1033, 24]"
    )


def test_a_vocabulary_of_the_other_version_is_refused(tmp_path):
    copy = Copy(NT1, tmp_path / "nt")
    (copy.folder / "vocab.txt").write_bytes((NT2 / "model" / "vocab.txt").read_bytes())
    assert refusal(copy.folder) == (
        f"'{copy.folder}' does not fit together: its vocab.txt has 4,107 tokens (k = 6), its config.json says 4,105"
    )


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        ([*V1, *kmers(3), *"ATCG"], "it lacks N"),
        ([*V1, *kmers(3)[1:], *"ATCGN"], "it holds 63 of the 64 words of 3 bases"),
        ([*V1, *"ATCGN"], "it holds no k-mer"),
    ],
)
def test_a_vocabulary_that_is_none(tokens, what, copy):
    write_vocabulary(copy.folder, tokens)
    assert refusal(copy.folder) == f"'{copy.folder}/vocab.txt' is no vocabulary of Nucleotide Transformer: {what}"


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_folder_that_lacks_a_file(name, copy):
    (copy.folder / name).unlink()
    what = "model.safetensors or pytorch_model.bin" if name == "model.safetensors" else name
    assert refusal(copy.folder) == (
        f"the folder '{copy.folder}' has no {what}, so it is no Nucleotide Transformer checkpoint"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder",
        ),
        (b"\x00" * 200, DAMAGED),
    ],
)
def test_files_that_are_no_weights(content, message, copy):
    copy.file.write_bytes(content)
    assert refusal(copy.folder) == f"'{copy.file}' {message}"


def test_weights_that_are_cut_short(copy):
    copy.file.write_bytes(copy.file.read_bytes()[:-1000])
    assert refusal(copy.folder) == f"'{copy.file}' {DAMAGED}"


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_with_code_is_not_executed(copy, capsys):
    copy.file.unlink()
    torch.save({**copy.tensors, "payload": Payload()}, copy.folder / "pytorch_model.bin")
    assert refusal(copy.folder) == f"'{copy.folder}/pytorch_model.bin' {CODE}"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "'{}' is a model of the type 'bert', not Nucleotide Transformer"),
        (
            {"position_embedding_type": "relative_key"},
            "'{}' has relative_key positions; Nucleotide Transformer has absolute or rotary ones",
        ),
        ({"is_folding_model": True}, "'{}' is a folding model, not Nucleotide Transformer"),
        ({"num_attention_heads": 7}, "'{}' does not fit together: its width 24 makes no heads of {} width out of 7"),
        ({"pad_token_id": 0}, "'{}' does not fit together: <pad> is 1 in its vocab.txt, 0 in its config.json"),
        ({"mask_token_id": 4}, "'{}' does not fit together: <mask> is 2 in its vocab.txt, 4 in its config.json"),
        ({"hidden_size": None}, "the config.json of '{}' cannot be used: hidden_size: Field required"),
    ],
)
def test_a_config_of_another_model(changes, message, copy, golden):
    copy.configure(**changes)
    assert refusal(copy.folder) == message.format(copy.folder, "one" if golden == NT1 else "an even")


def test_a_protein_model_is_refused(tmp_path):
    copy = Copy(ESM2, tmp_path / "esm2")
    assert refusal(copy.folder) == (
        f"'{copy.folder}/vocab.txt' is no vocabulary of Nucleotide Transformer: "
        "it holds B, D, E, which no words of A, C, G and T are"
    )


def test_dnabert_is_refused(tmp_path):
    copy = Copy(DNABERT, tmp_path / "dnabert")
    assert refusal(copy.folder) == (
        f"'{copy.folder}/vocab.txt' is no vocabulary of Nucleotide Transformer: "
        "it lacks <unk>, <pad>, <mask>, <cls>, A, C, G, T, N"
    )


def test_esm_2_refuses_both_versions(tmp_path):
    first, second = Copy(NT1, tmp_path / "first"), Copy(NT2, tmp_path / "second")
    assert refusal(first.folder, "esm2") == (
        f"'{first.folder}' has absolute positions, as ESM-1b has; ESM-2 has rotary ones"
    )
    second.configure(model_type="esm")
    assert refusal(second.folder, "esm2") == (f"'{second.folder}/vocab.txt' is no vocabulary of ESM-2: it lacks X")
