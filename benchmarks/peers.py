"""The peers: stock transformers and PEFT, as their own examples use them, and the model that both sides read."""

from __future__ import annotations

import csv
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import peft
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import DataCollatorWithPadding, EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import exapt

_VOCABULARY = Path(__file__).parents[1] / "tests" / "golden" / "esm2" / "given" / "model" / "vocab.txt"


def quiet() -> None:
    """Keep transformers from talking."""
    talk: Any = transformers.logging
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def write_esm2_8m(folder: Path) -> Path:
    """Write a checkpoint of the shape of ESM-2 8M, with random weights, as stock transformers saves it."""
    return write_esm2(folder, 320, 6)


def write_esm2(folder: Path, width: int, layers: int) -> Path:
    """Write a checkpoint of an ESM-2 of 20 heads, with random weights, as stock transformers saves it."""
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=20,
        intermediate_size=4 * width,
        max_position_embeddings=1026,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    torch.manual_seed(0)
    EsmForMaskedLM(config).save_pretrained(folder)
    shutil.copy(_VOCABULARY, folder)
    return folder


def write_table(path: Path, sequences: Sequence[str]) -> Path:
    """Write a table of sequences with ids and, in turn, two labels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "label"])
        writer.writerows([f"s{row}", sequence, "ab"[row % 2]] for row, sequence in enumerate(sequences))
    return path


def bare(folder: Path) -> Any:
    """Return stock ``EsmModel`` without a pooler, which no checkpoint of ESM-2 has."""
    return EsmModel.from_pretrained(folder, add_pooling_layer=False)


class Stock:
    """Stock ``EsmModel`` and ``EsmTokenizer``."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = EsmTokenizer.from_pretrained(folder)
        self.model = bare(folder).eval()

    def hidden(self, sequences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states [batch, tokens, width] of one padded batch, and the mask [batch, tokens] of its residues."""
        encoded = self.tokenizer(list(sequences), padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = self.model(**encoded).last_hidden_state
        return hidden, residues(encoded["input_ids"])

    def embed_file(self, table: Path, out: Path, batches: Batches) -> None:
        """Write the mean over residues of every sequence of a table, as ``exapt.embed`` does from file to file."""
        columns = pyarrow.csv.read_csv(table)
        sequences = columns["sequence"].to_pylist()
        vectors = np.empty((len(sequences), self.model.config.hidden_size), dtype=np.float32)
        for rows in batches.of(sequences):
            vectors[rows] = mean(*self.hidden([sequences[row] for row in rows])).numpy()
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        pyarrow.parquet.write_table(pa.table({"id": columns["id"], "embedding": embedding}), out)


class Batches:
    """How a plain script makes its batches: ``size`` rows each, or as many as ``budget`` padded tokens allow."""

    def __init__(self, size: int = 0, ordered: bool = False, budget: int = 0) -> None:
        self.size, self.ordered, self.budget = size, ordered, budget

    def of(self, sequences: Sequence[str]) -> list[list[int]]:
        """Return the rows of each batch."""
        order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]) if self.ordered else row)
        batches: list[list[int]] = [[]]
        for row in order:
            if batches[-1] and self._full(batches[-1], len(sequences[row]) + 2):
                batches.append([])
            batches[-1].append(row)
        return batches

    def _full(self, batch: list[int], longest: int) -> bool:
        if self.budget:
            return (len(batch) + 1) * longest > self.budget
        return len(batch) == self.size


def residues(ids: Tensor) -> Tensor:
    """Return where a residue stands in ``ids`` [batch, tokens]; <cls>, <pad> and <eos> are 0, 1 and 2."""
    return ids > 2


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [batch, width] over residues."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


class Classifier(nn.Module):
    """A linear layer on the mean over residues, as Trainer wants it."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.head(mean(hidden, residues(input_ids)))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def frozen(folder: Path) -> Classifier:
    """Return a classifier on a backbone that does not learn."""
    return Classifier(bare(folder).requires_grad_(False))


def lora(folder: Path) -> Classifier:
    """Return a classifier on a backbone with PEFT's LoRA of rank 8 on queries, keys and values."""
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "key", "value"])
    return Classifier(peft.get_peft_model(bare(folder), config))


def train(model: Classifier, folder: Path, table: Path, epochs: int, batch: int, accumulate: int = 1) -> None:
    """Train with ``transformers.Trainer``: steps of ``batch`` x ``accumulate`` rows; nothing evaluated, logged or saved."""
    columns = pyarrow.csv.read_csv(table)
    tokenizer: Any = EsmTokenizer.from_pretrained(folder)
    ids = tokenizer(columns["sequence"].to_pylist())["input_ids"]
    labels = ["ab".index(label) for label in columns["label"].to_pylist()]
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(table.parent / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        learning_rate=3e-4,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer: Any = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def same_states(folder: Path, sequences: Sequence[str], what: str) -> None:
    """Stop unless exapt's hidden states of all residues are those of stock ``EsmModel``, in batches of 16."""
    stock = Stock(folder)
    theirs: list[np.ndarray] = []
    for start in range(0, len(sequences), 16):
        hidden, mask = stock.hidden(sequences[start : start + 16])
        theirs += [states[present].numpy() for states, present in zip(hidden, mask, strict=True)]
    ours: Any = exapt.embed(list(sequences), f"esm2:{folder}", pooling="none")
    measure.gate(f"hidden states of {what}", ours, theirs)
