"use strict";

// Tables that sort by a click on a heading: numbers as numbers, largest first; what has no value comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const valueOf = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim().replace(/[,\s%+]/g, "").replaceAll("−", "-");
      return { text: cell.textContent.trim(), number: text === "" ? NaN : Number(text) };
    };
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, ...valueOf(row) }));
    const known = rows.filter((one) => one.text !== "");
    const numeric = known.length > 0 && known.every((one) => !Number.isNaN(one.number));
    const before = heading.getAttribute("aria-sort");
    const up = before === null ? !numeric : before === "descending";
    const order = numeric ? (a, b) => a.number - b.number : (a, b) => a.text.localeCompare(b.text);
    known.sort(up ? order : (a, b) => order(b, a));
    headings.forEach((one) => one.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...known.map((one) => one.row), ...rows.filter((one) => one.text === "").map((one) => one.row));
  }));
}

// Paper cannot be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));

// The explorer: softmax(log p / T) of teacher and student, Eq. 2's gradient and Eq. 4's. null is the log of 0.
const explorer = document.getElementById("explorer");
if (explorer !== null) {
  const MOST = 20;
  const { names, temperature, examples } = JSON.parse(document.getElementById("explored").textContent);
  const [select, slider, output, body, apart] = ["select", "input", "output", "tbody", "#apart"].map((one) => explorer.querySelector(one));
  const PLACES = Number(slider.max);
  const COLDEST = Math.min(1, temperature), HOTTEST = Math.max(50, temperature), SPAN = HOTTEST / COLDEST;
  const temperatureAt = (place) => Math.max(COLDEST, Math.round(20 * COLDEST * SPAN ** (place / PLACES)) / 20); // even in ratio
  let T = temperature; // the run's, until the slider is moved
  const softmax = (logits, T) => {
    const most = Math.max(...logits.filter((z) => z !== null));
    const powers = logits.map((z) => (z === null ? 0 : Math.exp((z - most) / T)));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((one) => one / sum);
  };
  const zeroMeaned = (logits) => {
    const mean = logits.reduce((a, b) => a + b, 0) / logits.length;
    return logits.map((z) => z - mean);
  };
  const norm = (vector) => Math.hypot(...vector);
  const written = (value) => (Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(1)).replaceAll("-", "−");

  const cell = (kind, share, value) => {
    const td = document.createElement("td"), track = document.createElement("span"), fill = document.createElement("span");
    track.className = kind.startsWith("eq") ? "track signed" : "track unsigned";
    fill.className = `fill ${kind}`;
    if (kind.startsWith("eq")) {
      fill.style.width = `${50 * Math.abs(share)}%`;
      fill.style[share < 0 ? "right" : "left"] = "50%";
    } else {
      fill.style.width = `${100 * share}%`;
    }
    const shown = document.createElement("span");
    shown.className = "value";
    shown.textContent = value === null ? "" : written(value);
    td.dataset.value = value === null ? "" : value;
    track.append(fill);
    td.append(track, shown);
    return td;
  };

  const draw = () => {
    const example = examples[select.value];
    const p = softmax(example.teacher, T), q = softmax(example.student, T), C = p.length;
    const eq2 = p.map((_, i) => (q[i] - p[i]) / T);
    const finite = ![...example.teacher, ...example.student].includes(null);
    const z = finite ? zeroMeaned(example.student) : [], v = finite ? zeroMeaned(example.teacher) : [];
    const eq4 = finite ? p.map((_, i) => (z[i] - v[i]) / (C * T * T)) : p.map(() => null);
    const most = Math.max(...eq2.map(Math.abs), ...eq4.map(Math.abs)) || 1;
    const cold = softmax(example.teacher, 1), ours = softmax(example.student, 1);
    const shown = [...p.keys()].sort((a, b) => Math.max(cold[b], ours[b]) - Math.max(cold[a], ours[a])).slice(0, MOST).sort((a, b) => a - b);
    body.replaceChildren(...shown.map((i) => {
      const row = document.createElement("tr"), name = document.createElement("th");
      name.scope = "row";
      name.textContent = names[i];
      row.append(name, cell("teacher", p[i], p[i]), cell("student", q[i], q[i]), cell("eq2", eq2[i] / most, eq2[i]), cell("eq4", (eq4[i] ?? 0) / most, eq4[i]));
      return row;
    }));
    output.textContent = `T = ${T.toFixed(2)}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    const some = C > MOST ? ` The ${MOST} likeliest of ${C} classes are shown.` : "";
    const distance = finite && norm(eq2) > 0 ? norm(eq4.map((g, i) => g - eq2[i])) / norm(eq2) : null;
    const away = distance === null ? "Here both say the same, and no gradient is left." : `At this T Eq. 4 is ${(100 * distance).toFixed(1)} % away from Eq. 2, in norm.`;
    apart.textContent = (finite ? away : "Eq. 4 has no value: a model rules a class out.") + some;
    apart.dataset.value = distance ?? "";
    const picture = explorer.querySelector("img"), image = document.querySelectorAll(".cards > li")[example.card]?.querySelector("img");
    picture.hidden = !image;
    if (image) [picture.src, picture.alt] = [image.src, image.alt];
  };

  examples.forEach((example, i) => select.append(new Option(`row ${example.row_id}${example.label === null ? "" : `: ${example.label}`}`, i)));
  slider.value = Math.round((PLACES * Math.log(temperature / COLDEST)) / Math.log(SPAN));
  select.addEventListener("change", draw);
  slider.addEventListener("input", () => {
    T = temperatureAt(slider.value);
    draw();
  });
  explorer.hidden = false;
  draw();
}
