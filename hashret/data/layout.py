"""What folder names say about the pictures in them: split folders on top, then class folders, however deep."""

from __future__ import annotations

from hashret.data.table import nfc

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "query": "query",
    "queries": "query",
    "gallery": "gallery",
    "database": "database",
}
"""Folder names (in any case) that are taken for splits, and the split each stands for."""


def read_layout(names: list[str]) -> tuple[list[str], list[str]]:
    """(labels, splits) of pictures by their relative names, such as "train/cat/1.jpg".

    The top folders are splits when every one of them has a name out of SPLIT_FOLDERS; a lone class called "test" among
    others stays a class. All folders below make the label ("alphabet/character" when two deep); pictures in no class
    folder have the label "".
    """
    folders = [name.split("/")[:-1] for name in nfc(names)]
    tops = {parts[0] for parts in folders if parts}
    with_splits = bool(tops) and all(top.lower() in SPLIT_FOLDERS for top in tops)
    if not with_splits:
        return ["/".join(parts) for parts in folders], [""] * len(names)
    labels = ["/".join(parts[1:]) for parts in folders]
    splits = [SPLIT_FOLDERS[parts[0].lower()] if parts else "" for parts in folders]
    return labels, splits


def shared_top(names: list[str], archive_stem: str) -> str:
    """The folders ("a/b/") that a zip wraps all its pictures in and that say nothing about them; "" when none.

    A folder around everything is left out while there are folders below it, or when it is called like the zip itself
    (cars.zip with cars/1.jpg); a split folder is never left out.
    """
    prefix = ""
    while names:
        rest = [name[len(prefix) :].split("/") for name in names]
        tops = {parts[0] for parts in rest}
        if len(tops) != 1 or any(len(parts) < 2 for parts in rest):
            break
        top = tops.pop()
        wraps_folders = all(len(parts) > 2 for parts in rest)
        if top.lower() in SPLIT_FOLDERS or not (wraps_folders or nfc([top]) == nfc([archive_stem])):
            break
        prefix += top + "/"
    return prefix
