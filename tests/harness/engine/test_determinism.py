"""A library changes nothing of its caller's torch: what `deterministic` sets and draws comes back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from assay.harness.engine.determinism import deterministic

BACKENDS = torch.backends


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Settings of this process, for the tests behind these."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    cudnn, fast = (BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic), BACKENDS.mha.get_fastpath_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic = cudnn
    BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32 = True, False
    BACKENDS.mha.set_fastpath_enabled(fast)


def test_everything_is_set_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the opposite of every setting, also when the block raises."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_num_threads(2)
    torch.set_deterministic_debug_mode("error")
    BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic = True, False
    BACKENDS.cudnn.allow_tf32 = BACKENDS.cuda.matmul.allow_tf32 = True
    BACKENDS.mha.set_fastpath_enabled(True)
    generator = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), torch.inference_mode(), torch.autocast("cpu"), deterministic(3):
        assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (3, 1)
        assert not BACKENDS.cudnn.benchmark and BACKENDS.cudnn.deterministic
        assert not BACKENDS.cudnn.allow_tf32 and not BACKENDS.cuda.matmul.allow_tf32
        assert not BACKENDS.mha.get_fastpath_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"]
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        torch.rand(3)
        raise ZeroDivisionError
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, 2)
    assert BACKENDS.cudnn.benchmark and not BACKENDS.cudnn.deterministic
    assert BACKENDS.cudnn.allow_tf32 and BACKENDS.cuda.matmul.allow_tf32
    assert BACKENDS.mha.get_fastpath_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_mode_that_was_there_is_there_again() -> None:
    """Autocast goes on behind the block; a variable of the caller's stays."""
    with torch.autocast("cpu"):
        with deterministic():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(not hasattr(BACKENDS.cuda.matmul, "fp32_precision"), reason="an older torch has one name alone")
def test_precisions_by_their_newer_names() -> None:
    """After which torch refuses to read the older ones: the caller's are kept by the names that it used."""
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    BACKENDS.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    with deterministic():
        assert not BACKENDS.cuda.matmul.allow_tf32
    assert BACKENDS.cuda.matmul.fp32_precision == "tf32"
    assert BACKENDS.cudnn.conv.fp32_precision == "ieee"  # type: ignore[attr-defined]


def test_no_compiler_is_imported() -> None:
    """torch.use_deterministic_algorithms would: two seconds of every process of every run."""
    code = "import sys; from assay.harness.engine.determinism import make_deterministic as make; make(1)\n"
    code += "import torch; print(torch.get_deterministic_debug_mode(), 'torch._dynamo' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
