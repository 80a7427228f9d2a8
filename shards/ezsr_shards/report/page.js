// Sorting and filtering of the samples; all else on the page works without.
"use strict";
(() => {
  const table = document.getElementById("samples");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const find = document.getElementById("find");
  const ofClass = document.getElementById("of-class");
  const sort = document.getElementById("sort");
  const turn = document.getElementById("turn");
  const count = document.getElementById("count");
  const heads = [...table.querySelectorAll("th[data-sort]")];
  const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  let rising = true;

  // "é" is found by "e", and capitals by small letters.
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const texts = new Map(rows.map((row) => [row, plain(row.cells[1].textContent)]));

  function compare(a, b) {
    const key = sort.value;
    const [one, other] = [a, b].map((row) => row.getAttribute(`data-${key}`));
    if (one === "" || other === "") return (one === "") - (other === ""); // no value: always last
    const order = key === "class" ? words.compare(one, other) : one - other;
    return (rising ? order : -order) || a.dataset.place - b.dataset.place;
  }

  function show() {
    body.append(...rows.sort(compare));
    const wanted = plain(find.value).split(/\s+/);
    for (const row of rows) {
      const found = wanted.every((word) => texts.get(row).includes(word));
      row.hidden = !found || (ofClass.value !== "" && row.dataset.class !== ofClass.value);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
    turn.textContent = rising ? "↑" : "↓";
    turn.setAttribute("aria-pressed", String(!rising));
    for (const head of heads) {
      const order = head.dataset.sort === sort.value ? (rising ? "ascending" : "descending") : "none";
      head.setAttribute("aria-sort", order);
    }
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      rising = sort.value === head.dataset.sort ? !rising : true;
      sort.value = head.dataset.sort;
      show();
    });
  }
  for (const option of [...sort.options]) {
    const told = rows.some((row) => row.getAttribute(`data-${option.value}`));
    if (option.value !== "place" && !told) option.remove();
  }
  document.querySelector(".of-class").hidden = ofClass.options.length < 3;
  find.addEventListener("input", show);
  ofClass.addEventListener("change", show);
  sort.addEventListener("change", show);
  turn.addEventListener("click", () => {
    rising = !rising;
    show();
  });
  document.querySelector(".scripted").hidden = rows.length < 2;
})();
