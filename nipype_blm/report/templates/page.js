"use strict";
document.documentElement.classList.add("scripted");

// Tables are sorted by the column whose heading is chosen: numbers as numbers, "n/a" last.
function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const text = row.cells[column].textContent.trim();
        // "1,234", "−3.1", "12.5 %" and "∞" are numbers; "< 0.0001" is a little less than that.
        const plain = text.replace(/[,%\s]/g, "").replace("−", "-").replace("∞", "Infinity");
        const number = plain.startsWith("<") ? Number(plain.slice(1)) * 0.999 : Number(plain);
        return Number.isNaN(number) || text === "" ? text : number;
      };
      const compare = (a, b) => {
        const [one, other] = [key(a), key(b)];
        if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
        const order = one < other ? -1 : one > other ? 1 : 0;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);

// What is folded is unfolded for paper.
const folded = [];
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not([open])")) { each.open = true; folded.push(each); }
});
addEventListener("afterprint", () => { while (folded.length) folded.pop().open = false; });
