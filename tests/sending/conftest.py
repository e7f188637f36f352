"""On which event loops the tests of sending run: also on one as on Windows, which watches no sockets."""

from __future__ import annotations

import pytest

from tests.loops import LOOPS_AND_IMITATED


@pytest.fixture(params=LOOPS_AND_IMITATED)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param
