"""ESM-2 as a backbone: in steps, in half precision, learning, under PEFT, and beside stock transformers."""

import inspect

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import EsmModel
from transformers.models.esm.modeling_esm import EsmLayer

from exapt.data.batching import collate

SEQUENCES = ("MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY", "MKV")


@pytest.fixture
def backbone(build):
    return build()


@pytest.fixture(scope="module")
def batch(tokenizer_of):
    return collate([tokenizer_of().encode(sequence) for sequence in SEQUENCES])


@pytest.fixture
def stock(golden):
    """Return stock ``EsmModel`` with the golden weights, loaded key by key."""
    state = load_file(golden / "model" / "model.safetensors")
    model = EsmModel.from_pretrained(golden / "model", add_pooling_layer=False)
    for name, value in model.state_dict().items():
        if name != "rotary_embeddings.inv_freq":
            assert torch.equal(value, state[f"esm.{name}"])
    return model.eval()


def real(hidden, batch):
    """Return the states of tokens that are there; what a model says of padding is nobody's business."""
    return hidden[batch.present]


def trained(module):
    """Give the zero half of each LoRA pair values, so that the update shows."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_every_layer_is_that_of_stock(backbone, stock, batch):
    with torch.inference_mode():
        theirs = stock(batch["input_ids"], attention_mask=batch.present.long(), output_hidden_states=True)
        for layer, hidden in enumerate(theirs.hidden_states):
            ours = backbone.at_layer(batch, layer).hidden
            torch.testing.assert_close(real(ours, batch), real(hidden, batch), atol=1e-5, rtol=0)


@pytest.mark.skipif(
    "position_embeddings" not in inspect.signature(EsmLayer.forward).parameters,
    reason="this transformers turns positions inside each layer; exapt's steps hand the tables over themselves",
)
def test_the_module_called_as_stock_gives_what_stock_gives(backbone, stock, batch):
    given = {"input_ids": batch["input_ids"], "attention_mask": batch.present.long()}
    with torch.inference_mode():
        ours, theirs = backbone.module(**given), stock(**given)
    torch.testing.assert_close(
        real(ours.last_hidden_state, batch), real(theirs.last_hidden_state, batch), atol=1e-5, rtol=0
    )


def test_a_batch_without_padding_needs_no_mask_and_gives_the_same(backbone, tokenizer_of, batch):
    alone = collate([tokenizer_of().encode(SEQUENCES[1])])
    with torch.inference_mode():
        torch.testing.assert_close(backbone(alone).hidden[0], backbone(batch).hidden[1], atol=1e-5, rtol=0)


def test_without_masks_embeddings_are_scaled_by_token_dropout(backbone, batch):
    with torch.inference_mode():
        words = backbone.module.embeddings.word_embeddings(batch["input_ids"])
        torch.testing.assert_close(real(backbone.stem(batch), batch), 0.88 * real(words, batch))


def test_the_summary_is_the_state_of_cls(backbone, batch):
    with torch.inference_mode():
        features = backbone(batch)
    assert torch.equal(features.summary, features.hidden[:, 0])


def test_features_run_further_than_the_model_was_trained(backbone, tokenizer_of):
    long = collate([tokenizer_of().encode("MKTAYIAKQR" * 150)])
    with torch.inference_mode():
        assert backbone(long).hidden.isfinite().all()
    assert backbone.max_tokens == 1024


def test_max_tokens_is_an_option(build):
    assert build(max_tokens=4096).max_tokens == 4096


def test_fresh_weights_come_from_torchs_generator(build, backbone):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(weights=False).state_dict())
    query = "esm.encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][query], states[2][query])
    assert states[0].keys() == backbone.state_dict().keys()
    assert states[0][query].std().item() == pytest.approx(0.02, rel=0.1)


def test_every_parameter_of_the_module_gets_a_gradient(backbone, batch):
    backbone.train()
    backbone(batch).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []


def test_gradient_checkpointing_changes_no_gradient(build, batch):
    gradients = []
    for checkpointing in (False, True):
        backbone = build().train()
        if checkpointing:
            _checkpoint_activations(backbone.module)
            assert all(layer.gradient_checkpointing for layer in backbone.blocks())
        backbone(batch).pool("mean").square().sum().backward()
        gradients.append([value.grad for value in backbone.module.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def _checkpoint_activations(module):
    # Renamed by transformers on the way from 5.5 to 5.23.
    enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def test_bf16_autocast_is_finite_and_near(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_rotary_frequencies_exact(dtype, backbone, batch):
    exact = backbone.module.rotary_embeddings.inv_freq.clone()
    backbone.to(dtype)
    assert torch.equal(backbone.module.rotary_embeddings.inv_freq, exact)
    with torch.inference_mode():
        assert real(backbone(batch).hidden, batch).isfinite().all()


def test_dropout_of_a_config_is_on_in_training_alone(copy, build, batch):
    copy.configure(attention_probs_dropout_prob=0.5)
    backbone = build(copy.folder)
    assert torch.equal(backbone(batch).hidden, backbone(batch).hidden)
    backbone.train()
    assert not torch.equal(backbone(batch).hidden, backbone(batch).hidden)


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_of_the_backbone_is_lora_of_stock(backbone, stock, batch, tmp_path):
    config = LoraConfig(r=4, target_modules=list(backbone.lora_targets))
    inject_adapter_in_model(config, backbone.module)
    trained(backbone.module)
    state = get_peft_model_state_dict(backbone.module)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), stock)
    assert state.keys() == get_peft_model_state_dict(stock).keys()
    theirs = PeftModel(EsmModel.from_pretrained(stock.name_or_path, add_pooling_layer=False), config)
    loaded = theirs.load_state_dict({_peft_name(name): value for name, value in state.items()}, strict=False)
    assert loaded.unexpected_keys == []
    with torch.inference_mode():
        hidden = theirs.eval()(batch["input_ids"], attention_mask=batch.present.long()).last_hidden_state
        ours = backbone.eval()(batch).hidden
    torch.testing.assert_close(real(ours, batch), real(hidden, batch), atol=1e-5, rtol=0)


def _peft_name(name):
    stem, _, last = name.rpartition(".")
    return f"base_model.model.{stem}.default.{last}"


def test_lora_changes_the_answer_and_reaches_attention_in_blocks_alone(backbone, batch):
    with torch.inference_mode():
        before = backbone(batch).hidden
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    trained(backbone.module)
    names = {name.split(".lora_")[0] for name, _ in backbone.module.named_parameters() if ".lora_" in name}
    assert names == {
        f"encoder.layer.{layer}.attention.self.{target}" for layer in (0, 1) for target in backbone.lora_targets
    }
    with torch.inference_mode():
        assert not torch.allclose(backbone(batch).hidden, before, atol=1e-3)


def test_a_checkpoint_saved_without_its_head_has_no_language_model(copy, build, backbone):
    copy.save({name: value for name, value in copy.tensors.items() if not name.startswith("lm_head.")})
    assert build(copy.folder).language is None
    assert backbone.language.objective == "masked"
