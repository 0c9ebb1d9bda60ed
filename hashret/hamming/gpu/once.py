"""One search on a device: among codes in memory, which are sent, searched and gone, or among arrays that lie there already.

Shape suffixes: N gallery codes, Q queries, B bytes of a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hashret.codes import Bits, Codes, check_codes
from hashret.hamming import planner, words
from hashret.hamming.arguments import checked_flags
from hashret.hamming.gpu.arrays import borrow_codes, borrow_flags, is_on_device
from hashret.hamming.gpu.costs import measured_costs
from hashret.hamming.gpu.device import Device, Held, device_of, pick_device
from hashret.hamming.gpu.pieces import Borrowed
from hashret.hamming.gpu.search import Gallery, kernel_name
from hashret.hamming.gpu.streaming import place
from hashret.hamming.planner import Plan


def plan(device: str, cpu: Plan, gallery_NB: Codes, queries_QB: Codes, found: float, alive: Bits | None) -> Plan:
    """The plan for a search that finds so many codes a query: there, as asked for, or with "auto" where it is cheaper."""
    picked = pick_device(device)
    if picked is None:
        return cpu
    n, n_bytes = gallery_NB.shape
    sent = gallery_NB.nbytes + (0 if alive is None else n)
    n_words, n_queries = words.words_per_code(n_bytes), len(queries_QB)
    nanoseconds = measured_costs(picked).of_search(n, n_words, n_queries, found, picked.multiplies_bits, sent)
    kernel = kernel_name(picked, n_queries)
    if device == "auto":
        return planner.or_on_device(cpu, picked.name, kernel, nanoseconds)
    return Plan(kernel, 1, nanoseconds / 1e6, "as asked for", device=picked.name)


def gallery(device: str, codes_NB: Codes, alive: Bits | None) -> Gallery:
    """Codes that are sent to a device."""
    picked = pick_device(device)
    assert picked is not None
    return Gallery(place(picked, [(codes_NB, alive)], codes_NB.shape[1]))


def nearest_arrays(
    gallery_NB: Any, queries_QB: Any, k: int, code_size: int | None, alive: Any
) -> tuple[tuple[Any, Any], Plan, int]:
    """`hamming.search` where the gallery or the queries lie on a GPU, its plan, and how many codes were compared.

    What lies in memory is sent. The answer lies where the queries do, in an array of their library.
    """
    codes, queries, plan = _among_arrays(gallery_NB, queries_QB, code_size, alive)
    if not isinstance(queries, Held):
        return codes.search(queries, k), plan, codes.pieces.n_alive
    with codes.device.turn():
        distances, rows = (codes.device.lend(held, queries_QB) for held in codes.search_held(queries, k))
    return (distances, rows), plan, codes.pieces.n_alive


def within_arrays(
    gallery_NB: Any, queries_QB: Any, radius: int, code_size: int | None, alive: Any
) -> tuple[tuple[Any, Any, Any], Plan, int]:
    """The same for `hamming.search_radius`; its answer, whose size nobody knows before, comes through memory."""
    codes, queries, plan = _among_arrays(gallery_NB, queries_QB, code_size, alive)
    device, compared = codes.device, codes.pieces.n_alive
    radii = np.full(queries.shape[0], radius, np.int64)
    if not isinstance(queries, Held):
        return codes.search_radii(queries, radii), plan, compared
    with device.turn():
        words_QW = device.get(queries)
    found = codes.search_radii(words_QW.view(np.uint8), radii)
    with device.turn():
        offsets, distances, rows = (device.lend(device.put(part), queries_QB) for part in found)
    return (offsets, distances, rows), plan, compared


def _among_arrays(
    gallery_NB: Any, queries_QB: Any, code_size: int | None, alive: Any
) -> tuple[Gallery, Held | Codes, Plan]:
    """The gallery on the device, the queries, as words where they lie on it, and the plan."""
    device = device_of(gallery_NB if is_on_device(gallery_NB) else queries_QB)
    with device.turn():
        there = is_on_device(gallery_NB)
        shape = device.look_at(gallery_NB).shape if there else np.shape(gallery_NB)
        size = 8 * (shape[-1] if shape else 0) if code_size is None else code_size
        codes = borrow_codes(device, gallery_NB, size) if there else _sent(device, gallery_NB, size)
        flags, n_alive = _flags(device, alive, codes.shape[0])
        queries = borrow_codes(device, queries_QB, size) if is_on_device(queries_QB) else check_codes(queries_QB, size)
    plan = Plan(kernel_name(device, queries.shape[0]), 1, None, "arrays lie there", device=device.name)
    return Gallery(Borrowed(device, codes, flags, n_alive)), queries, plan


def _sent(device: Device, codes_NB: Any, code_size: int) -> Held:
    return device.put(words.padded(check_codes(codes_NB, code_size)))


def _flags(device: Device, alive: Any, n: int) -> tuple[Held | None, int]:
    """Flags on a device, and how many are set."""
    if alive is None:
        return None, n
    if is_on_device(alive):
        return borrow_flags(device, alive, n)
    flags = checked_flags(alive, n)
    assert flags is not None
    return device.put(flags.view(np.uint8)), int(np.count_nonzero(flags))
