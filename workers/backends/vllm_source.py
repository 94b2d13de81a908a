"""vLLM's AsyncLLM: the engine for those who outgrow one device. It computes in a process of its own; token ids go in and come out."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError

from headrace.errors import ModelUnavailable
from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from headrace.state import Fault
from workers.backends.far import RunFailed, Task
from workers.backends.runs import Portion
from workers.backends.seeds import seed_from
from workers.engine.config import EngineConfig
from workers.engine.output import end_ids_of

SHUTDOWN_S = 2.0
"""For its processes to end by themselves. Nothing is lost by killing them: what they still compute is nobody's any more."""


class VllmSource:
    def __init__(self, config: EngineConfig, folder: ModelFolder, *, kv_memory_mb: int | None) -> None:
        """`kv_memory_mb`: None leaves it to vLLM, which takes most of a GPU."""
        on_cpu = current_platform.device_type == "cpu"
        self._folder = folder
        self._args = AsyncEngineArgs(
            model=str(folder.path),
            served_model_name=folder.name,
            skip_tokenizer_init=True,
            # bfloat16 is several times slower than float32 on CPUs without instructions for it; nor is compiling worth its minutes there.
            dtype="float32" if on_cpu else "auto",
            enforce_eager=on_cpu,
            max_model_len=folder.context_length,
            max_num_seqs=config.max_running,
            kv_cache_memory_bytes=None if kv_memory_mb is None else kv_memory_mb * 2**20,
            # Sampling is what the request says, not what the model's folder recommends.
            generation_config="vllm",
            scheduling_policy="priority",
            disable_log_stats=True,
        )
        self._llm: AsyncLLM | None = None

    @property
    def device(self) -> str:
        return str(current_platform.device_type)

    async def start(self) -> None:
        """Raises ModelUnavailable."""
        try:
            self._llm = AsyncLLM.from_engine_args(self._args)
        except (ValueError, OSError) as error:
            # Not RuntimeError: a GPU whose memory the process before this one has not given back yet is worth another start.
            raise ModelUnavailable(f"vLLM cannot serve {self._folder.path}: {error}") from error

    async def open(self) -> int:
        cache = self._engine.vllm_config.cache_config
        return int((cache.num_gpu_blocks or 0) * cache.block_size)

    async def generate(self, task: Task) -> AsyncIterator[Portion]:
        prompt: TokensPrompt = {"prompt_token_ids": task.tokens}
        if task.request.tenant:
            prompt["cache_salt"] = task.request.tenant  # how much lies in the cache must not tell one tenant what another has asked
        outputs = self._engine.generate(prompt, self._params(task), task.name, priority=task.request.priority)
        count = task.request.sampling.logprobs or 0
        prompt_logprobs: Sequence[Logprobs] = ()
        try:
            async for output in outputs:
                if output.prompt_logprobs:
                    prompt_logprobs = _logprobs(task.tokens[1:], output.prompt_logprobs[1:], count)
                [completion] = output.outputs
                if completion.token_ids:
                    logprobs = _logprobs(completion.token_ids, completion.logprobs or (), count)
                    yield Portion(completion.token_ids, logprobs, prompt_logprobs, output.num_cached_tokens)
                    prompt_logprobs = ()
        except (VLLMClientError, ValueError) as error:
            raise RunFailed(None, f"vLLM refuses the request: {error}") from error
        except EngineGenerateError as error:
            raise RunFailed(Fault.ENGINE_ERROR, f"vLLM failed: {error.__cause__ or error}") from error
        finally:
            await outputs.aclose()

    async def close(self) -> None:
        if self._llm is not None:
            # Holds up the loop: what listens to the processes must not take their end for a fault.
            self._llm.shutdown(SHUTDOWN_S)
            self._llm = None

    @property
    def _engine(self) -> AsyncLLM:
        if self._llm is None:
            raise RuntimeError("vLLM has not been started")
        return self._llm

    def _params(self, task: Task) -> SamplingParams:
        sampling, committed = task.request.sampling, len(task.committed)
        return SamplingParams(
            max_tokens=task.left,
            min_tokens=max(0, min(sampling.min_tokens - committed, task.left)),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            seed=seed_from(sampling.seed, task.request.choice, committed),
            # Which tokens end an answer is told by the model's folder, as for every engine.
            ignore_eos=True,
            stop_token_ids=sorted(end_ids_of(sampling, self._folder.eos_ids)),
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.logprobs if sampling.prompt_logprobs and not committed else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _logprobs(token_ids: Sequence[int], places: Sequence[Mapping[int, Any]], count: int) -> tuple[Logprobs, ...]:
    """vLLM tells those of the `count` likeliest tokens, and of the chosen one if that is not among them; `rank` counts from 1."""
    return tuple(
        Logprobs(told[token_id].logprob, tuple((other, one.logprob) for other, one in _likeliest(told)[:count]))
        for token_id, told in zip(token_ids, places, strict=False)
    )


def _likeliest(told: Mapping[int, Any]) -> list[tuple[int, Any]]:
    return sorted(told.items(), key=lambda item: item[1].rank)
