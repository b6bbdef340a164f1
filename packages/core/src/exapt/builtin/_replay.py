"""Replay: rows of earlier tasks, learned from again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt.builtin._memory import read_memory, write_memory
from exapt.builtin.continual import ReplayOptions
from exapt.data.batching import padded
from exapt.errors import RecipeError
from exapt.parts import Array, Encoding, Head, HeadContext, Seen, Step, Strategy, Training
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import HeadSpec
from exapt.start import question

_NAME, _STREAM = "replay", "replay"
# Of how a head stands in a recipe, what is no option of it.
_BESIDE = ("name", "label", "weight", "data")


@dataclass(frozen=True)
class Remembered:
    """A row of an earlier task: its inputs, encoded, and its targets by what was asked."""

    encodings: Mapping[str, Encoding]
    targets: Mapping[str, Array]


@dataclass
class Asked:
    """What an earlier task asked: a head's ``name``, how it stands in a recipe, and what it learned."""

    name: str
    head: Mapping[str, Any]
    state: Mapping[str, Tensor]

    def build(self, run: Training) -> Head:
        """Return the head as it was learned: it answers, and learns no more."""
        spec = current().get(HeadSpec, self.head["name"]).spec
        given = {key: value for key, value in self.head.items() if key not in _BESIDE}
        options = validated(spec.options, given, f"strategy 'replay': head '{self.name}'")
        context = HeadContext(dict.fromkeys(run.train.inputs, run.model.backbone.width))
        head: Head = spec.build(options, context)
        if {name: value.shape for name, value in head.state_dict().items()} != {
            name: value.shape for name, value in self.state.items()
        }:
            raise RecipeError(
                f"strategy 'replay': its memory is of another model: head '{self.name}' does not fit the features of this one"
            )
        head.load_state_dict(dict(self.state))
        return head.to(run.device).eval().requires_grad_(False)


class Replay(Strategy):
    """Rows of earlier tasks are learned from beside those of the new one: as many in each step, drawn from a memory.

    Robins 1995, doi:10.1080/09540099550039318; with so small a memory: Chaudhry et al. 2019, arXiv:1902.10486. The memory
    is a reservoir, in which each row seen so far stands with the same probability: Vitter 1985, doi:10.1145/3147.3165. Rows
    whose question is not asked here are answered by the head that their own task learned, which stays as it is.
    """

    def __init__(self, options: ReplayOptions) -> None:
        self.options = options
        self.streams = (_STREAM,) if options.memory else ()
        self.over = _STREAM if options.memory else ""
        self._rows: list[Remembered] = []
        self._tokenizer = ""
        self._asked: dict[str, Asked] = {}
        self._seen = 0
        self._heads: dict[str, Head] = {}
        self._own: dict[str, str] = {}

    def recall(self) -> Sequence[Mapping[str, Encoding]]:
        """Return the rows in memory. Raises ``RecipeError`` if it holds none."""
        if not self.options.memory:
            return ()
        self._rows, self._asked, facts = _read(self.options.memory)
        self._seen, self._tokenizer = int(facts["seen"]), facts["tokenizer"]
        if not self._rows:
            raise RecipeError(f"strategy 'replay': memory '{self.options.memory}' holds no rows")
        return [row.encodings for row in self._rows]

    def begin(self, run: Training) -> None:
        """Find the heads that answer for rows in memory: those of this run that ask the same, else those of their tasks."""
        inputs = set(run.train.inputs)
        if self._rows and self._rows[0].encodings.keys() != inputs:
            raise RecipeError(
                f"strategy 'replay': its memory is of inputs {', '.join(sorted(self._rows[0].encodings))}, and this task "
                f"reads {', '.join(sorted(inputs))}"
            )
        if self._rows and self._tokenizer != run.model.tokenizer:
            # Numbers of tokens would be read as those of others, and nobody would notice.
            raise RecipeError(
                "strategy 'replay': its memory is of another model: its rows were encoded by another tokenizer than this one's"
            )
        here = {_key(name, head): name for name, head in run.model.questions.items() if run.model.head(name).labelled}
        self._own = here
        self._heads = {
            key: run.model.head(here[key]) if key in here else asked.build(run) for key, asked in self._asked.items()
        }

    def loss(self, step: Step) -> Tensor | None:
        """Return the mean loss [] of the remembered rows of this step; none in a first task."""
        if _STREAM not in step.streams:
            return None
        seen = step.streams[_STREAM]
        numbers = seen.rows.tolist()
        losses = []
        for key, head in self._heads.items():
            places = [place for place, number in enumerate(numbers) if key in self._rows[number].targets]
            if places:
                targets = [self._rows[numbers[place]].targets[key] for place in places]
                losses.append(len(places) / len(numbers) * self._mean(seen, key, head, places, targets))
        return self.options.weight * torch.stack(losses).sum()

    def _mean(self, seen: Seen, key: str, head: Head, places: Sequence[int], targets: Sequence[Array]) -> Tensor:
        name = self._own.get(key)
        answers = (
            head({one: kept[head.reads] for one, kept in seen.features.items()}) if name is None else seen.outputs[name]
        )
        output = answers[torch.tensor(places, device=answers.device)].float()
        wanted = padded(targets, output.shape[1], head.pad, head.axes) if head.ragged else np.stack(targets)
        target = torch.from_numpy(wanted).to(output.device)
        return head.loss(output, target) / head.weigh(target).clamp(min=torch.finfo(torch.float32).tiny)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Keep a memory with rows of this task in it, if that is asked for; return of how much was learned again."""
        told = {"rows": len(self._rows), "of": self._seen} if self._rows else {}
        if self.options.keep:
            self._take_in(run)
            facts = {"seen": self._seen, "tokenizer": run.model.tokenizer}
            _write(self.options.keep, self._rows, self._asked, facts)
        return told

    def _take_in(self, run: Training) -> None:
        for key, name in self._own.items():
            self._asked[key] = Asked(name, dict(run.model.questions[name]), run.model.head(name).state_dict())
        rng = np.random.default_rng((run.seed, self._seen))
        size = self.options.size
        if len(self._rows) > size:
            self._rows = [self._rows[place] for place in sorted(rng.permutation(len(self._rows))[:size].tolist())]
        elif len(self._rows) < self._seen:
            # Rows were left out before: with more room now, those of this task would come in too often.
            size = len(self._rows)
        for row in rng.permutation(len(run.train)).tolist():
            self._seen += 1
            # Vitter's algorithm R: the n-th row comes in with the probability size / n, in place of any other.
            place = len(self._rows) if len(self._rows) < size else int(rng.integers(self._seen))
            if place < size:
                self._rows[place : place + 1] = [self._remembered(run, row)]

    def _remembered(self, run: Training, row: int) -> Remembered:
        encodings = {name: inputs.encodings[row] for name, inputs in run.train.inputs.items()}
        return Remembered(encodings, {key: run.train.targets[name][row] for key, name in self._own.items()})


def _key(name: str, head: Mapping[str, Any]) -> str:
    """Return what tells questions apart: heads of one name that ask the same are one."""
    return f"{name} {json.dumps(question(head), sort_keys=True)}"


def _write(path: str, rows: Sequence[Remembered], asked: Mapping[str, Asked], facts: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    keys, written = list(asked), []
    for number, key in enumerate(keys):
        tensors |= {f"head.{number}.{name}": value for name, value in asked[key].state.items()}
    for number, row in enumerate(rows):
        of: dict[str, Any] = {}
        for name, encoding in row.encodings.items():
            arrays = {**encoding.arrays, "": encoding.spans}
            tensors |= {
                f"row.{number}.{name}.{one}": torch.from_numpy(np.ascontiguousarray(array))
                for one, array in arrays.items()
            }
            of[name] = {
                "arrays": list(encoding.arrays),
                "pads": dict(encoding.pads),
                "length": encoding.length,
                "unknown": encoding.unknown,
            }
        tensors |= {
            f"target.{number}.{keys.index(key)}": torch.from_numpy(np.array(target))
            for key, target in row.targets.items()
        }
        written.append({"inputs": of, "asked": [keys.index(key) for key in row.targets]})
    told = [{"key": key, "name": asked[key].name, "head": asked[key].head} for key in keys]
    write_memory(path, _NAME, tensors, {"rows": written, "asked": told, **facts})


def _read(path: str) -> tuple[list[Remembered], dict[str, Asked], dict[str, Any]]:
    tensors, facts = read_memory(path, _NAME)
    asked = {}
    for number, told in enumerate(facts["asked"]):
        prefix = f"head.{number}."
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        asked[told["key"]] = Asked(told["name"], told["head"], state)
    keys = list(asked)
    rows = []
    for number, of in enumerate(facts["rows"]):
        encodings = {name: _encoding(tensors, f"row.{number}.{name}.", one) for name, one in of["inputs"].items()}
        targets = {keys[place]: tensors[f"target.{number}.{place}"].numpy() for place in of["asked"]}
        rows.append(Remembered(encodings, targets))
    return rows, asked, facts


def _encoding(tensors: Mapping[str, Tensor], prefix: str, told: Mapping[str, Any]) -> Encoding:
    arrays = {name: tensors[f"{prefix}{name}"].numpy() for name in told["arrays"]}
    return Encoding(arrays, told["pads"], tensors[prefix].numpy(), told["length"], told["unknown"])
