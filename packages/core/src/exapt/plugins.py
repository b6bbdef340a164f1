"""Discovery: the one module that knows stevedore and pluggy.

Three steps, kept apart: ``exapt.installed`` reads metadata and imports nothing; ``Plugins`` loads what it is given and keeps
a fault beside each plugin instead of raising it; ``get`` raises, when a component is asked for that cannot be had.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import pluggy

from exapt import hookspecs
from exapt.errors import ComponentError, ExaptError, PluginError, did_you_mean, listed
from exapt.installed import COMMANDS, GROUP, PluginInfo, chosen, installed
from exapt.specs import (
    AugmentationSpec,
    BackboneSpec,
    Checkpoint,
    HeadSpec,
    ReaderSpec,
    ScorerSpec,
    Spec,
    StrategySpec,
    TokenizerSpec,
    WriterSpec,
)

CORE = "exapt"

S = TypeVar("S", bound=Spec)

KINDS: dict[str, type[Spec]] = {
    "exapt_backbones": BackboneSpec,
    "exapt_tokenizers": TokenizerSpec,
    "exapt_heads": HeadSpec,
    "exapt_strategies": StrategySpec,
    "exapt_augmentations": AugmentationSpec,
    "exapt_scorers": ScorerSpec,
    "exapt_readers": ReaderSpec,
    "exapt_writers": WriterSpec,
}

HOOKS = (*KINDS, "exapt_run_events")

_UNKNOWN_HOOK = re.compile(r"unknown hook '(\w+)'")
_UNKNOWN_ARGUMENT = re.compile(r"for hook '(\w+)'.*Argument\(s\) \{'(\w+)'")

# Built-ins arrive by the same hooks as anyone's, and always, whatever EXAPT_PLUGINS says.
_BUILTINS = (
    "alignment",
    "contact",
    "continual",
    "domains",
    "distillation",
    "efficient",
    "few_shot",
    "heads",
    "language",
    "meta_learning",
    "multilabel",
    "multitask",
    "readers",
    "regularised",
    "runlog",
    "schedules",
    "scorers",
    "strategies",
    "writers",
)


@dataclass(frozen=True)
class Offer(Generic[S]):
    """A component and the distribution that it comes from."""

    spec: S
    info: PluginInfo


@dataclass
class Loaded:
    """A plugin after the attempt to load it: what it offers, or why it is broken."""

    info: PluginInfo
    specs: list[Spec] = field(default_factory=list)
    fault: str = ""

    @property
    def provides(self) -> dict[str, list[str]]:
        """Names of what it offers, by kind; a backbone's checkpoints count as a kind."""
        found: dict[str, list[str]] = {}
        for spec in self.specs:
            found.setdefault(spec.kind, []).append(spec.name)
            if isinstance(spec, BackboneSpec):
                found.setdefault("checkpoint", []).extend(checkpoint.name for checkpoint in spec.checkpoints)
        return {kind: names for kind, names in found.items() if names}


class Plugins:
    """The plugins of one process: built-ins, and those it was given; asked, never written to."""

    def __init__(self, infos: Iterable[PluginInfo], extra: Iterable[Any] = ()) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._manager.check_pending()
        version = importlib.metadata.version(CORE)
        self.loaded: list[Loaded] = []
        for name in _BUILTINS:
            module = f"exapt.builtin.{name}"
            self._add(PluginInfo(name, CORE, version, "", module), importlib.import_module(module))
        for info in infos:
            self._load(info)
        for plugin in extra:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            self._add(PluginInfo(name, "inline", "0", "", name), plugin)

    @classmethod
    def named(cls, distributions: Iterable[str]) -> Plugins:
        """Load only the plugins of some distributions, such as those that an adapter names."""
        wanted = set(distributions)
        return cls(info for info in chosen(installed()) if info.distribution in wanted)

    def _load(self, info: PluginInfo) -> None:
        try:
            module = _import(info)
        # A plugin may fail in any way at all while it is imported; the host goes on and says so when asked.
        except (Exception, SystemExit) as error:
            self.loaded.append(Loaded(info, fault=f"cannot be imported: {_said(error)}"))
            return
        self._add(info, module)

    def _add(self, info: PluginInfo, plugin: Any) -> None:
        loaded = Loaded(info)
        self.loaded.append(loaded)
        loaded.fault = self._unfit(info, plugin)
        if loaded.fault:
            return
        try:
            self._manager.register(plugin, name=info.key)
            self._manager.check_pending()
            loaded.specs = self._collect(info.key)
        # check_pending and the plugin's own generators fail in ways of their own; the fault belongs to this plugin.
        except (Exception, SystemExit) as error:
            loaded.fault = _reworded(info, error)
            if self._manager.get_plugin(info.key) is not None:
                self._manager.unregister(name=info.key)

    def _unfit(self, info: PluginInfo, plugin: Any) -> str:
        """Say what pluggy would let pass, or would report by printing everything it knows."""
        api = getattr(plugin, "exapt_api", None)
        if api is None:
            return f"declares no exapt_api; this exapt speaks {hookspecs.API}: add 'exapt_api = {hookspecs.API}'"
        if api != hookspecs.API:
            return f"declares exapt_api = {api!r}; this exapt speaks {hookspecs.API}"
        if self._manager.has_plugin(info.key):
            return f"{info.distribution} names two plugins '{info.name}'"
        if self._manager.is_registered(plugin):
            return f"is the same module, '{info.module}', as {self._manager.get_name(plugin)}"
        unmarked = [name for name in dir(plugin) if name.startswith("exapt_") and _unmarked(getattr(plugin, name))]
        return f"has a function '{unmarked[0]}' without @hookimpl" if unmarked else ""

    def _collect(self, key: str) -> list[Spec]:
        specs: list[Spec] = []
        # One by one, because pluggy's combined result drops which plugin gave what.
        for hook, kind in KINDS.items():
            for impl in getattr(self._manager.hook, hook).get_hookimpls():
                if impl.plugin_name == key:
                    specs += _checked(hook, kind, impl.function())
        names = Counter((spec.kind, name) for spec in specs for name in _names(spec))
        twice = [f"offers the {kind} '{name}' twice" for (kind, name), count in names.items() if count > 1]
        if twice:
            raise PluginError(twice[0])
        return specs

    def offers(self, kind: type[S]) -> list[Offer[S]]:
        """List the components of a kind, by name, with where each comes from."""
        found = [
            Offer(spec, plugin.info)
            for plugin in self.loaded
            if not plugin.fault
            for spec in plugin.specs
            if isinstance(spec, kind)
        ]
        return sorted(found, key=lambda offer: (offer.spec.name, offer.info.distribution))

    def get(self, kind: type[S], name: str) -> Offer[S]:
        """Return the component called ``name`` or, where two offer it, ``distribution:name``.

        Raises ``ComponentError`` for a name that nobody offers, with the nearest known one, or that two offer.
        """
        distribution, bare = self.split(name)
        offers = self.offers(kind)
        found = [o for o in offers if o.spec.name == bare and distribution in ("", o.info.distribution)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ComponentError(_ambiguous(kind.kind, bare, found))
        raise ComponentError(self._unknown(kind.kind, name, {o.spec.name for o in offers}))

    def checkpoint(self, name: str) -> tuple[Offer[BackboneSpec], Checkpoint | None, str]:
        """Resolve the name of a backbone: a checkpoint, a family, or ``FAMILY:PATH_OR_REPO``.

        Returns the family, the published checkpoint if one was named, and the source. Raises ``ComponentError``.
        """
        distribution, bare = self.split(name)
        offers = [offer for offer in self.offers(BackboneSpec) if distribution in ("", offer.info.distribution)]
        found = [offer for offer in offers if bare in _names(offer.spec)]
        if len(found) > 1:
            raise ComponentError(_ambiguous("backbone", bare, found))
        if found:
            return _as_named(found[0], bare)
        family, colon, source = bare.partition(":")
        if not colon and any(offer.spec.name == distribution for offer in self.offers(BackboneSpec)):
            # A family may be called like its distribution.
            distribution, family, colon, source = "", distribution, ":", bare
        if colon:
            return self.get(BackboneSpec, f"{distribution}:{family}" if distribution else family), None, source
        known = {known for offer in offers for known in _names(offer.spec)}
        raise ComponentError(self._unknown("backbone", name, known))

    def split(self, name: str) -> tuple[str, str]:
        """Split ``distribution:name``; the distribution is empty where the first word is not an installed one's."""
        first, colon, rest = name.partition(":")
        known = {plugin.info.distribution for plugin in self.loaded}
        return (first, rest) if colon and first in known else ("", name)

    def _unknown(self, kind: str, name: str, known: set[str]) -> str:
        broken = [plugin.info.name for plugin in self.loaded if plugin.fault]
        hint = f" Broken plugins, see 'exapt plugins --check': {listed(broken)}." if broken else ""
        return f"unknown {kind} '{name}'.{did_you_mean(name, known)} Installed: {listed(known)}.{hint}"

    def conflicts(self) -> list[str]:
        """Say, one line each, which component names are offered twice: refused when used, but no one else's concern."""
        lines = []
        for kind in KINDS.values():
            offers = self.offers(kind)
            for name, count in Counter(name for offer in offers for name in _names(offer.spec)).items():
                if count > 1:
                    lines.append(_ambiguous(kind.kind, name, [offer for offer in offers if name in _names(offer.spec)]))
        return lines

    @property
    def broken(self) -> list[Loaded]:
        """The plugins that could not be used, each with its fault."""
        return [plugin for plugin in self.loaded if plugin.fault]

    @cached_property
    def events(self) -> Any:
        """The broadcast of run events: ``events(run=..., event=...)``."""
        return self._manager.hook.exapt_run_events


_override: ContextVar[Plugins | None] = ContextVar("plugins", default=None)
_shared: list[Plugins] = []


def current() -> Plugins:
    """Return the plugins of this process, discovered when first asked for."""
    override = _override.get()
    if override is not None:
        return override
    if not _shared:
        _shared.append(Plugins(chosen(installed())))
    return _shared[0]


def overridden() -> Plugins | None:
    """Return the plugins that ``using`` put in place, if it did."""
    return _override.get()


@contextmanager
def using(plugins: Plugins) -> Iterator[Plugins]:
    """Let ``current`` answer with these plugins for a while."""
    token = _override.set(plugins)
    try:
        yield plugins
    finally:
        _override.reset(token)


def load_command(info: PluginInfo) -> Any:
    """Import a plugin's command. Raises ``PluginError`` if that fails in any way, or gives no click command."""
    import click

    what = f"the command '{info.name}' of {info.distribution}"
    try:
        command = _import(info, COMMANDS)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} is broken: {_said(error)}") from error
    if not isinstance(command, click.Command):
        raise PluginError(f"{what} is broken: '{info.module}' is {type(command).__name__}, not a click command")
    return command


def _import(info: PluginInfo, group: str = GROUP) -> Any:
    from stevedore.named import NamedExtensionManager

    # Asked for no name, stevedore lists entry points and loads none: another distribution may use the same name, and
    # must not be imported beside the one that was meant.
    manager: Any = NamedExtensionManager(group, [])
    found = [entry for entry in manager.list_entry_points() if (entry.name, entry.value) == (info.name, info.module)]
    # Its cache on disk tells times apart by minutes only; where it is stale, the metadata know better.
    entry = found[0] if found else importlib.metadata.EntryPoint(info.name, info.module, group)
    return entry.load()


def _checked(hook: str, kind: type[Spec], given: Any) -> list[Spec]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise PluginError(f"{hook} returns {type(given).__name__}, not an iterable of {kind.__name__}")
    specs = list(given)
    for spec in specs:
        if not isinstance(spec, kind):
            raise PluginError(f"{hook} yields {type(spec).__name__}, not {kind.__name__}")
    return specs


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reworded(info: PluginInfo, error: BaseException) -> str:
    if isinstance(error, ExaptError):
        return str(error)
    text = _said(error)
    if isinstance(error, pluggy.PluginValidationError):
        # pluggy's texts begin with the plugin's whole representation, and know no nearest word.
        hook, argument = _UNKNOWN_HOOK.search(text), _UNKNOWN_ARGUMENT.search(text)
        if hook:
            return f"unknown hook '{hook[1]}'.{did_you_mean(hook[1], HOOKS)} Known: {listed(HOOKS)}"
        return f"hook '{argument[1]}' takes no argument '{argument[2]}'" if argument else text
    return f"fails when asked what it offers: {text}"


def _ambiguous(kind: str, name: str, found: Sequence[Offer[Any]]) -> str:
    sources = sorted(offer.info.distribution for offer in found)
    choices = " or ".join(f"'{source}:{name}'" for source in sources)
    return f"{kind} '{name}' is offered by {' and '.join(sources)}; write {choices}"


def _names(spec: Spec) -> list[str]:
    """Return the names under which a component is asked for: a backbone's checkpoints stand beside its family."""
    published = [checkpoint.name for checkpoint in spec.checkpoints] if isinstance(spec, BackboneSpec) else []
    return published if spec.name in published else [spec.name, *published]


def _as_named(offer: Offer[BackboneSpec], name: str) -> tuple[Offer[BackboneSpec], Checkpoint | None, str]:
    published = {checkpoint.name: checkpoint for checkpoint in offer.spec.checkpoints}
    if name in published:
        return offer, published[name], published[name].source
    if not published:
        return offer, None, ""
    raise ComponentError(f"'{name}' is a family of backbones; name one of {listed(published)}, or {name}:PATH_OR_REPO")


def _unmarked(member: Any) -> bool:
    return inspect.isfunction(member) and not hasattr(member, f"{hookspecs.PROJECT}_impl")
