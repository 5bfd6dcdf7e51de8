"use strict";
// The table of suspects: sort, filter, select, decide, export. Without it, it is a plain table.
(() => {
  const section = document.getElementById("suspects");
  const table = section && section.querySelector("table.suspects");
  if (!table) return;
  const { scores, labels, rows: known } = JSON.parse(document.getElementById("suspects-data").textContent);
  const [form, bar] = section.querySelectorAll(".tools");
  const find = (name) => bar.querySelector(name);
  const body = table.tBodies[0];
  const rows = [...body.rows].map((line, index) => ({
    line, ...known[index], text: line.textContent.toLowerCase(), decided: null,
  }));
  const real = new Set(labels.map(([label]) => label));
  const decisions = ["", "relabel", "remove", "keep", "unsure"].filter((name) => name !== "relabel" || rows.some((row) => row.given !== null));

  // ── elements ────────────────────────────────────────────────────────────────────────────
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const option = (value, text) => make("option", { value, textContent: text ?? value });
  const named = (element, name) => (element.setAttribute("aria-label", name), element);

  /** Build a choice of a decision; `told` hears [decision, new label, note], or null for none. */
  const chooser = (of, row, told) => {
    const place = make("span", { className: "chooser" });
    const choice = named(make("select", {}), `Decision ${of}`);
    for (const name of decisions) choice.append(option(name, name || "–"));
    let label = null;
    const note = named(make("input", { placeholder: "note", maxLength: 500, hidden: true }), `Note ${of}`);
    const newLabel = (value) => {
      // A list of a thousand is typed into, one of fifty is chosen from.
      const few = labels.length > 0 && labels.length <= 50;
      const input = few ? make("select", {}, option("", told ? "to …" : "as suggested"), ...labels.map(([name, shown]) => option(name, shown))) : make("input", { placeholder: told ? "new label" : "as suggested" });
      if (!few && labels.length) input.setAttribute("list", "labels");
      input.value = value;
      return named(input, `New label ${of}`);
    };
    const show = (value) => {
      const [decision, wanted, remark] = value ?? ["", "", ""];
      choice.value = decision;
      label?.remove();
      label = decision === "relabel" ? newLabel(wanted) : null;
      if (label) choice.after(label);
      note.value = remark;
      note.hidden = !told || !decision;
    };
    const read = () => {
      if (!choice.value) return null;
      const wanted = label ? label.value : choice.value === "relabel" ? row.label : "";
      // Of all rows together, none means what is suggested for each.
      label?.setAttribute("aria-invalid", String(!(valid(row, [choice.value, wanted]) || (!told && !wanted))));
      return [choice.value, wanted, note.value];
    };
    place.addEventListener("change", (event) => {
      const value = read();
      if (event.target === choice) show(value);
      told?.(read());
    });
    place.append(choice, note);
    return { place, show, read };
  };
  const valid = ({ given }, [decision, label]) => decision !== "relabel" || (label !== given && (labels.length ? real.has(label) : label !== ""));

  // ── what was decided is kept by the browser, where it lets a page keep anything ──────────
  const key = `sourcetrace:${scores}`;
  let keeps = true;
  const recall = () => {
    try { return new Map(JSON.parse(localStorage.getItem(key) ?? "[]")); } catch { keeps = false; return new Map(); }
  };
  const keep = () => {
    const decided = rows.filter((row) => row.decided).map((row) => [row.id, row.decided]);
    try { localStorage.setItem(key, JSON.stringify(decided)); } catch { keeps = false; }
  };
  const decide = (row, value) => {
    row.decided = value;
    row.line.classList.toggle("decided", value !== null);
  };

  const picked = () => rows.filter((row) => row.box.checked);
  const report = () => {
    const shown = rows.filter((row) => !row.line.hidden).length;
    const decided = rows.filter((row) => row.decided);
    const broken = decided.filter((row) => !valid(row, row.decided)).length;
    const parts = [`${shown} of ${rows.length} rows shown`, `${decided.length} decided here`];
    if (broken) parts.push(`${broken} without a new label that exists: not exported`);
    if (!keeps) parts.push("this browser keeps nothing: export before you close the page");
    find(".status").textContent = parts.join(", ");
    find(".picked").textContent = `${picked().length} selected`;
    find(".apply").disabled = picked().length === 0;
    find(".export").disabled = decided.length === broken;
    all.checked = shown > 0 && rows.every((row) => row.line.hidden || row.box.checked);
  };

  // ── filter ──────────────────────────────────────────────────────────────────────────────
  const filter = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const words = wanted.search.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const same = ["given", "predicted", "action", "stage"].every((name) => !wanted[name] || row.line.dataset[name] === wanted[name]);
      const state = !wanted.state || (wanted.state === "decided") === (row.before || row.decided !== null);
      const group = !wanted.group || row.groups.includes(wanted.group);
      row.line.hidden = !(same && state && group && words.every((word) => row.text.includes(word)));
      // What nobody sees is not decided on.
      if (row.line.hidden) row.box.checked = false;
    }
    report();
  };

  // ── sort ────────────────────────────────────────────────────────────────────────────────
  const value = (line, column) => {
    const cell = line.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text === "" || text === "—" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (one, other) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true });
  };
  const sort = (heading) => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const column = heading.cellIndex;
    const lines = [...body.rows].map((line) => [line, value(line, column)]);
    lines.sort(([, one], [, other]) => (one === null || other === null || ascending ? compare(one, other) : compare(other, one)));
    body.append(...lines.map(([line]) => line));
  };

  // ── export ──────────────────────────────────────────────────────────────────────────────
  const cell = (text) => {
    // A quote before what a spreadsheet would run, as in review_list.csv.
    const runs = /^'*(?:[\t\r]|[\s\p{C}\p{Z}]*[=+\-@＝＋－＠])/u.test(text) && !/^[+\-]\d+(?:[.,]\d+)?(?:[eE][+\-]?\d+)?$/.test(text);
    const quoted = runs ? `'${text}` : text;
    return `"${quoted.replaceAll('"', '""')}"`;
  };
  const csv = () => {
    const lines = rows.filter((row) => row.decided && valid(row, row.decided)).map((row) => {
      const [decision, label, note] = row.decided;
      return [row.id, row.content, decision, decision === "relabel" ? label : "", note, scores].map(cell).join(",");
    });
    return ["example_id,content_digest,decision,new_label,note,scores_digest", ...lines, ""].join("\r\n");
  };

  // ── put together ────────────────────────────────────────────────────────────────────────
  const all = named(make("input", { type: "checkbox" }), "Select all rows shown");
  all.addEventListener("change", () => {
    for (const row of rows) row.box.checked = all.checked && !row.line.hidden;
    report();
  });
  const earlier = recall();
  for (const row of rows) {
    row.box = named(make("input", { type: "checkbox" }), `Select ${row.id}`);
    row.chooser = chooser(`for ${row.id}`, row, (value) => {
      decide(row, value);
      keep();
      report();
    });
    row.line.cells[0].append(row.box);
    row.line.cells[row.line.cells.length - 1].append(row.chooser.place);
    decide(row, earlier.get(row.id) ?? null);
    row.chooser.show(row.decided);
  }
  const heads = table.tHead.rows[0].cells;
  heads[0].append(all);
  for (const heading of heads) {
    if (!heading.dataset.key) continue;
    const button = make("button", { type: "button" }, ...heading.childNodes);
    button.addEventListener("click", () => sort(heading));
    heading.append(button);
  }
  for (const select of form.querySelectorAll("[data-values]")) {
    const values = [...new Set(rows.map((row) => row.line.dataset[select.name]))].sort(compare);
    select.append(option("", "all"), ...values.map((name) => option(name)));
  }
  if (labels.length > 50) section.append(make("datalist", { id: "labels" }, ...labels.map(([name]) => option(name))));
  const common = chooser("for the selected rows", { label: "", given: null }, null);
  find(".choice").append(common.place);
  find(".apply").addEventListener("click", () => {
    const value = common.read();
    for (const row of picked()) {
      // Without a label of its own, each row takes what the model suggests for it.
      decide(row, value && [value[0], value[0] === "relabel" ? value[1] || row.label : "", row.decided?.[2] ?? ""]);
      row.chooser.show(row.decided);
      row.box.checked = false;
    }
    keep();
    filter();
  });
  find(".export").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    make("a", { href: address, download: "decisions.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  table.addEventListener("change", (event) => { if (event.target.type === "checkbox") report(); });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  document.addEventListener("click", (event) => {
    const group = event.target.closest("[data-group]");
    if (!group || !form.elements.group) return;
    form.reset();
    form.elements.group.value = group.dataset.group;
    filter();
    section.scrollIntoView();
  });
  document.documentElement.classList.add("scripted-on");
  form.hidden = bar.hidden = false;
  filter();
})();
