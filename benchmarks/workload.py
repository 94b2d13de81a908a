"""The fixed workloads that engines are timed on: same prompts, same output lengths, greedy, end-of-text ignored.

`mix64` has 5,583 prompt tokens and 4,528 output tokens with the demo model.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.item import Item
from headrace.chat_template import ChatTemplate
from headrace.model_folder import ModelFolder
from headrace.tokenizer import Tokenizer

TOPICS = [
    "volcanoes", "the history of tea", "sorting algorithms", "photosynthesis", "the French Revolution", "how bridges stay up",
    "black holes", "bread baking", "chess openings", "ocean currents", "jazz", "antibiotics", "solar panels", "glaciers",
    "cryptography", "migratory birds",
]  # fmt: skip


def mix(folder: Path, n: int = 64, seed: int = 0) -> list[Item]:
    """n chat prompts of about 20 to 300 tokens with output lengths of 16 to 192."""
    model = ModelFolder.read(folder)
    template = ChatTemplate(model, Tokenizer(model.tokenizer_file))
    rng = random.Random(seed)
    items = []
    for _ in range(n):
        clauses = rng.choice([1, 1, 1, 4, 8, 16])
        text = "Explain " + rng.choice(TOPICS) + " to a curious student. "
        text += " ".join("Also relate it to " + rng.choice(TOPICS) + " with one example." for _ in range(clauses))
        ids = template.encode([{"role": "user", "content": text}])
        items.append(Item(tuple(ids), rng.choice([16, 32, 64, 64, 128, 192])))
    return items


def single(folder: Path) -> list[Item]:
    """One stream: a prompt of 512 tokens, 128 to generate."""
    ids = [token for item in mix(folder) for token in item.prompt_ids]
    return [Item(tuple(ids[:512]), 128)]


WORKLOADS: Mapping[str, Callable[[Path], list[Item]]] = {"single": single, "mix64": mix, "mix256": lambda folder: mix(folder, 256)}
