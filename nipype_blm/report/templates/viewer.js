"use strict";
// The viewer of all contrasts of the page: niivue draws, this counts and moves.
addEventListener("DOMContentLoaded", () => {
  const at = (name) => document.getElementById(`viewer-${name}`);
  const viewer = document.getElementById("viewer");
  const sections = [...document.querySelectorAll(".contrasts")].filter((each) => each.querySelector(".viewer-run"));
  let nv = null; // once it is started
  let map = null; // what is shown

  // Runs are read when they are first needed: their maps are megabytes.
  const runs = sections.map((section) => ({ section, text: section.querySelector(".viewer-run").textContent }));
  const read = (run) => (run.content ??= JSON.parse(run.text));

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // z of a file, in steps, and how many voxels are at least so high for each number of steps.
  function count(buffer, twoSided) {
    const values = new Int16Array(buffer.slice(new DataView(buffer).getFloat32(108, true)));
    const heights = twoSided ? values.map(Math.abs) : values;
    const highest = heights.reduce((a, b) => Math.max(a, b), 0);
    const counts = new Int32Array(highest + 2);
    for (const each of heights) if (each > 0) counts[each] += 1;
    for (let i = highest - 1; i >= 0; i -= 1) counts[i] += counts[i + 1];
    return { values, counts, highest };
  }

  const toVolume = (buffer, options) =>
    niivue.NVImage.loadFromFile({ file: new File([buffer], "map.nii"), name: "map.nii", ...options });

  function moveTo(place) {
    nv.scene.crosshairPos = nv.mm2frac(place);
    nv.updateGLVolume();
    nv.createOnLocationChange();
  }

  function show({ mm, values }) {
    const { finest } = map.run.content;
    ["x", "y", "z"].forEach((axis, i) => {
      if (document.activeElement !== at(axis)) at(axis).value = Number((Math.round(mm[i] / finest) * finest).toFixed(4));
    });
    const z = values.length > 1 ? values[1].value : NaN;
    at("value").textContent = Number.isFinite(z) ? z.toFixed(2).replace("-", "−") : "outside";
  }

  // Draw z from a height on: all of it, or what survives a correction, by its number.
  function draw(steps, correction = null) {
    const step = map.run.content.step;
    const level = Math.max(1, steps);
    const volume = nv.volumes[1];
    const survives = (i) => (map.flags[i] >> correction) & 1;
    volume.img.set(correction === null ? map.values : map.values.map((z, i) => (survives(i) ? z : 0)));
    volume.cal_min = level * step;
    volume.cal_max = Math.max(map.highest, level + 1) * step;
    nv.updateGLVolume();
    const n = correction === null ? map.counts[level] ?? 0 : map.flags.filter((_, i) => survives(i)).length;
    at("level").value = level * step;
    at("shown").textContent = (level * step).toFixed(2);
    at("count").textContent = n.toLocaleString("en");
    at("above").hidden = correction !== null;
    at("survive").hidden = correction === null;
    if (correction !== null) at("words").textContent = map.levels[correction].words;
    at("level").setAttribute("aria-valuetext", (level * step).toFixed(2));
    [...at("levels").children].forEach((each, i) => each.setAttribute("aria-pressed", String(i === correction)));
  }

  function addLevels(levels) {
    at("levels").replaceChildren(...levels.map(({ words, steps }, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.disabled = steps === null;
      button.textContent = steps === null ? `${words}: none` : words;
      button.addEventListener("click", () => draw(steps, i));
      return button;
    }));
  }

  async function choose(run, number) {
    const found = read(run).maps[number];
    const buffer = await unpack(found.image);
    if (nv.volumes.length === 0 || map?.run !== run) {
      while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
      const background = await toVolume(await unpack(run.content.background), { colormap: "gray", cal_min: 0, cal_max: 255 });
      background.colorbarVisible = false;
      nv.addVolume(background);
    } else {
      nv.removeVolume(nv.volumes[1]);
    }
    const flags = new Uint8Array(await unpack(found.survive));
    map = { run, number, flags, levels: found.levels, ...count(buffer, found.twoSided) };
    const volume = await toVolume(buffer, { colormap: "warm", colormapNegative: found.twoSided ? "winter" : "", cal_min: 1, cal_max: 2 });
    nv.addVolume(volume);
    at("map").value = `${runs.indexOf(run)}-${number}`;
    at("sign").textContent = found.sign;
    at("level").max = Math.max(map.highest, 1) * run.content.step;
    at("level").step = run.content.step;
    addLevels(found.levels);
    const main = found.levels.findIndex((each) => each.main);
    if (found.levels[main].steps === null) draw(Math.min(309, map.highest)); // p = 0.001 on one side
    else draw(found.levels[main].steps, main);
    if (found.start) moveTo(found.start);
  }

  async function start() {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(document.getElementById("viewer-library").textContent));
    document.head.append(script);
    nv = new niivue.Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, isColorbar: true, isNearestInterpolation: true,
      crosshairWidth: 0.5, crosshairWidthUnit: "percent", crosshairGap: 3,
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
  at("level").addEventListener("input", () => draw(Math.round(at("level").value / map.run.content.step)));
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
