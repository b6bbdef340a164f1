"""ProteinMPNN with its published weights: encoding and scoring of structures, against the published program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import measure
import numpy as np
from mpnn_peers import Featurized, Published

from exapt.data.placements import Structures
from exapt.embedding import Embedder
from exapt.likelihoods import likelihood_table
from exapt.parts import Encoding
from exapt.scoring import Choice, Scoring
from exapt.structures import Structure

_MODEL = "proteinmpnn-vanilla-020"
_ORDERS = 10
_NAMED = "published, one by one"
_FINGERS = Path(__file__).parents[1] / "examples" / "data" / "zinc_fingers"
_GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "proteinmpnn" / "pdbs"
_LARGER = ("5L33", "6MRR", "4GYT")


class Structural:
    """One folder of structures, as both sides read it."""

    def __init__(self, files: Sequence[Path], scoring: Scoring, embedder: Embedder, published: Published) -> None:
        self.files, self.scoring, self.embedder, self.published = files, scoring, embedder, published
        self.held = [Structures(file).find("") for file in files]
        self.made = [published.featurized(one) for one in self.parsed(every=False)]
        self.copies = [published.featurized(one, _ORDERS) for one in self.parsed(every=False)]

    @property
    def residues(self) -> int:
        """The residues of all structures."""
        return sum(len(one) for one in self.held)

    def parsed(self, every: bool = True) -> list[dict[str, object]]:
        """Return what the published program reads: of each file ``every`` chain that there may be, or those that there are."""
        known = [() if every else one.chains for one in self.held]
        return [self.published.parse([file], chains)[0] for file, chains in zip(self.files, known, strict=True)]

    def read(self) -> list[Structure]:
        """Return the structures, parsed."""
        return [Structures(file).find("") for file in self.files]

    def ranks(self, structure: Structure) -> np.ndarray:
        """Return the places [orders, residues] in the orders that exapt decodes in."""
        tokenizer = self.scoring.pairs.tokenizer
        asked = self.scoring.scorer.likelihood(tokenizer, structure)
        return np.stack([question.encoding.arrays["rank"] for question in asked])

    def embed(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """Return what exapt's encoder says of each residue, structure by structure."""
        encodings: list[Encoding] = self.embedder.encode(structures, [str(number) for number in range(len(structures))])
        return [self.embedder.vectors([encoding])[0] for encoding in encodings]

    def embed_together(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """Return the same, of all structures at once, which exapt puts into batches of similar length."""
        encodings = self.embedder.encode(structures, [str(number) for number in range(len(structures))])
        states: list[np.ndarray] = self.embedder.vectors(encodings)
        return states

    def forget(self) -> None:
        """Load the model anew: what it was asked before is kept, and would not be computed again."""
        self.scoring = Scoring.of(_MODEL, Choice(alone=True))

    def score(self) -> list[float]:
        """Return exapt's mean negative log-likelihoods, from files to numbers."""
        return [
            -value
            for file in self.files
            for batch in likelihood_table(self.scoring, file)
            for value in batch["log_likelihood"].to_pylist()
        ]

    def their_scores(self, made: Sequence[Featurized], ranks: Sequence[np.ndarray]) -> list[float]:
        """Return those of the published program, over the same orders."""
        return [self.published.score(one, order) for one, order in zip(made, ranks, strict=True)]


def same(work: Structural) -> None:
    """Stop unless both sides say the same of structures that are whole."""
    theirs = [work.published.encoded(one) for one in work.made]
    measure.gate("encoder states", work.embed(work.held), theirs)
    measure.gate("encoder states, in batches", work.embed_together(work.held), theirs)
    ranks = [work.ranks(one) for one in work.held]
    scores = work.their_scores(work.made, ranks)
    measure.gate("scores over ten orders", [np.array(work.score())], [np.array(scores)])


def compare(title: str, work: Structural) -> None:
    """Measure parsing, encoding and scoring of one folder."""
    same(work)
    pub, ranks = work.published, [work.ranks(one) for one in work.held]

    def encoded(every: bool) -> None:
        for one in work.parsed(every):
            pub.encoded(pub.featurized(one))

    def scored(every: bool, copies: int) -> None:
        made = [pub.featurized(one, copies) for one in work.parsed(every)]
        work.their_scores(made, ranks)

    tables: dict[str, tuple[dict[str, Callable[[], object]], float | None]] = {
        "parsing": (
            {
                "exapt": work.read,
                _NAMED: work.parsed,
                "published, chains named": partial(work.parsed, every=False),
            },
            None,
        ),
        "encoding, parsed before": (
            {
                "exapt": partial(work.embed_together, work.held),
                "exapt, one by one": partial(work.embed, work.held),
                _NAMED: lambda: [pub.encoded(one) for one in work.made],
            },
            2.0,
        ),
        "encoding, from files": (
            {
                "exapt": lambda: work.embed_together(work.read()),
                "exapt, one by one": lambda: work.embed(work.read()),
                _NAMED: partial(encoded, every=True),
                "published, chains named": partial(encoded, every=False),
            },
            2.0,
        ),
        f"scores over {_ORDERS} orders, from files": (
            {
                "exapt": work.score,
                _NAMED: partial(scored, every=True, copies=1),
                "published, orders as copies": partial(scored, every=False, copies=_ORDERS),
            },
            2.0,
        ),
    }
    for what, (variants, threshold) in tables.items():
        rounds = measure.measure(partial(_fresh, work, variants))
        ours = [name for name in variants if name.startswith("exapt")]
        measure.report(f"{title}: {what}", rounds, ours, _NAMED, threshold, "residues", judged=ours)


def _fresh(work: Structural, variants: dict[str, Callable[[], object]], number: int) -> measure.Case:
    work.forget()
    return measure.Case(variants, work.residues)


if __name__ == "__main__":
    measure.one_thread()
    parts = (Scoring.of(_MODEL, Choice(alone=True)), Embedder.of(_MODEL, "none"), Published())
    compare("Zinc fingers", Structural(sorted(_FINGERS.glob("*.pdb")), *parts))
    if not _GOLDEN.is_dir():
        sys.exit(f"the larger structures are not in {_GOLDEN}")
    compare("Larger proteins", Structural([_GOLDEN / f"{name}.pdb" for name in _LARGER], *parts))
