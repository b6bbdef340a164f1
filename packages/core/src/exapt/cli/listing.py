"""``exapt list`` and ``exapt show``: what components there are, and what can be chosen of each."""

from __future__ import annotations

import json
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import rich_click as click

from exapt.cli.output import note, say, say_json, say_table
from exapt.errors import ComponentError

if TYPE_CHECKING:
    from exapt.plugins import Offer
    from exapt.specs import Options

KINDS = (
    "backbones",
    "checkpoints",
    "tokenizers",
    "heads",
    "strategies",
    "augmentations",
    "scorers",
    "readers",
    "writers",
)
ONE_OF = (
    "backbone",
    "checkpoint",
    "tokenizer",
    "head",
    "strategy",
    "augmentation",
    "scorer",
    "reader",
    "writer",
)


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False, metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str | None, as_json: bool) -> None:
    """List the components of core and of the installed plugins, all of them or those of one KIND.

    KIND is backbones, checkpoints, tokenizers, heads, strategies, augmentations, scorers, readers or writers.
    """
    kinds = [kind] if kind else [one for one in KINDS if one != "checkpoints"]
    found = {one: _rows(one) for one in kinds}
    if as_json:
        say_json(found)
        return
    for one, rows in found.items():
        if len(kinds) > 1:
            say(f"{one}:")
        if rows:
            say_table(tuple(rows[0]), [[str(cell) for cell in row.values()] for row in rows])
        else:
            say(f"no {one} are installed")
    _say_broken()


@click.command()
@click.argument("kind", type=click.Choice(ONE_OF), metavar="KIND")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(kind: str, name: str, as_json: bool) -> None:
    """Show one component: its options and their defaults; of a checkpoint, its source, licence and paper.

    KIND is backbone, checkpoint, tokenizer, head, strategy, augmentation, scorer, reader or writer.
    """
    facts = _checkpoint(name) if kind == "checkpoint" else _component(kind, name)
    if as_json:
        say_json(facts)
        return
    for key, value in facts.items():
        if key != "options":
            say(f"{key}: {', '.join(value) if isinstance(value, tuple) else value}")
    if facts.get("options"):
        say("options:")
        say_table(("  name", "type", "default", "description"), [[f"  {row[0]}", *row[1:]] for row in facts["options"]])


def _rows(kind: str) -> list[dict[str, Any]]:
    from exapt.plugins import KINDS as SPECS
    from exapt.plugins import current
    from exapt.specs import BackboneSpec

    if kind == "checkpoints":
        offers = current().offers(BackboneSpec)
        return [_checkpoint_row(offer, checkpoint) for offer in offers for checkpoint in offer.spec.checkpoints]
    spec = SPECS[f"exapt_{kind}"]
    return [
        {"name": offer.spec.name, "from": offer.info.distribution, "summary": offer.spec.summary}
        for offer in current().offers(spec)
    ]


def _checkpoint_row(offer: Offer[Any], checkpoint: Any) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "from": offer.info.distribution,
        "modality": offer.spec.modality,
        "parameters": f"{checkpoint.parameters:,}",
        "width": checkpoint.width,
        "licence": checkpoint.licence,
        "commercial": "yes" if checkpoint.commercial else "no",
        "source": checkpoint.source,
    }


def _checkpoint(name: str) -> dict[str, Any]:
    from exapt.plugins import current

    offer, checkpoint, _ = current().checkpoint(name)
    if checkpoint is None:
        raise ComponentError(f"'{name}' is no published checkpoint; see 'exapt list checkpoints'")
    return {
        **vars(checkpoint),
        "family": offer.spec.name,
        "modality": offer.spec.modality,
        "from": offer.info.distribution,
    }


def _component(kind: str, name: str) -> dict[str, Any]:
    from exapt.plugins import KINDS as SPECS
    from exapt.plugins import current

    spec = next(spec for spec in SPECS.values() if spec.kind == kind)
    offer: Offer[Any] = current().get(spec, name)
    facts: dict[str, Any] = {
        "name": offer.spec.name,
        "from": f"{offer.info.distribution} {offer.info.version}",
        "summary": offer.spec.summary,
    }
    for extra in ("modality", "tokenizer", "accepts", "scorers", "objective", "modalities", "suffixes"):
        if hasattr(offer.spec, extra):
            facts[extra] = getattr(offer.spec, extra)
    if getattr(offer.spec, "checkpoints", ()):
        facts["checkpoints"] = ", ".join(checkpoint.name for checkpoint in offer.spec.checkpoints)
    facts["options"] = shown_options(offer.spec.options)
    return facts


def shown_options(options: type[Options]) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and description of each option, as they are shown to a user."""
    return [_option(name, field) for name, field in options.model_fields.items()]


def _option(name: str, field: Any) -> tuple[str, str, str, str]:
    default = "(required)" if field.is_required() else json.dumps(field.get_default(), default=list)
    return name, type_said(field.annotation), default, field.description or ""


def type_said(kind: Any) -> str:
    """Return a type as a user would say it: ``one of mean, max``, ``list of str``, ``float``."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_said(members[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, members))}" if len(members) > 1 else str(members[0])
    if origin in (tuple, list):
        return f"list of {' and '.join(dict.fromkeys(type_said(one) for one in members if one is not ...))}"
    if members and origin is not dict:
        return " or ".join(type_said(one) for one in members if one is not NoneType)
    return getattr(kind, "__name__", str(kind))


def _say_broken() -> None:
    from exapt.plugins import current

    for plugin in current().broken:
        note(f"plugin '{plugin.info.name}' of {plugin.info.distribution} is broken: see 'exapt plugins --check'")
