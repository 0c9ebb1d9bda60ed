"""The kernels' vectors become NEON: compiled for a 64-bit ARM chip here, and read. (What they compute, x86 chips show.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import llvmlite.binding
import pytest

TARGET = "aarch64-unknown-linux-gnu"

PROGRAM = f"""
import re, sys
import llvmlite.binding as llvm
import numba
from hashret.hamming import rows, sliced, tables

@numba.njit
def of_tables(memory, queries, order, state, near):
    last = (memory, memory, near, memory, (0,), tables.SIZE_47)
    return sliced.near_queries(memory, sliced.MIDDLE, queries, order, 0, len(order), memory, state, *last)

@numba.njit
def of_rows(codes, queries, state):
    return rows.near_rows(codes, 0, len(codes) // 8, queries, 0, state, (0,), (0,))

# Compiled, not called: a call would need tables, limits and states that belong together.
words_1d, words_2d = numba.uint64[::1], numba.uint64[:, ::1]
numbers_1d, numbers_2d = numba.int64[::1], numba.int64[:, ::1]
of_tables.compile((words_1d, words_2d, numbers_1d, numbers_2d, numbers_1d))
of_rows.compile((words_1d, words_2d, numbers_2d))
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple("{TARGET}").create_target_machine(cpu="neoverse-n1", opt=3)
function = dict(tables=of_tables, rows=of_rows)[sys.argv[1]]
(code,) = function.inspect_llvm().values()
code = re.sub(r"target datalayout = .*", f'target datalayout = "{{machine.target_data}}"', code)
code = re.sub(r"target triple = .*", 'target triple = "{TARGET}"', code)
module = llvm.parse_assembly(re.sub(r'"target-(cpu|features)"="[^"]*"', "", code))
passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
passes.getModulePassManager().run(module, passes)
print(machine.emit_assembly(module))
"""


def for_arm(kernel: str) -> list[str]:
    """The hot loop of a kernel in instructions of a 64-bit ARM chip."""
    llvmlite.binding.initialize_all_targets()
    try:
        llvmlite.binding.Target.from_triple(TARGET)
    except RuntimeError:
        pytest.skip("this llvmlite knows no ARM chips")
    # Not optimised for the chip here, whose own instructions an ARM chip would not know.
    chip = {"NUMBA_OPT": "0", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "HASHRET_CACHE": os.devnull}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, kernel], env={**os.environ, **chip}, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    runs: list[list[str]] = [[]]
    for line in ran.stdout.splitlines():
        if re.match(r"\s*(b|b\.[a-z]+|cbn?z|tbn?z|ret)\s|\S+:", line):
            runs.append([])
        elif line.startswith("\t") and not line.startswith("\t."):
            runs[-1].append(line.strip())
    return max(runs, key=lambda run: sum(" v" in line.replace("\t", " ") for line in run))


def test_rows_are_counted_in_vector_registers() -> None:
    used = Counter(line.split()[0] for line in for_arm("rows"))
    # Four registers of 128 bits for one of 512.
    assert used["eor"] == used["cnt"] == used["umin"] == 4, used
    assert not used.keys() & {"fmov", "umov", "ldrb", "mul"}, used


def test_planes_are_added_in_vector_registers() -> None:
    loop = for_arm("tables")
    logic = [line for line in loop if re.match(r"(eor|and|orr|bic|orn|bsl|bit|bif|mvn)\tv\d+\.16b", line)]
    # 26 full adders of four registers, five instructions each, and the comparison.
    assert len(logic) >= 4 * 26 * 5, Counter(line.split()[0] for line in loop)
    assert not [line for line in loop if re.match(r"(umov|ins|cnt)\t", line)]
