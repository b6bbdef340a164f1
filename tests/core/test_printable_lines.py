"""What is said of names that hold line breaks, or letters that move a terminal's cursor, stays one line that is only shown."""

from click.testing import CliRunner

from exapt.cli import cli
from exapt.cli.output import note, printable


def said(*words):
    result = CliRunner().invoke(cli, list(words), prog_name="exapt")
    assert result.exit_code == 2
    return result.stderr


def test_a_name_in_an_error_is_shown_and_does_nothing():
    line = said("show", "backbone", "a\nb\x1b[2J\u202ec\td\x00")

    assert line.startswith(r"exapt: unknown backbone 'a\nb\x1b[2J\u202ec\td\x00'.")
    assert line.count("\n") == 1


def test_letters_of_all_languages_stay():
    assert printable("Zellen: Größe, 细胞, клетка – “ja”") == "Zellen: Größe, 细胞, клетка – “ja”"


def test_notes_of_several_lines_stay_so(capsys):
    note("{\n 1\x1b[2J\n}")

    assert capsys.readouterr().err == "{\n 1\\x1b[2J\n}\n"
