"""Nucleotide Transformer as a backbone: other shapes beside stock ESM, in steps, learning, under PEFT, in windows."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import EsmConfig, EsmForMaskedLM, EsmModel

from dna.kmer_models import NT, NT1, NT2, Copy, Gated, built, kmers, published, reader, shaken, write_vocabulary
from exapt.data.batching import collate
from exapt.parts import Windows

SEQUENCES = ("ACGTTGCATTAGCCGATCAGGA", "GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC", "ACGTAC")
V1 = ["<unk>", "<pad>", "<mask>", "<cls>"]
V2 = [*V1, "<eos>", "<bos>"]


@pytest.fixture(params=[NT1, NT2], ids=["v1", "v2"])
def golden(request):
    return request.param / "model"


@pytest.fixture
def backbone(golden):
    return built(NT, golden)


@pytest.fixture
def batch(golden):
    return read(golden)


def read(source, sequences=SEQUENCES):
    tokenizer = reader(NT, source)
    return collate([tokenizer.encode(sequence) for sequence in sequences])


def real(hidden, batch):
    """Return the states of tokens that are there; what a model says of padding is nobody's business."""
    return hidden[batch.present]


def other(folder, version, k=6, **config):
    """Write a model of another shape as its authors would, and return stock ESM, its feed-forward layers replaced."""
    tokens = [*(V1 if version == 1 else V2), *kmers(k), *"ATCGN"]
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"vocab_size": len(tokens), "max_position_embeddings": 42, "pad_token_id": 1, "mask_token_id": 2}
    shape |= {"layer_norm_eps": 1e-12, "tie_word_embeddings": False, "hidden_dropout_prob": 0.0}
    shape |= {"position_embedding_type": "absolute" if version == 1 else "rotary", "token_dropout": False}
    torch.manual_seed(k)
    stock = EsmForMaskedLM(EsmConfig(**shape | config))
    if version == 2:
        _gate(stock.esm, stock.config)
    published(shaken(stock), folder, **({"add_bias_fnn": False} if version == 2 else {}))
    write_vocabulary(folder, tokens)
    return stock


def _gate(esm, config):
    for layer in esm.encoder.layer:
        layer.intermediate = Gated(config.hidden_size, config.intermediate_size)
        layer.output.dense.register_parameter("bias", None)


@pytest.mark.parametrize(
    ("version", "k", "config"),
    [
        (1, 6, {"token_dropout": True}),
        (1, 4, {"emb_layer_norm_before": True, "layer_norm_eps": 1e-5, "hidden_size": 24, "num_attention_heads": 8}),
        (1, 3, {"tie_word_embeddings": True}),
        (2, 3, {"num_hidden_layers": 1}),
        (2, 5, {"token_dropout": True, "hidden_size": 48, "num_attention_heads": 2}),
        (2, 6, {"emb_layer_norm_before": True, "tie_word_embeddings": True}),
    ],
)
def test_any_shape_gives_what_stock_esm_gives_at_every_layer(version, k, config, tmp_path):
    stock = other(tmp_path, version, k, **config)
    backbone, batch = built(NT, tmp_path), read(tmp_path)
    # Two tokens hidden, so that token dropout shows.
    batch.arrays["input_ids"][0, 2] = batch.arrays["input_ids"][1, 1] = 2
    with torch.inference_mode():
        theirs = stock(batch["input_ids"], attention_mask=batch.present.long(), output_hidden_states=True)
        for layer, hidden in enumerate(theirs.hidden_states):
            ours = backbone.at_layer(batch, layer).hidden
            torch.testing.assert_close(real(ours, batch), real(hidden, batch), atol=2e-5, rtol=0)
        logits = backbone.language.head(backbone(batch).hidden)
    torch.testing.assert_close(real(logits, batch), real(theirs.logits, batch), atol=2e-5, rtol=0)


def test_a_batch_without_padding_needs_no_mask_and_gives_the_same(backbone, golden, batch):
    with torch.inference_mode():
        alone = backbone(read(golden, SEQUENCES[1:2])).hidden[0]
        torch.testing.assert_close(alone, backbone(batch).hidden[1], atol=1e-5, rtol=0)


def test_the_language_model_is_untied_as_the_checkpoints_say(backbone, tmp_path):
    assert backbone.language.objective == "masked"
    assert not torch.equal(backbone.language.head.decoder.weight, backbone.module.embeddings.word_embeddings.weight)
    other(tmp_path, 1, 3, tie_word_embeddings=True)
    tied = built(NT, tmp_path)
    assert tied.language.head.decoder.weight is tied.module.embeddings.word_embeddings.weight


def test_the_context_is_that_of_the_positions():
    assert (built(NT, NT1 / "model").max_tokens, built(NT, NT2 / "model").max_tokens) == (40, 48)


def test_fresh_weights_come_from_torchs_generator(backbone, golden):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(built(NT, golden, weights=False).state_dict())
    query = "esm.encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][query], states[2][query])
    assert states[0].keys() == backbone.state_dict().keys()
    assert states[0][query].std().item() == pytest.approx(0.02, rel=0.1)


def test_every_parameter_of_the_module_gets_a_gradient(backbone, batch):
    backbone.train()
    backbone(batch).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []


def test_bf16_autocast_is_finite_and_near(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


def test_half_precision_keeps_the_rotary_frequencies_exact():
    backbone, batch = built(NT, NT2 / "model"), read(NT2 / "model")
    exact = backbone.module.rotary_embeddings.inv_freq.clone()
    backbone.to(torch.bfloat16)
    assert torch.equal(backbone.module.rotary_embeddings.inv_freq, exact)
    with torch.inference_mode():
        assert real(backbone(batch).hidden, batch).isfinite().all()


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_of_version_1_opens_in_plain_peft_on_stock_esm_and_comes_back(tmp_path):
    backbone, batch = built(NT, NT1 / "model"), read(NT1 / "model")
    stock = EsmModel.from_pretrained(NT1 / "model", add_pooling_layer=False)
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


def test_lora_reaches_attention_in_blocks_alone(backbone):
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    names = {name.split(".lora_")[0] for name, _ in backbone.module.named_parameters() if ".lora_" in name}
    assert names == {
        f"encoder.layer.{layer}.attention.self.{target}" for layer in (0, 1) for target in backbone.lora_targets
    }


def test_a_sequence_beyond_the_context_is_read_in_windows_when_asked(backbone, golden):
    long = read(golden, [SEQUENCES[1] * 9])
    assert long.present.shape[1] > backbone.max_tokens
    backbone.windows = Windows("pool", 0.25)
    with torch.inference_mode():
        features = backbone.at_layer(long, -1)
    assert features.hidden.shape == (*long.spans.shape[:2], 24)
    units, covered = features.per_unit()
    assert (units.shape[1], bool(covered.all())) == (len(SEQUENCES[1]) * 9, True)


def test_a_bare_checkpoint_has_no_language_model(golden, tmp_path):
    copy = Copy(golden.parent, tmp_path / "bare")
    bare = {name.removeprefix("esm."): value for name, value in copy.tensors.items() if name.startswith("esm.")}
    copy.save(bare)
    backbone = built(NT, copy.folder)
    assert backbone.language is None
    words = copy.tensors["esm.embeddings.word_embeddings.weight"]
    assert torch.equal(backbone.module.embeddings.word_embeddings.weight, words)
