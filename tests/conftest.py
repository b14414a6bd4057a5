from pathlib import Path

import pytest
from hypothesis import settings

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# A busy machine must not fail a test that is right, and the same tree must not pass today and fail tomorrow:
# `pytest --hypothesis-profile=search` looks further.
settings.register_profile("osler", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000)
settings.load_profile("osler")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--no-skips", action="store_true", help="a test that would be skipped fails, where the real data is")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if item.config.getoption("--no-skips") and SHARED_DATA.is_dir() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which --no-skips forbids: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that asks for it is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data is not here: ../shared/data beside the checkout is absent")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def _features_of_tests(tmp_path_factory):
    """Vision features of tests go to a folder of their own, never to the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OSLER_CACHE", str(tmp_path_factory.mktemp("features")))
        yield
