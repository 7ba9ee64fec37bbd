"use strict";
// The viewer of all contrasts of the page: niivue draws, this counts and moves.
addEventListener("DOMContentLoaded", () => {
  const at = (name) => document.getElementById(`viewer-${name}`);
  const viewer = document.getElementById("viewer");
  const sections = [...document.querySelectorAll(".contrasts")].filter((each) => each.querySelector(".viewer-run"));
  let nv = null; // once it is started
  let map = null; // what is shown
  let level = 0; // in steps of z

  // Runs are read when they are first needed: their maps are megabytes.
  const runs = sections.map((section) => ({ section, text: section.querySelector(".viewer-run").textContent }));
  const read = (run) => (run.content ??= JSON.parse(run.text));

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // How many voxels are at least so high, for each number of steps; z are 16-bit in the file.
  function count(buffer, twoSided) {
    const header = new DataView(buffer);
    const values = new Int16Array(buffer.slice(header.getFloat32(108, true)));
    const heights = twoSided ? values.map(Math.abs) : values;
    const highest = heights.reduce((a, b) => Math.max(a, b), 0);
    const counts = new Int32Array(highest + 2);
    for (const each of heights) if (each > 0) counts[each] += 1;
    for (let i = highest - 1; i >= 0; i -= 1) counts[i] += counts[i + 1];
    return { counts, highest };
  }

  const toVolume = (buffer, options) =>
    niivue.NVImage.loadFromFile({ file: new File([buffer], "map.nii"), name: "map.nii", ...options });

  function moveTo(place) {
    nv.scene.crosshairPos = nv.mm2frac(place);
    nv.updateGLVolume();
    nv.createOnLocationChange();
  }

  function show({ mm, values }) {
    ["x", "y", "z"].forEach((axis, i) => {
      if (document.activeElement !== at(axis)) at(axis).value = Math.round(mm[i] * 10) / 10;
    });
    const z = values.length > 1 ? values[1].value : NaN;
    at("value").textContent = Number.isFinite(z) ? z.toFixed(2).replace("-", "−") : "outside";
  }

  function setLevel(steps) {
    level = Math.max(1, steps);
    const step = map.run.content.step;
    at("level").value = level * step;
    at("shown").textContent = (level * step).toFixed(2);
    at("count").textContent = (map.counts[level] ?? 0).toLocaleString("en");
    const volume = nv.volumes[1];
    volume.cal_min = level * step;
    volume.cal_max = Math.max(map.highest, level + 1) * step;
    nv.updateGLVolume();
    at("level").setAttribute("aria-valuetext", `${(level * step).toFixed(2)}, ${at("count").textContent} voxels`);
    for (const each of at("levels").children) each.setAttribute("aria-pressed", String(each.dataset.steps === String(level)));
  }

  function addLevels(levels) {
    at("levels").replaceChildren(...levels.map(({ words, steps }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.disabled = steps === null;
      button.dataset.steps = steps;
      button.textContent = steps === null ? `${words}: none` : words;
      button.addEventListener("click", () => setLevel(steps));
      return button;
    }));
  }

  async function choose(run, number) {
    const found = read(run).maps[number];
    const buffer = await unpack(found.image);
    if (nv.volumes.length === 0 || map?.run !== run) {
      while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
      nv.addVolume(await toVolume(await unpack(run.content.background), { colormap: "gray", colorbarVisible: false, cal_min: 0, cal_max: 255 }));
    } else {
      nv.removeVolume(nv.volumes[1]);
    }
    map = { run, number, ...count(buffer, found.twoSided) };
    nv.addVolume(await toVolume(buffer, { colormap: "warm", colormapNegative: found.twoSided ? "winter" : "", cal_min: 1, cal_max: 2 }));
    at("map").value = `${runs.indexOf(run)}-${number}`;
    at("sign").textContent = found.sign;
    at("level").max = Math.max(map.highest, 1) * run.content.step;
    at("level").step = run.content.step;
    addLevels(found.levels);
    const main = found.levels.find((each) => each.main);
    setLevel(main.steps ?? found.levels[0].steps ?? Math.min(309, map.highest));
    nv.createOnLocationChange();
  }

  async function start() {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(document.getElementById("viewer-library").textContent));
    document.head.append(script);
    nv = new niivue.Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, isColorbar: true,
      multiplanarShowRender: 1, onLocationChange: show, sagittalNoseLeft: true,
    });
    await nv.attachToCanvas(at("canvas"));
    await choose(runs[0], 0);
    viewer.dataset.ready = "true";
  }

  let started = null;
  const ensure = () => (started ??= start());

  if (!document.createElement("canvas").getContext("webgl2") || typeof DecompressionStream === "undefined") {
    at("absent").hidden = false;
    at("body").hidden = true;
    return;
  }

  runs.forEach((run, i) => {
    const parent = runs.length > 1 ? document.createElement("optgroup") : at("map");
    if (parent !== at("map")) { parent.label = read(run).run; at("map").append(parent); }
    read(run).maps.forEach(({ name }, number) => parent.append(new Option(name.length > 90 ? `${name.slice(0, 89)}…` : name, `${i}-${number}`)));
  });
  at("map").addEventListener("change", async () => {
    const [i, number] = at("map").value.split("-").map(Number);
    await ensure();
    await choose(runs[i], number);
  });
  at("level").addEventListener("input", () => setLevel(Math.round(at("level").value / map.run.content.step)));
  for (const axis of ["x", "y", "z"]) {
    at(axis).addEventListener("change", () => moveTo(["x", "y", "z"].map((each) => Number(at(each).value))));
  }

  // A row brings the viewer below its table, and the cross to its place.
  for (const run of runs) {
    for (const row of run.section.querySelectorAll("tr[data-map]")) {
      const number = Number(row.dataset.map);
      if (number >= read(run).maps.length) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "place";
      button.title = "Show in the viewer";
      button.append(...row.cells[0].childNodes);
      row.cells[0].append(button);
      button.addEventListener("click", async () => {
        await ensure();
        if (map.run !== run || map.number !== number) await choose(run, number);
        row.closest(".contrast").querySelector(".viewer-place").append(viewer);
        moveTo(["x", "y", "z"].map((axis) => Number(row.dataset[axis])));
        viewer.scrollIntoView({ block: "nearest" });
      });
    }
  }

  new IntersectionObserver((entries, observer) => {
    if (!entries.some((each) => each.isIntersecting)) return;
    observer.disconnect();
    ensure();
  }).observe(viewer);
});
