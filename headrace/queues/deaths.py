"""Deaths as the store's function `deaths` tells them."""

from collections.abc import Sequence

from headrace.death import Death


def decode_deaths(flat: Sequence[bytes]) -> list[Death]:
    each = zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
    return [Death(job_id.decode(), tenant.decode(), int(crashes), int(expiries)) for job_id, tenant, crashes, expiries in each]
