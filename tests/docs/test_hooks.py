"""The page of hooks says all that the contract holds, and the contract's own examples are Python."""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import exapt
from exapt import hookspecs, specs
from exapt.plugins import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("exapt_")}
SPECS = [kind for kind in vars(specs).values() if inspect.isclass(kind) and issubclass(kind, specs.Spec)]


def section(title):
    return re.split(rf"^## {title}$", PAGE, flags=re.M)[1].split("\n## ")[0]


def functions(code):
    return {node.name: node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}


def first_cells(text):
    return {name for cell in re.findall(r"^\| (`.+?`) \|", text, re.M) for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("name", HOOKS)
def test_the_page_shows_each_hook_with_its_arguments(name):
    arguments = list(inspect.signature(HOOKS[name]).parameters)
    assert f"| `{name}({', '.join(arguments)})` |" in PAGE
    (code,) = re.findall(r"^```python\n(.*?)^```$", section(name), re.M | re.S)
    assert [argument.arg for argument in functions(code)[name].args.args] == arguments
    if arguments:
        assert set(arguments) <= first_cells(section(name))


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_each_hook_is_an_implementation_of_it(name):
    example = textwrap.dedent(inspect.getdoc(HOOKS[name]).split("::\n", 1)[1])
    (function,) = functions(example).values()
    assert function.name == name
    assert [decorator.id for decorator in function.decorator_list] == ["hookimpl"]
    assert [argument.arg for argument in function.args.args] == list(inspect.signature(HOOKS[name]).parameters)


@pytest.mark.parametrize("hook", KINDS)
def test_each_example_builds_its_spec(hook):
    example = textwrap.dedent(inspect.getdoc(HOOKS[hook]).split("::\n", 1)[1])
    names = {node.id for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Name)}
    known = {name: getattr(exapt, name) for name in names & set(exapt.__all__)}
    known |= {"build": lambda *_: None, "OrdinalOptions": exapt.Options}
    exec(example, known)
    assert [type(spec) for spec in known[hook]()] == [KINDS[hook]]


@pytest.mark.parametrize("kind", [*SPECS, specs.Checkpoint], ids=lambda kind: kind.__name__)
def test_the_page_describes_each_field(kind):
    fields = {field.name for field in dataclasses.fields(kind)}
    if kind is specs.Spec:
        assert fields == first_cells(section("What all specs have")) - {"source", "revision"}
        return
    table = PAGE.split(f"| field of `{kind.__name__}` |")[1].split("\n\n")[0]
    assert fields == first_cells(table)


def test_the_page_describes_what_core_fills_in():
    assert set(specs.Sourced.model_fields) <= first_cells(section("What all specs have"))


def test_every_hook_yields_a_kind_of_spec_or_hears_events():
    assert set(HOOKS) == {*KINDS, "exapt_run_events"}
