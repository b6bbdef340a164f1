"""``exapt list`` and ``exapt show``: what components there are, and what can be chosen of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt.cli.output import note, say, say_json, say_table
from exapt.errors import ComponentError

if TYPE_CHECKING:
    from exapt.plugins import Offer

KINDS = ("backbones", "checkpoints", "tokenizers", "heads", "strategies", "readers", "writers")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str | None, as_json: bool) -> None:
    """List the components that the installed plugins offer."""
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
@click.argument(
    "kind", type=click.Choice([kind.removesuffix("s") if kind != "strategies" else "strategy" for kind in KINDS])
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(kind: str, name: str, as_json: bool) -> None:
    """Show one component: its options, its defaults, its licence and its paper."""
    facts = _checkpoint(name) if kind == "checkpoint" else _component(kind, name)
    if as_json:
        say_json(facts)
        return
    for key, value in facts.items():
        if key != "options":
            say(f"{key}: {value}")
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
    for extra in ("modality", "tokenizer", "accepts", "suffixes"):
        if hasattr(offer.spec, extra):
            facts[extra] = getattr(offer.spec, extra)
    if getattr(offer.spec, "checkpoints", ()):
        facts["checkpoints"] = ", ".join(checkpoint.name for checkpoint in offer.spec.checkpoints)
    facts["options"] = [_option(name, field) for name, field in offer.spec.options.model_fields.items()]
    return facts


def _option(name: str, field: Any) -> tuple[str, str, str, str]:
    kind = (
        getattr(field.annotation, "__name__", None)
        if not str(field.annotation).startswith(("typing", "tuple"))
        else None
    )
    kind = kind or str(field.annotation).replace("typing.", "")
    default = "(required)" if field.is_required() else repr(field.default)
    return name, kind, default, field.description or ""


def _say_broken() -> None:
    from exapt.plugins import current

    for plugin in current().broken:
        note(f"plugin '{plugin.info.name}' of {plugin.info.distribution} is broken: see 'exapt plugins --check'")
