"use strict";
/* Headers of sortable tables become buttons; each press sorts by that column, the other way round when it did already. */
const collator = new Intl.Collator(undefined, { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const isNumber = head.classList.contains("number");
    const valueOf = (row) => {
      const text = row.cells[column].textContent.trim();
      return isNumber ? parseFloat(text.replaceAll(",", "")) : text;
    };
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const order = isNumber
        ? (a, b) => (isNaN(a[0]) - isNaN(b[0])) || sign * (a[0] - b[0]) || 0
        : (a, b) => sign * collator.compare(a[0], b[0]);
      const rows = [...body.rows].map((row) => [valueOf(row), row]);
      rows.sort(order).forEach(([, row]) => body.append(row));
    });
  });
}
