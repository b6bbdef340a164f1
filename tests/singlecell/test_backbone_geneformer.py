"""Geneformer as a backbone: other shapes beside stock BERT, empty cells, learning, PEFT, and every tensor accounted for."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

from exapt import DataError
from exapt.builtin.language import MaskedOptions, _build_masked
from exapt.data.batching import collate
from exapt.parts import HeadContext
from exapt.testing import check_backbone, check_tokenizer
from exapt_singlecell import plugin
from exapt_singlecell.geneformer import CHECKPOINTS, PROBES
from exapt_singlecell.geneformer.backbone import DROPPED
from singlecell.geneformer_models import (
    BACKBONE,
    GIVEN,
    TOKENIZER,
    Copy,
    built,
    cell_of,
    dictionaries,
    inputs_of,
    other,
    reader,
    table_of,
)

VERSIONS = ("v1", "v2")
NAMES = ("sparse45", "sparse20", "two_genes", "single_gene")


def cells(version, names=NAMES):
    inputs = inputs_of(version)
    entries, table = {entry["id"]: entry for entry in inputs["entries"]}, table_of(inputs)
    return [cell_of(entries[name], table) for name in names]


def batch_of(version, names=NAMES):
    tokenizer = reader(GIVEN[version] / "model")
    return collate([tokenizer.encode(cell) for cell in cells(version, names)])


def plain(version):
    """Return cells as JSON holds them."""
    columns = inputs_of(version)["gene_columns"]
    entries = {entry["id"]: entry for entry in inputs_of(version)["entries"]}
    return [{"genes": columns, "counts": [entries[name]["counts"].get(gene, 0) for gene in columns]} for name in NAMES]


def real(hidden, batch):
    """Return the states of tokens that are there; what a model says of padding is nobody's business."""
    return hidden[batch.present]


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def backbone(version):
    return built(GIVEN[version] / "model")


@pytest.fixture
def copy(version, tmp_path):
    return Copy(version, tmp_path / "copy")


def refusal(copy):
    with pytest.raises(DataError) as caught:
        built(copy.folder)
    return str(caught.value).replace(str(copy.folder), "FOLDER")


@pytest.mark.slow
def test_the_backbone_conforms(version):
    check_backbone(BACKBONE, {"source": str(GIVEN[version] / "model")}, tokenizer=TOKENIZER, inputs=plain(version))


@pytest.mark.parametrize("inputs", ["cells", "probes"])
def test_the_tokenizer_conforms(inputs, version):
    source = {"source": str(GIVEN[version] / "model")}
    check_tokenizer(TOKENIZER, source, inputs=plain(version) if inputs == "cells" else PROBES)


def test_the_plugin_offers_the_family():
    assert TOKENIZER in list(plugin.exapt_tokenizers())
    assert BACKBONE in list(plugin.exapt_backbones())
    assert (BACKBONE.accepts, BACKBONE.modality, BACKBONE.tokenizer) == ("cell", "cell", TOKENIZER.name)


def test_published_checkpoints():
    assert [(each.name, each.source.rpartition("/")[2], each.width, each.context) for each in CHECKPOINTS] == [
        ("geneformer-v1-10m", "Geneformer-V1-10M", 256, 2048),
        ("geneformer-v2-104m", "Geneformer-V2-104M", 768, 4096),
        ("geneformer-v2-104m-clcancer", "Geneformer-V2-104M_CLcancer", 768, 4096),
        ("geneformer-v2-316m", "Geneformer-V2-316M", 1152, 4096),
    ]
    assert {(each.licence, each.commercial, len(each.revision)) for each in CHECKPOINTS} == {("Apache-2.0", True, 40)}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": 1, "layer_norm_eps": 1e-5, "type_vocab_size": 1},
        {"tie_word_embeddings": False, "hidden_size": 32, "num_attention_heads": 8},
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_any_shape_gives_what_stock_bert_gives_at_every_layer(config, special, tmp_path):
    stock = other(tmp_path, special=special, **config)
    tokenizer, backbone = reader(tmp_path), built(tmp_path)
    genes = [name for name in tokenizer.vocabulary if name.startswith("ENSG")]
    counts = [np.random.default_rng(seed).poisson(0.4, len(genes)) for seed in range(4)]
    batch = collate([tokenizer.encode({"genes": genes, "counts": each.tolist()}) for each in counts])
    with torch.inference_mode():
        theirs = stock(batch["input_ids"], attention_mask=batch.present.long(), output_hidden_states=True)
        for layer, hidden in enumerate(theirs.hidden_states):
            ours = backbone.at_layer(batch, layer).hidden
            torch.testing.assert_close(real(ours, batch), real(hidden, batch), atol=2e-5, rtol=0)
        features = backbone(batch)
        logits = backbone.language.head(features.hidden)
    torch.testing.assert_close(real(logits, batch), real(theirs.logits, batch), atol=2e-5, rtol=0)
    assert (features.summary is not None) == special
    assert backbone.max_tokens == 16


def test_a_batch_of_empty_cells_pools_to_zeros(version, backbone):
    batch = batch_of(version, ("all_zero", "only_unknown"))
    features = backbone(batch)
    assert features.hidden.shape == (2, 2 if version == "v2" else 0, 32)
    assert features.pool("mean").tolist() == [[0.0] * 32] * 2
    assert [backbone.at_layer(batch, layer).pool("mean").any().item() for layer in range(3)] == [False] * 3
    if version == "v2":
        torch.testing.assert_close(features.summary[0], features.summary[1])
        assert features.summary.any()


def test_an_empty_cell_leaves_states_and_gradients_of_others_as_they_are(version, backbone):
    names = ("sparse20", "all_zero", "two_genes")
    beside, apart = (batch_of(version, each) for each in (names, names[::2]))
    gradients = []
    for batch in (beside, apart):
        backbone.zero_grad(set_to_none=True)
        pooled = backbone(batch).pool("mean")
        pooled.square().sum().backward()
        gradients.append({name: each.grad for name, each in backbone.module.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_every_parameter_of_the_module_gets_a_gradient(version, backbone):
    backbone.train()
    backbone(batch_of(version)).hidden.square().sum().backward()
    assert [name for name, value in backbone.module.named_parameters() if value.grad is None] == []


def test_the_language_model_is_tied(backbone):
    assert backbone.language.objective == "masked"
    predictions = backbone.language.head.predictions
    assert predictions.decoder.weight is backbone.module.embeddings.word_embeddings.weight
    assert predictions.decoder.bias is predictions.bias


def test_masked_genes_are_learned_on(version, backbone):
    tokenizer = reader(GIVEN[version] / "model")
    head = _build_masked(
        MaskedOptions(inputs=("cell",)), HeadContext({"cell": 32}, {"cell": backbone.language}, tokenizer)
    )
    encodings, rng = [tokenizer.encode(cell) for cell in cells(version)], np.random.default_rng(0)
    posed, targets = zip(*(head.pose(encoding, rng) for encoding in encodings), strict=True)
    for encoding, hidden, target in zip(encodings, posed, targets, strict=True):
        asked = target != head.pad
        ids, shown = encoding.arrays["input_ids"], hidden.arrays["input_ids"]
        assert (ids == shown)[~asked].all()
        assert (ids == target)[asked].all()
        assert asked.any()
        assert not np.isin(target[asked], list(tokenizer.special)).any()
    assert tokenizer.mask in np.concatenate([each.arrays["input_ids"] for each in posed])
    batch = collate(posed)
    target = torch.full(batch.present.shape, int(head.pad))
    for row, each in enumerate(targets):
        target[row, : len(each)] = torch.from_numpy(each)
    learning = torch.optim.Adam([*backbone.module.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = head.loss(head({"cell": backbone(batch)}), target) / head.weigh(target)
        learning.zero_grad()
        loss.backward()
        learning.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_an_empty_cell_has_no_gene_to_mask(version, backbone):
    tokenizer = reader(GIVEN[version] / "model")
    head = _build_masked(
        MaskedOptions(inputs=("cell",)), HeadContext({"cell": 32}, {"cell": backbone.language}, tokenizer)
    )
    (empty,) = cells(version, ("all_zero",))
    posed, target = head.pose(tokenizer.encode(empty), np.random.default_rng(0))
    assert (target == head.pad).all()
    output = head({"cell": backbone(collate([posed]))})
    assert head.loss(output, torch.from_numpy(target)[None]).item() == 0


# PEFT asks transformers by a name that transformers has since renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_opens_in_plain_peft_on_stock_bert_and_comes_back(version, backbone, tmp_path):
    batch = batch_of(version)
    stock = BertModel(BertConfig.from_pretrained(GIVEN[version] / "model"), add_pooling_layer=False)
    stock.load_state_dict(dict(backbone.module.state_dict()))
    config = LoraConfig(r=4, target_modules=list(backbone.lora_targets), init_lora_weights=False)
    torch.manual_seed(1)
    theirs = PeftModel(stock, config).eval()
    theirs.save_pretrained(tmp_path)
    folder = load_file(tmp_path / "adapter_model.safetensors")
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(backbone.lora_targets)), backbone.module)
    assert {f"base_model.model.{name}" for name in get_peft_model_state_dict(backbone.module)} == folder.keys()
    with torch.no_grad():
        for name, place in backbone.module.named_parameters():
            if ".lora_" in name:
                place.copy_(folder[f"base_model.model.{name.replace('.default.', '.')}"])
    with torch.inference_mode():
        hidden = theirs(batch["input_ids"], attention_mask=batch.present.long()).last_hidden_state
        torch.testing.assert_close(real(backbone.eval()(batch).hidden, batch), real(hidden, batch), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_either_format(name, copy, version):
    tensors = dict(copy.tensors)
    copy.save(tensors, name)
    states = [built(source).state_dict() for source in (copy.folder, GIVEN[version] / "model")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def test_every_tensor_is_accounted_for(copy, version):
    # Each of these is in the file under another name too, or is none of the model's.
    twice = {"bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "bert.embeddings.position_ids"}
    twice |= {"cls.predictions.bias", "cls.predictions.decoder.bias"}
    for name in sorted(copy.tensors.keys() - (twice if version == "v1" else ())):
        copy.save({key: value for key, value in copy.tensors.items() if key != name})
        assert refusal(copy) == f"the weights of 'FOLDER' lack 1 tensors, such as '{name}'"


def test_what_is_in_the_file_twice_may_be_there_once(copy, version):
    whole = built(copy.folder).state_dict()
    for name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "bert.embeddings.position_ids"):
        copy.save({key: value for key, value in copy.tensors.items() if key != name})
        assert all(torch.equal(value, whole[key]) for key, value in built(copy.folder).state_dict().items())


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.2.output.dense.bias", "classifiers.weight", "cls.seq_relationship.bias"]
)
def test_a_tensor_that_geneformer_does_not_have(name, copy):
    copy.save({name: torch.zeros(32)} | copy.tensors)
    assert refusal(copy) == f"the weights of 'FOLDER' hold '{name}', which Geneformer does not have"


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_tensors_that_are_left_out_on_purpose(name, copy):
    full = f"{name}dense.bias" if name.endswith(".") else name
    copy.save({full: torch.zeros(32)} | {key: value for key, value in copy.tensors.items() if key != full})
    assert full not in built(copy.folder).state_dict()


def test_a_decoder_that_is_not_the_embeddings(copy):
    words = copy.tensors["bert.embeddings.word_embeddings.weight"]
    copy.save(copy.tensors | {"cls.predictions.decoder.weight": words + 1})
    assert refusal(copy) == (
        "the weights of 'FOLDER' hold two different tensors for 'bert.embeddings.word_embeddings.weight'"
    )


def test_a_bias_that_is_two(copy):
    bias = copy.tensors["cls.predictions.bias"]
    copy.save(copy.tensors | {"cls.predictions.decoder.bias": bias + 1})
    assert refusal(copy) == "the weights of 'FOLDER' hold two different tensors for 'cls.predictions.bias'"


def test_weights_of_another_size(copy):
    copy.configure(vocab_size=190)
    rows = len(copy.tensors["bert.embeddings.word_embeddings.weight"])
    (name, shapes) = refusal(copy).split(" in the weights of 'FOLDER' has the shape ")
    size, asked = (f"[{rows}", "[190") if "bias" in name else (f"[{rows}, 32", "[190, 32")
    assert shapes == f"{size}], where its config.json asks for {asked}]"


def test_a_checkpoint_without_its_language_model(copy):
    copy.save({name.removeprefix("bert."): value for name, value in copy.tensors.items() if name.startswith("bert.")})
    backbone = built(copy.folder)
    assert backbone.language is None
    words = copy.tensors["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(backbone.bert.embeddings.word_embeddings.weight, words)


@pytest.mark.parametrize("stock", [BertForSequenceClassification, BertForTokenClassification])
def test_a_fine_tuned_model_is_read_without_its_classifier(stock, copy, version, backbone):
    torch.manual_seed(0)
    tuned = stock(BertConfig.from_pretrained(copy.folder, num_labels=3)).eval()
    tuned.bert.load_state_dict(backbone.bert.state_dict(), strict=False)
    copy.save(dict(tuned.state_dict()))
    found = built(copy.folder)
    assert found.notes == ["2 tensors of the checkpoint are not read: classifier 2"]
    assert found.language is None
    batch = batch_of(version)
    with torch.inference_mode():
        ours, theirs = (each(batch).hidden for each in (found, backbone))
    assert torch.equal(ours, theirs)
    assert backbone.notes == []


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("bare", [False, True])
def test_names_behind_those_of_wrappers(wrapper, bare, copy, backbone):
    kept = {
        name.removeprefix("bert.") if bare else name: tensor
        for name, tensor in copy.tensors.items()
        if name.startswith("bert.") or not bare
    }
    copy.save({f"{wrapper}{name}": tensor for name, tensor in kept.items()})
    found = built(copy.folder)
    states = found.state_dict()
    assert (found.language is None) == bare
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in states.items())


@pytest.mark.parametrize("level", ["model_state_dict", "state_dict"])
def test_tensors_one_level_down(level, copy, backbone):
    copy.file.unlink()
    torch.save({"epoch": 2, level: copy.tensors, "optimizer": [1, 2]}, copy.folder / "pytorch_model.bin")
    states = built(copy.folder).state_dict()
    assert all(torch.equal(value, states[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "esm"}, "'FOLDER' is a model of the type 'esm', not Geneformer"),
        (
            {"hidden_act": "gelu"},
            "'FOLDER' has the activation 'gelu'; Geneformer has 'relu', so that this is another BERT",
        ),
        (
            {"hidden_act": None},
            "'FOLDER' has the activation 'gelu'; Geneformer has 'relu', so that this is another BERT",
        ),
        (
            {"position_embedding_type": "relative_key"},
            "'FOLDER' has relative_key positions; Geneformer has absolute ones",
        ),
        ({"is_decoder": True}, "'FOLDER' is a decoder, not Geneformer"),
        (
            {"num_attention_heads": 5},
            "'FOLDER' does not fit together: its width 32 makes no heads of one width out of 5",
        ),
        ({"num_hidden_layers": None}, "the config.json of 'FOLDER' cannot be used: num_hidden_layers: Field required"),
        ({"pad_token_id": 9999}, "'FOLDER' does not fit together: its padding is token 9999 of {0}"),
    ],
)
def test_a_config_of_another_model(changes, message, copy):
    copy.configure(**changes)
    size = len(copy.tensors["bert.embeddings.word_embeddings.weight"])
    assert refusal(copy) == message.format(size)


def test_padding_that_the_dictionary_has_elsewhere(copy, version):
    copy.configure(pad_token_id=1)
    with pytest.raises(DataError) as caught:
        reader(copy.folder)
    assert str(caught.value) == (
        f"'{copy.folder}' does not fit together: <pad> is 0 in its token dictionary, 1 in its config.json"
    )
    assert dictionaries(version)["token_dictionary"]["<pad>"] == 0


def test_fresh_weights_come_from_torchs_generator(version, backbone):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(built(GIVEN[version] / "model", weights=False).state_dict())
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][query], states[2][query])
    assert states[0].keys() == backbone.state_dict().keys()
    assert states[0][query].std().item() == pytest.approx(0.02, rel=0.1)
