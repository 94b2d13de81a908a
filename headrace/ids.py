"""Ids of jobs, files and batches; all are made here, none is taken from a caller.

A job id names its shard, so any process finds a job without an index, and ids sort by the time they were made.

0a 0199a3c5d2e1f 8f14e45fceea167a       shard (2 hex) · Unix ms (13 hex) · random (16 hex)
"""

import hashlib
import re
import secrets

JOB_ID = re.compile(r"[0-9a-f]{31}")
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
MAX_SHARDS = 256
_LAST_MS = 16**13 - 1


def new_job_id(shard: int, now_ms: int) -> str:
    """A fresh id in `shard` (0 to 255)."""
    return f"{shard:02x}{now_ms:013x}{secrets.token_hex(8)}"


def is_job_id(text: str) -> bool:
    return JOB_ID.fullmatch(text) is not None


def shard_of(job_id: str) -> int:
    return int(job_id[:2], 16)


def is_in_shards(job_id: str, shards: int) -> bool:
    """Whether it is a job's id, of a store with so many shards: what was written under more of them names others."""
    return is_job_id(job_id) and shard_of(job_id) < shards


def choose_shard(tenant: str, idempotency_key: str | None, shards: int) -> int:
    """Equal keys meet in one shard, where `accept` sees both in one atomic call; keyless requests spread evenly."""
    if shards == 1:
        return 0
    if idempotency_key is None:
        return secrets.randbelow(shards)
    digest = hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards


def line_job_id(batch_id: str, line: int, created_ms: int, shards: int) -> str:
    """The job of a batch's line (from 0), always the same: handing a line to the queue twice makes one job."""
    digest = hashlib.sha256(f"{batch_id}:{line}".encode()).digest()
    return f"{int.from_bytes(digest[8:16], 'big') % shards:02x}{created_ms:013x}{digest[:8].hex()}"


def derived_job_id(origin: str, *, shard: int, created_ms: int) -> str:
    """The job of what stands at `origin`, always the same. `created_ms` is a stranger's word, so it is cut to what an id can hold."""
    return f"{shard:02x}{min(max(created_ms, 0), _LAST_MS):013x}{hashlib.sha256(origin.encode()).hexdigest()[:16]}"


def derived_seed(job_id: str) -> int:
    """The seed of a request that names none and may be handed over twice: it must not become two different requests."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:7], "big")


def new_file_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def made_file_id(batch_id: str, role: str) -> str:
    """The id of a file that a batch makes, always the same. `role` is what the file holds."""
    return f"file-{hashlib.sha256(f'{batch_id}:{role}'.encode()).hexdigest()[:32]}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"
