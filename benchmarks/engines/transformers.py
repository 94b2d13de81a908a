"""transformers' continuous batching on a workload: python -m benchmarks.engines.transformers MODEL WORK

Sharing of prompts' blocks is off, as everybody's prefix cache. Its cache is made to hold the whole workload at once: left alone it takes
nearly all memory of the machine.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.engines.report import arguments_of, peak_memory_mb, report
from benchmarks.item import Item, read_items
from benchmarks.recording import Recording

PAGE_SIZE = 256
"""Tokens; its own default."""
SPARE_BLOCKS = 32
"""Beyond what the requests fill, so that it never holds one back."""


def run(manager: Any, items: Sequence[Item]) -> Recording:
    recording = Recording(items)
    for index, item in enumerate(items):
        # Its own time stamps, for streaming would copy all tokens of a request at each of them.
        manager.add_request(list(item.prompt_ids), request_id=str(index), max_new_tokens=item.max_tokens, record_timestamps=True)
    unfinished = len(items)
    while unfinished:
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running():
                raise RuntimeError(f"transformers' generation thread ended with {unfinished} requests unfinished")
        elif result.is_finished():
            recording.note_at(int(result.request_id), result.timestamps)
            unfinished -= 1
    return recording


def main() -> None:
    arguments = arguments_of("benchmarks.engines.transformers", __doc__).parse_args()
    items = read_items(arguments.work)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers' own
        do_sample=False,
        max_new_tokens=max(item.max_tokens for item in items),
        eos_token_id=-1,
        pad_token_id=model.config.pad_token_id,
    )
    blocks = SPARE_BLOCKS + sum(-(-(len(item.prompt_ids) + item.max_tokens) // PAGE_SIZE) for item in items)
    batching = ContinuousBatchingConfig(allow_block_sharing=False, page_size=PAGE_SIZE, num_blocks=blocks)
    manager = model.init_continuous_batching(config, batching)
    manager.start()
    try:
        run(manager, items)
        recording = run(manager, items)
        report(recording.figures(), version=transformers.__version__, peak_memory_mb=peak_memory_mb(os.getpid()))
    finally:
        manager.stop()


if __name__ == "__main__":
    main()
