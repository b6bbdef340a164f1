"""Write the reference pages that come from the code itself: ``python docs/generate.py``; with ``--check``, compare only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from exapt.cli import _CORE, cli
from exapt.cli.listing import shown_options
from exapt.plugins import KINDS, Plugins
from exapt.recipe import DataOptions, SplitOptions, TrainingOptions
from exapt.specs import Options

FOLDER = Path(__file__).parent / "reference"
WIDTH = 80
# What is installed beside core must not show in core's pages.
PLAIN = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None, "EXAPT_PLUGINS": ""}
TITLES = {"backbone": "Backbones", "tokenizer": "Tokenizers", "head": "Heads", "strategy": "Strategies"}
TITLES |= {"augmentation": "Augmentations", "scorer": "Scorers", "reader": "Readers", "writer": "Writers"}


def help_of(*words: str) -> str:
    """Return what ``exapt WORDS --help`` prints, without trailing spaces."""
    printed = CliRunner(env=PLAIN).invoke(cli, [*words, "--help"], prog_name="exapt").stdout
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")


def commands_page() -> str:
    """Return the page of all commands with their help, word for word."""
    lines = ["# Commands", "", "Every command's own `--help`, as it is printed on a terminal of 80 columns.", ""]
    lines += ["Results go to stdout or into a file, progress to stderr. The exit code is 0 when all went well, 2 for a"]
    lines += [
        "mistake that the message says how to mend, 1 for a fault of exapt or of a plugin, 130 after an interruption."
    ]
    for words in ((), *((name,) for name in _CORE)):
        lines += ["", f"## {' '.join(('exapt', *words))}", "", "```text", help_of(*words), "```"]
    return "\n".join([*lines, ""])


def components_page() -> str:
    """Return the page of core's own components and their options."""
    lines = ["# Components of core", "", "Those of plugins are listed by `exapt list` and `exapt show`, which print"]
    lines += ["the same facts as this page. A recipe names a component and sets its options beside the name."]
    plugins = Plugins([])
    for kind in KINDS.values():
        offers = plugins.offers(kind)
        if offers:
            lines += ["", f"## {TITLES[kind.kind]}"]
        for offer in offers:
            lines += ["", f"### {offer.spec.name}", "", offer.spec.summary, *_facts(offer.spec)]
    lines += ["", "## Tables of a recipe", "", "How to write one: [write a recipe](../how-to/write-a-recipe.md)."]
    for name, options in RECIPE.items():
        lines += ["", f"### {name}", "", options.__doc__ or "", *_table(options)]
    return "\n".join([*lines, ""])


def _facts(spec: Any) -> Iterator[str]:
    if getattr(spec, "suffixes", ()):
        yield from ("", f"File names end in {', '.join(f'`{suffix}`' for suffix in spec.suffixes)}.")
    if getattr(spec, "training", None):
        # Those that are made of options are shown as they are where no option is said.
        training = spec.training_of(spec.options())
        said = ", ".join(f"`{key} = {value}`" for key, value in training.items())
        yield from ("", f"Training defaults that go with it: {said}.")
    yield from _table(spec.options)


def _table(options: type[Options]) -> Iterator[str]:
    rows = shown_options(options)
    if rows:
        yield from ("", "| option | type | default | meaning |", "|---|---|---|---|")
    for name, kind, default, description in rows:
        yield f"| `{name}` | {kind} | `{default}` | {description} |"


RECIPE: dict[str, type[Options]] = {"data": DataOptions, "split": SplitOptions, "training": TrainingOptions}
PAGES = {"cli.md": commands_page, "components.md": components_page}


def main(words: list[str]) -> int:
    """Write the pages or, with ``--check``, say which are stale; returns the exit code."""
    if words not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    fresh = {FOLDER / name: page() for name, page in PAGES.items()}
    stale = [path for path, text in fresh.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if words:
            print(f"{path.name} is stale: run 'python docs/generate.py'", file=sys.stderr)
        else:
            path.write_text(fresh[path], encoding="utf-8")
    return 1 if words and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
