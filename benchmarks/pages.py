"""Pages under docs/ that several programs write, each a part of its own."""

from __future__ import annotations

import re
from pathlib import Path


def write_part(page: Path, part: str) -> None:
    """Put a part, which begins with its title in a line `# Title`, in the place of the one with this title, or at the end."""
    title = part.partition("\n")[0]
    before = page.read_text("utf-8") if page.exists() else ""
    parts = [each for each in re.split(r"(?m)^(?=# )", before) if each.strip()]
    titles = [each.partition("\n")[0] for each in parts]
    text = part.rstrip("\n") + "\n"
    if title in titles:
        parts[titles.index(title)] = text
    else:
        parts.append(text)
    page.write_text("\n".join(each.rstrip("\n") + "\n" for each in parts), "utf-8")
