"""Where kernels are kept, by how many threads they run, and what computes where they cannot."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.supervise import EX_CONFIG
from workers.engine.cpu import kernel_folder as folders
from workers.engine.cpu.kernel_folder import UNUSED_S, kernel_folder
from workers.engine.cpu.kernel_store import KernelStore

GENERATE = """
import logging, sys
from pathlib import Path
from headrace.request import Sampling
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.engine.kernels import has_kernels
from workers.ports import EngineRequest
import torch

logging.basicConfig(level=logging.WARNING)
engine = PagedEngine(EngineConfig(model=Path(sys.argv[1]), device="cpu", kv_memory_mb=1, block_size=8, dtype=sys.argv[2], kv_dtype="fp16"))
engine.warm_up()
engine.open()
for name, length in (("a", 3), ("b", 20)):
    ids = tuple(range(length))
    engine.add(EngineRequest(request_id=name, prompt_ids=ids, sampling=Sampling(max_tokens=6, temperature=0.0, seed=0, ignore_eos=True)))
while engine.stats().running + engine.stats().waiting:
    for delta in engine.step(0):
        print(delta.request_id, *delta.token_ids)
print("kernels", has_kernels(torch.device("cpu")))
"""
NORM = """
import logging, resource, sys, numpy as np, torch
logging.basicConfig(level=logging.INFO, format="%(message)s")
most = int(sys.argv[1])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
from workers.engine.cpu.rows import RmsNorm, gelu_tanh_and_mul
print(RmsNorm(torch.ones(8), 0.0)(np.full((1, 8), 3, np.float32))[0, 0], gelu_tanh_and_mul(np.zeros((1, 16), np.float32))[0, 0])
"""
COMPARE = """
import torch
from workers.engine.activations import tensor_of
from workers.engine.attention import Batch, Heads, LayerKind, TorchAttention
from workers.engine.cpu.attention import CpuAttention
from workers.engine.cpu.linear import FloatLinear, Int8Linear
from workers.engine.kv_cache import KvCache

count, positions = 37, torch.arange(37)
for heads, size, dtype in ((Heads(9, 3, 64), 4, torch.float32), (Heads(4, 2, 12), 4, torch.float16)):
    torch.manual_seed(0)
    qkv, angles, outs = torch.randn(count, heads.qkv_width), torch.rand(count, heads.dim // 2) * 6, []
    for kind in (CpuAttention, TorchAttention):
        cache = KvCache(
            layers=1, blocks=10, block_size=size, kv_heads=heads.kv, head_dim=heads.dim, slots=1, blocks_per_slot=10,
            device=torch.device("cpu"), dtype=dtype,
        )
        cache.assign(0, 0, list(range(9, 9 - -(-count // size), -1)))
        attention = kind(cache, heads, [LayerKind(0.2)])
        attention.begin(Batch(positions, positions, (0,), (0,), (count,), positions), [(angles.cos(), angles.sin())])
        outs.append(tensor_of(attention(0, qkv.clone() if kind is TorchAttention else qkv.numpy().copy())))
    print(f"attention off by {(outs[0] - outs[1]).norm() / outs[1].norm():.2f}")
x, weight = torch.randn(37, 64), torch.randn(40, 64)
for kind in (FloatLinear, Int8Linear):
    print(f"product off by {(tensor_of(kind(weight, None)(x.numpy())) - x @ weight.T).norm() / (x @ weight.T).norm():.1f}")
"""
RIGHT = "1.0 0.0\n"
WITHOUT = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2"}
"""A processor of before AVX2."""


def run(code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=240
    )


def test_each_state_of_the_sources_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernel_folder(str(tmp_path))
    assert first is not None
    assert kernel_folder(str(tmp_path)) == first
    source = tmp_path / "sources" / "folder.py"
    source.parent.mkdir()
    source.write_text("changed")
    monkeypatch.setattr(folders, "__file__", str(source))
    second = kernel_folder(str(tmp_path))
    assert second is not None
    assert {first, second} == set(tmp_path.glob("kernels-*"))


def test_folders_that_nobody_uses_any_more_are_removed(tmp_path: Path) -> None:
    old, recent, other = (tmp_path / name for name in ("kernels-old", "kernels-recent", "somebody-elses"))
    for folder in (old, recent, other):
        (folder / "cpu").mkdir(parents=True)
    for folder, age in ((old, UNUSED_S + 60), (recent, UNUSED_S - 60), (other, UNUSED_S + 60)):
        os.utime(folder, (time.time() - age,) * 2)
    mine = kernel_folder(str(tmp_path))
    assert mine is not None
    assert {path.name for path in tmp_path.iterdir()} == {"kernels-recent", "somebody-elses", mine.name}


def test_without_a_setting_they_are_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = kernel_folder("")
    assert mine is not None
    assert mine.parent == tmp_path / "headrace" / "kernels"


def test_where_nothing_can_be_kept_it_is_said_and_kernels_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        assert kernel_folder(str(blocked)) is None
    assert "kernels are compiled anew at every start" in caplog.text
    result = run(
        NORM,
        "0",
        NUMBA_CACHE_DIR=str(blocked),
    )
    assert (result.stdout, result.returncode) == (RIGHT, 0), result.stderr


def test_what_is_loaded_computes_as_what_was_compiled(tmp_path: Path) -> None:
    """It is other code: LLVM optimizes once more what it keeps. Where it could not tell what an address points into it left work out."""
    right = "attention off by 0.00\n" * 2 + "product off by 0.0\n" * 2
    compiled = run(COMPARE, NUMBA_CACHE_DIR=str(tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kernel")}
    loaded = run(COMPARE, NUMBA_CACHE_DIR=str(tmp_path))
    assert (compiled.stdout, loaded.stdout) == (right, right), compiled.stderr + loaded.stderr
    assert len(kept) == 4
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kernel")}


def test_a_full_disk_costs_what_was_not_kept(tmp_path: Path) -> None:
    full = run(NORM, "4096", NUMBA_CACHE_DIR=str(tmp_path))
    assert (full.stdout, full.returncode) == (RIGHT, 0), full.stderr
    assert full.stderr.count("compiling kernels into") == 1
    assert full.stderr.count("are compiled anew at every start, which takes up to a minute: it cannot be written") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    room = run(NORM, "0", NUMBA_CACHE_DIR=str(tmp_path))
    assert "cannot be written" not in room.stderr
    again = run(NORM, "0", NUMBA_CACHE_DIR=str(tmp_path))
    assert (again.stdout, again.stderr) == (RIGHT, "")


def test_a_damaged_file_is_compiled_anew(tmp_path: Path) -> None:
    run(NORM, "0", NUMBA_CACHE_DIR=str(tmp_path))
    [file] = tmp_path.rglob("rows._rms_norm-*.kernel")
    for damaged in (b"", file.read_bytes()[:-1], file.read_bytes()[:-512] + bytes(512)):
        file.write_bytes(damaged)
        healed = run(NORM, "0", NUMBA_CACHE_DIR=str(tmp_path))
        assert (healed.stdout, healed.returncode) == (RIGHT, 0), healed.stderr
        assert f"{file} is damaged: this kernel is compiled anew" in healed.stderr
    assert run(NORM, "0", NUMBA_CACHE_DIR=str(tmp_path)).stderr == ""


def test_a_folder_that_cannot_be_written_is_good_for_what_it_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody writes into /proc, not even root."""
    store = KernelStore(Path("/proc"))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            store.tell()
            store.write("one.kernel", (1, 2))
    [told] = caplog.messages
    assert told.startswith("kernels that are not in /proc are compiled anew at every start")
    KernelStore(tmp_path).write("one.kernel", (1, 2))
    tmp_path.chmod(0o500)
    try:
        assert KernelStore(tmp_path).read("one.kernel") == (1, 2)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("before", ["", "import numba; "])
def test_they_are_kept_where_they_should_be_whoever_imports_numba_first(tmp_path: Path, before: str) -> None:
    """And whatever becomes of its settings between two kernels."""
    result = run(
        before + "import os, torch; from workers.engine.cpu import compiled; os.environ['NUMBA_CACHE_DIR'] = '/proc/nowhere'; "
        "import numba; numba.config.reload_config(); from workers.engine.cpu.rows import RmsNorm; "
        "RmsNorm(torch.ones(8), 0.0)(torch.ones(1, 8).numpy()); print(numba.threading_layer(), *numba.config.THREADING_LAYER_PRIORITY)",
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("omp tbb workqueue\n")
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith("kernels-")
    assert list(folder.rglob("rows._rms_norm-*.kernel"))


def test_a_machine_without_openmp_has_another_pool(tmp_path: Path) -> None:
    """Its priorities are names of modules: one that is missing is passed over."""
    result = run(
        "import sys; sys.modules['numba.np.ufunc.omppool'] = None\n"
        "import torch, numba; from workers.engine.cpu.rows import RmsNorm; RmsNorm(torch.ones(8), 0.0)(torch.ones(1, 8).numpy()); "
        "print(numba.threading_layer())",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in {"tbb", "workqueue"}


def test_a_processor_without_their_instructions_leaves_it_to_torch(make_model: Callable[..., Path]) -> None:
    folder = str(make_model())
    torchs, ours = run(GENERATE, folder, "fp32", **WITHOUT), run(GENERATE, folder, "fp32")
    assert torchs.returncode == ours.returncode == 0, torchs.stderr + ours.stderr
    *tokens, kernels = torchs.stdout.splitlines()
    assert kernels == "kernels False"
    assert [*tokens, "kernels True"] == ours.stdout.splitlines()
    assert torchs.stderr.count("this processor lacks avx2, fma, f16c, which the compiled kernels need: torch computes instead") == 1
    assert ours.stderr == ""


def test_int8_without_kernels_is_refused(make_model: Callable[..., Path]) -> None:
    result = run(GENERATE, str(make_model()), "int8", **WITHOUT)
    assert "ModelUnavailable: HEADRACE_DTYPE=int8 is for CPUs with AVX2, FMA and F16C or of ARM, the device is cpu" in result.stderr


def test_an_engine_process_keeps_them_in_its_cache_dir(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """And ends with one line where int8 is asked for and cannot be."""
    environ = {"HEADRACE_MODEL": str(make_model()), "HEADRACE_DTYPE": "int8", "HEADRACE_ENGINE": "paged", "HEADRACE_KV_MEMORY_MB": "1"}
    environ |= {"HEADRACE_CACHE_DIR": str(tmp_path / "cache"), "HEADRACE_DEVICE": "cpu", **WITHOUT}
    command = [sys.executable, "-m", "workers", "engine"]
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    ended = subprocess.run(command, env=inherited | environ, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == EX_CONFIG, ended.stderr
    assert "HEADRACE_DTYPE=int8 is for CPUs with AVX2, FMA and F16C or of ARM" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name[:8] for path in (tmp_path / "cache" / "kernels").iterdir()] == ["kernels-"]


@pytest.mark.parametrize(("environ", "spins"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_that_wait_soon_sleep(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], spins: str) -> None:
    """The runtime itself says what it has read when it was loaded, which a variable set too late does not change."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)  # this process has the engine's own
    told = run("import workers.__main__, workers.engine.kernels", OMP_DISPLAY_ENV="verbose", **environ).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in told
