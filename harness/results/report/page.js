// The page's own script: unpacks the two libraries, makes tables sortable, draws charts when they come into view.

const unpacked = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

const address = (source) => URL.createObjectURL(new Blob([source], { type: "text/javascript" }));

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", follow);
follow();

// Tables

// Of two cells' orders: numbers as they are, what is missing last, whichever way the column is sorted.
const missingLast = (sign) => (one, other) =>
  one === "" || other === "" ? (one === "") - (other === "") : sign * (one - other);

const sortable = async () => {
  const { jQuery } = await import(address(await unpacked("library-tables")));
  const orders = jQuery.fn.dataTable.ext.type.order;
  Object.assign(orders, { "quantity-asc": missingLast(1), "quantity-desc": missingLast(-1) });
  for (const table of document.querySelectorAll("table.board")) {
    const heads = [...table.tHead.rows[0].cells];
    jQuery(table).DataTable({
      paging: false,
      info: false,
      order: [],
      autoWidth: false,
      layout: { topStart: "search", topEnd: null },
      language: { search: "filter methods:" },
      columnDefs: heads.map((head, number) => ({
        targets: number,
        ...(number && { type: "quantity" }),
        orderSequence: head.dataset.first === "asc" ? ["asc", "desc"] : ["desc", "asc"],
        searchable: number === 0,
      })),
    });
  }
};

// Charts

const SHOW = { displayModeBar: false, responsive: true, displaylogo: false };

const draw = (chart) => {
  if (chart.hidden || chart.dataset.drawn) return;
  chart.dataset.drawn = "yes";
  const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
  Plotly.newPlot(chart, data, layout, SHOW);
};

const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "300px" },
);

const charts = async () => {
  const script = document.createElement("script");
  script.textContent = await unpacked("library-charts");
  document.head.append(script);
  document.querySelectorAll(".chart").forEach((chart) => watcher.observe(chart));
};

for (const choice of document.querySelectorAll(".choice")) {
  choice.querySelector("select").addEventListener("change", (event) => {
    for (const chart of choice.querySelectorAll(".chart")) chart.hidden = chart.dataset.name !== event.target.value;
  });
}

// Samples

const made = (name, options = {}, ...inside) => {
  const element = Object.assign(document.createElement(name), options);
  element.append(...inside);
  return element;
};

const WHY = { best: "its best", worst: "its worst", disagreed: "least like the other methods" };

const verdict = (hit) => (hit === true ? "hit" : hit === false ? "miss" : "");

const overlaid = (method, drawn) =>
  drawn ? made("img", { src: drawn.map, alt: "" }) : made("small", { textContent: `${method}: not drawn` });

const open = (view, sample) => {
  const dialog = document.getElementById("sample");
  dialog.querySelector("h2").textContent = `${sample.label} (${sample.id})`;
  const cards = Object.entries(sample.maps).map(([method, { map, hit }]) => {
    const values = Object.entries(sample.values)
      .filter(([, of]) => of[method] !== undefined && of[method] !== null)
      .map(([name, of]) => made("li", { textContent: `${name}: ${of[method].toFixed(3)}` }));
    const details = made("details", {}, made("summary", { textContent: "values" }), made("ul", {}, ...values));
    const caption = made("figcaption", {}, made("b", { textContent: method }), ` ${verdict(hit)}`);
    return made("figure", { className: "card" }, made("img", { src: map, alt: `map of ${method}` }), caption, details);
  });
  const image = made("img", { src: sample.image, alt: sample.label });
  const first = made("figure", { className: "card" }, image, made("figcaption", { textContent: "image" }));
  const absent = view.methods.filter((method) => !sample.maps[method]);
  const rest = absent.length ? [made("p", { className: "note", textContent: `not drawn: ${absent.join(", ")}` })] : [];
  dialog.querySelector(".all").replaceChildren(first, ...cards, ...rest);
  dialog.showModal();
};

const show = (view, method, place) => {
  place.replaceChildren(
    ...Object.entries(view.picks[method]).map(([why, numbers]) => {
      const cards = numbers.map((number) => {
        const sample = view.samples[number];
        const drawn = sample.maps[method];
        const text = `${sample.label} ${verdict(drawn?.hit)}`;
        const pictures = [made("img", { src: sample.image, alt: "" }), overlaid(method, drawn)];
        const button = made("button", { type: "button", className: "card", title: sample.id }, ...pictures);
        button.append(made("span", { textContent: text }));
        button.setAttribute("aria-label", `open ${sample.label}, ${sample.id}, ${WHY[why]}`);
        button.addEventListener("click", () => open(view, sample));
        return button;
      });
      return made("div", { className: "why" }, made("h4", { textContent: WHY[why] }), made("div", {}, ...cards));
    }),
  );
};

for (const part of document.querySelectorAll(".samples")) {
  const view = JSON.parse(part.querySelector("script").textContent);
  const [select, place] = [part.querySelector("select"), part.querySelector(".picks")];
  select.append(...view.methods.map((name) => made("option", { textContent: name, value: name })));
  select.addEventListener("change", () => show(view, select.value, place));
  show(view, view.methods[0], place);
}

await sortable();
await charts();
document.documentElement.dataset.ready = "yes";
