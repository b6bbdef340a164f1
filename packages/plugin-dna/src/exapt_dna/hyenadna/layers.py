"""HyenaDNA's modules, under the names of its published weights.

The operator: Poli et al. 2023, arXiv:2302.10866, section 3. Its use for DNA: Nguyen et al. 2023, arXiv:2306.15794.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt import DataError
from exapt_dna.hyenadna.shape import Shape

# How many numbers a CPU works on at a time: what lies in its cache is not fetched again for the next operation.
# Elsewhere the limit is only there for the memory of the longest inputs.
_AT_A_TIME, _AT_A_TIME_ELSEWHERE = 1 << 20, 1 << 28
# The slowest and the fastest decay of a filter reach a hundredth after these shares of the longest input.
_SLOW, _FAST, _REACHED = 1.5, 0.3, 0.01


def fast_length(least: int) -> int:
    """Return the shortest length of at least ``least`` whose only prime factors are 2, 3 and 5: transforms like those."""
    best = 1 << max(least - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 1 << max(-(-least // three) - 1, 0).bit_length()
            best = min(best, three * two)
            three *= 3
        five *= 5
    return best


def stretch(size: int, device: torch.device) -> int:
    """Return how many places, of ``size`` numbers each, to work on at a time."""
    return max(1, (_AT_A_TIME if device.type == "cpu" else _AT_A_TIME_ELSEWHERE) // size)


def piecewise(change: Callable[[Tensor], Tensor], states: Tensor, size: int) -> Tensor:
    """Return ``change`` of ``states`` [..., tokens, width], a stretch of tokens at a time, ``size`` numbers for each."""
    stretches: tuple[Tensor, ...] = states.split(stretch(size, states.device), -2)  # type: ignore[no-untyped-call]
    pieces = [change(piece) for piece in stretches]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -2)


def long_convolution(signal: Tensor, filters: Tensor) -> Tensor:
    """Return the causal convolution of ``signal`` [batch, width, tokens] with ``filters`` [width, tokens], in fp32."""
    rows, _, tokens = signal.shape
    # Twice the length leaves room for what would else come round from the end to the beginning.
    length = fast_length(2 * tokens)
    channels = stretch(2 * rows * length, signal.device)
    parts = zip(signal.split(channels, 1), filters.split(channels), strict=True)  # type: ignore[no-untyped-call]
    convolved = [
        torch.fft.irfft(torch.fft.rfft(some, n=length) * torch.fft.rfft(theirs, n=length), n=length)[..., :tokens]
        for some, theirs in parts
    ]
    return convolved[0] if len(convolved) == 1 else torch.cat(convolved, 1)


class Sine(nn.Module):
    """sin(frequency x), with a frequency for each dimension."""

    def __init__(self, width: int, frequency: float, trains: bool) -> None:
        super().__init__()
        start = torch.full((1, width), float(frequency))
        if trains:
            self.freq = nn.Parameter(start)
        else:
            self.register_buffer("freq", start)

    def forward(self, states: Tensor) -> Tensor:
        """Return the sines of ``states`` [tokens, width]."""
        return torch.sin(self.freq * states)


class Positions(nn.Module):
    """Features ``z`` [1, longest, features] and times ``t`` [1, longest, 1] of all positions."""

    z: Tensor
    t: Tensor

    def __init__(self, longest: int, features: int) -> None:
        super().__init__()
        bands = (features - 1) // 2
        time = torch.linspace(0, 1, longest)[:, None]
        turns = 2 * math.pi * torch.arange(longest)[:, None] / longest
        waves = torch.linspace(1e-4, bands - 1, bands) * turns
        self.register_buffer("z", torch.cat([time, waves.cos(), -waves.sin()], -1)[None])
        self.register_buffer("t", time[None])


class Modulation(nn.Module):
    """A decay of each channel of the filters with time."""

    deltas: Tensor

    def __init__(self, width: int, shift: float) -> None:
        super().__init__()
        decays = torch.linspace(math.log(_REACHED) / _SLOW, math.log(_REACHED) / _FAST, width)
        self.register_buffer("deltas", decays[None, None])
        self._shift = shift

    def forward(self, times: Tensor, filters: Tensor) -> Tensor:
        """Return ``filters`` [tokens, width], decayed with ``times`` [tokens, 1]."""
        return filters * (torch.exp(-times * self.deltas[0].abs()) + self._shift)


class Filter(nn.Module):
    """The implicit filter: a small network from a position to the weights of all channels at that distance.

    It stays in fp32, whatever the model's precision: half of it cannot tell neighbouring positions apart.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, order = shape.d_model, shape.filter_order
        self.bias = nn.Parameter(torch.randn(width))
        self.pos_emb = Positions(shape.max_seq_len, shape.emb_dim)
        # Published files number the layers of a sequence in which one sine, at 1, stands behind every linear layer.
        self.implicit_filter = nn.ModuleDict({"0": nn.Linear(shape.emb_dim, order)})
        self.implicit_filter["1"] = Sine(order, shape.activation_freq, shape.train_freq)
        for place in range(shape.num_inner_mlps):
            self.implicit_filter[str(2 * place + 2)] = nn.Linear(order, order)
        self.implicit_filter[str(2 * shape.num_inner_mlps + 2)] = nn.Linear(order, width, bias=False)
        self.modulation = Modulation(width, shape.shift)
        self._modulates = shape.modulate
        self._widest = max(width, order)
        self.dropout = nn.Dropout(shape.hyena_filter_dropout)

    def filters(self, tokens: int) -> Tensor:
        """Return the filters [width, tokens]; raises ``DataError`` if there are not so many positions."""
        longest = self.pos_emb.z.shape[1]
        if tokens > longest:
            raise DataError(f"an input has {tokens:,} tokens; this HyenaDNA has positions for {longest:,}")
        places = torch.cat([self.pos_emb.z[0, :tokens], self.pos_emb.t[0, :tokens]], -1)
        return piecewise(self._weights, places, self._widest).T

    def _weights(self, places: Tensor) -> Tensor:
        """Return the weights [tokens, width] at ``places`` [tokens, features and time]."""
        states, times = places[:, :-1], places[:, -1:]
        sine = self.implicit_filter["1"]
        *inner, last = (layer for name, layer in self.implicit_filter.items() if name != "1")
        for layer in inner:
            states = sine(layer(states))
        weights: Tensor = last(states)
        dropped: Tensor = self.dropout(self.modulation(times, weights) if self._modulates else weights)
        return dropped

    def forward(self, signal: Tensor) -> Tensor:
        """Return ``signal`` [batch, width, tokens] after the long convolution."""
        with torch.autocast(signal.device.type, enabled=False):
            exact = signal.float()
            convolved = long_convolution(exact, self.filters(signal.shape[-1])) + exact * self.bias[:, None]
        return convolved.to(signal.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Filter:
        def exact(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(exact, recurse)  # type: ignore[no-untyped-call]
        return self


class Operator(nn.Module):
    """The Hyena operator of order 2: two gates around a long convolution."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, short = shape.d_model, shape.short_filter_order
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, short, groups=3 * width, padding=short - 1)
        self.filter_fn = Filter(shape)
        self.dropout = nn.Dropout(shape.hyena_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what each token [batch, tokens, width] gathers of itself and those before it."""
        rows, tokens, width = hidden.shape
        size = 3 * rows * width
        step = stretch(size, hidden.device)
        gates = [self._gates(hidden, start, min(start + step, tokens)) for start in range(0, tokens, step)]
        after, signal = (torch.cat(parts, -1) for parts in zip(*gates, strict=True))
        gathered = after * self.filter_fn(signal)
        return piecewise(lambda piece: self.out_proj(piece), gathered.transpose(1, 2), size)

    def _gates(self, hidden: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the second gate, and the signal behind the first one, each [batch, width, tokens from start to stop]."""
        begin = max(0, start + 1 - self.short_filter.kernel_size[0])
        projected = self.in_proj(hidden[:, begin:stop]).transpose(1, 2)
        # The padding stands at both ends: what comes out past the last token would look ahead.
        after, before, signal = self.short_filter(projected)[..., start - begin : stop - begin].chunk(3, 1)
        return after, self.dropout(signal * before)


class Mlp(nn.Module):
    """The feed-forward layer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [batch, tokens, width] for ``hidden`` [batch, tokens, width]."""
        narrowed: Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh"))
        return narrowed


class Block(nn.Module):
    """Operator and feed-forward layer, each on normalised states and added to them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mixer = Operator(shape)
        self.norm1 = nn.LayerNorm(shape.d_model, eps=shape.block_epsilon)
        self.mlp = Mlp(shape.d_model, shape.d_inner or 4 * shape.d_model)
        self.norm2 = nn.LayerNorm(shape.d_model, eps=shape.block_epsilon)
        self.dropout = nn.Dropout(shape.resid_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after the block."""
        hidden = hidden + self.dropout(self.mixer(self.norm1(hidden)))
        rows, _, width = hidden.shape
        inner = max(width, self.mlp.fc1.out_features)
        return piecewise(self._widened, hidden, rows * inner)

    def _widened(self, hidden: Tensor) -> Tensor:
        widened: Tensor = hidden + self.dropout(self.mlp(self.norm2(hidden)))
        return widened


class Embeddings(nn.Module):
    """Tokens; positions are the filters' business."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.rows, shape.d_model)


class Stack(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.dropout = nn.Dropout(shape.embed_dropout)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.d_model, eps=shape.layer_norm_epsilon)


class Hyena(nn.Module):
    """The bare model, with one more name around it, as it is published."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.backbone = Stack(shape)
