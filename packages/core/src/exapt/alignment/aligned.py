"""Two aligned towers, ready to find and to classify the inputs of one by those of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exapt import device as devices
from exapt.alignment import folder as on_disk
from exapt.alignment.towers import Tower
from exapt.building import Tallies
from exapt.cells import Cell
from exapt.errors import DataError, RecipeError, did_you_mean, listed
from exapt.parts import Array, Encoding, Head, Pooled
from exapt.structures import Structure

if TYPE_CHECKING:
    import pyarrow as pa

Inputs = Sequence[Any] | Mapping[str, Any]
"""Inputs in a list, which are then numbered from 1, or by their ids."""

_QUERIES = 128
_TOLERANCE = {"fp32": 1e-4}
_KINDS = {str: ("sequence",), Structure: ("structure",), Cell: ("cell",)}


@dataclass(frozen=True)
class Alignment:
    """Two locked backbones under one head that takes both to one space. ``manifest`` is what ``alignment.json`` holds."""

    towers: Mapping[str, Tower]
    head: Head
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of the valid and the test pairs."""
        metrics: dict[str, dict[str, float]] = self.manifest["metrics"]
        return metrics

    @property
    def licences(self) -> list[str]:
        """What the licences of the weights forbid, one line each."""
        return [tower.embedder.licence for tower in self.towers.values() if tower.embedder.licence]

    def save(self, folder: str | Path) -> None:
        """Write the alignment. Raises ``OutputError`` if the folder exists or cannot be written; then nothing is left."""
        on_disk.write(Path(folder), self.head, self.manifest, [tower.chosen for tower in self.towers.values()])

    def embed(self, tower: str, inputs: Inputs, tell: Callable[[str], None] = lambda line: None) -> Array:
        """Return unit vectors [inputs, width] in the common space; NaN for an input of which the tower sees nothing.

        ``tell`` hears what there is to note of the inputs. Raises ``RecipeError`` for a tower that there is not and
        ``DataError`` for an input that it cannot read.
        """
        ids, values = named(inputs)
        tallies = Tallies(self.tower(tower).embedder.tokenizer)
        vectors = self.vectors(tower, values, ids, tallies)
        for line in tallies.lines():
            tell(line)
        return vectors

    def similarity(self, queries: Inputs, among: Inputs, *, tower: str = "") -> Array:
        """Return the cosines [queries, among] of inputs of ``tower`` with those of the other one.

        Without ``tower`` it shows in the queries, where one of the two reads structures or cells and the other does not.
        """
        own, other = self.told_apart(queries, tower)
        return np.asarray(self.embed(own, queries) @ self.embed(other, among).T)

    def retrieve(self, queries: Inputs, among: Inputs, k: int = 5, *, tower: str = "") -> pa.Table:
        """Return the ``k`` nearest inputs of the other tower for each query: ``query``, ``rank``, ``match``, ``similarity``.

        ``tower`` is that of the queries, as in ``similarity``. Raises ``RecipeError`` for a ``k`` below 1.
        """
        import pyarrow as pa

        own, other = self.told_apart(queries, tower)
        here = Embedded(named(queries)[0], self.embed(own, queries))
        return pa.table(nearest(here, Embedded(named(among)[0], self.embed(other, among)), k))

    def classify(self, inputs: Inputs, prompts: Mapping[str, Sequence[Any]], *, tower: str = "") -> pa.Table:
        """Return the class of each input without a label of its own: that whose examples, of the other tower, are nearest.

        ``prompts`` maps classes to examples; the columns are ``id``, ``prediction`` and ``probability_<class>``, empty for an
        input of which the tower sees nothing. ``tower`` is that of the inputs, as in ``similarity``.
        """
        import pyarrow as pa

        own, other = self.told_apart(inputs, tower)
        examples = {name: self.embed(other, list(values)) for name, values in prompts.items()}
        return pa.table(self.answers(Embedded(named(inputs)[0], self.embed(own, inputs)), prototypes(examples)))

    def tower(self, name: str) -> Tower:
        """Return a tower by name. Raises ``RecipeError`` for one that there is not."""
        if name not in self.towers:
            raise RecipeError(
                f"there is no tower '{name}'.{did_you_mean(name, self.towers)} Towers: {listed(self.towers)}"
            )
        return self.towers[name]

    def told_apart(self, inputs: Inputs, tower: str) -> tuple[str, str]:
        """Return the tower whose the ``inputs`` are, as named or by their kind, and the other one."""
        if tower:
            return self.sides([self.tower(tower).name], "", "")
        kinds = {kind for value in named(inputs)[1] for kind in _KINDS.get(type(value), ("structure", "cell"))}
        fits = [name for name, one in self.towers.items() if one.chosen.accepts in kinds]
        return self.sides(fits, "these inputs", f"tower = {next(iter(self.towers))!r}")

    def sides(self, fits: Sequence[str], what: str, flag: str) -> tuple[str, str]:
        """Return the one tower that ``fits``, and the other. Raises ``RecipeError``, saying how to name it, for none or both."""
        if len(fits) != 1:
            which = "both towers read" if fits else "neither tower reads"
            raise RecipeError(f"{which} {what}: say whose they are, {' or '.join(self.towers)}, such as {flag}")
        return fits[0], next(name for name in self.towers if name != fits[0])

    def vectors(self, tower: str, values: Sequence[Any], ids: Sequence[str], tallies: Tallies) -> Array:
        """Return what ``embed`` does, of inputs with ids; ``tallies`` take in what becomes of them."""
        embedder = self.tower(tower).embedder
        encodings = embedder.encode(values, ids)
        tallies.count(embedder.accepts, values, encodings)
        return self._projected(tower, encodings)

    def _projected(self, tower: str, encodings: Sequence[Encoding]) -> Array:
        embedder = self.tower(tower).embedder
        vectors = torch.from_numpy(embedder.vectors(encodings)).to(embedder.device)
        found = _placed(self.head, tower, embedder.pooling, vectors)
        found[[encoding.empty for encoding in encodings]] = np.nan
        return found

    def answers(self, inputs: Embedded, prompts: Mapping[str, Array]) -> dict[str, Any]:
        """Return the columns of a classification by the ``prompts``, a unit vector [width] for each class."""
        known = inputs.known.tolist()
        shares = self.shares(np.where(inputs.known[:, None], inputs.vectors, 0), prompts)
        names = list(prompts)
        columns: dict[str, Any] = {"id": list(inputs.ids)}
        best = [names[place] for place in shares.argmax(-1)]
        columns["prediction"] = [name if seen else None for name, seen in zip(best, known, strict=True)]
        for place, name in enumerate(names):
            values = shares[:, place].tolist()
            columns[f"probability_{name}"] = [
                share if seen else None for share, seen in zip(values, known, strict=True)
            ]
        return columns

    def shares(self, vectors: Array, prompts: Mapping[str, Array]) -> Array:
        """Return the probability [inputs, classes] of each class: a softmax over cosines, by the learned temperature."""
        # What cosines are multiplied by is learned beside the projections.
        with devices.resting():
            scale = float(self.head.scale)  # type: ignore[arg-type]
        logits = scale * vectors.astype(np.float64) @ np.stack(list(prompts.values())).T.astype(np.float64)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Embedded:
    """Inputs in the common space: ``vectors`` [inputs, width], NaN where a tower sees nothing."""

    ids: Sequence[str]
    vectors: Array

    @property
    def known(self) -> Array:
        """Of which inputs [inputs] a tower sees anything."""
        return np.asarray(~np.isnan(self.vectors).any(-1))

    @property
    def seen(self) -> Embedded:
        """Those of which a tower sees anything."""
        return Embedded([self.ids[row] for row in np.flatnonzero(self.known).tolist()], self.vectors[self.known])


def named(inputs: Inputs) -> tuple[list[str], list[Any]]:
    """Return ids and values of inputs."""
    if isinstance(inputs, Mapping):
        return list(inputs), list(inputs.values())
    return [str(number) for number in range(1, len(inputs) + 1)], list(inputs)


def nearest(queries: Embedded, among: Embedded, k: int) -> dict[str, list[Any]]:
    """Return columns ``query``, ``rank``, ``match`` and ``similarity`` of the ``k`` nearest for each query.

    Those of which a tower sees nothing neither ask nor are found. Raises ``RecipeError`` for a ``k`` below 1 and
    ``DataError`` where there is nothing to find.
    """
    if k < 1:
        raise RecipeError(f"the {k} nearest cannot be given: ask for 1 or more")
    queries, among = queries.seen, among.seen
    if not len(among.ids):
        raise DataError("there is nothing to find: of no input among which to look does the tower see anything")
    columns: dict[str, list[Any]] = {"query": [], "rank": [], "match": [], "similarity": []}
    for start in range(0, len(queries.ids), _QUERIES):
        cosines = queries.vectors[start : start + _QUERIES] @ among.vectors.T
        order = np.argsort(-cosines, axis=-1, kind="stable")[:, :k]
        for name, found, row in zip(queries.ids[start:], order, cosines, strict=False):
            columns["query"] += [name] * len(found)
            columns["rank"] += range(1, len(found) + 1)
            columns["match"] += [among.ids[place] for place in found]
            columns["similarity"] += row[found].tolist()
    return columns


def prototypes(examples: Mapping[str, Array]) -> dict[str, Array]:
    """Return one unit vector [width] for each class: the mean of its ``examples`` [n, width].

    Raises ``DataError`` for fewer than two classes, and for one without an example that a tower sees.
    """
    if len(examples) < 2:
        raise DataError(f"a choice needs two classes or more, and there are examples of {listed(examples)} alone")
    found = {}
    for name, vectors in examples.items():
        seen = vectors[~np.isnan(vectors).any(-1)] if len(vectors) else vectors
        if not len(seen):
            raise DataError(f"class '{name}' has no example of which the tower sees anything")
        mean = seen.mean(0)
        found[name] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def probed(tower: Tower, head: Head, probes: Sequence[Any]) -> dict[str, Any]:
    """Return the golden probe of a tower: where its plugin's synthetic inputs stand in the common space, in fp32."""
    vectors = tower.exact([tower.embedder.tokenizer.encode(value) for value in probes])
    head.eval()
    found = _placed(head, tower.name, tower.embedder.pooling, vectors)
    outputs = [[float(f"{number:.8g}") for number in row] for row in found]
    return {"inputs": list(probes), "outputs": outputs, "tolerance": dict(_TOLERANCE)}


def _placed(head: Head, tower: str, pooling: str, vectors: torch.Tensor) -> Array:
    with devices.resting():
        output = head({tower: Pooled(pooling, vectors)})
    return np.asarray(output[:, 0].float().cpu().numpy())
