"""Text of others, such as labels and paths, as a page can show it."""

from __future__ import annotations

import unicodedata

LONGEST_TEXT = 160


def readable(text: object, longest: int = LONGEST_TEXT) -> str:
    """The text in one line, in composed Unicode, control characters and halves of characters written out, its end cut off."""
    composed = unicodedata.normalize("NFC", str(text))
    shown = "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in ("Cc", "Cs") else each
        for each in composed[: longest + 1]
    )
    return shown if len(composed) <= longest else shown[:longest] + "…"
