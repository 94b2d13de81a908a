"""One request of a workload, and the file in which a workload reaches the runners.

The standard library alone: vLLM's interpreter reads it without this project's dependencies. Prompts go over as token ids, so that no engine
renders or tokenizes anything its own way.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Item:
    prompt_ids: tuple[int, ...]
    max_tokens: int


def write_items(path: Path, items: Iterable[Item]) -> None:
    path.write_text(json.dumps([[item.prompt_ids, item.max_tokens] for item in items]))


def read_items(path: Path) -> list[Item]:
    return [Item(tuple(ids), max_tokens) for ids, max_tokens in json.loads(path.read_text())]
