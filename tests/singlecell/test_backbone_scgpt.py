"""scGPT as a backbone: other shapes beside torch's own transformer, in steps, in half precision, learning, under PEFT."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

from exapt.data.batching import collate
from exapt.fingerprint import architecture, fingerprint
from exapt_singlecell.scgpt.heads import MaskedExpression
from exapt_singlecell.scgpt.model import ExpressionDecoder
from singlecell.scgpt_models import HEAD, MODEL, Copy, built, cells, genes_of, other, reader

SHAPES = [{}, {"heads": 4, "width": 16}, {"layers": 1, "genes": 20, "inner": 7}, {"width": 9, "heads": 3, "layers": 5}]


@pytest.fixture
def backbone():
    return built()


@pytest.fixture(scope="module")
def encodings():
    return read(MODEL)


@pytest.fixture(scope="module")
def batch(encodings):
    return collate(encodings)


def read(source, rows=4):
    """Return cells of falling numbers of genes, the last of none."""
    names = genes_of(20, source)
    counts = np.random.default_rng(5).poisson(2, (rows, 20)) + 1
    for row in range(rows):
        counts[row, : row * 20 // (rows - 1)] = 0
    return [reader(source).encode(cell) for cell in cells(names, counts)]


def near(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_what_torchs_transformer_gives_at_every_layer(shape, tmp_path):
    stock = other(tmp_path, **shape)
    backbone, batch = built(tmp_path), collate(read(tmp_path))
    states = stock.hidden_states(batch["input_ids"], batch["values"], batch.present)
    assert len(backbone.blocks()) == len(states) - 1
    assert backbone.language is None
    for layer, hidden in enumerate(states):
        near(backbone.at_layer(batch, layer).hidden[batch.present], hidden[batch.present])


def test_values_above_512_count_as_512(backbone, encodings):
    states, batch = [], collate(encodings)
    for value in (512.0, 600.0, 500.0):
        batch["values"][0, 2] = value
        states.append(backbone(batch).hidden[0, 0])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_cell_is_the_same_alone_and_beside_others(backbone, encodings, batch):
    with torch.inference_mode():
        together = backbone(batch)
        for row, encoding in enumerate(encodings):
            alone = backbone(collate([encoding]))
            near(alone.hidden[0], together.hidden[row, : encoding.tokens])
            near(alone.summary[0], together.summary[row])


def test_genes_have_no_order(backbone):
    names, values = genes_of(12), np.arange(1, 13)
    order = np.random.default_rng(0).permutation(12)
    with torch.inference_mode():
        one, other = (
            backbone(collate([reader().encode(cells(list(genes), [counts])[0])])).summary
            for genes, counts in ((names, values), (np.array(names)[order], values[order]))
        )
    near(one, other)


def test_an_empty_cell_has_a_summary_and_pools_to_zeros(backbone, batch):
    features = backbone(batch)
    assert not features.mask[-1].any()
    assert features.mask[:-1].any(1).all()
    assert features.summary.isfinite().all()
    assert not features.pool("mean")[-1].any()
    assert not features.pool("max")[-1].any()


def test_fresh_weights_come_from_torchs_generator(backbone):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(built(weights=False).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    query = "scgpt.transformer_encoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(states[0][query], states[2][query])
    assert states[0]["scgpt.encoder.embedding.weight"].abs().max() <= 0.1
    assert states[0].keys() == backbone.state_dict().keys()


def test_a_fresh_model_has_a_decoder_where_the_checkpoint_has_one(tmp_path):
    other(tmp_path / "without")
    assert architecture(built(tmp_path / "without", weights=False)) == architecture(built(tmp_path / "without"))
    copy = Copy(tmp_path / "no-file")
    (copy.folder / "best_model.pt").unlink()
    assert architecture(built(copy.folder, weights=False)) == architecture(built())


def test_the_fingerprint_is_that_of_the_weights(backbone, tmp_path):
    copy = Copy(tmp_path / "scgpt")
    assert fingerprint(built(copy.folder)) == fingerprint(backbone)
    copy.tensors["decoder.fc.4.bias"] += 1
    copy.save(copy.tensors)
    assert fingerprint(built(copy.folder)) != fingerprint(backbone)


def test_every_parameter_of_the_module_gets_a_gradient(backbone, batch):
    backbone.train()
    backbone(batch).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []


def test_dropout_is_on_in_training_alone(backbone, batch):
    assert torch.equal(backbone(batch).hidden, backbone(batch).hidden)
    backbone.train()
    assert not torch.equal(backbone(batch).hidden, backbone(batch).hidden)


def test_recomputed_activations_give_the_same_gradients(backbone, batch):
    gradients = []
    for recompute in (False, True):
        backbone.zero_grad()
        backbone.recompute = recompute
        backbone.at_layer(batch, -1).hidden.square().sum().backward()
        gradients.append([value.grad.clone() for value in backbone.module.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again)


def test_bf16_autocast_is_finite_and_near(backbone, batch):
    exact = backbone(batch).pool("mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(batch).pool("mean")
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    rough.float().square().sum().backward()
    assert all(value.grad.isfinite().all() for value in backbone.module.parameters())


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_low_rank_updates_stand_on_queries_keys_and_values(backbone, batch):
    before = backbone(batch).hidden.detach()
    config = LoraConfig(r=2, target_modules=list(backbone.lora_targets), init_lora_weights=False)
    inject_adapter_in_model(config, backbone.module)
    assert set(get_peft_model_state_dict(backbone.module)) == {
        f"transformer_encoder.layers.{layer}.self_attn.{name}_proj.lora_{side}.weight"
        for layer in (0, 1)
        for name in "qkv"
        for side in "AB"
    }
    assert not torch.equal(backbone(batch).hidden, before)


def head(backbone, **options):
    """Build ``masked-expression`` on a backbone, as exapt does."""
    from exapt.parts import HeadContext

    language = {} if backbone.language is None else {"cell": backbone.language}
    context = HeadContext({"cell": backbone.width}, language, reader())
    return HEAD.build(HEAD.options(**options), context)


def asked(head, encodings, seed=0):
    """Return the cells as they are to be seen, and the targets, both padded."""
    posed = [head.pose(encoding, np.random.default_rng((seed, row))) for row, encoding in enumerate(encodings)]
    batch = collate([encoding for encoding, _ in posed])
    target = torch.full(batch.present.shape, float(head.pad))
    for row, (_, wanted) in enumerate(posed):
        target[row, : len(wanted)] = torch.from_numpy(wanted)
    return batch, target


def test_hidden_values_are_asked_for_and_all_else_is_left(backbone, encodings):
    whole, (batch, target) = collate(encodings), asked(head(backbone), encodings)
    hidden = target != -100
    assert torch.equal(batch["values"][hidden], torch.full((int(hidden.sum()),), -1.0))
    assert torch.equal(target[hidden], whole["values"][hidden])
    assert torch.equal(batch["values"][~hidden], whole["values"][~hidden])
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    assert not hidden[:, 0].any()
    assert hidden[:-1].any(1).all()
    assert not hidden[-1].any()


def test_the_share_that_is_hidden_and_the_chance_that_hides_it(backbone, encodings):
    many, few = head(backbone, probability=0.8), head(backbone, probability=0.01)
    shares = [(asked(many, encodings[:1], seed)[1] != -100).float().sum().item() / 20 for seed in range(200)]
    assert np.mean(shares) == pytest.approx(0.8, abs=0.03)
    assert all((asked(few, encodings[:1], seed)[1] != -100).sum() >= 1 for seed in range(20))
    assert torch.equal(asked(many, encodings, 3)[1], asked(many, encodings, 3)[1])
    assert not torch.equal(asked(many, encodings, 3)[1], asked(many, encodings, 4)[1])


def test_the_head_begins_with_the_checkpoints_decoder_and_learns_apart(backbone, encodings):
    backbone.requires_grad_(False)
    ours = head(backbone)
    before = {name: value.clone() for name, value in backbone.decoder.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in ours.decoder.state_dict().items())
    assert all(parameter.requires_grad for parameter in ours.parameters())
    batch, target = asked(ours, encodings)
    features = {"cell": backbone(batch)}
    optimizer = torch.optim.Adam(ours.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = ours.loss(ours(features), target) / ours.weigh(target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in backbone.decoder.state_dict().items())


def test_a_checkpoint_without_a_decoder_gets_a_fresh_one(tmp_path):
    other(tmp_path)
    ours = head(built(tmp_path))
    assert isinstance(ours.decoder, ExpressionDecoder)
    assert ours.decoder.fc[0].weight.shape == (24, 24)


def test_what_is_measured_of_the_hidden_genes(backbone, encodings):
    ours = head(backbone)
    batch, target = asked(ours, encodings)
    with torch.inference_mode():
        output = ours({"cell": backbone(batch)})
        kept = ours.condense(output, target)
    assert output.shape == (*batch.present.shape, 1)
    torch.testing.assert_close(ours.loss(kept, target), ours.loss(output, target))
    hidden = (target != -100).numpy()
    told, true = output[..., 0].numpy()[hidden], target.numpy()[hidden]
    rows = [kept[row, : encoding.tokens].numpy() for row, encoding in enumerate(encodings)]
    found = ours.metrics(rows, [])
    assert found["mse"] == pytest.approx(float(np.square(told - true).mean()), rel=1e-5)
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)
    assert found["pearson"] == pytest.approx(np.corrcoef(told, true)[0, 1], rel=1e-4)
    per_cell = ours.decode(rows)["mse"]
    first = np.square(output[0, :, 0].numpy() - target[0].numpy())[hidden[0]].mean()
    assert per_cell[0] == pytest.approx(float(first), rel=1e-5)
    assert per_cell[-1] is None
    assert ours.metrics(rows[-1:], []) == {}
    constant = np.array([[2.0, 5.0], [2.0, 7.0]], dtype=np.float32)
    assert ours.metrics([constant], []) == {"mse": 17.0, "pearson": 0.0, "rmse": pytest.approx(17**0.5)}


def test_it_is_a_head_without_labels_that_answers_for_tokens(backbone):
    ours = head(backbone)
    assert isinstance(ours, MaskedExpression)
    assert (HEAD.labelled, HEAD.answers) == (ours.labelled, ours.answers) == (False, "token")
    assert ours.language is None
