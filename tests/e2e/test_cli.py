"""The command line against a running tree."""

import json
import subprocess
import sys

import httpx

from headrace.model_folder import DEMO_MODEL
from headrace.testing.tree import Tree, free_port


def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "headrace", *arguments], capture_output=True, text=True, timeout=60)


def submit(tree: Tree, max_tokens: int) -> str:
    body = {"model": DEMO_MODEL, "prompt": "Once upon a time", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    job_id: str = httpx.post(f"{tree.url}/v1/jobs", json=body).raise_for_status().json()["id"]
    return job_id


def test_chat_answers_one_question(tree: Tree) -> None:
    told = headrace("chat", "--url", tree.url, "What is the capital of France?")
    assert (told.returncode, told.stdout) == (0, "The capital of France is Paris.\n")


def test_a_job_can_be_watched_and_looked_at(tree: Tree) -> None:
    job_id = submit(tree, 8)
    watched = headrace("jobs", "watch", "--url", tree.url, job_id)
    shown = json.loads(headrace("jobs", "get", "--url", tree.url, job_id).stdout)
    assert (watched.returncode, shown["status"]) == (0, "done")
    assert watched.stdout == shown["output_text"] + "\n"
    assert job_id in headrace("jobs", "list", "--url", tree.url, "--limit", "1").stdout


def test_a_job_can_be_cancelled(tree: Tree) -> None:
    job_id = submit(tree, 2_000)
    assert headrace("jobs", "cancel", "--url", tree.url, job_id).returncode == 0
    watched = headrace("jobs", "watch", "--url", tree.url, job_id)
    assert (watched.returncode, "cancelled" in watched.stderr) == (1, True)


def test_what_goes_wrong_is_said_in_one_line(tree: Tree) -> None:
    for arguments, words in (
        (("jobs", "get", "--url", tree.url, "nonsense"), "No job has the id"),
        (("jobs", "list", "--url", f"http://127.0.0.1:{free_port()}"), "is `headrace up` running?"),
        (("up", "--port", tree.url.rpartition(":")[2]), "choose another with --port"),
    ):
        told = headrace(*arguments)
        assert told.returncode == 1
        assert words in told.stderr
        assert "Traceback" not in told.stderr
