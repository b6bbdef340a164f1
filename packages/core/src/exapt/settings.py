"""What ``--set KEY=VALUE`` says, as nested tables."""

from __future__ import annotations

from typing import Any

from exapt.errors import RecipeError


def setting(given: str, flag: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``. Raises ``RecipeError`` if there is no ``=``."""
    key, equals, value = given.partition("=")
    if not equals:
        raise RecipeError(f"{flag} takes KEY=VALUE, not '{given}'")
    return key.strip(), value_of(value.strip())


def settings_of(given: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``--set`` says of components, as nested tables."""
    found: dict[str, Any] = {}
    for one in given:
        put(found, *setting(one, "--set"))
    return found


def options_of(given: Any, what: str) -> dict[str, Any]:
    """Return the options of one component. Raises ``RecipeError`` for a value that stands for none of them."""
    if not isinstance(given, dict):
        raise RecipeError(f"'{what}' is {given!r}: name an option, {what}.KEY=VALUE")
    return given


def reader_options(given: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``--set`` says of the reader. Raises ``RecipeError`` where it speaks of anything else."""
    found = settings_of(given)
    other = found.keys() - {"reader"}
    if other:
        raise RecipeError(f"there are options of the reader here, not of '{min(other)}': --set reader.KEY=VALUE")
    return options_of(found.get("reader", {}), "reader")


def loading_options(given: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what ``--set`` says of the reader, and of the tokenizer with which an adapter is loaded, by part.

    Raises ``RecipeError`` where it speaks of anything else.
    """
    found = settings_of(given)
    other = found.keys() - {"reader", "tokenizer"}
    if other:
        raise RecipeError(
            f"there are options of reader and tokenizer here, not of '{min(other)}': --set reader.KEY=VALUE or --set "
            "tokenizer.KEY=VALUE"
        )
    reader = options_of(found.pop("reader", {}), "reader")
    return reader, {part: options_of(options, part) for part, options in found.items()}


def put(table: dict[str, Any], place: str, value: Any) -> None:
    """Put a value into nested tables, at a dotted place."""
    *path, last = place.split(".")
    for key in path:
        inner = table.get(key)
        if not isinstance(inner, dict):
            # A component that was given by its bare name gets a table of its own.
            inner = {"name": inner} if isinstance(inner, str) else {}
            table[key] = inner
        table = inner
    table[last] = value


def value_of(text: str) -> Any:
    """Return a value as TOML has it, or else as the text that it is."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
