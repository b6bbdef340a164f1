"""Every tensor of a DNABERT-2 is accounted for, and every damaged or foreign file is refused in a sentence."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from dna.long_models import DAMAGED, DNABERT2, EXACT, HYENA, Copy, Payload, built, ids, reader, refusal, write_pieces
from exapt.plugins import current
from exapt_dna.dnabert.modules import BertShape
from exapt_dna.dnabert2 import CHECKPOINTS
from exapt_dna.dnabert2.backbone import Dnabert2

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
STOCK = (
    "DNABERT-2 has biases in place of learned positions, and gated layers; if this is a DNABERT, name it as dnabert:{0}"
)


@pytest.fixture
def copy(tmp_path):
    return Copy(DNABERT2 / "model", tmp_path / "dnabert2")


def build(copy, **options):
    return built("dnabert2", copy.folder, **options)


def refused(copy):
    return refusal(built, "dnabert2", copy.folder)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_tensor_of_the_file_is_in_the_model_and_no_other(copy):
    state = build(copy).state_dict()
    assert state.keys() == copy.tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in copy.tensors.items())


def test_the_decoder_is_the_embeddings(copy):
    backbone = build(copy)
    assert backbone.cls["predictions"].decoder.weight is backbone.module.embeddings.word_embeddings.weight


def test_safetensors_without_the_tied_decoder_give_the_same(copy):
    whole = build(copy)
    copy.save({name: value for name, value in copy.tensors.items() if name != DECODER}, "model.safetensors")
    assert same(build(copy), whole)


def test_an_untied_decoder_is_kept_apart(copy):
    copy.configure(tie_word_embeddings=False)
    copy.save(copy.tensors | {DECODER: copy.tensors[EMBEDDINGS] + 1})
    backbone = build(copy)
    assert torch.equal(backbone.cls["predictions"].decoder.weight, copy.tensors[EMBEDDINGS] + 1)
    assert torch.equal(backbone.module.embeddings.word_embeddings.weight, copy.tensors[EMBEDDINGS])


def test_a_tied_decoder_that_differs_is_refused(copy):
    copy.save(copy.tensors | {DECODER: copy.tensors[EMBEDDINGS] + 1})
    assert refused(copy) == f"the weights of '{copy.folder}' hold two different tensors for '{EMBEDDINGS}'"


def test_a_pooler_made_up_by_another_program_is_left_out(copy):
    whole = build(copy)
    pooler = {"bert.pooler.dense.weight": torch.ones(48, 48), "bert.pooler.dense.bias": torch.ones(48)}
    copy.save(copy.tensors | pooler)
    assert same(build(copy), whole)


def test_a_checkpoint_of_the_bare_model_has_no_language_model(copy):
    bare = {name.removeprefix("bert."): value for name, value in copy.tensors.items() if name.startswith("bert.")}
    copy.save(bare)
    backbone = build(copy)
    assert backbone.language is None
    assert torch.equal(backbone.state_dict()[EMBEDDINGS], copy.tensors[EMBEDDINGS])


def test_padding_is_the_tokenizers_whatever_the_config_says(copy):
    copy.configure(pad_token_id=0)
    assert build(copy).module.embeddings.word_embeddings.padding_idx == 3


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "classifier.weight",
            torch.zeros(2),
            "the weights of '{}' hold 'classifier.weight', which DNABERT-2 does not have",
        ),
        (
            "bert.encoder.layer.1.attention.self.Wqkv.weight",
            torch.zeros(48, 48),
            "'bert.encoder.layer.1.attention.self.Wqkv.weight' in the weights of '{}' has the shape [48, 48], where its "
            "config.json asks for [144, 48]",
        ),
        (
            "bert.encoder.layer.1.mlp.wo.bias",
            None,
            "the weights of '{}' lack 1 tensors, such as 'bert.encoder.layer.1.mlp.wo.bias'",
        ),
        (
            "cls.predictions.decoder.bias",
            None,
            "the weights of '{}' lack 1 tensors, such as 'cls.predictions.decoder.bias'",
        ),
    ],
)
def test_tensors_that_do_not_fit(name, tensor, message, copy):
    kept = {key: value for key, value in copy.tensors.items() if key != name}
    copy.save(kept if tensor is None else kept | {name: tensor})
    assert refused(copy) == message.format(copy.folder)


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_files_that_are_no_weights(content, message, copy):
    copy.file.write_bytes(content)
    assert refused(copy) == f"'{copy.file}' {message}"


def test_weights_cut_short(copy):
    copy.file.write_bytes(copy.file.read_bytes()[:-1000])
    assert refused(copy) == f"'{copy.file}' is damaged, cut short, or holds more than tensors; download it again"


def test_a_pickle_with_code_is_not_executed(copy, capsys):
    torch.save(copy.tensors | {"payload": Payload()}, copy.file)
    assert (
        refused(copy)
        == f"'{copy.file}' asks for 'print' to be run, which exapt does not do; take the weights as safetensors"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file(name, copy):
    (copy.folder / name).unlink()
    assert refused(copy) == f"the folder '{copy.folder}' has no {name}, so it is no DNABERT-2 checkpoint"


def test_a_folder_without_weights_still_gives_fresh_ones(copy):
    copy.file.unlink()
    assert refused(copy) == (
        f"the folder '{copy.folder}' has no model.safetensors or pytorch_model.bin, so it is no DNABERT-2 checkpoint"
    )
    assert build(copy, weights=False).width == 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "esm"}, "'{0}' is a model of the type 'esm', not DNABERT-2"),
        (
            {"alibi_starting_size": None},
            f"'{{0}}' is a stock BERT, not DNABERT-2: its config.json has no alibi_starting_size. {STOCK}",
        ),
        (
            {"hidden_act": "relu"},
            "the config.json of '{0}' cannot be used: hidden_act is 'relu', DNABERT-2 has 'gelu'",
        ),
        (
            {"vocab_size": 4101},
            "'{0}' does not fit together: its tokenizer.json has 4,096 tokens, its config.json says 4,101",
        ),
        (
            {"num_attention_heads": 5},
            "'{0}' does not fit together: its width 48 makes no heads of one width out of 5",
        ),
        (
            {"num_hidden_layers": None},
            "the config.json of '{0}' cannot be used: num_hidden_layers: Field required",
        ),
    ],
)
def test_a_config_of_another_model(changes, message, copy):
    copy.configure(**changes)
    assert refused(copy) == message.format(copy.folder)


def stock_bert(folder, **config):
    """Write a stock BERT of the golden checkpoint's size, with its word pieces."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 4096, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}
    model = BertForMaskedLM(BertConfig(**sizes, num_attention_heads=12))
    folder.mkdir()
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**model.config.to_dict(), "dtype": None} | config))
    write_pieces(folder / "tokenizer.json")
    return folder


def test_a_stock_bert_is_refused(tmp_path):
    folder = stock_bert(tmp_path / "bert")
    assert refusal(built, "dnabert2", folder) == (
        f"'{folder}' is a stock BERT, not DNABERT-2: its config.json has no alibi_starting_size. {STOCK.format(folder)}"
    )


def test_the_weights_of_a_stock_bert_are_refused_whatever_the_config_says(tmp_path):
    folder = stock_bert(tmp_path / "bert", alibi_starting_size=512)
    assert refusal(built, "dnabert2", folder) == (
        f"'{folder}' is a stock BERT, not DNABERT-2: its weights hold 'bert.embeddings.position_embeddings.weight'. "
        f"{STOCK.format(folder)}"
    )


def test_other_families_are_refused(tmp_path):
    shutil.copytree(HYENA / "hf", tmp_path / "hyena")
    assert refusal(built, "dnabert2", tmp_path / "hyena") == (
        f"'{tmp_path / 'hyena'}' is a model of the type 'hyenadna', not DNABERT-2"
    )


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("dnabert", "is a DNABERT-2, whose attention has linear biases"),
        ("hyenadna", "is a model of the type 'None', not HyenaDNA"),
        ("nucleotide-transformer", "the folder '{}' has no vocab.txt, so it is no Nucleotide Transformer checkpoint"),
        ("esm2", "is a model of the type 'None', not ESM-2"),
    ],
)
def test_other_families_refuse_it(family, reason, copy):
    said = refusal(built, family, copy.folder)
    assert reason.format(copy.folder) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html></html>", "'{}' is not a JSON object; download it again"),
        ("version https://git-lfs.github.com/spec/v1\n", "'{}' is not a JSON object; download it again"),
    ],
)
def test_word_pieces_that_are_no_json(text, message, copy):
    path = copy.folder / "tokenizer.json"
    path.write_text(text)
    assert refusal(reader, "dnabert2", copy.folder) == message.format(path)


def test_word_pieces_of_another_kind(copy):
    path = copy.folder / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "Unheard"}}))
    said = refusal(reader, "dnabert2", copy.folder)
    assert said.startswith(f"'{path}' is no vocabulary of DNABERT-2: ")
    assert "\n" not in said


def test_word_pieces_without_the_special_tokens(copy):
    path = copy.folder / "tokenizer.json"
    pieces = json.loads(path.read_text())
    vocabulary = {token.replace("[PAD]", "<pad>"): index for token, index in pieces["model"]["vocab"].items()}
    pieces["model"]["vocab"] = vocabulary
    pieces["added_tokens"] = []
    path.write_text(json.dumps(pieces))
    assert refusal(reader, "dnabert2", copy.folder) == f"'{path}' is no vocabulary of DNABERT-2: it lacks [PAD]"


def test_cutting_and_padding_of_the_file_are_left_out(copy):
    cut = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 3, "pad_type_id": 0, "pad_token": "[PAD]"}
    before = ids(reader("dnabert2", copy.folder).encode("ACGTTGCATTAGC" * 9))
    write_pieces(copy.folder / "tokenizer.json", truncation={**cut, "pad_to_multiple_of": None}, padding=pad)
    assert ids(reader("dnabert2", copy.folder).encode("ACGTTGCATTAGC" * 9)) == before


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACGUACGU", "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T"),
        ("MKTAYIAKQR", "character 'I' at position 6 is no nucleotide; the sequence looks like protein"),
        ("ACG-T", "character '-' at position 4 is no nucleotide"),
        (
            "ACGTNNACGT",
            "2 of 10 letters (N) are unknown to the model, more than max_unknown = 0.05 allows",
        ),
    ],
)
def test_sequences_that_are_refused(sequence, message, copy):
    assert refusal(reader("dnabert2", copy.folder).encode, sequence) == message


def test_rna_is_read_when_asked(copy):
    tokenizer = reader("dnabert2", copy.folder, rna=True)
    assert ids(tokenizer.encode("ACGUUGCA")) == ids(tokenizer.encode("ACGTTGCA"))


def test_lower_case_is_read_as_upper_case_unless_kept(copy):
    tokenizer, keeping = reader("dnabert2", copy.folder), reader("dnabert2", copy.folder, **EXACT)
    assert ids(tokenizer.encode("acgttgca")) == ids(tokenizer.encode("ACGTTGCA"))
    assert ids(keeping.encode("acgt")) == [1, 0, 0, 0, 0, 2]


def test_an_empty_sequence_has_special_tokens_alone(copy):
    encoding = reader("dnabert2", copy.folder).encode("")
    assert (ids(encoding), encoding.length) == ([1, 2], 0)


def test_special_tokens_are_known_to_the_language_model(copy):
    tokenizer = reader("dnabert2", copy.folder)
    assert (tokenizer.mask, tokenizer.special) == (4, {0, 1, 2, 3, 4})


def test_published_parameters_width_and_revision():
    (checkpoint,) = CHECKPOINTS
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    with torch.device("meta"):
        backbone = Dnabert2(BertShape(vocab_size=4096, **sizes), 3, 512)
        backbone.tie()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == checkpoint.parameters == 117_074_176
    assert (checkpoint.width, checkpoint.context, checkpoint.licence) == (backbone.width, 512, "Apache-2.0")
    assert len(checkpoint.revision) == 40
    assert current().checkpoint("dnabert2-117m")[2] == "zhihan1996/DNABERT-2-117M"


def test_the_plugin_is_light():
    heavy = "{'torch', 'transformers', 'numpy', 'tokenizers', 'huggingface_hub', 'safetensors'} & set(sys.modules)"
    code = f"import sys, exapt_dna.plugin as p; list(p.exapt_backbones()); sys.exit(str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 1)
