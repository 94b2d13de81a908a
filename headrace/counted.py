"""Numbers of things, in words."""


def counted(count: int, noun: str) -> str:
    """Such as `1 job` and `2 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
