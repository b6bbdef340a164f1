"""A search: many short runs of changed recipes, of which the valid part chooses; the test part is never in sight.

The sampler is the tree-structured Parzen estimator of Bergstra et al. (2011, NeurIPS 24), by Optuna (Akiba et al. 2019,
arXiv:1907.10902). Poor trials end early, by successive halving in its asynchronous form (Li et al. 2018,
arXiv:1810.05934) or by the median rule (Golovin et al. 2017, doi:10.1145/3097983.3098043).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exapt import device as devices
from exapt.broadcast import locked
from exapt.errors import ExaptError, MetricError, RecipeError
from exapt.events import Event, Listener, Run, Stopped
from exapt.metrics import better
from exapt.recipe import read_recipe
from exapt.searching.aside import aside
from exapt.searching.folder import SearchFolder
from exapt.searching.ledger import Ledger
from exapt.searching.outcome import STATES, Search, shown
from exapt.searching.plan import IN_SIGHT, SearchOptions, planned
from exapt.training import run

if TYPE_CHECKING:
    from optuna.trial import Trial

# Of a run, in percent of its epochs: strategies differ in how many epochs suit them.
_TENTHS = tuple(range(10, 101, 10))


def search(
    given: Mapping[str, Any],
    section: Mapping[str, Any] | None,
    out: Path,
    options: SearchOptions,
    *,
    resume: bool = False,
    final: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Search:
    """Search the space that ``section`` spans about a recipe, as plain tables; keep trials and the best recipe in ``out``.

    Nothing of the test part is seen, but by the best recipe, once, if it is ``final``. Raises ``RecipeError`` before any
    training for a space that is none, and if there are no valid rows to choose by; and if all trials fail.
    """
    folder = SearchFolder(out)
    folder.check(resume)
    with _quiet_optuna():
        if devices.processes(devices.choose(device)).num_processes > 1:
            raise RecipeError("a search runs in one process: start it without a launcher")
        plan = planned(given, section, final)
        with _kept(folder):
            folder.begin(plan.identity(options))
            folder.mend()
            driver = _Driver(Ledger(plan, folder, options), device, listeners)
            driver.go()
            found = driver.ledger.outcome()
            return driver.finished(found) if final else found


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from writing lines of its own. Raises ``RecipeError`` where it is not installed."""
    try:
        from optuna import logging
    except ImportError:
        raise RecipeError("a search needs Optuna, which is not installed: pip install 'exapt[search]'") from None
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _kept(folder: SearchFolder) -> Iterator[None]:
    """Keep the folder to this search; one that fails before its first trial is over leaves nothing behind."""
    there = folder.path.exists()
    try:
        with locked(folder.path):
            yield
    except ExaptError:
        if not there and not folder.begun:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


class _Driver:
    """Runs the trials of a ledger, and tells it how they went."""

    def __init__(self, ledger: Ledger, device: str, listeners: Sequence[Listener]) -> None:
        self.ledger, self.device, self.listeners = ledger, device, listeners
        self.plan, budget = ledger.plan, ledger.options.budget
        self.deadline = time.monotonic() + 60 * budget if budget else None

    @property
    def over(self) -> bool:
        """Whether the time is over; it never is before one trial is complete."""
        return self.deadline is not None and time.monotonic() > self.deadline and self.ledger.any_complete()

    def go(self) -> None:
        """Run trials until there are as many as were asked for, or the time is over."""
        while not self.over and (trial := self.ledger.next()) is not None:
            choices = self.ledger.draw(trial)
            self._announce(f"trial {trial.number + 1} of {self.ledger.wanted}: {shown(choices)}")
            ended = self.ledger.copied(trial) or self._tried(trial, choices)
            self.ledger.write()
            if not ended:
                break
            self.ledger.refuse_failure()

    def _tried(self, trial: Trial, choices: Mapping[str, Any]) -> bool:
        """Run a trial and tell how it went; false if the time was over before it was."""
        watch = _Watch(self, trial)
        heard: list[Listener] = [watch, *self.listeners]
        try:
            with aside(self.plan.space.recipe(choices), self.ledger.folder.path) as recipe:
                adapted = run(recipe, device=self.device, listeners=heard, parts=IN_SIGHT)
        except Stopped:
            if watch.ended not in ("pruned", "time"):
                raise
            if watch.ended == "pruned":
                self._told(watch, "PRUNED", None)
            return watch.ended == "pruned"
        except MetricError:
            # It is the same in all trials.
            raise
        except (ExaptError, torch.OutOfMemoryError) as error:
            self._told(watch, "FAIL", None, " ".join(str(error).split()))
            return True
        value = adapted.metrics["valid"].get(self.plan.metric)
        missing = f"the metric '{self.plan.metric}' is undefined on the valid part" if value is None else ""
        self._told(watch, "FAIL" if missing else "COMPLETE", value, missing)
        return True

    def _told(self, watch: _Watch, state: str, value: float | None, reason: str = "") -> None:
        self.ledger.tell(watch.trial, state, value, watch.epochs, watch.seconds, reason)
        said = f"{self.plan.key} {value:.4f}" if value is not None else STATES[state]
        self._announce(f"trial {watch.trial.number + 1}: {said}{': ' if reason else ''}{reason}")

    def _announce(self, text: str) -> None:
        for listener in self.listeners:
            listener(Run(None, {}), Event("note", {"text": text}))

    def finished(self, found: Search) -> Search:
        """Train the best recipe once more, with the test part, and return the outcome with what it reaches there."""
        folder = self.ledger.folder
        self._announce(f"trial {found.best.number} once more, and its test part")
        begun, recipe = folder.begin_final(found.recipe), read_recipe(found.recipe)
        adapted = run(recipe, folder.best, resume=begun, device=self.device, listeners=self.listeners)
        found = replace(found, test=adapted.metrics["test"])
        folder.write_summary(found.as_dict())
        folder.end_final()
        return found


@dataclass
class _Watch:
    """Hears the epochs of a trial, and ends it when it falls behind the others or the time is over."""

    driver: _Driver
    trial: Trial
    ended: str = ""
    epochs: int = 0
    best: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long the trial has taken."""
        return round(time.monotonic() - self.began, 2)

    def __call__(self, run: Run, event: Event) -> None:
        """Tell Optuna the best metric so far, at every tenth of the epochs."""
        if event.name != "epoch":
            return
        plan, value = self.driver.plan, event.facts.get(self.driver.plan.key)
        self.epochs = event.facts["epoch"]
        if value is not None and better(plan.metric, value, self.best):
            self.best = value
        done = 100 * self.epochs // event.facts["epochs"]
        if self.best is not None:
            self._report(done, self.best)
        if done < 100 and self.trial.should_prune():
            self._end("pruned")
        if done < 100 and self.driver.over:
            self._end("time")

    def _report(self, done: int, best: float) -> None:
        # A trial that goes on told some of them in its first life: they are the same.
        known = self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
        for tenth in _TENTHS:
            if tenth <= done and tenth not in known:
                self.trial.report(best, tenth)

    def _end(self, why: str) -> None:
        self.ended = why
        raise Stopped(why)
