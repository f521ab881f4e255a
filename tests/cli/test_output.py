"""Text of strangers on the terminal."""

from deepwell.cli.output import console, print_table


def test_text_cannot_steer_the_terminal(capsys):
    console().print("a\x1b]0;title\x07\x9b31m [bold]\nc", soft_wrap=True)
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07\\x9b31m [bold]\nc\n"


def test_nor_can_a_cell_of_a_table(capsys):
    print_table(("name",), [("a\x1b[31m",)])
    assert "\x1b[31m" not in capsys.readouterr().out
