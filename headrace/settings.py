"""Settings: environment variables `HEADRACE_*`, read once where a process is composed. docs/settings.md is made from this file.

An unknown `HEADRACE_*` variable or a malformed value refuses to start: a misspelt setting that is silently ignored is an outage later.
"""

import os
import socket
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.errors import SettingsError
from headrace.ids import MAX_SHARDS
from headrace.model_folder import DEMO_MODEL, default_name

PREFIX = "HEADRACE_"
_OF_TESTS = PREFIX + "TEST_"
"""What the test suite is told, and the processes that it starts inherit."""
_WORDS = {"bool_parsing": "Input should be true or false"}
"""For an error's type, where its own do not name what is allowed."""


def default_cache_dir() -> Path:
    """What HEADRACE_CACHE_DIR is unless it is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    # Shared by all processes
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="State store: redis://, rediss:// or unix:// URL of Redis ≥ 7.0 or Valkey ≥ 7.2."
    )
    shards: int = Field(
        1, ge=1, le=MAX_SHARDS, description="Hash slots the keys are spread over; equal on every process, never changed while jobs live."
    )
    model: str = Field(DEMO_MODEL, description="Served model: a Hugging Face folder, a .gguf file, or the demo model's name.")
    model_name: str | None = Field(None, description="Name clients use for it; default: the folder's or file's name.")
    max_context: int | None = Field(
        None, ge=16, description="Longest prompt and answer together, in tokens, at most the model's own limit, which is the default."
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        description="Where converted models are kept, whether they may run in int8, and compiled kernels: in `kernels`, unless "
        "NUMBA_CACHE_DIR names another folder. Kernels of other versions are removed when no start has used them for 30 days.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line written.")

    # Kafka
    queue_url: str | None = Field(
        None,
        description="Kafka in front of the state store, which every process then still needs: kafka:// or kafka+ssl://, "
        "`[user:password@]host[:port][,host[:port]...]`; see [kafka.md](kafka.md). Default: none.",
    )
    kafka_prefix: str = Field("headrace", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="What the names of the topics begin with.")
    kafka_user: str | None = Field(None, description="User that Kafka knows (SASL), if not in the URL; default: no login.")
    kafka_password: SecretStr | None = Field(None, description="That user's password, if not in the URL.")
    kafka_sasl: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field("SCRAM-SHA-512", description="How the password is proved.")
    kafka_ca_file: Path | None = Field(
        None, description="Certificates of whoever signed those of the brokers; default: those that the system trusts."
    )
    kafka_timeout_s: float = Field(5.0, ge=0.5, description="Kafka has this long to acknowledge a request before its caller gets 503.")
    kafka_partitions: int = Field(6, ge=1, description="Partitions of each topic, as `headrace kafka init` makes them.")
    kafka_replicas: int | None = Field(
        None, ge=1, description="Replicas of each; from 3 on two must have a record before it counts. Default: as the brokers are set."
    )
    kafka_retention_s: int = Field(
        604_800,
        ge=3_600,
        description="How long topics keep a record; longer than a job may live and is then kept, and than Kafka goes unread.",
    )

    kafka_batch_topics: str | None = Field(
        None,
        description="Topics that batches may be fed from and answered to: `tenant=topic` or `tenant=beginning*`, separated by commas; "
        "without a keys file the tenant is `default`. Default: none.",
    )

    # Files and batches
    files_dir: Path = Field(
        Path("headrace-data/files"), description="Folder of uploaded and made files; one for all API and clerk processes, on a shared disk."
    )
    max_file_bytes: int = Field(536_870_912, ge=1, description="Largest uploaded file.")
    file_ttl_s: int = Field(2_592_000, ge=1, description="How long a file is kept that names no expiry of its own.")
    max_batch_bytes: int = Field(209_715_200, ge=1, description="Largest input file of a batch.")
    max_batch_lines: int = Field(50_000, ge=1, description="Most requests in a batch.")
    max_line_bytes: int = Field(1_048_576, ge=64, description="Longest line of a batch's input.")
    batch_window_s: int = Field(86_400, ge=1, description="How long a batch may run; the API calls it 24h.")
    batch_retention_s: int = Field(2_592_000, ge=1, description="How long an ended batch is remembered.")
    rq_url: str | None = Field(
        None, description="Redis of the clerks' task queue (RQ), which cannot be a Redis Cluster; default: HEADRACE_REDIS_URL."
    )

    api_url: str = Field("http://127.0.0.1:8000", description="Where the command line finds the API.")
    api_key: SecretStr | None = Field(None, description="Key that the command line sends to the API.")

    # Queue bounds and timers, in milliseconds where the name says so
    max_live_jobs: int = Field(1_000_000, ge=1, description="Live jobs per shard above which new ones get 503.")
    max_live_cost: int = Field(
        2_000_000_000, ge=1, description="Token cost (prompt + max_tokens) of live jobs per shard above which new ones get 503."
    )
    max_tenant_jobs: int | None = Field(
        None, ge=1, description="Live jobs of one tenant per shard above which its new ones get 429; default: no bound of its own."
    )
    max_tenant_cost: int | None = Field(
        None, ge=1, description="Token cost of one tenant's live jobs per shard above which new ones get 429; default: no bound of its own."
    )
    lease_ms: int = Field(5_000, ge=200, description="A worker that has not renewed a job for this long loses it.")
    max_solo_crashes: int = Field(
        3, ge=1, description="Workers a job may take down while it runs alone, without a token between, before it is dead."
    )
    job_ttl_s: int = Field(86_400, ge=1, description="Deadline of a job that names none.")
    retention_s: int = Field(86_400, ge=1, description="How long an ended job, its log and its Idempotency-Key are kept.")
    viewer_grace_ms: int = Field(15_000, ge=100, description="An attended request that nobody has waited for this long is cancelled.")

    # API
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port the API listens on; 0 picks a free one, but `headrace up` wants it named.")
    keys_file: Path | None = Field(
        None,
        description="Keys that the API takes: lines of a key's SHA-256 in hex and its tenant (`headrace keys new`); read again when it "
        "changes. Default: no key is asked for, and every caller is the tenant `default`.",
    )
    max_body_bytes: int = Field(4_194_304, ge=1_024, description="Largest request body.")
    ping_s: float = Field(15.0, gt=0, description="Silence on a stream after which a comment is sent.")
    shutdown_s: int = Field(5, ge=1, description="How long the API waits for open requests when it is told to stop.")

    # Worker
    engine: Literal["auto", "paged", "transformers", "vllm", "openai", "scripted"] = Field(
        "auto",
        description="What generates: see [engines.md](engines.md). The API and clerks read it too, to refuse what it cannot do. auto is "
        "vllm where that and a CUDA device are found, else paged, Headrace's own; scripted makes up tokens at once, to load-test "
        "everything around the engine.",
    )
    upstream_url: str | None = Field(None, description="For openai: where the upstream's API is, up to and with `/v1`.")
    upstream_key: SecretStr | None = Field(None, description="For openai: key that is sent to the upstream.")
    upstream_model: str | None = Field(None, description="For openai: the upstream's name for the model; default: our own.")
    upstream_silence_s: float = Field(
        300.0, gt=0, description="For openai: an upstream that sends nothing for this long has lost the request, and gets it again."
    )
    device: str = Field("auto", description="torch device: auto, cpu, cuda, cuda:1, mps.")
    dtype: Literal["auto", "fp32", "int8"] = Field(
        "auto",
        description="Weights of the paged engine. int8 is for CPUs; auto is int8 on a CPU if the perplexity of a fixed text, measured at "
        "the first start with a model, is at most 1 % above that in fp32, else fp32 there and the checkpoint's own type elsewhere.",
    )
    kv_dtype: Literal["auto", "fp16", "fp32"] = Field(
        "auto",
        description="Its KV cache: auto is fp16 beside weights in int8, else what it computes in. fp16 takes half the memory of fp32 and "
        "less time to read.",
    )
    batch_invariant: bool = Field(
        False,
        description="Whether the same request must give the same tokens in any company. From the paged engine on a CPU it always does; "
        "elsewhere that is not to be had, and true is refused at the start.",
    )
    prefix_cache: bool = Field(True, description="Whether requests of one tenant that begin alike share what was computed for the first.")
    max_running: int = Field(64, ge=1, le=16_384, description="Sequences an engine runs at once.")
    token_budget: int = Field(
        512, ge=16, description="Tokens one engine step computes at most; prompts are prefilled in chunks of what is left of it."
    )
    step_timeout_s: float = Field(
        10.0,
        ge=1,
        description="An engine that stands still is killed within this time, or 20 of its steps if that is longer, and started anew.",
    )
    start_timeout_s: float = Field(600.0, ge=1, description="The same until it has loaded the model and is warmed up.")
    standby: int = Field(
        0, ge=0, le=1, description="1 keeps a second engine process, with the model loaded, that goes on at once when the first one dies."
    )
    kv_memory_mb: int = Field(
        1_024,
        ge=1,
        description="Memory of the KV cache; it never grows. On a CPU more than the machine or its control group has is refused.",
    )
    block_size: int = Field(16, ge=4, multiple_of=4, description="Tokens per KV block.")
    worker_name: str = Field(default_factory=socket.gethostname, description="Prefix of the worker ids of this host.")

    # Scheduler
    janitor_ms: int = Field(500, ge=10, description="Time between two sweeps.")
    scheduler_port: int = Field(0, ge=0, le=65_535, description="Port of the scheduler's /metrics; 0 is off.")
    pump_port: int = Field(0, ge=0, le=65_535, description="Port of the /metrics of the pump between Kafka and the queue; 0 is off.")

    @property
    def served_model(self) -> str:
        """The name clients use for the model."""
        return self.model_name or default_name(self.model)


def load_settings() -> Settings:
    """Read the environment. Raises SettingsError naming every variable that is unknown or malformed, never a value."""
    names = {name.upper() for name in os.environ if name.upper().startswith(PREFIX) and not name.upper().startswith(_OF_TESTS)}
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    if unknown := sorted(names.difference(known)):
        said = (name + "".join(f" (did you mean {near}?)" for near in get_close_matches(name, known, 1)) for name in unknown)
        raise SettingsError("unknown setting " + ", ".join(said) + "; `headrace settings` lists them all")
    try:
        return Settings()
    except ValidationError as error:
        problems = (
            f"{PREFIX}{str(e['loc'][0]).upper()}: {_WORDS.get(e['type'], e['msg'])}"
            for e in error.errors(include_input=False, include_context=False)
        )
        raise SettingsError("; ".join(problems)) from None
