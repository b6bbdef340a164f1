"""AntiBERTy (Ruffolo et al. 2021), a language model of antibodies, with the weights that the package antiberty ships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exapt import BackboneSpec, Checkpoint, DataError, RecipeError, Sourced, TokenizerSpec, hookimpl

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

exapt_api = 1

CHECKPOINT = Checkpoint(
    name="antiberty",
    source="antiberty",
    licence="MIT",
    commercial=True,
    parameters=25_496_064,
    width=512,
    paper="https://doi.org/10.48550/arXiv.2112.07782",
)
PROBES = ("EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVS", "DIQMTQSPSSLSASVGDRVTITC", "ACDEFGHIKLMNPQRSTVWYX")
# cls.* and the pooler under it are heads of other tasks; position_ids is a count that nobody stores any more.
LEFT_OUT = re.compile(r"cls\.|bert\.pooler\.|bert\.embeddings\.position_ids$")


def _shipped(package: str) -> Path:
    # Found without an import, which would fetch torch and transformers just to read a vocabulary.
    spec = find_spec(package) if package.isidentifier() else None
    folder = Path(spec.origin).parent / "trained_models" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise RecipeError(f"there is no package '{package}' with AntiBERTy's weights; run: pip install antiberty")
    return folder


def build_tokenizer(options: Sourced) -> Tokenizer:
    """Return the tokenizer: ``[CLS]``, one token per residue, ``[SEP]``."""
    import numpy as np

    from exapt.parts import Encoding, Tokenizer, unit_spans

    tokens = (_shipped(options.source) / "vocab.txt").read_text(encoding="utf-8").split()

    class AntiBERTyTokenizer(Tokenizer):
        mistaken_for: Mapping[str, str] = {"DNA or RNA": "ACGTUN"}
        vocabulary = {token: index for index, token in enumerate(tokens)}  # noqa: RUF012 - never written to

        def encode(self, value: Any) -> Encoding:
            if not isinstance(value, str):
                raise DataError(f"{value!r} is no sequence of residues")
            strange = re.search(r"[^A-Za-z*.-]", value)
            if strange:
                raise DataError(f"character {strange[0]!r} at position {strange.start() + 1} is no residue")
            residues = [letter if letter in self.vocabulary else "[UNK]" for letter in value.upper()]
            ids = np.array([self.vocabulary[token] for token in ("[CLS]", *residues, "[SEP]")])
            spans = unit_spans(len(value), before=1, after=1)
            pads = {"input_ids": self.vocabulary["[PAD]"]}
            return Encoding({"input_ids": ids}, pads, spans, len(value), residues.count("[UNK]"))

    return AntiBERTyTokenizer()


def build_backbone(options: Sourced, weights: bool) -> Backbone:
    """Return stock ``BertModel`` in exapt's steps, with AntiBERTy's weights or with fresh ones."""
    import torch
    from torch import Tensor, nn
    from transformers import BertConfig, BertModel

    from exapt.parts import Backbone, Batch, Features

    class AntiBERTy(Backbone):
        lora_targets = ("query", "key", "value")

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.bert: Any = BertModel(config, add_pooling_layer=False)
            self.width, self.max_tokens = config.hidden_size, config.max_position_embeddings

        @property
        def module(self) -> nn.Module:
            return self.bert  # type: ignore[no-any-return]

        def blocks(self) -> Sequence[nn.Module]:
            return list(self.bert.encoder.layer)

        def stem(self, batch: Batch) -> Tensor:
            return self.bert.embeddings(input_ids=batch["input_ids"])  # type: ignore[no-any-return]

        def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
            for block in self.blocks()[start:stop]:
                hidden = block(hidden, attention_mask=batch.present[:, None, None, :])
            return hidden

        def finish(self, hidden: Tensor, batch: Batch) -> Features:
            return batch.features(hidden, summary=hidden[:, 0])

    folder = _shipped(options.source) / "AntiBERTy_md_smooth"
    model = AntiBERTy(BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    if weights:
        state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        model.load_state_dict({name: tensor for name, tensor in state.items() if not LEFT_OUT.match(name)})
    return model.eval()


@hookimpl
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield AntiBERTy's tokenizer."""
    yield TokenizerSpec(name="antiberty", summary="One token per residue.", options=Sourced, build=build_tokenizer)


@hookimpl
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield AntiBERTy."""
    yield BackboneSpec(
        name="antiberty",
        summary="AntiBERTy, BERT pretrained on 558 million antibody sequences.",
        options=Sourced,
        build=build_backbone,
        tokenizer="antiberty",
        modality="protein",
        probes=PROBES,
        checkpoints=(CHECKPOINT,),
    )
