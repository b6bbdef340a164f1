"""Strategies that let the smallest parts of a pretrained model learn, as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from exapt.builtin._lora import matches
from exapt.builtin.efficient import BiasOptions, NormOptions
from exapt.errors import RecipeError, listed
from exapt.parts import Backbone, Learns, Strategy


class Biases(Strategy):
    """Fine-tuning of biases alone: what is added behind a weight.

    BitFit: Ben Zaken, Goldberg & Ravfogel 2022, arXiv:2106.10199.
    """

    def __init__(self, options: BiasOptions) -> None:
        self.options = options

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the biases inside ``backbone.module``. Raises ``RecipeError`` if there are none, or none of a named layer."""
        found = {
            # A layer that a low-rank update stands around is still called as it was.
            name.removesuffix(".base_layer"): biases
            for name, module in backbone.module.named_modules()
            if (biases := list(_biases(module)))
        }
        if not found:
            raise RecipeError("strategy 'bitfit' matches no parameter: this backbone has no biases")
        for want in self.options.targets:
            if not any(matches(layer, want) for layer in found):
                last = {layer.rpartition(".")[2] for layer in found}
                raise RecipeError(f"strategy 'bitfit': no layer '{want}' with a bias. There are: {listed(last)}")
        wanted = self.options.targets
        chosen = [layer for layer in found if not wanted or any(matches(layer, want) for want in wanted)]
        yield _named(backbone, (parameter for layer in chosen for parameter in found[layer]))


def _biases(module: nn.Module) -> Iterator[nn.Parameter]:
    own = dict(module.named_parameters(recurse=False))
    for name, parameter in own.items():
        # A parameter can be called bias and multiply: what is added stands beside the weight behind which it is.
        if "bias" in name and parameter.dim() == 1 and name.replace("bias", "weight") in own:
            yield parameter


class Norms(Strategy):
    """Fine-tuning of normalisation layers alone.

    Of language models: Qi et al. 2022, arXiv:2211.08682. Of batch norms: Frankle, Schwab & Morcos 2021, arXiv:2003.00152.
    """

    def __init__(self, options: NormOptions) -> None:
        self.options = options

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the norms' parameters inside ``backbone.module``. Raises ``RecipeError`` if there are none."""
        wanted = {"both": ("weight", "bias"), "scale": ("weight",), "shift": ("bias",)}[self.options.parameters]
        found = [
            parameter
            for module in backbone.module.modules()
            if _is_norm(module)
            for name, parameter in module.named_parameters(recurse=False)
            if name in wanted
        ]
        if not found:
            what = "norms" if self.options.parameters == "both" else f"norms with a {self.options.parameters}"
            raise RecipeError(f"strategy 'layernorm' matches no parameter: this backbone has no {what}")
        yield _named(backbone, found)


_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def _is_norm(module: nn.Module) -> bool:
    # transformers has a root mean square norm of its own for nearly each of its models, of no common class.
    return isinstance(module, _NORMS) or (type(module).__name__.endswith("Norm") and not list(module.children()))


def _named(backbone: Backbone, parameters: Iterable[nn.Parameter]) -> Learns:
    chosen = {id(parameter) for parameter in parameters}
    return Learns(frozenset(name for name, parameter in backbone.named_parameters() if id(parameter) in chosen))
