"""What tests of adapters share: rows written as JSON, and the message by which a data set is refused."""

import json

import pytest

from osler.datasets.load import load_data
from osler.errors import DataError

ABSENT = object()
"""The value of a key that a row is to lack."""


def failure(spec) -> str:
    """The message of the DataError that loading `spec` ends in."""
    with pytest.raises(DataError) as error:
        load_data(spec)
    return str(error.value)


def present(row):
    """`row` without the keys that are ABSENT; what is no mapping as it is."""
    return {key: value for key, value in row.items() if value is not ABSENT} if isinstance(row, dict) else row


def write_json(file, rows):
    """Write the list `rows` to `file`, whose folders are made, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([present(row) for row in rows], ensure_ascii=False), encoding="utf-8")
    return file
