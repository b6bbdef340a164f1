"""Heads by ridge regression in closed form.

Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634; the penalty by leaving each row out in turn, which has a closed form
too (Allen 1974, doi:10.1080/00401706.1974.10489157); as a few-shot learner: Bertinetto et al. 2019, arXiv:1805.08136.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from exapt.builtin._few_shot import EPISODIC, FittedTrunk, temperature_of
from exapt.builtin.few_shot import RidgeOptions, RidgeRegressionOptions
from exapt.parts import HeadContext

_FLAT = 1e-13
"""Deviations of which the squares are less than this share of the squared lengths are rounding: fp32 holds no finer."""
PENALTIES = torch.logspace(-4, 6, 41, dtype=torch.float64)
"""The penalties that are tried, as multiples of the mean squared deviation of a feature."""


@dataclass(frozen=True)
class Solution:
    """Coefficients ``weight`` [answers, width] and ``bias`` [answers], and what was found for each row without it."""

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    """Answers [rows, answers] for each row by the coefficients of all others."""
    penalty: float


def solve(vectors: Tensor, targets: Tensor, penalty: float = 0.0, judged: Tensor | None = None) -> Solution:
    """Return the ridge regression of ``targets`` [rows, answers] on ``vectors`` [rows, width], with an intercept.

    It is minimal in the summed squared error plus ``penalty`` times the summed squared coefficients; of 0, that penalty is
    taken whose error is least when each row that is ``judged`` [rows] is left out in turn: all of them, of None. Where none
    is, or there are fewer than three rows, it is the mean squared deviation of a feature. Rows that are all equal tell the
    mean alone. All is reckoned in fp64, and gradients reach the vectors.
    """
    wide, goal = vectors.double(), targets.double()
    centre, mean = wide.mean(0), goal.mean(0)
    x, y = wide - centre, goal - mean
    unit = x.square().sum() / max(x.shape[1], 1)
    if not x.square().sum() > _FLAT * wide.square().sum():
        # Times 0, and not zeros: a step that learns through this one still has its gradient, of 0.
        weight = 0 * (y.T @ x)
        left_out = y - y / max(1 - 1 / len(y), _FLAT) + mean
        return Solution(weight.to(vectors), (mean - weight @ centre).to(vectors), left_out, penalty)
    with torch.no_grad():
        basis, squared = _basis(x)
        told = judged if judged is not None else torch.ones(len(y), dtype=torch.bool, device=y.device)
        multiple = 1.0 if penalty or len(y) < 3 or not told.any() else _chosen(basis, squared, y, unit.item(), told)
    # The multiple is one of some; the unit moves with the vectors.
    chosen = torch.as_tensor(penalty).to(unit) if penalty else multiple * unit
    weight = _coefficients(x, y, chosen)
    with torch.no_grad():
        left_out = _left_out(basis, squared, y, chosen.item()) + mean
    return Solution(weight.to(vectors), (mean - weight @ centre).to(vectors), left_out, chosen.item())


def _chosen(basis: Tensor, squared: Tensor, y: Tensor, unit: float, judged: Tensor) -> float:
    """Return the multiple of ``unit`` as penalty under which rows that are ``judged`` are told best without themselves."""
    tried = PENALTIES.tolist()
    errors = [float((y - _left_out(basis, squared, y, one * unit))[judged].square().sum()) for one in tried]
    best: float = tried[errors.index(min(errors))]
    return best


def _basis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return centred ``x`` [rows, width] turned onto its principal axes [rows, axes], and their squared lengths [axes]."""
    rows, width = x.shape
    if rows < width:
        squared, left = torch.linalg.eigh(x @ x.T)
        kept = squared > squared.max().clamp(min=0) * 1e-12
        return left[:, kept] * squared[kept].sqrt(), squared[kept]
    squared, right = torch.linalg.eigh(x.T @ x)
    kept = squared > squared.max().clamp(min=0) * 1e-12
    return x @ right[:, kept], squared[kept]


def _left_out(basis: Tensor, squared: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return what is told of each centred target [rows, answers] by the regression on all other rows."""
    shrunk = basis / (squared + penalty)
    told = shrunk @ (basis.T @ y)
    # What a row has of its own answer: the intercept takes its share too.
    own = (shrunk * basis).sum(1, keepdim=True) + 1 / len(basis)
    return y - (y - told) / (1 - own).clamp(min=1e-9)


def _coefficients(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """Return the coefficients [answers, width], by whichever of the two equal systems is smaller."""
    rows, width = x.shape
    size = torch.eye(min(rows, width), dtype=x.dtype, device=x.device)
    if rows < width:
        inner: Tensor = torch.linalg.solve(x @ x.T + penalty * size, y)
        return inner.T @ x
    weight: Tensor = torch.linalg.solve(x.T @ x + penalty * size, x.T @ y)
    return weight.T


class Ridge(FittedTrunk):
    """A linear answer whose coefficients are a ridge regression's, of scaled features."""

    weight: Tensor
    bias: Tensor

    def __init__(self, options: RidgeOptions | RidgeRegressionOptions, context: HeadContext, answers: int) -> None:
        super().__init__(options, context)
        self.penalty = options.penalty
        self.register_buffer("weight", torch.zeros(answers, self.reader.width))
        self.register_buffer("bias", torch.zeros(answers))

    def told(self, vectors: Tensor) -> Tensor:
        """Return the linear answers [batch, answers]."""
        return functional.linear(vectors, self.weight, self.bias)


class RidgeClasses(Ridge):
    """Classes by regression onto 1 for the own class and 0 for others; logits are its answers over a temperature."""

    temperature: Tensor

    def __init__(self, options: RidgeOptions, context: HeadContext) -> None:
        super().__init__(options, context, len(options.classes))
        self.fixed = options.temperature
        self.register_buffer("temperature", torch.ones(()))

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the coefficients, and the temperature that suits the answers for rows that were left out."""
        # What is told without the only row of a class is never that class.
        judged = targets.bincount()[targets] > 1
        found = solve(vectors, functional.one_hot(targets, len(self.bias)).to(vectors), self.penalty, judged)
        temperature = self.fixed or EPISODIC
        if not self.fixed and judged.any() and not vectors.requires_grad:
            temperature = temperature_of(found.left_out[judged].cpu().numpy(), targets[judged].cpu().numpy())
        return {"weight": found.weight, "bias": found.bias, "temperature": vectors.new_tensor(temperature)}

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the logits [batch, classes]."""
        return self.told(vectors) / self.temperature


class RidgeNumbers(Ridge):
    """Numbers by regression, each by the rows that have it and with a penalty of its own."""

    def __init__(self, options: RidgeRegressionOptions, context: HeadContext) -> None:
        super().__init__(options, context, len(options.targets))

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the coefficients; a number that no row has is told to be the mean."""
        weights, biases = [], []
        for at in range(targets.shape[1]):
            known = ~targets[:, at].isnan()
            if not known.any():
                weights.append(torch.zeros_like(self.weight[at]))
                biases.append(torch.zeros_like(self.bias[at]))
                continue
            found = solve(vectors[known], targets[known, at, None], self.penalty)
            weights.append(found.weight[0])
            biases.append(found.bias[0])
        return {"weight": torch.stack(weights), "bias": torch.stack(biases)}

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the standardised numbers [batch, targets]."""
        return self.told(vectors)
