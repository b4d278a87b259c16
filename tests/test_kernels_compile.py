"""The Triton kernels compile for a GPU that need not be there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from step_saliency.saliency.kernels.step_attention import triton as kernels

constants = dict(
    HEADS=28, GROUP=7, D_HEAD=128, D_VALUE=128, HAS_SINKS=True, CAPPED=False, WINDOWED=True,
    POOL=True, PER_HEAD=False, BLOCK_Q=128, BLOCK_K=64, BLOCK_D=128, BLOCK_V=128, PRECISION="tf32",
)
types = {"span_ptr": "*i32", "row_steps_ptr": "*i32", "key_steps_ptr": "*i32", "lse_ptr": "*fp32",
         "delta_ptr": "*fp32", "totals_ptr": "*fp32", "scale": "fp32", "softcap": "fp32"}

def type_of(name):
    if name in constants:
        return "constexpr"
    return types.get(name, "*bf16" if name.endswith("_ptr") else "i32")

for kernel in (kernels._forward, kernels._query_backward, kernels._key_backward):
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: type_of(name) for name in names},
        constexprs={name: constants[name] for name in names if name in constants},
        attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n.endswith("_ptr")},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    print(compiled.metadata.shared)
"""
SHARED_MEMORY_OF_AN_H100 = 227 * 1024


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_kernels_compile_for_an_h100_and_fit_its_shared_memory(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared = [int(line) for line in done.stdout.split()]
    assert len(shared) == 3
    assert max(shared) <= SHARED_MEMORY_OF_AN_H100
