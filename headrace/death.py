"""A job that was given up because it takes its workers down."""

from typing import NamedTuple


class Death(NamedTuple):
    """Counts are since the job's last token."""

    job_id: str
    tenant: str
    crashes: int
    """Workers that were seen to die with it."""
    expiries: int
    """Leases on it that ran out."""
