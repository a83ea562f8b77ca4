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

const sortable = async () => {
  const { jQuery } = await import(address(await unpacked("library-tables")));
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

await sortable();
await charts();
document.documentElement.dataset.ready = "yes";
