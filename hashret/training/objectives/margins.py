"""How far classes are to be kept apart where `--margin auto` leaves it open: in bits."""

from __future__ import annotations

from math import comb


def auto_bits(*, task: str, n_classes: int, code_size: int) -> float:
    """The margin in bits.

    - `closed` (the classes to search for are those trained on): what `guaranteed_distance` leaves to `n_classes` codes, held
      between a quarter and half of the code. Half is what two classes get, and more than half no large number of codes can
      be apart (Plotkin, "Binary Codes with Specified Minimum Distance", 1960). Below a quarter, which only very many
      classes or very short codes come to, neighbours would no longer be told from strangers.
    - `unseen`: other classes need the room between the known ones, so little: a sixteenth of the code, at least 2 bits and
      at most 4, and never more than a quarter of the code.
    """
    if task == "closed":
        return min(max(float(guaranteed_distance(n_classes, code_size)), code_size / 4), code_size / 2)
    return min(max(2.0, code_size / 16), 4.0, code_size / 4)


def guaranteed_distance(n_codes: int, code_size: int) -> int:
    """The largest d for which `n_codes` codes of `code_size` bits surely exist that are all at least d bits apart.

    That is the largest d with n_codes · Σ_{i<d} binom(code_size, i) ≤ 2^code_size: codes can be chosen one after another, as
    long as the balls of radius d - 1 around those chosen leave a word over. 0 where `n_codes` exceeds the number of words.
    Sources: Gilbert, "A Comparison of Signalling Alphabets", 1952; Varshamov, 1957.
    """
    words, ball = 1 << code_size, 0
    for distance in range(code_size + 1):
        ball += comb(code_size, distance)
        if n_codes * ball > words:
            return distance
    return code_size + 1
