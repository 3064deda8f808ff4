"""Programs in several parts: what they take beyond their inputs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

import accelkit as ak
from accelkit import registry
from accelkit.backend import Executable
from accelkit.partitioned import PartitionedExecutable

SIZE = 100 * 4


def in_parts(donate: Collection[int]) -> PartitionedExecutable:
    graph = ak.trace(lambda x: ak.tanh(ak.exp(ak.sin(x))), ak.zeros(100))
    backend, device = registry.backend("numpy"), ak.device("numpy")
    return PartitionedExecutable(
        graph,
        backend,
        device,
        cuts=[1, 2],
        donate=donate,
        compile_part=lambda part, free: backend.compile(part, device, donate=free),
    )


@pytest.mark.parametrize(("donate", "expected"), [((0,), 0), ((), SIZE)])
def test_a_part_returns_its_results_in_the_place_of_what_it_may_overwrite(
    monkeypatch: pytest.MonkeyPatch, donate: Collection[int], expected: int
) -> None:
    monkeypatch.setattr(Executable, "temporary_memory_bytes", lambda self: 0)
    executable = in_parts(donate)
    assert len(executable.parts) == 3
    assert executable.temporary_memory_bytes() == expected
    x = np.linspace(0.0, 1.0, 100, dtype=np.float32)
    (found,) = executable([x.copy()])
    np.testing.assert_allclose(found, np.tanh(np.exp(np.sin(x))), rtol=1e-6)


def test_parts_that_do_not_tell_leave_the_whole_unknown() -> None:
    assert in_parts(()).temporary_memory_bytes() is None
