"""exapt: transfer learning with biological foundation models, through plugins."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exapt.api import (
        Adapted,
        Adapters,
        Alignment,
        Embedder,
        align,
        compare,
        compare_tasks,
        distil,
        embed,
        episodes,
        explain,
        export,
        find_rate,
        learn_in_sequence,
        leave_one_out,
        load,
        load_alignment,
        load_all,
        scan,
        score,
        search,
        train,
    )
    from exapt.data.files import open_table, open_writer
    from exapt.errors import (
        AdapterError,
        ComponentError,
        DataError,
        ExaptError,
        OutputError,
        PluginError,
        RecipeError,
        TableError,
    )
    from exapt.events import Event, Run
    from exapt.hookspecs import hookimpl
    from exapt.recipe import Recipe
    from exapt.settings import options_of, settings_of
    from exapt.specs import (
        Annotating,
        AugmentationSpec,
        BackboneSpec,
        Checkpoint,
        HeadSpec,
        Limit,
        LocalPath,
        OfLoss,
        Options,
        ReaderSpec,
        ScorerSpec,
        Sourced,
        StrategySpec,
        TokenizerSpec,
        Windowed,
        WriterSpec,
    )

__version__ = "0.5.0"

# Names are fetched when first asked for, so that `import exapt`, and with it every plugin and `--help`, stays light.
_HOMES = {
    "exapt.api": (
        "Adapted",
        "Adapters",
        "Alignment",
        "Embedder",
        "align",
        "compare",
        "compare_tasks",
        "distil",
        "embed",
        "episodes",
        "explain",
        "export",
        "find_rate",
        "learn_in_sequence",
        "leave_one_out",
        "load",
        "load_alignment",
        "load_all",
        "scan",
        "score",
        "search",
        "train",
    ),
    "exapt.data.files": ("open_table", "open_writer"),
    "exapt.errors": (
        "AdapterError",
        "ComponentError",
        "DataError",
        "ExaptError",
        "OutputError",
        "PluginError",
        "RecipeError",
        "TableError",
    ),
    "exapt.events": ("Event", "Run"),
    "exapt.hookspecs": ("hookimpl",),
    "exapt.recipe": ("Recipe",),
    "exapt.settings": ("options_of", "settings_of"),
    "exapt.specs": (
        "Annotating",
        "AugmentationSpec",
        "BackboneSpec",
        "Checkpoint",
        "HeadSpec",
        "Limit",
        "LocalPath",
        "OfLoss",
        "Options",
        "ReaderSpec",
        "ScorerSpec",
        "Sourced",
        "StrategySpec",
        "TokenizerSpec",
        "Windowed",
        "WriterSpec",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adapted",
    "AdapterError",
    "Adapters",
    "Alignment",
    "Annotating",
    "AugmentationSpec",
    "BackboneSpec",
    "Checkpoint",
    "ComponentError",
    "DataError",
    "Embedder",
    "Event",
    "ExaptError",
    "HeadSpec",
    "Limit",
    "LocalPath",
    "OfLoss",
    "Options",
    "OutputError",
    "PluginError",
    "ReaderSpec",
    "Recipe",
    "RecipeError",
    "Run",
    "ScorerSpec",
    "Sourced",
    "StrategySpec",
    "TableError",
    "TokenizerSpec",
    "Windowed",
    "WriterSpec",
    "__version__",
    "align",
    "compare",
    "compare_tasks",
    "distil",
    "embed",
    "episodes",
    "explain",
    "export",
    "find_rate",
    "hookimpl",
    "learn_in_sequence",
    "leave_one_out",
    "load",
    "load_alignment",
    "load_all",
    "open_table",
    "open_writer",
    "options_of",
    "scan",
    "score",
    "search",
    "settings_of",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'exapt' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
