"""The DNA families at their published widths, with random weights and as many layers as a CPU has time for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dna_peers import AlibiBert, Gated, PlainHyena, States
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import nn
from transformers import BertConfig, BertModel, EsmConfig, EsmForMaskedLM

LONGEST = 32_770


@dataclass(frozen=True)
class Family:
    """A family: how long its sequences are beside proteins, what it pads with, and what writes it and is its peer."""

    title: str
    backbone: str
    peer: str
    stretch: float
    pad: int
    write: Callable[[Path], States]
    """Writes a checkpoint into a folder and returns the peer of the same weights."""


def _words(k: int) -> list[str]:
    return ["".join(word) for word in itertools.product("ATCG", repeat=k)]


def _vocabulary(folder: Path, tokens: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def _dnabert(folder: Path) -> States:
    _vocabulary(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_words(6)])
    config = BertConfig(vocab_size=4101, num_hidden_layers=4, max_position_embeddings=512)
    model: Any = BertModel(config, add_pooling_layer=False)
    model.eval()
    _save(model, folder, "pytorch_model.bin", config.to_dict(), "bert.")
    return _stock(model)


def _nucleotide(folder: Path, vocabulary: list[str], **shape: Any) -> Any:
    _vocabulary(folder, vocabulary)
    config = EsmConfig(
        vocab_size=len(vocabulary),
        pad_token_id=1,
        mask_token_id=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
        tie_word_embeddings=False,
        **shape,
    )
    model: Any = EsmForMaskedLM(config)
    return model.eval()


def _nt1(folder: Path) -> States:
    vocabulary = ["<unk>", "<pad>", "<mask>", "<cls>", *_words(6), *"ATCGN"]
    shape = {"hidden_size": 1280, "num_hidden_layers": 2, "num_attention_heads": 20, "intermediate_size": 5120}
    absolute = {"max_position_embeddings": 1002, "position_embedding_type": "absolute", "token_dropout": True}
    model = _nucleotide(folder, vocabulary, **shape, **absolute)
    _save(model, folder, "pytorch_model.bin", model.config.to_dict())
    return _stock(model.esm)


def nt2(folder: Path, width: int = 512, layers: int = 6, heads: int = 16) -> States:
    """Write a Nucleotide Transformer v2, of the width of the 50M unless told otherwise, and return its peer."""
    vocabulary = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *_words(6), *"ATCGN"]
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    rotary = {"max_position_embeddings": 2050, "position_embedding_type": "rotary", "token_dropout": False}
    model = _nucleotide(folder, vocabulary, intermediate_size=4 * width, **shape, **rotary)
    for layer in model.esm.encoder.layer:
        layer.intermediate = Gated(width, 4 * width)
        layer.output.dense = nn.Linear(4 * width, width, bias=False)
    _save(model, folder, "pytorch_model.bin", model.config.to_dict() | {"add_bias_fnn": False})
    return _stock(model.esm)


def alibi_bert(folder: Path, layers: int = 4) -> AlibiBert:
    """Write a DNABERT-2 of some layers, with word pieces made here, and return its peer."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    longer = [word for k in range(2, 7) for word in _words(k)][: 4096 - len(special) - 4]
    ids = {token: index for index, token in enumerate([*special, *"ACGT", *longer])}
    pieces = Tokenizer(BPE(ids, [(word[:-1], word[-1]) for word in longer], unk_token="[UNK]"))
    pieces.add_special_tokens(special)
    pieces.save(str(folder / "tokenizer.json"))
    model = AlibiBert(768, layers, 12, 3072, 4096).eval()
    sizes = {"hidden_size": 768, "num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": 3072}
    kind = {"vocab_size": 4096, "max_position_embeddings": 512, "alibi_starting_size": 512, "type_vocab_size": 2}
    _save(model, folder, "pytorch_model.bin", sizes | kind)
    return model


def hyena(folder: Path) -> PlainHyena:
    """Write a HyenaDNA small-32k, all of it, and return its peer."""
    folder.mkdir(parents=True, exist_ok=True)
    model = PlainHyena(256, 4, LONGEST).eval()
    sizes = {"d_model": 256, "n_layer": 4, "d_inner": 1024, "max_seq_len": LONGEST, "emb_dim": 5, "filter_order": 64}
    kind = {"model_type": "hyenadna", "activation_freq": 10, "vocab_size": 12}
    _save(model, folder, "model.safetensors", sizes | kind)
    return model


def _save(model: nn.Module, folder: Path, name: str, config: dict[str, Any], prefix: str = "") -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh norms and biases are ones and zeros, which would hide a mistake in them.
            parameter.add_(torch.randn_like(parameter) * 0.02)
    tensors = {f"{prefix}{key}": tensor.contiguous() for key, tensor in model.state_dict().items()}
    save: Callable[..., None] = save_file if name.endswith("safetensors") else torch.save
    save(tensors, folder / name)
    plain = {key: value for key, value in config.items() if key != "dtype"}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")


def _stock(model: Any) -> States:
    return lambda ids, there: model(input_ids=ids, attention_mask=there.long()).last_hidden_state


STOCK, PLAIN = "stock", "published"
FAMILIES = (
    Family("DNABERT-6, 4 of 12 layers", "dnabert", STOCK, 0.5, 0, _dnabert),
    Family("Nucleotide Transformer 500M, 2 of 24 layers", "nucleotide-transformer", STOCK, 3, 1, _nt1),
    Family("Nucleotide Transformer v2 50M, 6 of 12 layers", "nucleotide-transformer", STOCK, 3, 1, nt2),
    Family("DNABERT-2, 4 of 12 layers", "dnabert2", PLAIN, 1.1, 3, alibi_bert),
    Family("HyenaDNA small-32k", "hyenadna", PLAIN, 4, 4, hyena),
)
