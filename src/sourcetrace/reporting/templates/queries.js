"use strict";
// The queries: find one by what its line says. Without it, they are a list to open.
(() => {
  const section = document.getElementById("queries");
  if (!section) return;
  const find = section.querySelector(".find");
  const input = find.querySelector("input");
  const told = find.querySelector("output");
  const rest = section.querySelector(".rest");
  const all = [...section.querySelectorAll("details.query")];
  const lines = all.map((one) => one.querySelector("summary").textContent.toLowerCase());
  find.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    all.forEach((one, place) => { one.hidden = !words.every((word) => lines[place].includes(word)); });
    const shown = all.filter((one) => !one.hidden);
    if (rest) rest.open = words.length > 0;
    told.textContent = words.length ? `${shown.length} of ${all.length}` : "";
    if (words.length && shown.length === 1) shown[0].open = true;
  });
})();
