"""Tables of pictures, and the readers by which folders, CSVs, zips and named data sets become one."""

from hashret.data.sources import open_source
from hashret.data.table import PictureTable

__all__ = ["PictureTable", "open_source"]
