"""Tables as CSV files, which people open in spreadsheets."""

from typing import Any

import pandas as pd

# What a spreadsheet takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t")


def to_csv(table: pd.DataFrame, **arguments: Any) -> str:
    """Returns a table as CSV, no text of which a spreadsheet computes.

    Names of files and classes come from whoever made the data: of those that begin as
    a formula does, an apostrophe makes the text that they are. Numbers are as ever.

    Args:
        table: The table.
        **arguments: More arguments of `DataFrame.to_csv`.
    """
    return table.map(_as_text).rename(columns=_as_text).to_csv(**arguments)


def _as_text(value):
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # which would end the row, unquoted as it is
    return f"'{text}" if text.startswith(FORMULA) else text
