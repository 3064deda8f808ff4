"""What importing accelkit, and using its NumPy backend, brings into the process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

FRAMEWORKS = {
    "torch", "jax", "jaxlib", "tensorflow", "keras", "pyopencl", "cupy", "triton",
}  # fmt: skip
# Needed by some parts only: each is imported when such a part is first used.
LATER = {
    "PIL", "asyncio", "concurrent.futures", "dataclasses", "email", "importlib.metadata",
    "ml_dtypes", "multiprocessing", "optree", "platformdirs", "psutil", "rich", "safetensors",
    "urllib",
}  # fmt: skip
# What `import accelkit` needs of accelkit itself: tensors, operations and how they are traced.
EAGER = {
    "arguments", "autodiff", "backend", "compilation", "control", "custom_derivative", "device",
    "dispatch", "dtypes", "errors", "graph", "ops", "primitives", "registry", "tensor",
    "tensor_methods", "tracing", "tree",
}  # fmt: skip


def modules_after(program: str) -> set[str]:
    """Names of all modules after running the program in a fresh process."""
    code = textwrap.dedent(program) + "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_accelkit_imports_numpy_and_little_else() -> None:
    found = modules_after("import accelkit") - modules_after("import numpy")
    assert not found & FRAMEWORKS
    assert not found & LATER
    foreign = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert foreign == {"accelkit"}


def test_importing_accelkit_imports_no_part_that_waits_for_its_use() -> None:
    found = modules_after("import accelkit")
    assert {name.split(".")[1] for name in found if name.startswith("accelkit.")} == EAGER


def test_the_whole_core_works_without_a_framework() -> None:
    found = modules_after("""
        import numpy as np
        import accelkit as ak
        x = ak.asarray(np.ones((4, 8, 8, 3), "float32"))
        w = ak.asarray(np.ones((3, 3, 3, 2), "float32"))
        loss = lambda x, w: ak.mean(ak.relu(ak.conv2d(x, w)))
        assert ak.jit(ak.grad(loss))(x, w).shape == x.shape
        assert ak.scan(lambda c, v: (c + v, c), 0.0, ak.arange(3.0))[0].tolist() == 3.0
        assert "graph" in str(ak.trace(loss, x, w))
    """)
    assert not found & FRAMEWORKS


@pytest.mark.parametrize(
    "module",
    [
        "accelkit.nn",
        "accelkit.optim",
        "accelkit.losses",
        "accelkit.train",
        "accelkit.random",
        "accelkit.data",
        "accelkit.checkpoint",
        "accelkit.parity",
        "accelkit.bench",
        "accelkit_models.alexnet",
    ],
)
def test_no_part_of_the_core_imports_a_framework(module: str) -> None:
    assert not modules_after(f"import {module}") & FRAMEWORKS


def test_importing_one_backend_imports_its_framework_only() -> None:
    pytest.importorskip("torch")
    found = modules_after('import accelkit as ak\nak.zeros(2, device="torch:cpu") + 1.0')
    assert "torch" in found
    assert not found & (FRAMEWORKS - {"torch", "triton"})
