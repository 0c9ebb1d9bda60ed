"""Contact sheets: pictures in, one picture out, with captions in any script."""

from hashret.sheets.contact import SheetPicture, SheetRow, contact_sheet, grid, result_caption

__all__ = ["SheetPicture", "SheetRow", "contact_sheet", "grid", "result_caption"]
