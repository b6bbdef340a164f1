"""A scan of all substitutions of a protein, against stock transformers with one token hidden in each input of a pass."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import peers
import torch
from transformers import EsmForMaskedLM, EsmTokenizer

from exapt.data.alphabets import SUBSTITUTES
from exapt.scanning import scan_sequences
from exapt.scoring import Choice, Scoring

_LETTERS = SUBSTITUTES["protein"]
_RESIDUES = 120
_NAMED = "stock, one by one"
_THRESHOLD = 1.7
_SHAPES = {"8M": (320, 6), "35M": (480, 12)}


class Stock:
    """Stock ``EsmForMaskedLM`` and ``EsmTokenizer``, as scripts that score mutations use them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = EsmTokenizer.from_pretrained(folder)
        self.model: Any = EsmForMaskedLM.from_pretrained(folder).eval()
        self.letters = self.tokenizer.convert_tokens_to_ids(list(_LETTERS))

    def masked(self, sequence: str, batch: int) -> list[tuple[str, float]]:
        """Return the masked marginal of every substitution, ``batch`` positions a pass."""
        ids = self.tokenizer(sequence, return_tensors="pt")["input_ids"].repeat(len(sequence), 1)
        places = torch.arange(len(sequence))
        ids[places, places + 1] = self.tokenizer.mask_token_id
        logs = []
        for start in range(0, len(sequence), batch):
            rows, at = ids[start : start + batch], places[start : start + batch]
            with torch.inference_mode():
                logits = self.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
            logs.append(logits[at - start, at + 1].log_softmax(-1)[:, self.letters])
        return self._told(sequence, torch.cat(logs))

    def wild_type(self, sequence: str) -> list[tuple[str, float]]:
        """Return the wild-type marginal of every substitution: one pass."""
        with torch.inference_mode():
            logits = self.model(**self.tokenizer(sequence, return_tensors="pt")).logits
        return self._told(sequence, logits[0, 1:-1].log_softmax(-1)[:, self.letters])

    def _told(self, sequence: str, logs: torch.Tensor) -> list[tuple[str, float]]:
        own = logs[torch.arange(len(sequence)), [_LETTERS.index(letter) for letter in sequence]]
        scores = (logs - own[:, None]).tolist()
        return [
            (f"{wild}{place}{mutant}", score)
            for place, (wild, row) in enumerate(zip(sequence, scores, strict=True), 1)
            for mutant, score in zip(_LETTERS, row, strict=True)
            if mutant != wild
        ]


def draw(seed: int) -> str:
    """Return a protein of random residues, of which a scan knows nothing from the round before."""
    return "".join(np.random.default_rng(seed).choice(list(_LETTERS), _RESIDUES))


def gate(scoring: Scoring, found: list[tuple[str, float]], sequence: str, what: str) -> None:
    """Stop unless exapt scores the same mutations, the same."""
    table = scan_sequences(scoring, [sequence])
    if table["mutation"].to_pylist() != [mutation for mutation, _ in found]:
        sys.exit(f"{what}: the mutations differ: no speed is measured of other work")
    theirs = np.array([score for _, score in found])
    measure.gate(f"{len(theirs):,} {what}", [table["score"].to_numpy()], [theirs])


def passes(scoring: Scoring, backbone: Any, sequence: str) -> int:
    """Return how many inputs the model reads for one scan."""
    counted: list[int] = []
    handle = backbone.esm.embeddings.register_forward_hook(lambda *told: counted.append(len(told[2])))
    scan_sequences(scoring, [sequence])
    handle.remove()
    return sum(counted)


def compare(folder: Path, size: str) -> None:
    """Measure one shape of ESM-2; each round draws a protein of its own."""
    model = peers.write_esm2(folder / "model", *_SHAPES[size])
    stock = Stock(model)
    masked, wild = (
        Scoring.of(f"esm2:{model}", Choice(scorer), "cpu") for scorer in ("masked-marginal", "wild-type-marginal")
    )
    first = draw(1000)
    gate(masked, stock.masked(first, 8), first, f"masked marginals, ESM-2 {size}")
    gate(wild, stock.wild_type(first), first, f"wild-type marginals, ESM-2 {size}")
    told = [passes(scoring, scoring.expectations.backbone, draw(1001)) for scoring in (masked, wild)]
    print(f"inputs read for {_RESIDUES * 19:,} substitutions: {told[0]} by masked, {told[1]} by wild-type marginals")

    def prepare(number: int) -> measure.Case:
        sequence = draw(number)
        variants = {
            "exapt, masked marginals": partial(scan_sequences, masked, [sequence]),
            _NAMED: partial(stock.masked, sequence, 1),
            **{f"stock, {batch} a pass": partial(stock.masked, sequence, batch) for batch in (8, 16, 32)},
        }
        return measure.Case(variants, _RESIDUES * (len(_LETTERS) - 1))

    title = f"Scan of a protein of {_RESIDUES} residues by masked marginals, ESM-2 {size}, fp32"
    measure.report(title, measure.measure(prepare), ["exapt, masked marginals"], _NAMED, _THRESHOLD, unit="scores")


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    for size in sys.argv[1:] or ["8M"]:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), size)
