"""Tokens of users from the token broker, kept in this process's memory and renewed behind it.

    source = TokenSource("http://127.0.0.1:50051")
    token = source.token("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999")
    headers = {"Authorization": token.authorization}

`token_broker_client.aio` has the same for asyncio.

Must never import `aio` here: threads have no use for it.
"""

from ._errors import ConfigurationError, FieldViolation, Reason, TokenBrokerError, TokenRejected, WarmUpFailed
from ._slot import Counts
from ._source import TokenSource
from ._token import Token, User
from ._unauthorized import is_unauthorized

__all__ = [
    "ConfigurationError",
    "Counts",
    "FieldViolation",
    "Reason",
    "Token",
    "TokenBrokerError",
    "TokenRejected",
    "TokenSource",
    "User",
    "WarmUpFailed",
    "is_unauthorized",
]

__version__ = "0.1.0"
