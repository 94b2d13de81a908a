"""Bytes and names on the disk, for sure: what a file system only promises, a power cut takes back."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Have the bytes of a file on the disk before anything refers to them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a rename is not, before."""
    sync_file(folder)
