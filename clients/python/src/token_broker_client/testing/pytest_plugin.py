"""Fixtures for pytest: `pytest_plugins = ["token_broker_client.testing.pytest_plugin"]` in the suite's `conftest.py`.

Must never be imported but by pytest: the package itself does without it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .._token import User
from . import Broker


@pytest.fixture(scope="session")
def token_broker_arguments() -> list[str]:
    """The sandbox's arguments: a suite that wants others, such as `["--lifetime", "20s"]`, has a fixture of this name."""
    return []


@pytest.fixture(scope="session")
def token_broker(token_broker_arguments: list[str]) -> Iterator[Broker]:
    """One broker and its vault for the whole session; with pytest-xdist, for each of its processes."""
    with Broker(token_broker_arguments) as broker:
        yield broker


@pytest.fixture
def token_broker_user(token_broker: Broker) -> Iterator[User]:
    """A user of this test's own, as `(merchant_id, number)`. What the test told the vault to do wrong ends with the test."""
    yield token_broker.new_user()
    token_broker.drop_faults()
