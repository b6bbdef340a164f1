"""``exapt train``: from a table to an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from exapt.cli.output import Watching, note, number, say, say_json, say_table
from exapt.errors import RecipeError, listed
from exapt.settings import put, setting

if TYPE_CHECKING:
    from exapt.events import Event, Run


_PLACES = {
    "data": "data.path",
    "input_": "data.input",
    "mutations": "data.mutations",
    "wild_type": "data.wild_type",
    "labels": "data.labels",
    "masks": "data.masks",
    "split": "split.column",
    "seed": "seed",
}
"""Where in a recipe stands what flags say."""


def recipe_options(command: Any) -> Any:
    """Add the flags by which a recipe is written, or changed, on the command line."""
    flags = (
        click.option("--data", help="Table to learn from."),
        click.option("--input", "input_", help="Column of the sequences (default: sequence)."),
        click.option("--mutations", help="Column of mutations, such as A23G:K41R, to be made in --wild-type."),
        click.option("--wild-type", help="Wild type: its column, a FASTA file, or the sequence itself."),
        click.option("--label", help="Column of the labels; several with commas, for several targets."),
        click.option("--labels", help="Second table with the labels, joined by id."),
        click.option("--masks", help="Table of 0 and 1, joined by id: which units count."),
        click.option("--split", help="Column that names each row's part: train, valid, test."),
        click.option("--backbone", help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO."),
        click.option("--head", help="The question, such as sequence-classification."),
        click.option("--strategy", help="How to transfer, such as probe or lora."),
        click.option("--seed", type=int, help="Seed of the run."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the recipe."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the adapter; it must not exist yet."
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def train(recipe: Path | None, out: Path, resume: bool, device: str, as_json: bool, **flags: Any) -> None:
    """Train as RECIPE (TOML or JSON) says, or as the flags do, and save the adapter.

    Flags win over the file. --set reaches every key: --set training.epochs=20 --set strategy.rank=4. The resolved
    recipe goes to stderr, the metrics to stdout, the log and the checkpoints to OUT.run.
    """
    given = written(recipe, flags)
    from exapt import api
    from exapt.device import is_main_process

    watching = Watching()
    try:
        adapted = api.train(given, out, resume=resume, device=device, listeners=[_echo_recipe, watching])
    except KeyboardInterrupt:
        kept = sorted(out.with_name(f"{out.name}.run").glob("checkpoint-*"))
        note(
            "interrupted; the same command with --resume goes on" if kept else "interrupted before the first checkpoint"
        )
        raise Exit(130) from None
    finally:
        watching.close()
    if is_main_process():
        _report(adapted.manifest, out, as_json)


def written(path: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a file, with what the flags say put over it."""
    from exapt.recipe import parsed

    recipe: dict[str, Any] = parsed(path) if path else {}
    if not isinstance(recipe, dict):
        raise RecipeError(f"recipe '{path}' holds no table of keys")
    if not path and not flags["data"]:
        raise RecipeError("give a recipe file, or --data, --label, --backbone, --head and --strategy")
    for flag, place in _PLACES.items():
        if flags[flag] is not None:
            put(recipe, place, flags[flag])
    _put_components(recipe, flags)
    for given in flags["settings"]:
        put(recipe, *setting(given, "--set"))
    return recipe


def _put_components(recipe: dict[str, Any], flags: dict[str, Any]) -> None:
    """Let flags replace the file's components: options said for another one go with it."""
    if flags["backbone"] is not None:
        recipe["backbone"] = _renamed(recipe.get("backbone"), flags["backbone"], ())
    if flags["strategy"] is not None:
        several = recipe.pop("strategies", None) or [None]
        recipe["strategy"] = _renamed(recipe.get("strategy", several[0]), flags["strategy"], ())
    if flags["head"] is None and flags["label"] is None:
        return
    place = _only_head(recipe)
    if flags["head"] is not None:
        put(recipe, place, _renamed(_at(recipe, place), flags["head"], ("label", "weight")))
    if flags["label"] is not None:
        put(recipe, f"{place}.label", _columns(flags["label"]))


def _renamed(given: Any, name: str, kept: tuple[str, ...]) -> dict[str, Any]:
    table = given if isinstance(given, dict) else {"name": given}
    if table.get("name") == name:
        return dict(table)
    return {"name": name, **{key: table[key] for key in kept if key in table}}


def _only_head(recipe: dict[str, Any]) -> str:
    heads = recipe.get("heads")
    if not isinstance(heads, dict) or not heads:
        return "head"
    if len(heads) > 1 or "head" in recipe:
        names = listed({*heads, *({"head"} & recipe.keys())})
        raise RecipeError(f"the recipe has several heads, {names}: change one with --set heads.NAME.label=COLUMN")
    return f"heads.{next(iter(heads))}"


def _at(recipe: dict[str, Any], place: str) -> Any:
    found: Any = recipe
    for key in place.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _columns(label: str) -> str | list[str]:
    return label.split(",") if "," in label else label


def _echo_recipe(run: Run, event: Event) -> None:
    if event.name == "start":
        note(json.dumps(run.recipe, indent=1, ensure_ascii=False))


def _report(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        say_json({"adapter": str(out), "best_epoch": manifest["best_epoch"], "metrics": manifest["metrics"]})
        return
    parts = {part: values for part, values in manifest["metrics"].items() if values}
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    if names:
        say_table(
            ("metric", *parts),
            [(name, *(number(values[name]) if name in values else "" for values in parts.values())) for name in names],
        )
    told = manifest.get("transfer", {}).get("domains", {}).get("classifier")
    if told:
        say(
            f"domains told apart by their features: {told['before']:.2f} before training, {told['after']:.2f} after "
            f"(chance {told['chance']:.2f})"
        )
    say(f"adapter: {out}")
