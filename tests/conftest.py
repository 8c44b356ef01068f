"""Settings for every test, and the rule about skips.

A suite that skips because a package is missing passes and proves nothing. So a skip is a failure unless it names a
feature this kernel lacks (`kernel: …`) or says that the case means nothing for that adapter (`not applicable: …`).
`--allow-skips` lifts the rule, for a look at some tests on a machine that is not set up.
"""

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("skep", deadline=None)  # How long an example takes is the machine's business, not the code's.
settings.load_profile("skep")
ALLOWED = ("kernel: ", "not applicable: ")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allow-skips", action="store_true", help="let tests skip for whatever reason")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if not report.skipped or hasattr(report, "wasxfail") or item.config.getoption("--allow-skips"):
        return report
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would be skipped: {reason}. `make test` as root installs what is missing."
    return report


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
