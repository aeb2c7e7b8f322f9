"""What both ends of the agent's connection must know alike: schema, token, host's name, bounds.

In: nothing. Out: constants, and the token as the environment or a file has it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from cr2fast_profiler.errors import AgentError

SCHEMA = "cr2fast.agent/1"
TOKEN_VARIABLE = "CR2FAST_PROFILE_TOKEN"
LEAST_TOKEN = 16
MAX_HEAD_BYTES = 16_384
MAX_TRANSFER_BYTES = 1 << 26


def read_token(token_file: str | Path | None = None) -> str | None:
    """Read the token from a file, else from the environment; None where neither has one.

    Raises
    ------
    AgentError
        The file cannot be read, or the token is short or not printable ASCII.
    """
    if token_file is not None:
        where = str(token_file)
        try:
            with Path(token_file).open("rb") as f:
                text = f.read(4096).decode("ascii", "replace").strip()
        except OSError as e:
            raise AgentError(f"token file {where}: {e.strerror}") from None
    else:
        where = f"the variable {TOKEN_VARIABLE}"
        text = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not text:
            return None
    return check_token(text, where)


def check_token(token: str, where: str = "token") -> str:
    """Refuse a token that can be guessed or that no header can carry; it is never printed."""
    if len(token) < LEAST_TOKEN or not all("!" <= c <= "~" for c in token):
        raise AgentError(
            f"{where}: expected at least {LEAST_TOKEN} printable ASCII characters without spaces, "
            f"got {len(token)} characters; make one with: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def host_id() -> str:
    """A name for this boot of this host, to tell whether two processes share its sensors."""
    try:
        seed = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        seed = f"{platform.node()} {platform.machine()}".encode()
    return hashlib.sha256(b"cr2fast.agent " + seed).hexdigest()[:16]
