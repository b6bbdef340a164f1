"""What a search and a range test once got wrong: each fault by the recipe that showed it."""

import pytest

import exapt
from exapt import RecipeError
from transfer.modalities import recipe as recipe_of
from transfer.modalities import table as write_table


@pytest.fixture(scope="module")
def proteins(tmp_path_factory):
    return write_table("protein", tmp_path_factory.mktemp("proteins") / "table.csv")


def asked(table, strategy="probe", training=None, **changes):
    given = recipe_of("protein", table, strategy, **changes)
    return {**given, "training": {**given["training"], **(training or {})}}


def refused(given, out, space):
    with pytest.raises(RecipeError) as error:
        exapt.search(given, out, space=space)
    assert not out.exists()
    return str(error.value)


def test_a_trial_that_diverges_in_the_last_step_of_an_epoch_fails_and_the_search_goes_on(proteins, tmp_path):
    given = asked(proteins, "full", {"batch_size": 64})
    found = exapt.search(given, tmp_path / "found", space={"training.learning_rate": [1e-3, 1e30]}, trials=2)
    failed, complete = sorted(found.trials, key=lambda one: one.state != "failed")
    assert (failed.state, complete.state) == ("failed", "complete")
    assert failed.choices == {"training.learning_rate": 1e30}
    assert failed.reason == (
        "the answers became nan or infinite in epoch 1; lower training.learning_rate or check the labels"
    )
    assert found.best == complete
