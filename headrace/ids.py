"""Job ids. An id names its shard, so any process finds a job without an index, and ids sort by the time they were made.

0a 0199a3c5d2e1f 8f14e45fceea167a       shard (2 hex) · Unix ms (13 hex) · random (16 hex)
"""

import hashlib
import re
import secrets

JOB_ID = re.compile(r"[0-9a-f]{31}")
MAX_SHARDS = 256


def new_job_id(shard: int, now_ms: int) -> str:
    """A fresh id in `shard` (0 to 255)."""
    return f"{shard:02x}{now_ms:013x}{secrets.token_hex(8)}"


def is_job_id(text: str) -> bool:
    return JOB_ID.fullmatch(text) is not None


def shard_of(job_id: str) -> int:
    return int(job_id[:2], 16)


def choose_shard(tenant: str, idempotency_key: str | None, shards: int) -> int:
    """Equal keys meet in one shard, where `accept` sees both in one atomic call; keyless requests spread evenly."""
    if shards == 1:
        return 0
    if idempotency_key is None:
        return secrets.randbelow(shards)
    digest = hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards
