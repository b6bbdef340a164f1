"""Heat maps: whole, undated, and of any size."""

import subprocess
import sys

import numpy as np
import pytest

from exapt import OutputError
from exapt.pictures import check_picture, save_heat_map

ROWS = list("ACDE")


def draw(path, values=None, columns=None, **options):
    values = np.array([[1.0, -2.0], [0.5, np.nan], [0.0, 0.0], [3.0, 1.0]]) if values is None else values
    columns = [f"M{place}" for place in range(1, values.shape[1] + 1)] if columns is None else columns
    save_heat_map(path, values, ROWS[: len(values)], columns, **{"title": "a title", "unit": "a unit", **options})
    return path


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_suffix_tells_the_format(tmp_path, suffix, magic):
    first, again = (draw(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first.startswith(magic)
    assert first == again


def test_names_stand_at_rows_columns_and_colours(tmp_path):
    shown = draw(tmp_path / "a.svg", title="p $x_ <b>", marks=[(0, 0)]).read_text()
    for word in ("p $x_ &lt;b&gt;", "a unit", ">A<", ">M2<"):
        assert word in shown


def test_marks_are_dotted(tmp_path):
    plain, dotted = (draw(tmp_path / f"{len(marks)}.svg", marks=marks).read_text() for marks in ([], [(0, 1), (3, 0)]))
    assert dotted.count("<use") - plain.count("<use") == 2


def test_many_columns_fold_into_panels(tmp_path):
    narrow, wide = (draw(tmp_path / f"{n}.svg", np.ones((4, n))).read_text() for n in (60, 130))
    assert (narrow.count("<image"), wide.count("<image")) == (2, 4)


@pytest.mark.parametrize("values", [np.full((4, 3), np.nan), np.zeros((4, 3)), np.full((1, 1), -5.0)])
def test_nothing_to_colour_is_no_failure(tmp_path, values):
    assert draw(tmp_path / "a.png", values).stat().st_size > 1000


def test_letters_that_the_font_lacks_are_no_failure(tmp_path):
    assert draw(tmp_path / "a.png", title="\u540d\U0001f9ec").exists()


def test_a_picture_that_is_there_stays_unless_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(OutputError) as refusal:
        draw(path)
    assert str(refusal.value) == f"'{path}' exists already. Remove it, or name another file."
    assert path.read_text() == "mine"
    draw(path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_do_not_suit_are_refused_before_any_work(tmp_path, monkeypatch):
    for name in ("a.jpeg", "a"):
        with pytest.raises(OutputError) as refusal:
            check_picture(tmp_path / name)
        assert str(refusal.value) == (
            f"'{tmp_path / name}' is no picture that can be drawn: its name must end in .pdf, .png, .svg."
        )
    with pytest.raises(OutputError) as refusal:
        check_picture(tmp_path / "none" / "a.png")
    assert str(refusal.value) == f"there is no folder '{tmp_path / 'none'}' to write 'a.png' to."
    monkeypatch.setattr("exapt.pictures.find_spec", lambda name: None)
    with pytest.raises(OutputError) as refusal:
        check_picture(tmp_path / "a.png")
    assert str(refusal.value) == "'a.png' cannot be drawn without matplotlib: pip install 'exapt[pictures]'"


def test_values_of_another_shape_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"^values of the shape \(4, 2\) are no heat map of 4 x 3$"):
        draw(tmp_path / "a.png", columns=["M1", "M2", "M3"])


def test_drawing_leaves_the_users_own_matplotlib_alone(tmp_path):
    code = f"""
import sys
import matplotlib

def settings():
    # To ask for the backend would choose one.
    return {{key: matplotlib.rcParams[key] for key in matplotlib.rcParams if "backend" not in key}}

before = settings()
from exapt.pictures import save_heat_map
save_heat_map({str(tmp_path / "a.png")!r}, [[1.0]], ["A"], ["M1"], title="t", unit="u")
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
