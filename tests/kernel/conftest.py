"""The rig for tests on the real kernel; each test gets a fresh one."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kernel.rig import Swarm, a_swarm


@pytest.fixture
async def swarm(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Swarm]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    async with a_swarm(tmp_path) as made:
        yield made
