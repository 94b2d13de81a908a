"""A batch file through transformers' continuous batching, as a script of one's own would do it:
python -m benchmarks.peer_transformers_batch FOLDER IN OUT loads, runs and writes; whoever calls it takes the time."""

import sys
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def main() -> None:
    folder, source, out = map(Path, sys.argv[1:4])
    lines = [orjson.loads(line) for line in source.read_bytes().splitlines()]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    longest = max(line["body"]["max_tokens"] for line in lines)
    config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers' own
        do_sample=False, max_new_tokens=longest, eos_token_id=-1, pad_token_id=model.config.pad_token_id
    )
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    for number, line in enumerate(lines):
        ids = tokenizer.apply_chat_template(line["body"]["messages"], add_generation_prompt=True, return_dict=False)
        manager.add_request(list(ids), request_id=str(number), max_new_tokens=line["body"]["max_tokens"])
    answers: dict[int, str] = {}
    while len(answers) < len(lines):
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            answers[int(result.request_id)] = tokenizer.decode(result.generated_tokens, skip_special_tokens=True)
    manager.stop()
    out.write_bytes(b"".join(orjson.dumps({"custom_id": line["custom_id"], "text": answers[i]}) + b"\n" for i, line in enumerate(lines)))


if __name__ == "__main__":
    main()
