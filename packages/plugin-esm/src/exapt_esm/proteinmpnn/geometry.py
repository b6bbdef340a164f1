"""From atoms to a graph: who is next to whom, and how far apart the atoms of neighbours are.

Dauparas et al. 2022, doi:10.1126/science.add2187; Ingraham et al. 2019, Generative models for graph-based protein design.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of pairwise distances computed at a time: so many floats stay in the cache, and a complex of any size in memory.
_AT_ONCE = 2**20
# Keeps the slope of a root finite where two atoms are one.
_TINY = 1e-6
_NEAREST, _FARTHEST = 2.0, 22.0
# Of a bump as a power of e: where it is no more to be seen.
_NOTHING = 40
# Where the C-beta lies, by the bonds N-CA and CA-C and their cross product.
_BETA = (-0.58273431, 0.56802827, -0.54067466)
# Order of the atoms below: N, CA, C, O, C-beta.
_N, _CA, _C, _O, _CB = range(5)
_PAIRS = (
    *((_CA, _CA), (_N, _N), (_C, _C), (_O, _O), (_CB, _CB)),
    *((_CA, _N), (_CA, _C), (_CA, _O), (_CA, _CB), (_N, _C), (_N, _O), (_N, _CB), (_CB, _C), (_CB, _O), (_O, _C)),
    *((_N, _CA), (_C, _CA), (_O, _CA), (_CB, _CA), (_C, _N), (_O, _N), (_CB, _N), (_C, _CB), (_O, _CB), (_C, _O)),
)


@dataclass(frozen=True)
class Graph:
    """The neighbours of each residue, itself among them, nearest first.

    ``places`` [batch * tokens, k] counts tokens through the whole batch, ``distances`` [batch * tokens, k] are between CA
    atoms in Å. ``real`` [batch * tokens, k] is False where an input has fewer neighbours than another beside it; None if
    none has. ``attends`` [batch * tokens, k] is True where both residues are resolved; None if all are.
    """

    places: Tensor
    distances: Tensor
    real: Tensor | None
    attends: Tensor | None

    def of(self, nodes: Tensor) -> Tensor:
        """Return what ``nodes`` [batch * tokens, ...] hold of each neighbour [batch * tokens, k, ...]."""
        return nodes.index_select(0, self.places.flatten()).view(*self.places.shape, *nodes.shape[1:])

    def repeated(self, copies: int) -> Graph:
        """Return the graph of the same inputs ``copies`` times over, one copy behind another."""
        starts = torch.arange(copies, device=self.places.device).repeat_interleave(len(self.places)) * len(self.places)
        places = self.places.repeat(copies, 1) + starts[:, None]
        rest = (None if given is None else given.repeat(copies, 1) for given in (self.real, self.attends))
        return Graph(places, self.distances.repeat(copies, 1), *rest)


def neighbours(alphas: Tensor, resolved: Tensor, present: Tensor, most: int) -> Graph:
    """Return the ``most`` nearest neighbours of each residue by CA atoms ``alphas`` [batch, tokens, 3].

    A residue that is not ``resolved`` [batch, tokens] counts as far from others as the farthest resolved one. Each input
    is looked at apart from the padding behind it, so that ties fall out as they do for that input alone.
    """
    batch, tokens = present.shape
    counts = present.sum(1).tolist()
    k = min(most, max(counts))
    rows = torch.arange(batch * tokens, device=alphas.device)
    places = rows[:, None].expand(-1, k).clone()
    distances = alphas.new_zeros(batch * tokens, k)
    real = torch.zeros(batch * tokens, k, dtype=torch.bool, device=alphas.device)
    for row, count in enumerate(counts):
        own, few = slice(row * tokens, row * tokens + count), min(most, count)
        found, nearest = _nearest(alphas[row, :count], resolved[row, :count], few)
        places[own, :few], distances[own, :few], real[own, :few] = nearest + row * tokens, found, True
    known = resolved.flatten()
    attends = known[:, None] & known[places] & real
    whole, all_known = bool(real.all()), bool(attends.all())
    return Graph(places, distances, None if whole else real, None if all_known else attends)


def _nearest(alphas: Tensor, resolved: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and places [tokens, k] of the nearest among ``alphas`` [tokens, 3]."""
    size = max(1, _AT_ONCE // max(1, 3 * len(alphas)))
    pieces = [_nearest_to(alphas, resolved, rows, k) for rows in torch.split(torch.arange(len(alphas)), size)]
    found = [torch.cat(piece) for piece in zip(*pieces, strict=True)]
    return (found[0], found[1]) if found else (alphas.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long))


def _nearest_to(alphas: Tensor, resolved: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    some = slice(int(rows[0]), int(rows[-1]) + 1)
    distances = ((alphas[some, None] - alphas[None]).square_().sum(-1) + _TINY).sqrt_()
    unknown = ~(resolved[some, None] & resolved[None])
    distances = distances.masked_fill_(unknown, 0)
    farthest = distances.amax(1, keepdim=True)
    found = torch.topk(torch.where(unknown, farthest, distances), k, largest=False)
    return found.values, found.indices


def atom_distances(atoms: Tensor, graph: Graph) -> Tensor:
    """Return the distances [batch * tokens, k, 25] in Å between the atoms of neighbours, ``atoms`` [batch, tokens, 4, 3]."""
    four = atoms.flatten(0, 1)
    five = torch.cat((four, _beta(four)[:, None]), 1)
    own, theirs = (list(column) for column in zip(*_PAIRS, strict=True))
    return _apart(five[:, own], graph.of(five)[:, :, theirs], graph)


def _beta(atoms: Tensor) -> Tensor:
    """Return where the C-beta [..., 3] of each residue is or, of glycine, would be."""
    n, alpha, c, _ = atoms.unbind(1)
    first, second = alpha - n, c - alpha
    a, b, d = _BETA
    beta: Tensor = a * torch.linalg.cross(first, second) + b * first + d * second + alpha
    return beta


def trace_distances(alphas: Tensor, graph: Graph) -> Tensor:
    """Return the distances [batch * tokens, k, 9] in Å between CA atoms of neighbours and of those before and after them.

    ``alphas`` [batch, tokens, 3] are 0 where there is none, as is what comes before the first and after the last: to the
    published CA models it matters where a structure lies.
    """
    nothing = alphas.new_zeros(len(alphas), 1, 3)
    before, after = torch.cat((nothing, alphas[:, :-1]), 1), torch.cat((alphas[:, 1:], nothing), 1)
    three = torch.stack((before, alphas, after), 2).flatten(0, 1)
    own, theirs = [1, 0, 2, 0, 0, 1, 1, 2, 2], [1, 0, 2, 1, 2, 0, 2, 0, 1]
    return _apart(three[:, own], graph.of(three)[:, :, theirs], graph)


def _apart(own: Tensor, theirs: Tensor, graph: Graph) -> Tensor:
    distances = ((own[:, None] - theirs).square_().sum(-1) + _TINY).sqrt_()
    # An unresolved neighbour is as far away as it was counted, wherever its atoms are thought to be.
    distances[..., 0] = graph.distances
    return distances


def spread(distances: Tensor, count: int) -> Tensor:
    """Return each of the ``distances`` [..., n] as ``count`` Gaussian bumps [..., n * count] between 2 and 22 Å."""
    centres = torch.linspace(_NEAREST, _FARTHEST, count, device=distances.device)
    width = (_FARTHEST - _NEAREST) / count
    # In place: of large batches these are the largest tensors of all.
    squares = distances.unsqueeze(-1).sub(centres).div_(width).square_()
    # Farther out a bump adds less than the last bit of a sum, and what is nearly 0 is multiplied ten times as slowly.
    return squares.clamp_(max=_NOTHING).neg_().exp_().flatten(-2)


def offsets(residue_index: Tensor, chain: Tensor, graph: Graph, classes: int) -> Tensor:
    """Return the class [batch * tokens, k] of each neighbour's place in the sequence, seen from the residue.

    The last of the ``classes`` is that of other chains; the others are differences of ``residue_index``, cut off at both ends.
    """
    reach = (classes - 2) // 2
    index, chain = residue_index.flatten(), chain.flatten()
    steps = (index[:, None] - graph.of(index) + reach).clamp_(0, 2 * reach)
    return torch.where(chain[:, None] == graph.of(chain), steps, classes - 1)
