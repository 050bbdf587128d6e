"""Tables that stay tables whatever is in their cells."""

from enclip.evaluation.markdown import markdown_table


def test_a_table_aligns_numbers_and_rounds_floats():
    table = markdown_table(("name", "value", "count"), [("a", 0.12345, 3), ("b", "", 4)])
    assert table == "| name | value | count |\n| --- | ---: | ---: |\n| a | 0.123 | 3 |\n| b |  | 4 |\n"


def test_a_pipe_or_a_line_break_in_a_name_does_not_end_the_cell():
    assert markdown_table(("name",), [("Bags | Cases\nand more",)]).splitlines()[2] == "| Bags \\| Cases and more |"


def test_an_empty_table_has_its_header():
    assert markdown_table(("a", "b"), []) == "| a | b |\n| --- | --- |\n"
