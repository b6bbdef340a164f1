"""Features that move from the one domain to the other in the course of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exapt.builtin._domains import set_in
from exapt.builtin._pseudo_labels import classes_of
from exapt.builtin.domains import GradualMixingOptions, tokens_read
from exapt.errors import RecipeError
from exapt.parts import Head, Learner, Pooled, Seen, Step, Strategy, Training


class _Counted(nn.Module):
    """How many labelled rows there were, and how many of them found a like one; kept in checkpoints."""

    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counted", torch.zeros(2, dtype=torch.int64))


class GradualMixing(Strategy):
    """Rows between the domains, made of both, that lie ever nearer to the target domain (Abnar et al. 2021, arXiv:2106.06080).

    The vectors of a labelled row and of a row of the target domain for which the model answers that row's label are
    mixed, and learned with this label. The target's share grows with training: the domains between stand in for those
    that gradual self-training needs (Kumar et al. 2020, arXiv:2002.11361). Here the model of the moment answers, not that
    of the round before; labelled rows are learned from as they are, too.
    """

    streams = ("target",)

    def __init__(self, options: GradualMixingOptions) -> None:
        self.options = options
        self.heads: dict[str, Head] = {}
        self.met = _Counted()

    def attach(self, model: Learner) -> nn.Module:
        """Take note of the heads. Raises ``RecipeError`` for one that reads tokens, which are not mixed."""
        every = {name: model.head(name) for name in model.heads}
        self.heads = {name: head for name, head in every.items() if classes_of(head, ("input",))}
        for name, head in self.heads.items():
            if head.reads == "tokens":
                raise RecipeError(tokens_read(name))
        return self.met

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether half of the training is behind."""
        return set_in(epoch, epochs)

    def share(self, progress: float) -> float:
        """Return the share of the target domain at a ``progress`` from 0 to 1."""
        return self.options.share * min(1.0, progress / self.options.until)

    def loss(self, step: Step) -> Tensor | None:
        """Return the heads' mean loss [] on mixed rows; None where no row has a like one."""
        target, share = step.streams["target"], self.share(step.progress)
        found = []
        for name, head in self.heads.items():
            truth = step.source.targets[name]
            partner = partners(truth, target.outputs[name])
            self.met.counted += torch.tensor([len(partner), int((partner >= 0).sum())], device=self.met.counted.device)
            paired = partner >= 0
            weight = head.weigh(truth[paired])
            if weight > 0:
                answer = head(_mixed(head, step.source, target, paired, partner[paired], share))
                found.append(head.loss(answer.float(), truth[paired]) / weight)
        return self.options.weight * torch.stack(found).sum() if found else None

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return the largest share, and the share of labelled rows that found a like one over all of training."""
        rows, paired = self.met.counted.tolist()
        return {"share": self.share(1.0), "paired": paired / rows if rows else 0.0}


def partners(truth: Tensor, answers: Tensor) -> Tensor:
    """Return, for each label of ``truth`` [rows], a row at random that is answered so, by its number; -1 if there is none.

    ``answers`` are [rows of the target domain, classes].
    """
    like = truth.unsqueeze(1) == answers.detach().argmax(-1).unsqueeze(0)
    chance = (1 + torch.rand(like.shape, device=like.device)) * like
    return torch.where(like.any(1), chance.argmax(1), -1)


def _mixed(head: Head, source: Seen, target: Seen, paired: Tensor, partner: Tensor, share: float) -> dict[str, Pooled]:
    def vectors(seen: Seen, name: str) -> Tensor:
        pooled: Tensor = seen.features[name][head.reads].pool(head.reads)
        return pooled

    return {
        name: Pooled(head.reads, torch.lerp(vectors(source, name)[paired], vectors(target, name)[partner], share))
        for name in source.features
    }
