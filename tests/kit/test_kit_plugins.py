"""Each check of a plugin as a whole fails on a plugin that was made to have the fault; and what ``check_plugin`` covers."""

import importlib
import itertools

import pytest

from exapt.testing import CHECKS, ConformanceError, check_backbone, check_plugin

HEAD = "from exapt import BackboneSpec, HeadSpec, Options, StrategySpec, TokenizerSpec, hookimpl\n\nexapt_api = 1\n"

STRATEGY = """
def freeze(options):
    from exapt.parts import Strategy
    return Strategy()

@hookimpl
def exapt_strategies():
    yield StrategySpec(name="frozen", summary="Nothing learns.", build=freeze)
"""

OPTIONS_UNTOLD = """
class Depth(Options):
    depth: int = 1

@hookimpl
def exapt_strategies():
    yield StrategySpec(name="deep", summary="To some depth.", options=Depth, build=None)
"""

FAULTS = [
    (
        STRATEGY,
        "from exapt import StrategySpec, hookimpl\n",
        "keeps-the-contract: declares no exapt_api; this exapt speaks 1: add 'exapt_api = 1'",
    ),
    ("", HEAD, "keeps-the-contract: it offers nothing"),
    (OPTIONS_UNTOLD, HEAD, "options-described: option 'depth' of strategy 'deep' has no description"),
    (STRATEGY, HEAD + "import numpy\n", "light-import: importing it imports numpy; import that inside build"),
    (
        STRATEGY,
        HEAD + "import sys\nif 'pytest' not in sys.modules:\n    raise OSError('no such disk')\n",
        "light-import: a fresh process cannot import it: OSError: no such disk",
    ),
]

SOURCES = [
    ("def f(path):\n    import torch\n    return torch.load(path)\n", "calls torch.load without weights_only=True"),
    (
        "def f(path):\n    import torch\n    return torch.load(path, weights_only=False)\n",
        "calls torch.load without weights_only=True",
    ),
    ("def f(file):\n    import pickle\n    return pickle.load(file)\n", "calls pickle.load"),
    ("def f(model):\n\n    return model(trust_remote_code=True)\n", "sets trust_remote_code"),
    ("def f(model):\n\n    return model(**{'trust_remote_code': True})\n", "sets trust_remote_code"),
    ("def f(np):\n\n    return np.load('a', allow_pickle=True)\n", "sets allow_pickle"),
]

BACKBONE = """
def tokenize(options):
    from exapt.testing.tiny import Letters
    return Letters()

def build(options, weights):
    from exapt.testing.tiny import TinyBackbone, seeded
    return BUILT

@hookimpl
def exapt_tokenizers():
    yield TokenizerSpec(name="mine", summary="Letters.", build=tokenize)

@hookimpl
def exapt_backbones():
    yield BackboneSpec(name="mine", summary="Tiny.", build=build, tokenizer="mine", modality="protein",
                       probes=("MKTAYIAKQR", "ACDEF"))
"""

numbers = itertools.count()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Returns a function that writes a plugin module and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text):
        name = f"plugin_under_test_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return importlib.import_module(name)

    return write


@pytest.mark.parametrize(("body", "head", "message"), FAULTS, ids=lambda value: value.partition(":")[0].strip()[:30])
def test_a_plugin_with_a_fault_is_told_of_it(written, body, head, message):
    module = written(head + body)
    with pytest.raises(ConformanceError) as caught:
        check_plugin(module)
    assert str(caught.value) == f"plugin '{module.__name__}' fails {message}"


@pytest.mark.parametrize(("source", "deed"), SOURCES)
def test_a_plugin_that_unpickles_or_trusts_is_told_the_line(written, source, deed):
    module = written(source + HEAD + STRATEGY)
    with pytest.raises(ConformanceError) as caught:
        check_plugin(module)
    assert str(caught.value) == f"plugin '{module.__name__}' fails safe-source: {module.__name__}.py, line 3, {deed}"


def test_a_module_that_is_safe_may_load_weights(written):
    check_plugin(
        written(HEAD + STRATEGY + "def load(path):\n    import torch\n    return torch.load(path, weights_only=True)\n")
    )


def test_all_that_a_plugin_offers_is_checked_by_its_module_name(written):
    heads = "\n@hookimpl\ndef exapt_heads():\n    yield HeadSpec(name='odd', summary='Odd.', build=None)\n"
    module = written(HEAD + BACKBONE.replace("BUILT", "seeded(TinyBackbone, weights)") + STRATEGY + heads)
    assert check_plugin(module.__name__) == {
        "backbone 'mine'": "checked",
        "tokenizer 'mine'": "checked",
        "head 'odd'": "call check_head with labels",
        "strategy 'frozen'": "checked",
    }


def test_a_component_with_a_fault_fails_its_plugin(written):
    module = written(HEAD + BACKBONE.replace("BUILT", "TinyBackbone()"))
    with pytest.raises(ConformanceError) as caught:
        check_plugin(module)
    assert str(caught.value) == (
        "backbone 'mine' fails weights-loaded: 'letters.weight' differs between two builds with the same weights: "
        "it is left at random"
    )


def test_a_backbone_that_is_another_in_the_next_process_is_found(written):
    salted = "seeded(type('Salted', (TinyBackbone,), {'finish': lambda self, hidden, batch: "
    salted += "TinyBackbone.finish(self, (hidden * (1 + hash('salt') % 997 / 997)).sin(), batch)}), weights)"
    module = written(HEAD + BACKBONE.replace("BUILT", salted))
    backbone, tokenizer = next(module.exapt_backbones()), next(module.exapt_tokenizers())
    with pytest.raises(ConformanceError) as caught:
        check_backbone(backbone, tokenizer=tokenizer)
    assert str(caught.value) == (
        "backbone 'mine' fails saved-and-loaded: features differ in a fresh process that loads the saved weights"
    )


def test_every_check_of_a_plugin_has_a_fault_that_it_finds():
    found = {message.partition(":")[0] for *_, message in FAULTS} | {"safe-source"}
    assert found == {check.name for check in CHECKS["plugin"]}
