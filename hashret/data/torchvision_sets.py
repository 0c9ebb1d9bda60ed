"""torchvision's data sets by name: downloaded once into a cache folder, and kept there as pictures with a table.csv."""

from __future__ import annotations

import http.client
import os
import re
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from hashret.data.table import PictureTable
from hashret.errors import DataError
from hashret.images import to_rgb


@dataclass(frozen=True)
class TorchvisionSet:
    """How one class of torchvision.datasets is asked for.

    splits: {split: arguments}. names: the attribute that holds the class names (where there is none, a class is called
    by its number). files: the attribute that lists the picture files (or pairs that begin with one), for sets that are
    files already: those are used where they lie; all others are written out.
    """

    splits: Mapping[str, Mapping[str, Any]]
    names: str = "classes"
    files: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _named(*splits: str, **fixed: Any) -> dict[str, dict[str, Any]]:
    return {split: {"split": split, **fixed} for split in splits}


_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}

SETS: dict[str, TorchvisionSet] = {
    "CIFAR10": TorchvisionSet(_TRAIN_FLAG),
    "CIFAR100": TorchvisionSet(_TRAIN_FLAG),
    "MNIST": TorchvisionSet(_TRAIN_FLAG),
    "FashionMNIST": TorchvisionSet(_TRAIN_FLAG),
    "KMNIST": TorchvisionSet(_TRAIN_FLAG),
    "EMNIST": TorchvisionSet(_TRAIN_FLAG, fixed={"split": "balanced"}),
    "USPS": TorchvisionSet(_TRAIN_FLAG),
    "SVHN": TorchvisionSet(_named("train", "test")),
    "STL10": TorchvisionSet(_named("train", "test")),
    "Omniglot": TorchvisionSet({"train": {"background": True}, "test": {"background": False}}, names="_characters"),
    "Flowers102": TorchvisionSet(_named("train", "val", "test"), files="_image_files"),
    "OxfordIIITPet": TorchvisionSet({"train": {"split": "trainval"}, "test": {"split": "test"}}, files="_images"),
    "StanfordCars": TorchvisionSet(_named("train", "test"), files="_samples"),
    "FGVCAircraft": TorchvisionSet(_named("train", "val", "test"), files="_image_files"),
    "Food101": TorchvisionSet(_named("train", "test"), files="_image_files"),
    "Caltech101": TorchvisionSet({"": {}}, names="categories"),
    "Caltech256": TorchvisionSet({"": {}}, names="categories"),
    "GTSRB": TorchvisionSet(_named("train", "test")),
    "EuroSAT": TorchvisionSet({"": {}}, files="samples"),
    "DTD": TorchvisionSet(_named("train", "val", "test"), files="_image_files"),
    "Country211": TorchvisionSet(
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}, files="samples"
    ),
    "SUN397": TorchvisionSet({"": {}}, files="_image_files"),
    "LFWPeople": TorchvisionSet(_named("train", "test"), names="class_to_idx"),
}

_LOSSLESS_UP_TO = 256  # pixels a side: what torchvision keeps in arrays is small and stays exact; photos become JPEG
_DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    ImportError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def cache_folder() -> Path:
    """Where downloads are kept: the folder in HASHRET_CACHE, or else ~/.cache/hashret."""
    chosen = os.environ.get("HASHRET_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "hashret"


def find_set(name: str) -> str | None:
    """The name of a data set as torchvision spells it, whatever its case and dashes; None when there is none."""
    return {_plain(known): known for known in SETS}.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def open_set(name: str) -> PictureTable:
    """The table of a torchvision data set, downloaded on first use; all its splits.

    Raises DataError, in one sentence, when there is no such set or it cannot be downloaded.
    """
    known = find_set(name)
    if known is None:
        raise DataError(f"torchvision has no data set {name!r} that hashret reads; it reads {', '.join(SETS)}")
    folder = cache_folder() / "torchvision" / known
    table_file = folder / "table.csv"
    # table.csv is written last, so where it is, everything is.
    if not table_file.is_file():
        _download(known, folder).write_csv(table_file)
    table = PictureTable.read_csv(table_file)
    table.name = known
    return table


def _download(name: str, folder: Path) -> PictureTable:
    kind = SETS[name]
    table = PictureTable([], [], [], [], name=name)
    for split, arguments in kind.splits.items():
        try:
            import torchvision.datasets

            folder.mkdir(parents=True, exist_ok=True)
            dataset = getattr(torchvision.datasets, name)(root=str(folder), download=True, **kind.fixed, **arguments)
        except _DOWNLOAD_ERRORS as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DataError(
                f"{name} could not be downloaded ({reason}); fetch it on a machine with a network and copy the folder "
                f"to {folder}, or give a folder of pictures instead"
            ) from error
        _add(table, dataset, kind, split, folder)
    return table


def _add(table: PictureTable, dataset: Any, kind: TorchvisionSet, split: str, folder: Path) -> None:
    """Adds one split of a data set to the table, its pictures written out unless they are files already."""
    names = [str(name) for name in getattr(dataset, kind.names, ())]
    files = _files(dataset, kind)
    pictures = folder / "pictures" / (split or "all")
    if files is None:
        pictures.mkdir(parents=True, exist_ok=True)
    for row in tqdm(range(len(dataset)), desc=f"{table.name} {split}".strip(), unit="pic", delay=2, disable=None):
        picture, target = dataset[row]
        path = files[row] if files is not None else _written(picture, pictures / f"{row:06d}")
        label = names[target] if names else str(target)
        table.ids.append(f"{split or 'all'}/{row:06d}")
        table.paths.append(str(path))
        table.labels.append(label)
        table.splits.append(split)


def _files(dataset: Any, kind: TorchvisionSet) -> list[Path] | None:
    """The picture files of a data set that consists of files; None where it does not, or keeps them elsewhere."""
    listed = getattr(dataset, kind.files, None) if kind.files else None
    if not isinstance(listed, list) or len(listed) != len(dataset):
        return None
    paths = [Path(entry[0] if isinstance(entry, tuple) else entry) for entry in listed]
    return paths if all(path.is_file() for path in paths) else None


def _written(picture: Image.Image, stem: Path) -> Path:
    """Where the picture now lies: PNG when small, else JPEG of quality 95 without chroma subsampling."""
    upright = to_rgb(picture)
    small = max(upright.size) <= _LOSSLESS_UP_TO
    path = stem.with_suffix(".png" if small else ".jpg")
    if small:
        upright.save(path)
    else:
        upright.save(path, quality=95, subsampling=0)
    return path
