"""vLLM on a workload: PYTHON -m benchmarks.engines.vllm MODEL WORK

PYTHON is that of an environment with vLLM; this project is not installed there, its folder is on PYTHONPATH.
Its engine is stepped here as its own `LLM.generate` does, in order to see each token when it comes. Prefix caching is off, as everybody's.

Left alone it computes on all cores but one, which it keeps for its scheduler; VLLM_CPU_NUM_OF_RESERVED_CPU=0 in the environment gives it
that one too.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.engines.report import arguments_of, peak_memory_mb, report, report_missing
from benchmarks.item import Item, read_items
from benchmarks.recording import Recording

MAX_RUNNING = 64
KV_SPACE_GB = "4"


def run(engine: Any, items: Sequence[Item]) -> Recording:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    recording = Recording(items)
    for index, item in enumerate(items):
        params = SamplingParams(temperature=0, max_tokens=item.max_tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
        engine.add_request(str(index), {"prompt_token_ids": list(item.prompt_ids)}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            recording.note(int(output.request_id), len(output.outputs[0].token_ids))
    return recording


def main() -> None:
    arguments = arguments_of("benchmarks.engines.vllm", __doc__).parse_args()
    if importlib.util.find_spec("vllm") is None:
        report_missing(f"{sys.executable} has no vLLM")
        return
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_SPACE_GB)
    import psutil  # a dependency of vLLM's
    import vllm

    items = read_items(arguments.work)
    llm = vllm.LLM(model=str(arguments.model), dtype="float32", max_model_len=2048, max_num_seqs=MAX_RUNNING, enable_prefix_caching=False)
    run(llm.llm_engine, items)
    recording = run(llm.llm_engine, items)
    children = [child.pid for child in psutil.Process().children(recursive=True)]  # it computes in one
    report(recording.figures(), version=vllm.__version__, peak_memory_mb=peak_memory_mb(os.getpid(), *children))


if __name__ == "__main__":  # its child processes import this module again
    main()
