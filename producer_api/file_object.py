"""The file object of /v1/files. Times are Unix seconds."""

from typing import Any

from headrace.file import FileRecord


def file_object(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.size,
        "created_at": record.created_ms // 1000,
        "expires_at": None if record.expires_ms is None else record.expires_ms // 1000,
        "filename": record.filename,
        "purpose": record.purpose,
        # Deprecated, but required, and what `files.wait_for_processing` waits for: there is nothing to process.
        "status": "processed",
        "status_details": None,
    }
