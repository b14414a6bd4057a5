"""Will every row go through? Asked before a run begins, so that a broken file is found now and not at step 3000."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from osler.errors import DataError
from osler.images import open_image
from osler.progress import bar
from osler.schema import Sample


def verify_images(samples: Iterable[Sample]) -> None:
    """Decode every image once.

    Errors: DataError that names the file and row of the sample whose image is broken, or says that it has none.
    """
    first: dict[str, Sample] = {}
    for sample in samples:
        if not sample.images:
            raise DataError(f"{_where(sample)}: it has no image. Give the images' root: NAME:PATH?images=ROOT.")
        for reference in sample.images:
            first.setdefault(reference, sample)
    files = [reference for reference in first if not reference.startswith("phantom:")]
    if not files:
        return

    def decode(reference: str) -> None:
        try:
            open_image(reference)
        except DataError as error:
            raise DataError(f"{_where(first[reference])}: {error}") from error

    with bar("Check images", len(files)) as tick, ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, files):
            tick("")


def _where(sample: Sample) -> str:
    return sample.origin or f"sample {sample.id!r}"
