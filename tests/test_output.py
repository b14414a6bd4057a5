"""Tables for people: no word is broken where turning the table, or listing its cells, avoids it."""

import pytest

from osler.cli.output import print_table

FEW = [["GRPO", "87.2 [83.8, 90.1]"], ["SFT", "62.3 [59.5, 65.1]"]]


@pytest.fixture
def width(monkeypatch):
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_a_table_that_fits_is_printed_as_it_is(width, capsys):
    width(80)
    print_table("title", ("row", "accuracy"), FEW)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "title"
    assert any("GRPO" in line and "87.2 [83.8, 90.1]" in line for line in lines)


def test_one_with_many_columns_is_turned_round(width, capsys):
    width(60)
    columns = ("row", *(f"measure{k}" for k in range(12)))
    rows = [[name, *(f"{k}.5" for k in range(12))] for name in ("GRPO", "SFT")]
    print_table("", columns, rows)
    out = capsys.readouterr().out
    assert any("measure11" in line and line.count("11.5") == 2 for line in out.splitlines())
    assert any("row" in line and "GRPO" in line and "SFT" in line for line in out.splitlines())


def test_one_that_is_too_wide_either_way_is_listed(width, capsys):
    width(40)
    columns = ("row", *(f"measure{k}" for k in range(9)))
    rows = [[f"method{k}", *("12.5" for _ in range(9))] for k in range(9)]
    print_table("", columns, rows)
    out = capsys.readouterr().out
    assert "  measure8: 12.5" in out.splitlines()
    assert sum(line.startswith("method") for line in out.splitlines()) == 9


def test_nothing_is_lost_of_an_empty_table(width, capsys):
    width(10)
    print_table("title", ("a very long heading", "another one"), [])
    assert "title" in capsys.readouterr().out
