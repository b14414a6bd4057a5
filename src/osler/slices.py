"""Slices of evaluations along a field of the rows' own: that the field is there, and whether they differ at all."""

from collections.abc import Sequence

from osler.bands import UNKNOWN, parted
from osler.errors import RecipeError, unknown
from osler.looking import right
from osler.omnibus import SliceTest, slice_test
from osler.runs import Run
from osler.summary import EXTRA, axis_of, read_records


def require_said(runs: Sequence[Run], axis: str, columns: Sequence[str]) -> None:
    """Errors: RecipeError where `columns` hold nothing but unknown, as no row of `runs` has a field of the name in `axis`."""
    if list(columns) != [UNKNOWN] or not axis.startswith(EXTRA):
        return
    there = {field for run in runs for record in read_records(run) for field in record.sample.extra}
    if (key := parted(axis.removeprefix(EXTRA))[0]) not in there:
        raise RecipeError(unknown("field of the rows", key, there))


def slices_differ(run: Run, axis: str) -> SliceTest:
    """The test that no slice of the evaluation `run` along `axis` differs, of the judged rows that say what slice they are of.

    Errors: RecipeError for an axis that is none; RunError at a record that is damaged.
    """
    label_of, _ = axis_of(axis)
    values, labels, clusters = list[bool](), list[str](), list[str]()
    for record in read_records(run):
        value, label = right(record), str(label_of(record.sample))
        if value is not None and label != UNKNOWN:
            values.append(value)
            labels.append(label)
            clusters.append(record.sample.cluster)
    return slice_test(values, labels, clusters)
