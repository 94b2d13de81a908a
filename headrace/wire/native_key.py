"""What a native client's id is among idempotency keys. A caller of the API cannot give a key with a space in it, so the two never meet."""

_PREFIX = "kafka "


def native_key(client_id: str) -> str:
    return _PREFIX + client_id


def client_id_of(idempotency_key: str) -> str | None:
    """The native client's id in the key of a job; None for a job of the API."""
    return idempotency_key.removeprefix(_PREFIX) if idempotency_key.startswith(_PREFIX) else None
