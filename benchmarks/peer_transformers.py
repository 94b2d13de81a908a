"""transformers' continuous batching on mix(n), as a process of its own: python -m benchmarks.peer_transformers FOLDER N prints tokens/s."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.workload import mix


def main() -> None:
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    items = mix(folder, n)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers' own
        do_sample=False, max_new_tokens=192, eos_token_id=-1, pad_token_id=model.config.pad_token_id
    )
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    start = time.perf_counter()
    for i, item in enumerate(items):
        manager.add_request(list(item.prompt_ids), request_id=str(i), max_new_tokens=item.max_tokens)
    finished = tokens = 0
    while finished < n:
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            finished += 1
            tokens += len(result.generated_tokens)
    seconds = time.perf_counter() - start
    manager.stop()
    print(tokens / seconds)


if __name__ == "__main__":
    main()
