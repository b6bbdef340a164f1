"""Sapiens (Prihoda et al. 2022), language models of human antibodies, with the weights that the package sapiens ships."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exapt import BackboneSpec, Checkpoint, DataError, RecipeError, Sourced, TokenizerSpec, hookimpl

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

exapt_api = 1

PAPER = "https://doi.org/10.1080/19420862.2021.2020203"
CHECKPOINTS = tuple(
    Checkpoint(
        name=f"sapiens-{chain}",
        source=f"sapiens.{chain}",
        licence="MIT",
        commercial=True,
        parameters=parameters,
        width=128,
        paper=PAPER,
    )
    for chain, parameters in (("vh", 569_010), ("vl", 566_962))
)
LONGEST = {"vh": 144, "vl": 128}
PROBES = ("EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVS", "DIQMTQSPSSLSASVGDRVTITC", "ACDEFGHIKLMNPQRSTVWYX")
# The ids of fairseq: four tokens, dict.txt, and the mask behind it.
BEFORE, RESIDUES, PAD = ("<s>", "<pad>", "</s>", "<unk>"), "ACDEFGHIKLMNPQRSTVWY", 1
MASK = len(BEFORE) + len(RESIDUES)
# fairseq's names, one after the other, and those of stock RoBERTa.
RENAMED = {
    "decoder.sentence_encoder.embed_tokens.": "roberta.embeddings.word_embeddings.",
    "decoder.sentence_encoder.embed_positions.": "roberta.embeddings.position_embeddings.",
    "decoder.sentence_encoder.emb_layer_norm.": "roberta.embeddings.LayerNorm.",
    "decoder.sentence_encoder.layers.": "roberta.encoder.layer.",
    ".self_attn_layer_norm.": ".attention.output.LayerNorm.",
    ".self_attn.out_proj.": ".attention.output.dense.",
    ".self_attn.q_proj.": ".attention.self.query.",
    ".self_attn.k_proj.": ".attention.self.key.",
    ".self_attn.v_proj.": ".attention.self.value.",
    ".final_layer_norm.": ".output.LayerNorm.",
    ".fc1.": ".intermediate.dense.",
    ".fc2.": ".output.dense.",
    "decoder.lm_head.weight": "lm_head.decoder.weight",
    "decoder.lm_head.bias": "lm_head.bias",
    "decoder.lm_head.": "lm_head.",
}


def _shipped(source: str) -> Path:
    package, _, chain = source.partition(".")
    # Found without an import, which would ask for fairseq.
    spec = find_spec(package) if package.isidentifier() else None
    path = Path(spec.origin).parent / "models" / "v1" / f"checkpoint_{chain}.pt" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise RecipeError(
            f"there are no weights of Sapiens at '{source}', which is to be a package and vh or vl, as sapiens.vh; "
            "run: pip install --no-deps sapiens==1.0.5"
        )
    return path


def build_tokenizer(options: Sourced) -> Tokenizer:
    """Return the tokenizer: ``<s>``, one token per residue, ``</s>``; X and * are the mask, as in the publication."""
    import numpy as np

    from exapt.parts import Encoding, Tokenizer, unit_spans

    letters = {letter: index for index, letter in enumerate(RESIDUES, len(BEFORE))} | {"X": MASK, "*": MASK}

    class SapiensTokenizer(Tokenizer):
        mistaken_for: Mapping[str, str] = {"DNA or RNA": "ACGTUN"}
        vocabulary: Mapping[str, int] = {token: index for index, token in enumerate((*BEFORE, *RESIDUES, "<mask>"))}
        mask = MASK
        special = frozenset({*range(len(BEFORE)), MASK})

        def encode(self, value: Any) -> Encoding:
            if not isinstance(value, str):
                raise DataError(f"{value!r} is no sequence of residues")
            strange = re.search(r"[^A-Za-z*.-]", value)
            if strange:
                raise DataError(f"character {strange[0]!r} at position {strange.start() + 1} is no residue")
            residues = [letters.get(letter, BEFORE.index("<unk>")) for letter in value.upper()]
            ids = np.array([0, *residues, 2])
            unknown = sum(index in self.special for index in residues)
            return Encoding({"input_ids": ids}, {"input_ids": PAD}, unit_spans(len(value), 1, 1), len(value), unknown)

    return SapiensTokenizer()


def build_backbone(options: Sourced, weights: bool) -> Backbone:
    """Return stock ``RobertaModel`` in exapt's steps, with Sapiens' weights or with fresh ones."""
    import argparse

    import torch
    from torch import Tensor, nn
    from transformers.models.roberta.modeling_roberta import RobertaLMHead, RobertaModel

    from exapt.parts import Backbone, Batch, Features, LanguageModel

    class Sapiens(Backbone):
        lora_targets = ("query", "key", "value")

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.roberta: Any = RobertaModel(config, add_pooling_layer=False)
            self.lm_head: Any = RobertaLMHead(config)  # type: ignore[no-untyped-call]
            self.lm_head.decoder.weight = self.roberta.embeddings.word_embeddings.weight
            self.width, self.max_tokens = config.hidden_size, config.max_position_embeddings - PAD - 1

        @property
        def module(self) -> nn.Module:
            return self.roberta  # type: ignore[no-any-return]

        @property
        def language(self) -> LanguageModel:
            return LanguageModel(self.lm_head, "masked")

        def blocks(self) -> Sequence[nn.Module]:
            return list(self.roberta.encoder.layer)

        def stem(self, batch: Batch) -> Tensor:
            return self.roberta.embeddings(input_ids=batch["input_ids"])  # type: ignore[no-any-return]

        def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
            for block in self.blocks()[start:stop]:
                hidden = block(hidden, attention_mask=batch.present[:, None, None, :])
            return hidden

        def finish(self, hidden: Tensor, batch: Batch) -> Features:
            return batch.features(hidden, summary=hidden[:, 0])

    path = _shipped(options.source)
    model = Sapiens(_config(LONGEST[path.stem.removeprefix("checkpoint_")]))
    if weights:
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(path, map_location="cpu", weights_only=True)["model"]
        state = {_renamed(name): tensor for name, tensor in saved.items()}
        # Sapiens tells no types of tokens apart; its decoder is its embeddings.
        state["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, model.width)
        model.load_state_dict({**state, "lm_head.decoder.bias": state["lm_head.bias"]})
    return model.eval()


def _config(longest: int) -> Any:
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=MASK + 1,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=256,
        # fairseq counts positions from the one after the padding's id.
        max_position_embeddings=longest + PAD + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
        bos_token_id=0,
        eos_token_id=2,
    )


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


@hookimpl
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield Sapiens' tokenizer."""
    yield TokenizerSpec(name="sapiens", summary="One token per residue.", options=Sourced, build=build_tokenizer)


@hookimpl
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield Sapiens, with its models of heavy and of light chains."""
    yield BackboneSpec(
        name="sapiens",
        summary="Sapiens, small RoBERTa models pretrained on human antibodies, one of heavy and one of light chains.",
        options=Sourced,
        build=build_backbone,
        tokenizer="sapiens",
        modality="protein",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("masked-marginal", "pseudo-log-likelihood"),
    )
