"""A CSV file with a row for each question, and a folder of images: the table that a spreadsheet saves.

    id,image,question,A,B,C,answer,modality,patient,split
    q1,ct/007.png,Which organ is enlarged?,Liver,Spleen,Kidney,B,CT,p007,train
    q2,ct/007.png;ct/008.png,Is there free fluid?,,,,yes,CT,p007,train

The form is ours, and so are these rows; `osler.datasets.columns` says what a column can be. Of several images the paths are
parted by ";". They start from ROOT of `?images=ROOT`, else from the folder of the CSV. The file is in UTF-8 and separated by
commas; or by semicolons or tabs, where its header has these and no comma. Below a folder all `*.csv` are read.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osler.datasets.columns import Labels, columns_of, manifest_row
from osler.datasets.jsonl import manifest_sample
from osler.datasets.load import DataSpec
from osler.datasets.rows import at_place
from osler.datasets.tables import table_rows
from osler.schema import Sample


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of one file, or of all below a folder. Errors: DataError that names file and row."""
    for file in spec.files(".csv"):
        root, labels, columns = spec.images or file.parent, Labels(), dict[str, str]()
        for row in table_rows(file):
            if not columns:
                with at_place(str(file)):
                    columns = columns_of(row.cells, spec.columns or {})
            with at_place(row.where):
                fields = manifest_row(row.cells, columns, f"{file.stem}/{row.number}")
                sample = manifest_sample(labels.read(_with_images(fields, root)), root, row.where)
                yield sample
        labels.tell(file)


def _with_images(fields: dict[str, Any], root: str | Path) -> dict[str, Any]:
    """`fields` with a list of images, one or more; a file whose name holds a semicolon is one."""
    cell = "".join(fields.pop(name, "") for name in ("image", "images"))
    one = not cell or os.path.exists(os.path.join(root, cell))
    return fields | {"images": [cell] if one else [path.strip() for path in cell.split(";")]}
