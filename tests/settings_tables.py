"""Tables of settings in the docs: what the code says of each field, between two marks."""

import re

from lottery_tf.common.settings import one_of, settings_of

BEGIN, END = "<!-- parameters -->\n", "\n<!-- /parameters -->"


def table_of(fields, heading, named):
    """The lines of a table: | name | default | help (choices) |.

    Args:
      heading: of the first column.
      named: function of a field's name → what the first column shows.
    """
    lines = [f"| {heading} | default | |", "|---|---|---|"]
    for field in fields:
        default, choices = field.default, field.metadata["choices"]
        if isinstance(default, tuple):
            default = ",".join(default)
        text = field.metadata["help"] + (f" ({one_of([*choices])})" if choices else "")
        cells = [f"`{named(field.name)}`", "none" if default is None else str(default), text]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def check_table(page, table):
    """Asserts that the page has this table, once, between the marks."""
    block = f"{BEGIN}\n{table}\n{END}"
    found = re.findall(f"{BEGIN}.*?{END}", page.read_text(), re.DOTALL)
    assert found == [block], f"Expected in {page} once:\n\n{block}"


def settings(*owners):
    return [field for owner in owners for field in settings_of(owner)]
