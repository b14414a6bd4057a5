from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that asks for it is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data is not here: ../shared/data beside the checkout is absent")
    return SHARED_DATA
