"""One search on a device among codes that lie in memory: they are sent, searched, and gone.

Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

from hashret.codes import Bits, Codes
from hashret.hamming import planner
from hashret.hamming.gpu.costs import measured_costs
from hashret.hamming.gpu.device import pick_device
from hashret.hamming.gpu.pieces import Resident
from hashret.hamming.gpu.search import Gallery, kernel_name
from hashret.hamming.planner import Plan
from hashret.hamming.words import words_per_code


def plan(device: str, cpu: Plan, gallery_NB: Codes, queries_QB: Codes, found: float, alive: Bits | None) -> Plan:
    """The plan for a search that finds so many codes a query: there, as asked for, or with "auto" where it is cheaper."""
    picked = pick_device(device)
    if picked is None:
        return cpu
    n, n_bytes = gallery_NB.shape
    sent = gallery_NB.nbytes + (0 if alive is None else n)
    nanoseconds = measured_costs(picked).of_search(
        n, words_per_code(n_bytes), len(queries_QB), found, picked.multiplies_bits, sent
    )
    kernel = kernel_name(picked, len(queries_QB))
    if device == "auto":
        return planner.or_on_device(cpu, picked.name, kernel, nanoseconds)
    return Plan(kernel, 1, nanoseconds / 1e6, "as asked for", device=picked.name)


def gallery(device: str, codes_NB: Codes, alive: Bits | None) -> Gallery:
    """Codes on a device."""
    picked = pick_device(device)
    assert picked is not None
    return Gallery(Resident(picked, [(codes_NB, alive)], codes_NB.shape[1]))
