"""The trials of a search, as Optuna knows them and as they are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exapt.errors import RecipeError
from exapt.metrics import better
from exapt.searching.folder import SearchFolder
from exapt.searching.outcome import STATES, Search, Tried, cell
from exapt.searching.plan import Plan, SearchOptions

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial, Trial

# Of a run, in percent of its epochs: the first look at it, and by how much longer the next is away.
_FIRST_RUNG, _FACTOR = 11, 3
_ALIKE = 5
_TWIN = "the same as trial "


class Ledger:
    """The trials of one search, in its folder. Raises ``RecipeError`` for a log of them that is damaged."""

    def __init__(self, plan: Plan, folder: SearchFolder, options: SearchOptions) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self.plan, self.folder, self.options = plan, folder, options
        backend = JournalFileBackend(str(folder.journal))
        try:
            self.study: Study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="search",
                load_if_exists=True,
                direction="minimize" if plan.lower else "maximize",
                pruner=_pruner(options.prune),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"'{folder.journal}' is damaged ({error}); search in another folder") from None

    @property
    def wanted(self) -> int:
        """How many trials there are to be."""
        return int(min(self.options.trials, self.plan.space.size))

    def next(self) -> Trial | None:
        """Return the trial that was interrupted, or a new one; None if there are as many as were asked for."""
        import optuna

        every = self._every()
        begun = [trial for trial in every if trial.state.name == "RUNNING"]
        number = begun[0].number if begun else sum(trial.state.is_finished() for trial in every)
        if number >= self.options.trials:
            return None
        if begun:
            # There is no public way to a trial that an earlier process began.
            return optuna.trial.Trial(self.study, begun[0]._trial_id)
        if self.plan.space.size <= self.options.trials:
            untried = self._untried(every)
            if not untried:
                return None
            self.study.enqueue_trial(untried[0], skip_if_exists=True)
        return self.study.ask()

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Return what a trial chooses, key by key."""
        import optuna

        choices = {}
        for place, (key, one) in enumerate(self.plan.space.dimensions.items()):
            # Each draw has a sampler of its own, so that a trial that was interrupted between two goes on as it would have.
            self.study.sampler = optuna.samplers.TPESampler(seed=_seeded(self.plan.seed, trial.number, place))
            choices[key] = one.draw(trial, key)
        return choices

    def _untried(self, every: Sequence[FrozenTrial]) -> list[dict[str, str]]:
        """Return the combinations that are left, in an order that the seed draws."""
        combinations = list(self.plan.space.combinations())
        order = np.random.default_rng(self.plan.seed).permutation(len(combinations))
        known = [trial.params for trial in every]
        return [combinations[place] for place in order if combinations[place] not in known]

    def _every(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def any_complete(self) -> bool:
        """Whether a trial is complete."""
        return any(trial.state.name == "COMPLETE" for trial in self._every())

    def copied(self, trial: Trial) -> bool:
        """Tell of a trial what a finished one of the very same choices gave: training once more would give it once more."""
        twin = next((one for one in self._every() if one.state.is_finished() and one.params == trial.params), None)
        if twin is None:
            return False
        trial.set_user_attr("reason", f"{_TWIN}{twin.number + 1}")
        self.study.tell(trial, twin.value if twin.state.name == "COMPLETE" else None, twin.state)
        return True

    def tell(self, trial: Trial, state: str, value: float | None, epochs: int, seconds: float, reason: str) -> None:
        """Note how a trial ended."""
        from optuna.trial import TrialState

        for name, fact in (("epochs", epochs), ("seconds", seconds), ("reason", reason)):
            trial.set_user_attr(name, fact)
        self.study.tell(trial, value, TrialState[state])

    @property
    def trials(self) -> tuple[Tried, ...]:
        """All trials so far, as plain facts."""
        return tuple(_plain(trial) for trial in self._every())

    @property
    def best(self) -> Tried | None:
        """The first of the complete trials with the best metric."""
        best = None
        for tried in self.trials:
            if tried.state == "complete" and (best is None or better(self.plan.metric, tried.value, best.value)):
                best = tried
        return best

    def write(self) -> None:
        """Write down the trials and, once there is one, the best recipe."""
        keys = list(self.plan.space.dimensions)
        header = ["trial", "state", self.plan.key, *keys, "epochs", "seconds", "reason"]
        rows = []
        for one in self.trials:
            choices = [cell(one.choices.get(key, "")) for key in keys]
            rows.append([one.number, one.state, one.value, *choices, one.epochs, one.seconds, one.reason])
        self.folder.write_trials(header, rows)
        best = self.best
        if best is not None:
            of = f"The best of {len(rows)} trials, {self.plan.key} {best.value:.4g}"
            self.folder.write_best(self.plan.whole(best.choices), f"{of}: exapt train best.toml --out ADAPTER")

    def refuse_failure(self) -> None:
        """Raise ``RecipeError`` once it is plain that all trials fail, for one and the same reason."""
        trials = self.trials
        reasons = {one.reason for one in trials if not one.reason.startswith(_TWIN)}
        if len(trials) >= _ALIKE and all(one.state == "failed" for one in trials) and len(reasons) == 1:
            raise RecipeError(f"all of the first {len(trials)} trials fail: {reasons.pop()}")

    def outcome(self) -> Search:
        """Return what was found. Raises ``RecipeError`` if no trial is complete."""
        trials, best = self.trials, self.best
        if best is None:
            reason = next((one.reason for one in trials if one.reason), "no metric was measured")
            raise RecipeError(f"none of the {len(trials)} trials is complete; the first failed: {reason}")
        found = Search(self.plan.metric, self.plan.rows, trials, best, self.plan.whole(best.choices))
        self.folder.write_summary(found.as_dict())
        return found


def _plain(trial: FrozenTrial) -> Tried:
    known = trial.user_attrs
    choices = {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}
    facts = known.get("epochs", 0), known.get("seconds", 0.0), known.get("reason", "")
    return Tried(trial.number + 1, STATES[trial.state.name], trial.value, choices, *facts)


def _pruner(name: str) -> BasePruner:
    import optuna

    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_FACTOR)
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def _seeded(*of: int) -> int:
    return int(np.random.SeedSequence(of).generate_state(1)[0])
