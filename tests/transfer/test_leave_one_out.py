"""Each domain left out in turn: learned on the others, measured on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import exapt
from exapt import DataError, OutputError, RecipeError
from exapt.cli import cli
from runs import Heard, contents
from transfer.shifted import brief, domain, recipe

NAMES = ("far", "near", "third")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return domain(tmp_path_factory.mktemp("several") / "several.csv", *NAMES)


def given(path, *strategies, **changes):
    return recipe(path, "", *(strategies or ("probe",))) | brief(2) | {"split": {}} | changes


@pytest.fixture(scope="module")
def done(several, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "out"
    heard = Heard()
    return exapt.leave_one_out(given(several), "origin", out=out, listeners=[heard]), out, heard


def test_each_domain_is_measured_by_a_model_that_never_saw_it(several, done):
    found, out, heard = done
    assert [one.domain for one in found.domains] == list(NAMES)
    assert [one.rows for one in found.domains] == [24, 24, 24]
    assert (found.metric, found.column, found.adapted) == ("macro_f1", "origin", False)
    said = [text for text in heard.of("note", "text") if text.startswith("domain ")]
    assert said == [f"domain {place} of 3, '{name}', is left out" for place, name in enumerate(NAMES, 1)]
    for place, one in enumerate(found.domains, 1):
        adapter = exapt.load(out / f"{place}-{one.domain}")
        data = adapter.manifest["recipe"]["data"]
        assert data["only"] == [name for name in NAMES if name != one.domain]
        assert sum(adapter.manifest["data"]["rows"].values()) == 48
        assert one.source == adapter.metrics["test"]["macro_f1"]
        # The same adapter measured by hand, on the rows of that domain.
        assert one.value == pytest.approx(by_hand(adapter, several, one.domain))


def by_hand(adapter, path, name):
    rows = [line.split(",") for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for row in rows if row[4] == name]
    answers = adapter.predict([row[1] for row in rows])["prediction"].to_pylist()
    scores = []
    for kind in ("acid", "base"):
        hits = sum(answer == kind == row[2] for answer, row in zip(answers, rows, strict=True))
        scores.append(2 * hits / (answers.count(kind) + sum(row[2] == kind for row in rows)))
    return np.mean(scores)


def test_the_mean_is_over_domains_with_its_interval(done):
    found, _, _ = done
    values = [one.value for one in found.domains]
    reach = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval == pytest.approx((found.mean - reach, found.mean + reach))
    assert found.gap == pytest.approx(np.mean([one.value - one.source for one in found.domains]))
    assert found.verdict == (
        f"On a domain that was left out, macro_f1 is {found.mean:.3f} (95 % interval {found.interval[0]:.3f} to "
        f"{found.interval[1]:.3f} over 3 domains); {found.gap:+.3f} against the domains that were learned from."
    )


def test_a_folder_that_was_begun_is_gone_on_with(several, done):
    found, out, _ = done
    before = {name: content for name, content in contents(out).items() if not name.startswith("2-near")}
    held = json.loads((out / "domains.json").read_text())
    # As if it had been interrupted after the first domain, and in the second after its adapter was saved.
    del held["results"]["near"], held["results"]["third"]
    (out / "domains.json").write_text(json.dumps(held))
    (out / "3-third").rename(out / "away")
    heard = Heard()
    again = exapt.leave_one_out(given(several), "origin", out=out, listeners=[heard])
    assert again.as_dict() == found.as_dict()
    assert len(heard.facts("end")) == 1
    assert contents(out / "3-third") == contents(out / "away")
    (out / "away").rename(out.parent / "away")
    after = {name: content for name, content in contents(out).items() if not name.startswith("2-near")}
    assert after["domains.json"] == before["domains.json"]


def test_a_folder_of_another_recipe_is_left_alone(several, done, tmp_path):
    _, out, _ = done
    with pytest.raises(OutputError) as caught:
        exapt.leave_one_out(given(several, seed=3), "origin", out=out)
    assert str(caught.value) == f"'{out}' holds domains of another recipe or table; name another folder"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        exapt.leave_one_out(given(several), "origin", out=tmp_path)
    assert str(caught.value) == f"'{tmp_path}' exists already; name another folder"


def test_rows_left_out_are_learned_from_without_labels_if_that_is_asked_for(several):
    options = {"name": "self-training", "threshold": 0.5, "begin": 0}
    heard = Heard()
    found = exapt.leave_one_out(given(several, "probe", options), "origin", adapt=True, listeners=[heard])
    assert found.adapted
    assert [end["transfer"]["self-training"]["head"]["of"] for end in heard.facts("end")] == [24, 24, 24]
    assert [end["target.macro_f1"] for end in heard.facts("end")] == [one.value for one in found.domains]


def test_the_command_prints_a_table_or_json(several, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(given(several) | {"data": {"path": several, "domain": "origin", "only": NAMES[:2]}}))
    command = ["leave-one-out", str(path), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0, shown.output
    facts = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert facts.keys() == {"metric", "column", "adapted", "domains", "mean", "interval", "gap", "verdict"}
    lines = shown.stdout.splitlines()
    assert lines[0].split("  ")[0] == "left out (origin)"
    assert [line.split()[0] for line in lines[1:3]] == ["far", "near"]
    assert f"{facts['domains'][0]['value']:.4f}" in lines[1] or facts["domains"][0]["value"] == 1
    assert lines[-1] == facts["verdict"]


def refused(*arguments, **options):
    with pytest.raises((DataError, RecipeError)) as caught:
        exapt.leave_one_out(*arguments, **options)
    return str(caught.value)


def test_what_cannot_be_left_out_is_told_in_one_line(several, tmp_path):
    assert refused(given(several)) == (
        "say which column names the domain of each row: --domain COLUMN, or data.domain in the recipe"
    )
    assert refused(given(several), "organ") == (
        "several.csv has no column 'organ'. Its columns are: id, sequence, kind, charge, origin, split."
    )
    assert refused(given(several, split={"column": "origin", "test": ["far"]}), "origin") == (
        "split.column is 'origin', whose domains are left out in turn: leave split.column out, so that valid and test rows "
        "come from the domains that are learned from"
    )
    assert refused(given(several, target={"path": "other.csv"}), "origin") == (
        "each domain is the target in its turn: leave the recipe's target out"
    )
    assert refused(given(several, "probe", "self-training"), "origin") == (
        "strategy 'self-training' learns from rows of the domain that is left out, without their labels: allow that by "
        "--adapt"
    )
    one = domain(tmp_path / "one.csv", "near", rows=24)
    assert refused(given(one), "origin") == (
        "the column 'origin' has one domain, 'near', so that without it there is nothing to learn from"
    )


def test_a_domain_that_nothing_can_be_measured_on_is_named(several, tmp_path):
    header, *lines = Path(several).read_text(encoding="utf-8").splitlines()

    def table(change):
        path = tmp_path / "changed.csv"
        path.write_text("\n".join([header, *map(change, lines)]) + "\n", encoding="utf-8")
        return given(str(path))

    assert refused(table(lambda line: line.replace(",base,", ",acid,") if ",far," in line else line), "origin") == (
        "domain 'far' has rows of one class of 'kind' alone, 'acid', so that nothing can be measured on it: leave it out, by "
        "naming the others as data.only"
    )
    assert refused(table(lambda line: line.replace(",base,", ",basic,") if ",far," in line else line), "origin") == (
        "domain 'far' has the class 'basic' of 'kind', which no other domain has to learn it from: leave it out, by naming the "
        "others as data.only, or leave out rows of that class"
    )
    only = table(lambda line: line.replace(",base,", ",acid,") if ",far," not in line else line)
    assert refused(only, "origin") == (
        "without domain 'far', all rows are of one class of 'kind', 'acid': there is nothing to learn"
    )


def test_no_heads_table_teaches_the_domain_that_is_left_out(several, tmp_path):
    """Neither the recipe's own table, nor that of a single head."""
    other = domain(tmp_path / "other.csv", *NAMES, "fourth", rows=96, seed=3)
    kind = {"name": "sequence-classification", "label": "kind"}
    heads = {"kind": kind, "charge": {"name": "sequence-regression", "label": "charge", "data": {"path": other}}}
    asked = {key: value for key, value in given(several).items() if key != "head"}
    exapt.leave_one_out(asked | {"heads": heads}, "origin", out=tmp_path / "out")
    for place, name in enumerate(NAMES, 1):
        facts = json.loads((tmp_path / "out" / f"{place}-{name}" / "exapt.json").read_text(encoding="utf-8"))
        only = facts["recipe"]["heads"]["charge"]["data"]["only"]
        assert sorted(only) == sorted({*NAMES, "fourth"} - {name})
        rows = {head: sum(table["rows"].values()) for head, table in facts["data"]["tables"].items()}
        assert rows == {"kind": 48, "charge": 72}


def test_a_heads_table_tells_its_domains(several, tmp_path):
    kind = {"name": "sequence-classification", "label": "kind"}
    asked = {key: value for key, value in given(several).items() if key != "head"}

    def said(path):
        heads = {
            "kind": kind,
            "charge": {"name": "sequence-regression", "label": "charge", "data": {"path": str(path)}},
        }
        return refused(asked | {"heads": heads}, "origin")

    plain = Path(several).read_text(encoding="utf-8").replace(",origin,", ",place,", 1)
    (tmp_path / "plain.csv").write_text(plain, encoding="utf-8")
    assert said(tmp_path / "plain.csv") == (
        "heads.charge: plain.csv has no column 'origin'. Its columns are: id, sequence, kind, charge, place, split."
    )
    assert said(domain(tmp_path / "far.csv", "far", rows=24)) == (
        "the table of heads.charge has rows of domain 'far' alone, so that without it there is nothing to learn from: leave the "
        "domain out, by naming the others as data.only, or leave out the head"
    )


@pytest.mark.parametrize("which", ["labels", "heads"])
def test_a_folder_is_of_the_content_of_all_tables(several, tmp_path, which):
    """Labels that changed in a table of their own, or in that of a head, are not answered by what was learned before."""
    lines = [line.split(",") for line in Path(several).read_text(encoding="utf-8").splitlines()]
    extra = tmp_path / "extra.csv"

    def written(turned):
        rows = [[*line] for line in lines]
        rows[1][2] = "base" if turned else "acid"
        extra.write_text("\n".join(",".join(row) for row in rows) + "\n", encoding="utf-8")

    asked = {key: value for key, value in given(several).items() if key != "head"}
    kind = {"name": "sequence-classification", "label": "kind"}
    if which == "labels":
        labels = tmp_path / "labels.csv"
        asked |= {"head": kind | {"label": "said"}, "data": {"path": several, "labels": str(labels), "id": "id"}}
        extra = labels
        lines = [[line[0], "", "said" if line[2] == "kind" else line[2]] for line in lines]
    else:
        asked |= {"heads": {"one": kind, "other": kind | {"data": {"path": str(extra)}}}}
    written(False)
    exapt.leave_one_out(asked, "origin", out=tmp_path / "out")
    written(True)
    with pytest.raises(OutputError) as caught:
        exapt.leave_one_out(asked, "origin", out=tmp_path / "out")
    assert str(caught.value) == f"'{tmp_path / 'out'}' holds domains of another recipe or table; name another folder"
