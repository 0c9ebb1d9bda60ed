"""The device code compiles for the chips that it is for, without spilling: neither needs a GPU."""

from __future__ import annotations

import io
import re

import pytest

pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from hashret.hamming.gpu import device


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 8, 16])
def test_nothing_spills(arch: str, n_words: int) -> None:
    log = io.StringIO()
    assert len(device.compiled(n_words, arch, log).code) > 1000
    report = log.getvalue()
    assert "warning" not in report
    names = re.findall(r"entry function '(\w+)'", report)
    assert {"scan_rows_1", "scan_rows_2", "scan_rows_4", "count_distances", "select_nearest"} <= set(names)
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spilled) >= len(names) and set(spilled) == {("0", "0", "0")}
