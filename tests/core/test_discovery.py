"""Installed plugins: read from metadata, loaded when asked, and of no concern to others when they are broken."""

import json
import os
from textwrap import dedent

import pytest
from stevedore import _cache

from exapt.installed import installed
from exapt.plugins import Plugins, chosen
from exapt.specs import BackboneSpec, StrategySpec, TokenizerSpec

OF_CORE = [
    "adversarial",
    "bitfit",
    "bottleneck",
    "consistency",
    "coral",
    "discriminative-rates",
    "distillation",
    "dora",
    "early-stopping",
    "ewc",
    "full",
    "gradual-mixing",
    "gradual-unfreezing",
    "head-dropout",
    "ia3",
    "l2-sp",
    "label-smoothing",
    "layernorm",
    "lora",
    "maml",
    "mixup",
    "mmd",
    "partial",
    "prefix",
    "probe",
    "prompt",
    "replay",
    "scratch",
    "self-training",
    "swa",
    "uncertainty-weights",
    "weight-decay",
    "wise-ft",
]
"""The strategies that core brings."""

STRATEGY = """
from exapt import StrategySpec, hookimpl
exapt_api = 1

def build(options):
    from exapt.parts import Strategy
    return Strategy()

@hookimpl
def exapt_strategies():
    yield StrategySpec(name="NAME", summary="Frozen features.", build=build)
"""

# A backbone that is ESM-2 under another name: it reads the same folders.
BACKBONE = """
from exapt import BackboneSpec, Checkpoint, TokenizerSpec, hookimpl
from exapt_esm.plugin import Esm2Options, Esm2TokenizerOptions, build_backbone, build_tokenizer
exapt_api = 1

def published(name):
    return Checkpoint(name=name, source=SOURCE, licence="CC-BY-NC-4.0", commercial=False,
                      parameters=28_000, width=20, paper="https://example.org/tiny")

@hookimpl
def exapt_tokenizers():
    yield TokenizerSpec(name="letters", summary="Letters.", options=Esm2TokenizerOptions, build=build_tokenizer)

@hookimpl
def exapt_backbones():
    yield BackboneSpec(name="FAMILY", summary="Tiny.", options=Esm2Options, build=build_backbone, tokenizer="letters",
                       modality="protein", probes=("MKTAYIAK",), checkpoints=(published("tiny-1"),))
"""


def strategy(name):
    return STRATEGY.replace("NAME", name)


def backbone(family, model):
    return BACKBONE.replace("FAMILY", family).replace("SOURCE", repr(str(model)))


def discovered():
    return Plugins(chosen(installed()))


def test_plugins_are_listed_from_metadata_and_none_is_imported(site, exapt, tmp_path):
    witness = tmp_path / "imported"
    site.install("exapt-slow", f"open({str(witness)!r}, 'w').close()\nraise SystemExit(3)", version="2.7")
    printed = exapt("plugins").stdout.splitlines()
    assert printed[0].split() == ["name", "distribution", "version", "location"]
    assert ["slow", "exapt-slow", "2.7", str(site.folder)] in [line.split() for line in printed]
    facts = json.loads(exapt("plugins", "--json").stdout)
    assert {
        "name": "slow",
        "distribution": "exapt-slow",
        "version": "2.7",
        "location": str(site.folder),
        "enabled": True,
    } in facts
    assert "slow" in [info.name for info in installed()]
    exapt("--help")
    assert not witness.exists()
    # The same plugin is imported, and does what it does, as soon as it is asked for.
    assert "slow  (exapt-slow 2.7)  BROKEN: cannot be imported: SystemExit: 3" in exapt("plugins", "--check").stdout
    assert witness.exists()


def test_check_shows_what_each_provides(site, exapt, model):
    site.install("exapt-calm", strategy("calm"))
    site.install("exapt-tiny", backbone("tiny", model))
    site.install("exapt-idle", "exapt_api = 1")
    printed = exapt("plugins", "--check").stdout.splitlines()
    assert "calm  (exapt-calm 1.0)  strategy: calm" in printed
    assert "tiny  (exapt-tiny 1.0)  backbone: tiny; checkpoint: tiny-1; tokenizer: letters" in printed
    assert "idle  (exapt-idle 1.0)  provides nothing" in printed
    facts = {row["name"]: row for row in json.loads(exapt("plugins", "--check", "--json").stdout)}
    assert facts["calm"]["provides"] == {"strategy": ["calm"]}
    assert facts["calm"]["fault"] == ""


BROKEN = {
    "import-error": (
        "import no_such_module",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "assertion": ("assert 1 == 2, 'one is not two'", "cannot be imported: AssertionError: one is not two"),
    "bare-assertion": ("assert False", "cannot be imported: AssertionError"),
    "exit": ("raise SystemExit", "cannot be imported: SystemExit"),
    "syntax": (
        "def :",
        "cannot be imported: SyntaxError: invalid syntax (exapt_syntax.py, line 1)",
    ),
    "many-lines": ("raise ValueError('one\\n  two')", "cannot be imported: ValueError: one two"),
    "no-api": (
        strategy("x").replace("exapt_api = 1", ""),
        "declares no exapt_api; this exapt speaks 1: add 'exapt_api = 1'",
    ),
    "other-api": (
        strategy("x").replace("exapt_api = 1", "exapt_api = 2"),
        "declares exapt_api = 2; this exapt speaks 1",
    ),
    "misspelt-hook": (
        strategy("x").replace("exapt_strategies", "exapt_strategys"),
        "unknown hook 'exapt_strategys'. Did you mean 'exapt_strategies'? "
        "Known: exapt_augmentations, exapt_backbones, exapt_heads, exapt_readers, exapt_run_events, exapt_scorers, "
        "exapt_strategies, exapt_tokenizers, exapt_writers",
    ),
    "misspelt-argument": (
        "from exapt import hookimpl\nexapt_api = 1\n@hookimpl\ndef exapt_run_events(run, evnt): pass",
        "hook 'exapt_run_events' takes no argument 'evnt'",
    ),
    "unmarked-hook": (strategy("x").replace("@hookimpl", ""), "has a function 'exapt_strategies' without @hookimpl"),
    "not-iterable": (
        "from exapt import hookimpl\nexapt_api = 1\n@hookimpl\ndef exapt_heads(): return 3",
        "exapt_heads returns int, not an iterable of HeadSpec",
    ),
    "a-string": (
        "from exapt import hookimpl\nexapt_api = 1\n@hookimpl\ndef exapt_heads(): return 'head'",
        "exapt_heads returns str, not an iterable of HeadSpec",
    ),
    "nothing": (
        "from exapt import hookimpl\nexapt_api = 1\n@hookimpl\ndef exapt_heads(): pass",
        "exapt_heads returns NoneType, not an iterable of HeadSpec",
    ),
    "wrong-item": (
        strategy("x").replace("exapt_strategies", "exapt_heads"),
        "exapt_heads yields StrategySpec, not HeadSpec",
    ),
    "twice": (
        strategy("x") + '    yield StrategySpec(name="x", summary="Again.", build=build)\n',
        "offers the strategy 'x' twice",
    ),
    "generator-raises": (
        strategy("x") + "    raise RuntimeError('no')\n",
        "fails when asked what it offers: RuntimeError: no",
    ),
    "generator-exits": (strategy("x") + "    raise SystemExit(1)\n", "fails when asked what it offers: SystemExit: 1"),
    "labels-of-tokens": (
        "from exapt import HeadSpec, hookimpl\nexapt_api = 1\n@hookimpl\ndef exapt_heads():\n"
        "    yield HeadSpec(name='words', summary='Words.', build=print, answers='token')\n",
        "fails when asked what it offers: ValueError: head 'words' learns from labels and answers for each token: labels "
        "are of inputs or of units, so answers is 'input' or 'unit'; a head that poses its own questions says "
        "labelled=False",
    ),
    "bad-name": (
        strategy("My Strategy"),
        "fails when asked what it offers: ValueError: 'My Strategy' is no component name: use lower-case words joined "
        "by '-', '_' or '.'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_reported_and_stops_nobody(site, exapt, kind):
    source, fault = BROKEN[kind]
    site.install(f"exapt-{kind}", source, name="bad")
    site.install("exapt-calm", strategy("calm"))
    assert f"bad  (exapt-{kind} 1.0)  BROKEN: {fault}\n" in exapt("plugins", "--check").stdout
    listed = exapt("list", "strategies")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["name", *sorted([*OF_CORE, "calm"])]
    assert listed.stderr == f"plugin 'bad' of exapt-{kind} is broken: see 'exapt plugins --check'\n"
    assert "name: calm\nfrom: exapt-calm 1.0\n" in exapt("show", "strategy", "calm").stdout


def test_twice_the_same_backbone_name_in_one_plugin(site, exapt, model):
    source = backbone("tiny", model).replace('(published("tiny-1"),)', '(published("tiny-1"), published("tiny-1"))')
    site.install("exapt-tiny", source)
    assert "BROKEN: offers the backbone 'tiny-1' twice\n" in exapt("plugins", "--check").stdout


def test_an_adapter_is_trained_and_used_beside_every_broken_plugin(site, exapt, flags, data, tmp_path):
    for kind, (source, _) in BROKEN.items():
        site.install(f"exapt-{kind}", source)
    exapt("train", *flags(), "--out", tmp_path / "adapter")
    assert exapt("predict", tmp_path / "adapter", data / "peptides.csv").stdout.count("\n") == 121
    exapt("doctor")


def test_a_component_of_a_broken_plugin_is_missed_with_a_hint(site, refused):
    site.install("exapt-calm", "import no_such_module")
    assert refused("show", "strategy", "calm") == (
        f"unknown strategy 'calm'. Did you mean 'coral'? Installed: {', '.join(OF_CORE)}. "
        "Broken plugins, see 'exapt plugins --check': calm."
    )


def test_an_interruption_during_a_plugins_import_is_no_fault_of_its(site, exapt):
    site.install("exapt-calm", "raise KeyboardInterrupt")
    assert exapt("list", "heads", code=130).stderr == "\nexapt: interrupted\n"


def names(infos):
    return [info.distribution for info in infos]


@pytest.mark.parametrize(
    ("only", "never", "left"),
    [
        (None, None, ["exapt-calm", "exapt-eager"]),
        ("calm", None, ["exapt-calm"]),
        ("exapt-calm", None, ["exapt-calm"]),
        (" calm , exapt-eager ", None, ["exapt-calm", "exapt-eager"]),
        ("", None, []),
        (None, "calm", ["exapt-eager"]),
        (None, "exapt-calm,eager", []),
        (None, "", ["exapt-calm", "exapt-eager"]),
        ("calm,eager", "calm", ["exapt-eager"]),
        ("none-such", None, []),
    ],
)
def test_variables_choose_who_loads_and_built_ins_always_stay(site, monkeypatch, only, never, left):
    site.install("exapt-calm", strategy("calm"))
    site.install("exapt-eager", strategy("eager"))
    for variable, value in (("EXAPT_PLUGINS", only), ("EXAPT_DISABLE_PLUGINS", never)):
        if value is not None:
            monkeypatch.setenv(variable, value)
    found = discovered().offers(StrategySpec)
    ours = {"exapt-calm", "exapt-eager"}
    assert [offer.info.distribution for offer in found if offer.info.distribution in ours] == left
    assert set(OF_CORE) <= {offer.spec.name for offer in found}


def test_a_plugin_that_is_not_allowed_is_not_even_imported(site, exapt, tmp_path):
    witness = tmp_path / "imported"
    site.install("exapt-calm", f"open({str(witness)!r}, 'w').close()")
    env = {"EXAPT_DISABLE_PLUGINS": "calm"}
    assert "calm  (exapt-calm 1.0)  disabled\n" in exapt("plugins", "--check", env=env).stdout
    assert f"{site.folder}  (disabled)\n" in exapt("plugins", env=env).stdout
    exapt("list", env=env)
    assert not witness.exists()


def test_a_misspelt_word_in_a_variable_is_said(exapt):
    printed = exapt("plugins", env={"EXAPT_PLUGINS": "esn", "EXAPT_DISABLE_PLUGINS": "calmm"})
    assert printed.stderr.splitlines() == [
        "EXAPT_PLUGINS names 'esn', which is not installed",
        "EXAPT_DISABLE_PLUGINS names 'calmm', which is not installed",
    ]


def test_without_any_plugin_the_list_says_what_to_install(exapt):
    assert exapt("list", "backbones", env={"EXAPT_PLUGINS": ""}).stdout == "no backbones are installed\n"


OFFERED_TWICE = "strategy 'calm' is offered by exapt-one and exapt-two; write 'exapt-one:calm' or 'exapt-two:calm'"


def test_a_name_of_two_plugins_is_refused_only_where_it_is_used(site, exapt, refused, flags, tmp_path):
    site.install("exapt-one", strategy("calm"))
    site.install("exapt-two", strategy("calm"))
    assert refused("show", "strategy", "calm") == OFFERED_TWICE
    assert refused("train", *flags(strategy="calm"), "--out", tmp_path / "adapter") == OFFERED_TWICE
    assert list(tmp_path.iterdir()) == [site.folder]
    assert "from: exapt-two 1.0\n" in exapt("show", "strategy", "exapt-two:calm").stdout
    exapt("show", "strategy", "probe")
    check = exapt("plugins", "--check")
    assert "one  (exapt-one 1.0)  strategy: calm\n" in check.stdout
    assert check.stderr == OFFERED_TWICE + "\n"


def test_an_adapter_remembers_which_of_two_was_meant(site, exapt, flags, data, tmp_path):
    site.install("exapt-one", strategy("calm"))
    site.install("exapt-two", strategy("calm"))
    exapt("train", *flags(strategy="exapt-two:calm"), "--out", tmp_path / "adapter")
    manifest = json.loads((tmp_path / "adapter" / "exapt.json").read_text())
    assert manifest["recipe"]["strategies"] == [{"name": "exapt-two:calm"}]
    assert sorted(manifest["plugins"]) == ["exapt", "exapt-esm", "exapt-two"]
    exapt("predict", tmp_path / "adapter", data / "peptides.csv")


def test_the_distribution_also_selects_a_checkpoint_or_a_family(site, exapt, refused, model):
    site.install("exapt-one", backbone("tiny", model))
    site.install("exapt-two", backbone("tiny", model))
    for name in ("tiny", "tiny-1", "tiny:/a/folder"):
        with pytest.raises(Exception, match="is offered by exapt-one and exapt-two") as caught:
            discovered().checkpoint(name)
        bare = name.partition(":")[0]
        assert str(caught.value) == (
            f"backbone '{bare}' is offered by exapt-one and exapt-two; write 'exapt-one:{bare}' or 'exapt-two:{bare}'"
        )
    plugins = discovered()
    offer, checkpoint, source = plugins.checkpoint("exapt-two:tiny-1")
    assert (offer.info.distribution, checkpoint.name, source) == ("exapt-two", "tiny-1", str(model))
    offer, checkpoint, source = plugins.checkpoint("exapt-one:tiny:/a/folder")
    assert (offer.info.distribution, checkpoint, source) == ("exapt-one", None, "/a/folder")
    assert refused("show", "backbone", "tiny").startswith("backbone 'tiny' is offered by exapt-one and exapt-two")
    assert "licence: CC-BY-NC-4.0\n" in exapt("show", "checkpoint", "exapt-one:tiny-1").stdout


def test_a_family_of_one_and_a_checkpoint_of_another_may_not_be_confused(site, model):
    site.install("exapt-one", backbone("tiny-1", model).replace('(published("tiny-1"),)', "()"))
    site.install("exapt-two", backbone("tiny", model))
    with pytest.raises(Exception, match="backbone 'tiny-1' is offered by exapt-one and exapt-two"):
        discovered().checkpoint("tiny-1")


def test_a_family_may_be_called_like_its_distribution(site, model):
    site.install("tiny", backbone("tiny", model))
    plugins = discovered()
    assert plugins.checkpoint("tiny:/a/folder")[2] == "/a/folder"
    assert plugins.checkpoint("tiny:tiny:/a/folder")[2] == "/a/folder"
    assert plugins.checkpoint("tiny:tiny-1")[1].name == "tiny-1"


def test_a_backbone_keeps_to_the_tokenizer_of_its_own_distribution(site, exapt, flags, data, model, tmp_path):
    site.install("exapt-one", backbone("tiny", model))
    site.install("exapt-two", backbone("other", model).replace("tiny-1", "other-1") + STRATEGY.replace("NAME", "calm"))
    out = tmp_path / "adapter"
    exapt("train", *flags(backbone="tiny-1", strategy="calm"), "--out", out)
    recipe = json.loads((out / "exapt.json").read_text())["recipe"]
    assert recipe["tokenizer"]["name"] == "exapt-one:letters"
    assert len(discovered().offers(TokenizerSpec)) >= 2
    printed = exapt("predict", out, data / "peptides.csv", "-o", tmp_path / "answers.csv")
    assert printed.stderr == (
        f"licence of tiny-1: CC-BY-NC-4.0, which forbids commercial use\n120 rows in {tmp_path / 'answers.csv'}\n"
    )


def test_two_plugins_of_one_short_name_both_load(site, exapt):
    site.install("lab-calm", strategy("calm"), name="calm")
    site.install("zoo-calm", "raise SystemExit(1)", name="calm")
    site.install("den-calm", strategy("calmer"), name="calm")
    check = exapt("plugins", "--check")
    assert "calm  (den-calm 1.0)  strategy: calmer\n" in check.stdout
    assert "calm  (lab-calm 1.0)  strategy: calm\n" in check.stdout
    assert "calm  (zoo-calm 1.0)  BROKEN: cannot be imported: SystemExit: 1\n" in check.stdout
    assert check.stderr == (
        "'calm' is the name of 3 plugins, of den-calm and lab-calm and zoo-calm; EXAPT_PLUGINS takes distributions too\n"
    )
    assert "strategy: calm\n" in exapt("plugins", "--check", env={"EXAPT_PLUGINS": "lab-calm"}).stdout


def test_two_distributions_of_one_module_are_one_plugin_and_one_fault(site, exapt):
    site.install("exapt-one", strategy("calm"), module="shared_calm")
    site.install("exapt-two", strategy("calm"), module="shared_calm")
    printed = exapt("plugins", "--check").stdout
    assert "one  (exapt-one 1.0)  strategy: calm\n" in printed
    assert "two  (exapt-two 1.0)  BROKEN: is the same module, 'shared_calm', as exapt-one:one\n" in printed


def test_a_stale_cache_of_entry_points_hides_nothing(site, exapt, monkeypatch):
    monkeypatch.setattr(_cache._c, "_disable_caching", False)
    site.install("exapt-calm", strategy("calm"))
    exapt("plugins", "--check")
    (entries,) = site.folder.glob("*/entry_points.txt")
    # The next version is installed within the same minute, its module under another name.
    times = [(path, path.stat().st_mtime) for path in (entries, site.folder)]
    (site.folder / "exapt_calm.py").rename(site.folder / "calm_plugin.py")
    entries.write_text(entries.read_text().replace("exapt_calm", "calm_plugin"))
    for path, time in times:
        os.utime(path, (time, time))
    assert "calm  (exapt-calm 1.0)  strategy: calm\n" in exapt("plugins", "--check").stdout


def test_did_you_mean(refused):
    assert refused("show", "strategy", "loraa") == (
        f"unknown strategy 'loraa'. Did you mean 'lora'? Installed: {', '.join(OF_CORE)}."
    )
    noises = {"ca": "002 010 020", "soluble": "002 010 020 030", "vanilla": "002 010 020 030"}
    mpnn = ", ".join(f"proteinmpnn-{kind}-{noise}" for kind, of in noises.items() for noise in of.split())
    assert refused("show", "checkpoint", "esm2-8n", env={"EXAPT_PLUGINS": "esm"}) == (
        "unknown backbone 'esm2-8n'. Did you mean 'esm2-8m'? Installed: esm2, esm2-150m, esm2-15b, esm2-35m, esm2-3b, "
        f"esm2-650m, esm2-8m, proteinmpnn, {mpnn}."
    )
    assert refused("show", "backbone", "esm3:/a/folder", env={"EXAPT_PLUGINS": "esm"}) == (
        "unknown backbone 'esm3:/a/folder'. Installed: esm2, proteinmpnn."
    )


def test_a_family_alone_names_its_checkpoints(refused, flags, tmp_path):
    assert refused("train", *flags(backbone="esm2"), "--out", tmp_path / "adapter") == (
        "'esm2' is a family of backbones; name one of esm2-150m, esm2-15b, esm2-35m, esm2-3b, esm2-650m, esm2-8m, "
        "or esm2:PATH_OR_REPO"
    )


COMMANDS = dedent(
    """
    import sys, click
    sys.stderr.write("imported\\n")

    @click.command()
    @click.argument("word")
    @click.option("--times", default=1, help="How often.")
    def shout(word, times):
        "Say WORD loudly."
        click.echo(word.upper() * times)
        return 7

    @click.command()
    @click.pass_context
    def leave(ctx):
        ctx.exit(5)

    @click.group()
    def tools():
        "A group."

    @tools.command()
    @click.argument("words", nargs=-1)
    def join(words):
        click.echo("+".join(words))

    no_command = 3
    """
)


@pytest.fixture
def shouting(site):
    members = [("shout", "shout"), ("leave", "leave"), ("tools", "tools"), ("train", "shout"), ("odd", "no_command")]
    site.install("exapt-loud", COMMANDS, commands=members)


@pytest.mark.usefixtures("shouting")
class TestCommandsOfPlugins:
    def test_help_names_them_without_importing_them(self, exapt):
        printed = exapt("--help")
        assert "A command of exapt-loud." in printed.stdout
        assert printed.stderr == ""

    def test_they_get_their_arguments_and_options(self, exapt):
        assert exapt("shout", "hey", "--times", "2").stdout == "HEYHEY\n"
        assert exapt("tools", "join", "a", "--", "-b").stdout == "a+-b\n"

    def test_their_help_is_their_own(self, exapt):
        printed = exapt("shout", "--help").stdout
        assert printed.startswith("Usage: exapt shout [OPTIONS] WORD\n\n  Say WORD loudly.\n")
        assert "--times INTEGER  How often." in printed

    def test_what_they_return_is_no_exit_code_but_their_exit_is(self, exapt):
        exapt("shout", "hey", code=0)
        exapt("leave", code=5)

    def test_their_usage_errors_are_one_line(self, exapt):
        printed = exapt("shout", code=2)
        assert printed.stderr == "imported\nexapt: Missing argument 'WORD'.\n"

    def test_they_cannot_take_the_place_of_a_core_command(self, exapt):
        printed = exapt("train", "--help").stdout
        assert "Train as RECIPE" in printed
        assert exapt("--help").stdout.count(" train ") == 1

    def test_a_broken_one_is_one_line_and_disturbs_no_other(self, site, exapt, refused):
        site.install("exapt-faulty", "assert False, 'never'", commands=[("faulty", "run")], name="")
        assert refused("faulty", code=1) == "the command 'faulty' of exapt-faulty is broken: AssertionError: never"
        assert exapt("shout", "hey").stdout == "HEY\n"

    def test_what_is_no_command_is_said_to_be_none(self, exapt):
        assert exapt("odd", code=1).stderr.splitlines()[-1] == (
            "exapt: the command 'odd' of exapt-loud is broken: 'exapt_loud:no_command' is int, not a click command"
        )

    def test_a_command_of_two_plugins_is_refused_with_both_named(self, site, exapt, refused):
        site.install("exapt-louder", COMMANDS, commands=[("shout", "shout")])
        assert refused("shout", "hey") == (
            "The command 'shout' is brought by exapt-loud and exapt-louder; disable one with EXAPT_DISABLE_PLUGINS."
        )
        assert exapt("--help").stdout.count(" shout ") == 1
        assert exapt("shout", "hey", env={"EXAPT_DISABLE_PLUGINS": "exapt-louder"}).stdout == "HEY\n"

    def test_disabling_a_plugin_by_its_short_name_takes_its_commands_too(self, exapt, refused):
        env = {"EXAPT_DISABLE_PLUGINS": "loud"}
        assert "A command of exapt-loud." not in exapt("--help", env=env).stdout
        for others in (env, {"EXAPT_PLUGINS": "esm"}):
            assert refused("shout", "hey", env=others) == "No such command 'shout'. Did you mean 'show'?"


def test_an_unknown_command_is_one_line_with_the_nearest(refused):
    assert refused("trian") == "No such command 'trian'. Did you mean 'train'?"


def test_plugins_of_other_distributions_do_not_see_each_other(site):
    site.install("exapt-one", strategy("calm"))
    site.install("exapt-two", strategy("eager"))
    only = Plugins.named(["exapt-two"])
    assert [loaded.info.distribution for loaded in only.loaded if loaded.info.distribution != "exapt"] == ["exapt-two"]
    assert [offer.spec.name for offer in only.offers(BackboneSpec)] == []
