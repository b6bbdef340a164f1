"""Learning from a teacher: its softened answers, and its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.builtin.distillation import DistillationOptions
from exapt.errors import RecipeError, listed
from exapt.manifest import read_manifest
from exapt.parts import Array, Head, Learner, Seen, Step, Strategy, Taught, Training

_OWN, _TARGET = "", "target"


class Distillation(Strategy):
    """A student learns a teacher's answers and features beside the labels.

    Softened probabilities: Hinton et al. 2015, arXiv:1503.02531. Features by a learned projection: Romero et al. 2015,
    arXiv:1412.6550.
    """

    def __init__(self, options: DistillationOptions) -> None:
        self.options = options
        self.streams = (_TARGET,) if options.unlabelled else ()
        self._taught: dict[str, Taught] = {}
        self._heads: dict[str, Head] = {}
        self._teachers: dict[str, str] = {}
        self._scales: dict[str, Tensor] = {}
        self._projections: nn.ModuleDict | None = None

    def attach(self, model: Learner) -> nn.Module | None:
        """Return the projection of each input's features to the teacher's, if these are learned.

        Raises ``RecipeError`` if the teacher reads other inputs.
        """
        if not self.options.features:
            return None
        manifest = read_manifest(Path(self.options.teacher))
        width, theirs = int(manifest["backbone"]["width"]), list(manifest["recipe"]["data"]["inputs"])
        mine = list(dict.fromkeys(name for head in model.heads for name in _inputs_of(model.head(head)))) or theirs
        if set(mine) - set(theirs):
            raise RecipeError(
                f"strategy 'distillation': features of {listed(mine)} are learned, and the teacher reads {listed(theirs)}: "
                "name the inputs alike, or leave features out"
            )
        self._projections = nn.ModuleDict({name: nn.Linear(model.backbone.width, width) for name in mine})
        return self._projections

    def begin(self, run: Training) -> None:
        """Ask the teacher once about all rows. Raises ``RecipeError`` if it answers another question."""
        self._heads = {name: run.model.head(name) for name in run.model.heads if run.model.head(name).labelled}
        parts = {_OWN: run.train} | ({_TARGET: run.streams[_TARGET]} if self.options.unlabelled else {})
        self._taught = {name: run.taught(self.options.teacher, rows) for name, rows in parts.items()}
        theirs = self._taught[_OWN].heads
        self._teachers = {name: _teacher_of(name, self._heads, theirs) for name in self._heads}
        for name, other in self._teachers.items():
            _check_alike(name, self._heads[name], theirs[other])

    def combine(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Leave the labels their share."""
        return {
            name: loss * (1 - self.options.mix) if name in self._teachers else loss for name, loss in losses.items()
        }

    def loss(self, step: Step) -> Tensor | None:
        """Return the teacher's share: the distance of answers and of features, over the rows of all streams alike."""
        seen = {_OWN: step.source, **step.streams}
        return torch.stack([self._distance(seen[name], taught) for name, taught in self._taught.items()]).mean()

    def end(self, run: Training) -> Mapping[str, Any]:
        """Report how far student and teacher agree on the training rows, in their answers and in their features."""
        taught, outputs = self._taught[_OWN], run.predict(run.train)
        facts: dict[str, Any] = {"teacher": Path(self.options.teacher).resolve().name}
        for name, other in self._teachers.items():
            answers = torch.stack(
                [
                    self._of_answers(name, torch.from_numpy(output[name])[None], [theirs])
                    for output, theirs in zip(outputs, taught.outputs[other], strict=True)
                ]
            )
            facts[f"{name}.distance"] = float(answers.mean())
        if self._projections is not None:
            pooled = run.pooled(run.train)
            for name, projection in self._projections.items():
                mine, theirs = torch.from_numpy(pooled[name]), torch.from_numpy(taught.features[name])
                with torch.no_grad():
                    gap = functional.mse_loss(projection(mine.to(run.device)).cpu(), theirs)
                facts[f"features.{name}.distance"] = float(gap / theirs.var())
        return facts

    def _distance(self, seen: Seen, taught: Taught) -> Tensor:
        rows = seen.rows.tolist()
        found = [
            self.options.mix * self._of_answers(name, seen.outputs[name], [taught.outputs[other][row] for row in rows])
            for name, other in self._teachers.items()
        ]
        if self._projections is not None:
            found.append(self.options.features * self._of_features(seen, taught, rows))
        return torch.stack(found).sum()

    def _of_features(self, seen: Seen, taught: Taught, rows: Sequence[int]) -> Tensor:
        assert self._projections is not None
        gaps = []
        for name, projection in self._projections.items():
            theirs = torch.from_numpy(taught.features[name][rows])
            mine = projection(seen.pooled(name).float())
            # In units of the teacher's own spread over all rows, so that one weight suits teachers of any scale.
            gaps.append(functional.mse_loss(mine, theirs.to(mine)) / float(taught.features[name].var()))
        return torch.stack(gaps).mean()

    def _of_answers(self, name: str, output: Tensor, answers: Sequence[Array]) -> Tensor:
        """Return the distance [], a mean over rows of the mean over what each of them has answers for."""
        mine, theirs = self._heads[name].outcomes, self._taught[_OWN].heads[self._teachers[name]].outcomes
        assert mine is not None
        assert theirs is not None
        given, known = _side_by_side(answers, output)
        order = [list(theirs.names).index(outcome) for outcome in mine.names]
        said, asked = given[known], output.float()[known]
        if mine.probabilities is None or theirs.probabilities is None:
            told = theirs.told(said)[..., order]
            each = ((mine.told(asked) - told) / self._spread(name)[order].to(told)).square().mean(-1)
        else:
            distance = softened_classes if mine.exclusive else softened_labels
            each = distance(mine.logits(asked), theirs.logits(said)[..., order], self.options.temperature)
        counts = known.flatten(1).sum(1) if known.dim() > 1 else known.long()
        owner = torch.arange(len(known), device=each.device).repeat_interleave(counts)
        return torch.zeros(len(known), device=each.device).index_add(0, owner, each / counts[owner]).mean()

    def _spread(self, name: str) -> Tensor:
        """Return the deviation [targets] of the teacher's answers over the training rows, in the labels' units."""
        if name not in self._scales:
            taught, other = self._taught[_OWN], self._teachers[name]
            outcomes = taught.heads[other].outcomes
            assert outcomes is not None
            every = np.concatenate([answer.reshape(-1, answer.shape[-1]) for answer in taught.outputs[other]])
            told = outcomes.told(torch.from_numpy(every))
            self._scales[name] = told.std(0, correction=0).clamp(min=torch.finfo(torch.float32).eps)
        return self._scales[name]


def softened_classes(mine: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return the divergence [n] of classes' probabilities from a teacher's, of logits [n, classes] over a temperature.

    Multiplied by its square, so that gradients are as large at any temperature.
    """
    log_mine, log_theirs = ((logits / temperature).log_softmax(-1) for logits in (mine, theirs))
    divergence = functional.kl_div(log_mine, log_theirs, log_target=True, reduction="none")
    return divergence.sum(-1) * temperature**2


def softened_labels(mine: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence [n] of labels' probabilities, each for itself, from a teacher's, as of classes."""
    wanted = (theirs / temperature).sigmoid()
    cost = functional.binary_cross_entropy_with_logits(mine / temperature, wanted, reduction="none")
    least = functional.binary_cross_entropy_with_logits(theirs / temperature, wanted, reduction="none")
    return (cost - least).mean(-1) * temperature**2


def _side_by_side(answers: Sequence[Array], output: Tensor) -> tuple[Tensor, Tensor]:
    """Return answers as the tensor of a student's output, and which of their places [batch, ...] there are."""
    given = torch.zeros(*output.shape[:-1], answers[0].shape[-1], dtype=torch.float32)
    known = torch.zeros(output.shape[:-1], dtype=torch.bool)
    for row, answer in enumerate(answers):
        place = tuple(slice(count) for count in answer.shape[:-1])
        given[row][place], known[row][place] = torch.from_numpy(answer).float(), True
    return given.to(output.device), known.to(output.device)


def _inputs_of(head: Head) -> Sequence[str]:
    reader = getattr(getattr(head, "trunk", None), "reader", None)
    inputs: Sequence[str] = getattr(reader, "inputs", None) or [getattr(reader, "input", "")]
    return [name for name in inputs if name]


def _teacher_of(name: str, mine: Mapping[str, Head], theirs: Mapping[str, Head]) -> str:
    if name in theirs:
        return name
    labelled = [other for other, head in theirs.items() if head.labelled]
    if len(mine) == len(labelled) == 1:
        return labelled[0]
    raise RecipeError(
        f"strategy 'distillation': the teacher has no head '{name}', only {listed(theirs)}: call them alike"
    )


def _check_alike(name: str, mine: Head, theirs: Head) -> None:
    what = f"strategy 'distillation': head '{name}'"
    if mine.outcomes is None or theirs.outcomes is None:
        raise RecipeError(f"{what} gives answers without names, which cannot be compared with a teacher's")
    if mine.axes != theirs.axes:
        raise RecipeError(f"{what} answers for each {mine.answers}, and the teacher's for each {theirs.answers}")
    if (mine.outcomes.probabilities is None) != (theirs.outcomes.probabilities is None):
        raise RecipeError(f"{what} and the teacher's do not ask the same: one tells classes, the other values")
    if mine.outcomes.exclusive != theirs.outcomes.exclusive:
        raise RecipeError(
            f"{what} and the teacher's do not ask the same: one tells classes, the other labels each for itself"
        )
    ours, others = set(mine.outcomes.names), set(theirs.outcomes.names)
    if ours != others:
        raise RecipeError(
            f"{what} has the classes {listed(ours)}, but the teacher's {listed(others)}: teach with one of the same classes"
        )
