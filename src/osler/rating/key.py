"""key.json read back: which code is which run and row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import DataError
from osler.rating.sheet import KEY, KIND
from osler.runs import read_json


@dataclass(frozen=True)
class Rated:
    """The item behind a code: the label of its run, its row, the number of its cluster, and the grader's strict verdict."""

    run: str
    sample_id: str
    cluster: str
    right: bool | None


@dataclass(frozen=True)
class Key:
    """The folder name of each run by its label, and the item behind each code."""

    names: Mapping[str, str]
    items: Mapping[str, Rated]

    @property
    def labels(self) -> list[str]:
        """The labels of the runs, in the order in which they were named."""
        return list(self.names)

    def codes_by_row(self) -> dict[tuple[str, str], str]:
        """The code of each item by its run, which is known by label and by folder name, and its row's id."""
        names = list(self.names.values())
        known = {label: {label, name} if names.count(name) == 1 else {label} for label, name in self.names.items()}
        return {(run, item.sample_id): code for code, item in self.items.items() for run in known[item.run]}


def read_key(folder: Path) -> Key:
    """The key in `folder`. Errors: DataError where there is none, or it is none of `osler rate export`; RunError: damaged."""
    file = folder / KEY
    if not file.is_file():
        raise DataError.at(file, None, "there is no key.", "Name the folder that osler rate export made.")
    found = read_json(file)
    if found.get("kind") != KIND:
        raise DataError.at(file, None, "it is no key of a rating sheet.", "Name the folder that osler rate export made.")
    try:
        return Key({run["label"]: run["name"] for run in found["runs"]}, dict(map(_item, found["items"])))
    except (KeyError, TypeError) as error:
        raise DataError.at(file, None, f"it is damaged ({error!r}).", "Export again with the same runs and seed.") from error


def _item(item: dict[str, Any]) -> tuple[str, Rated]:
    return item["code"], Rated(item["run"], item["sample_id"], item["cluster"], item["right"])
