"""A process that cannot run with its configuration says why in one line and exits so that nothing starts it again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.supervise import EX_CONFIG


@pytest.mark.parametrize(
    ("package", "variable", "value", "words"),
    [
        ("scheduler", "HEADRACE_JANITOR_SM", "500", "unknown setting HEADRACE_JANITOR_SM (did you mean HEADRACE_JANITOR_MS?)"),
        ("producer_api", "HEADRACE_PORT", "many", "HEADRACE_PORT: Input should be a valid integer"),
        ("workers", "HEADRACE_REDIS_URL", "mysql://x", "HEADRACE_REDIS_URL must be a redis://"),
        ("producer_api", "HEADRACE_REDIS_URL", "redis://x:port", "HEADRACE_REDIS_URL must be a redis://"),
        ("scheduler", "HEADRACE_REDIS_URL", "127.0.0.1:6379", "HEADRACE_REDIS_URL must be a redis://"),
        ("scheduler", "HEADRACE_RQ_URL", "redis://x:port", "HEADRACE_RQ_URL"),
        ("scheduler.batches", "HEADRACE_REDIS_URL", "mysql://x", "must be a redis://"),
        ("scheduler.batches", "HEADRACE_FILES_DIR", "/dev/null/files", "cannot create the folder of files"),
        ("producer_api", "HEADRACE_FILES_DIR", "/dev/null/files", "cannot create the folder of files"),
        ("workers", "HEADRACE_MODEL", "no-such-model", "no model 'no-such-model'"),
        ("workers", "HEADRACE_KV_MEMORY_MB", "100", "less than the context of 8192"),
        ("workers", "HEADRACE_KV_MEMORY_MB", "99999999999999", "MB that this process may use"),
        ("workers", "HEADRACE_MAX_RUNNING", "1000000000000", "HEADRACE_MAX_RUNNING: Input should be less than or equal to 16384"),
        ("workers", "HEADRACE_DEVICE", "meta", "HEADRACE_DEVICE='meta' is no device that torch can use here"),
        ("workers", "NUMBA_NUM_THREADS", "0", "numba cannot be used with these NUMBA_* variables"),
    ],
)
def test_a_wrong_setting_is_told_and_final(demo_model: Path, tmp_path: Path, package: str, variable: str, value: str, words: str) -> None:
    environ = {**os.environ, "HEADRACE_FILES_DIR": str(tmp_path), variable: value}
    ended = subprocess.run([sys.executable, "-m", package], env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == EX_CONFIG
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
