"""DNABERT as a backbone: other shapes beside stock BERT, in steps, in half precision, learning, under PEFT, in windows."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from dna.kmer_models import DNABERT, Copy, built, kmers, published, reader, shaken, write_vocabulary
from exapt import DataError
from exapt.data.batching import collate
from exapt.parts import Windows

SEQUENCES = ("ACGTTGCATTAGCCGATCAGGA", "GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC", "ACGTAC")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def backbone():
    return built("dnabert", DNABERT / "model")


@pytest.fixture(scope="module")
def batch():
    return read(DNABERT / "model")


def read(source, sequences=SEQUENCES):
    tokenizer = reader("dnabert", source)
    return collate([tokenizer.encode(sequence) for sequence in sequences])


def real(hidden, batch):
    """Return the states of tokens that are there; what a model says of padding is nobody's business."""
    return hidden[batch.present]


def other(folder, k, **config):
    """Write a DNABERT of another shape as its authors would, and return stock BERT with its weights."""
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"vocab_size": 4**k + 5, "max_position_embeddings": 64, "pad_token_id": 0, "layer_norm_eps": 1e-12}
    torch.manual_seed(k)
    model = shaken(BertForMaskedLM(BertConfig(**shape | config)))
    published(model, folder)
    write_vocabulary(folder, [*SPECIAL, *kmers(k)])
    return model


@pytest.mark.parametrize(
    ("k", "config"),
    [
        (3, {}),
        (4, {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
        (5, {"tie_word_embeddings": False, "type_vocab_size": 1, "hidden_size": 24, "num_attention_heads": 6}),
        (6, {"hidden_act": "gelu_new", "num_hidden_layers": 1}),
    ],
)
def test_any_shape_gives_what_stock_bert_gives_at_every_layer(k, config, tmp_path):
    stock = other(tmp_path, k, **config)
    backbone, batch = built("dnabert", tmp_path), read(tmp_path)
    with torch.inference_mode():
        theirs = stock(batch["input_ids"], attention_mask=batch.present.long(), output_hidden_states=True)
        for layer, hidden in enumerate(theirs.hidden_states):
            ours = backbone.at_layer(batch, layer).hidden
            torch.testing.assert_close(real(ours, batch), real(hidden, batch), atol=2e-5, rtol=0)
        logits = backbone.language.head(backbone(batch).hidden)
    torch.testing.assert_close(real(logits, batch), real(theirs.logits, batch), atol=2e-5, rtol=0)


def test_a_vocabulary_in_another_order_is_followed(tmp_path):
    stock = other(tmp_path, 3)
    tokens = [*SPECIAL, *kmers(3)]
    write_vocabulary(tmp_path, tokens[::-1])
    copy = Copy.__new__(Copy)
    copy.folder = tmp_path
    copy.configure(pad_token_id=len(tokens) - 1)
    turned = read(tmp_path)
    stock.bert.embeddings.word_embeddings.weight.data = stock.bert.embeddings.word_embeddings.weight.data.flip(0)
    straight = len(tokens) - 1 - turned["input_ids"]
    with torch.inference_mode():
        ours = built("dnabert", tmp_path)(turned).hidden
        theirs = stock.bert(straight, attention_mask=turned.present.long()).last_hidden_state
    torch.testing.assert_close(real(ours, turned), real(theirs, turned), atol=2e-5, rtol=0)


def test_a_batch_without_padding_needs_no_mask_and_gives_the_same(backbone, batch):
    with torch.inference_mode():
        alone = backbone(read(DNABERT / "model", SEQUENCES[1:2])).hidden[0]
        torch.testing.assert_close(alone, backbone(batch).hidden[1], atol=1e-5, rtol=0)


def test_the_language_model_is_tied_as_the_checkpoint_says(backbone, tmp_path):
    words = backbone.module.embeddings.word_embeddings.weight
    assert backbone.language.objective == "masked"
    assert backbone.language.head.decoder.weight is words
    other(tmp_path, 3, tie_word_embeddings=False)
    apart = built("dnabert", tmp_path)
    assert not torch.equal(apart.language.head.decoder.weight, apart.module.embeddings.word_embeddings.weight)


def test_fresh_weights_come_from_torchs_generator(backbone):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(built("dnabert", DNABERT / "model", weights=False).state_dict())
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][query], states[2][query])
    assert states[0].keys() == backbone.state_dict().keys()
    assert states[0][query].std().item() == pytest.approx(0.02, rel=0.1)
    assert not states[0]["bert.embeddings.word_embeddings.weight"][0].any()


def test_every_parameter_of_the_module_gets_a_gradient(backbone, batch):
    backbone.train()
    backbone(batch).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []


def test_dropout_is_on_in_training_alone(backbone, batch):
    assert torch.equal(backbone(batch).hidden, backbone(batch).hidden)
    backbone.train()
    assert not torch.equal(backbone(batch).hidden, backbone(batch).hidden)


def test_bf16_autocast_is_finite_and_near(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_opens_in_plain_peft_on_stock_bert_and_comes_back(backbone, batch, tmp_path):
    stock = BertModel(_stock_config(), add_pooling_layer=False)
    stock.load_state_dict(dict(backbone.module.state_dict()), strict=False)
    config = LoraConfig(r=4, target_modules=list(backbone.lora_targets), init_lora_weights=False)
    torch.manual_seed(1)
    theirs = PeftModel(stock, config).eval()
    theirs.save_pretrained(tmp_path)
    folder = load_file(tmp_path / "adapter_model.safetensors")
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    ours = {f"base_model.model.{name}" for name in get_peft_model_state_dict(backbone.module)}
    assert ours == folder.keys()
    with torch.no_grad():
        for name, place in backbone.module.named_parameters():
            if ".lora_" in name:
                place.copy_(folder[f"base_model.model.{name.replace('.default.', '.')}"])
    with torch.inference_mode():
        hidden = theirs(batch["input_ids"], attention_mask=batch.present.long()).last_hidden_state
        torch.testing.assert_close(real(backbone.eval()(batch).hidden, batch), real(hidden, batch), atol=2e-5, rtol=0)


def _stock_config():
    return BertConfig.from_pretrained(DNABERT / "model", pad_token_id=0)


def test_a_sequence_beyond_the_context_is_read_in_windows_when_asked(backbone):
    long = read(DNABERT / "model", [SEQUENCES[1] * 5])
    assert long.present.shape[1] > backbone.max_tokens == 96
    backbone.windows = Windows("pool", 0.25)
    with torch.inference_mode():
        features = backbone.at_layer(long, -1)
        first = backbone(read(DNABERT / "model", [(SEQUENCES[1] * 5)[: 94 + 5]]))
    assert features.hidden.shape == (*long.spans.shape[:2], 24)
    torch.testing.assert_close(features.hidden[0, 1:40], first.hidden[0, 1:40], atol=1e-5, rtol=0)
    assert features.per_unit()[1].all()


def test_a_bare_checkpoint_has_no_language_model(tmp_path):
    copy = Copy(DNABERT, tmp_path / "bare")
    bare = {name.removeprefix("bert."): value for name, value in copy.tensors.items() if name.startswith("bert.")}
    copy.save(bare)
    backbone = built("dnabert", copy.folder)
    assert backbone.language is None
    assert torch.equal(
        backbone.bert.embeddings.word_embeddings.weight, copy.tensors["bert.embeddings.word_embeddings.weight"]
    )


def test_an_activation_that_there_is_not(tmp_path):
    copy = Copy(DNABERT, tmp_path / "odd")
    copy.configure(hidden_act="mish")
    with pytest.raises(DataError) as refusal:
        built("dnabert", copy.folder)
    assert str(refusal.value) == (
        f"the config.json of '{copy.folder}' cannot be used: hidden_act is 'mish', "
        "not one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish"
    )
