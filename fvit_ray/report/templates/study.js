"use strict";
// sort a table by a column: numbers by value, words by name; the other way round the next time
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, at) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[at].dataset.v ?? row.cells[at].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const gap = x - y;
        return (Number.isNaN(gap) ? x.localeCompare(y) : gap) * (down ? -1 : 1);
      };
      body.append(...[...body.rows].sort(compare));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
// show the rows that hold the words
for (const box of document.querySelectorAll("input.filter")) {
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of document.getElementById(box.dataset.table).tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}
// show the cards that fit every choice
const gallery = document.querySelector(".cards");
if (gallery) {
  const choices = [...document.querySelectorAll("#gallery select")];
  const show = () => {
    let shown = 0;
    for (const card of gallery.children) {
      card.hidden = choices.some(c => c.value && card.dataset[c.name] !== c.value);
      shown += !card.hidden;
    }
    document.getElementById("shown").textContent = `${shown} shown`;
  };
  choices.forEach(choice => choice.addEventListener("change", show));
  show();
}
// a link to a query opens the list that holds it; paper shows everything but the queries
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target && target.scrollIntoView) target.scrollIntoView();
};
addEventListener("hashchange", open);
open();
addEventListener("beforeprint", () => {
  document.querySelectorAll("section:not(#rows) details").forEach(part => { part.open = true; });
});
