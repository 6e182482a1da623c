"""docs/reliability.md says what the tests prove."""

from faults.table import PAGE, page, rows


def test_page_has_the_rows_of_the_tests():
    assert len(rows()) > 25 and all(len(row) == 3 for row in rows())
    assert PAGE.read_text() == page(), "run python tests/faults/table.py"
