"""What of a backbone's work is kept for a run: features of all that is frozen, and states of a frozen lower part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from exapt import __version__
from exapt import device as devices
from exapt.errors import OutputError
from exapt.events import Event
from exapt.features import FeatureKey, answers_digest, distinct, encodings_digest, frozen_features
from exapt.model import Model
from exapt.parts import Encoding
from exapt.resolve import Chosen
from exapt.rows import Inputs
from exapt.trunk import STATES, KeptStates, Trunk, can_keep, kept_states


@dataclass(frozen=True)
class Keeping:
    """How what a backbone makes of inputs is kept; ``weights`` and ``tokenizer`` are fingerprints, ``probed`` synthetic inputs.

    ``features`` of a frozen backbone may be kept where nothing changed it before, ``states`` of a lower part where none of
    the strategies changes it from the first.
    """

    backbone: Chosen
    weights: str
    tokenizer: str
    probed: Sequence[Encoding]
    device: torch.device
    tell: Callable[[Event], None]
    features: bool
    states: bool

    def inputs(self, model: Model, encodings: Sequence[Encoding]) -> Inputs:
        """Return inputs that stay the same over a run, with what can be kept of them."""
        if self.features:
            return self._with_features(model, encodings)
        if not self.states or not can_keep(model, encodings):
            return Inputs.bare(encodings)
        different, which = distinct(encodings)
        return Inputs(encodings, {}, which, Trunk(different, partial(self._kept_states, model)))

    def _with_features(self, model: Model, encodings: Sequence[Encoding]) -> Inputs:
        different, which = distinct(encodings)
        # One process computes what the others then find.
        with devices.processes(self.device).local_main_process_first():
            kept = {
                reading: frozen_features(
                    model.backbone, different, self._key(model, different, model.layer, reading), self._told
                )
                for reading in sorted({model.head(name).reads for name in model.heads})
            }
        return Inputs(encodings, kept, which)

    def _kept_states(self, model: Model, encodings: Sequence[Encoding], blocks: int) -> KeptStates | None:
        """Keep the states of inputs after so many blocks; None where there is no room, since a run goes on without them."""
        with devices.processes(self.device).local_main_process_first():
            try:
                return kept_states(model, encodings, self._key(model, encodings, blocks, STATES), self._told)
            except OutputError as error:
                self.tell(Event("note", {"text": f"each epoch computes anew what frozen blocks give: {error}"}))
                return None

    def _key(self, model: Model, encodings: Sequence[Encoding], layer: int, reading: str) -> FeatureKey:
        return FeatureKey(
            weights=self.weights,
            tokenizer=self.tokenizer,
            code=self._code(model, layer),
            inputs=encodings_digest(encodings),
            layer=layer,
            reading=reading,
            precision=model.precision,
            budget=devices.token_budget(self.device),
            machine=devices.describe(self.device),
        )

    def _code(self, model: Model, layer: int) -> dict[str, Any]:
        info, options = self.backbone.offer.info, self.backbone.options
        return {
            info.distribution: info.version,
            "exapt": __version__,
            "transformers": version("transformers"),
            "options": options.model_dump(mode="json", exclude={"source", "revision"}),
            # A config, or a plugin under development, can change without any of these: its answers tell.
            "answers": answers_digest(model.backbone, self.probed, layer),
        }

    def _told(self, done: int, of: int) -> None:
        self.tell(Event("features", {"done": done, "of": of}))
