// trn-plugin-page: a picture, boxes drawn by hand, and the predictions in each.
import { Model } from "./model.js";

const ORT = "./node_modules/onnxruntime-web/dist/";
const element = (id) => document.getElementById(id);
const canvas = element("picture"), context = canvas.getContext("2d");
const pixels = document.createElement("canvas"); // the picture at its own size
const pixelContext = pixels.getContext("2d", { willReadFrequently: true });
const MIN_CANVAS = 1000; // pixels of the canvas's longer side, for sharp text on small pictures
const state = { ort: null, model: null, source: null, image: null, boxes: [], found: [], drag: null, camera: null,
  idle: Promise.resolve() };
window.trn = state; // for tests and the console

const HINT = element("hint").textContent;

async function begin() {
  try {
    state.ort = await import(`${ORT}ort.wasm.min.mjs`);
    state.ort.env.wasm.wasmPaths = new URL(ORT, location.href).href;
    state.ort.env.wasm.numThreads = 1; // threads need HTTP headers that a plain server does not send
  } catch (error) {
    return fail(`onnxruntime-web is not installed beside this page: run "npm ci" in its folder (${error.message})`);
  }
  try {
    const response = await fetch("model.onnx");
    if (!response.ok) throw new Error(`model.onnx: ${response.status} ${response.statusText}`);
    await useModel(new Uint8Array(await response.arrayBuffer()));
  } catch (error) {
    fail(`${error.message}; choose a model with "Other model"`);
  }
}

async function useModel(bytes) {
  state.model = await Model.load(state.ort, bytes);
  const { metadata, tasks } = state.model;
  const [height, width] = metadata.input_size;
  element("model").textContent = `${metadata.backbone ?? "model"}, ${width} x ${height} pixels: ${tasks.join(", ")}`;
  fail("");
  element("about").textContent = JSON.stringify(metadata, null, 2);
  const crop = metadata.crop;
  element("hint").textContent = crop && crop.box !== "whole"
    ? `Drop a photograph, then draw a box around each object. The model was trained on ${crop.text}.` : HINT;
  await predict();
}

/** Show an error; "" removes it. */
function fail(text) {
  element("error").textContent = text;
  if (text && !state.model) element("model").textContent = "no model";
}

/** Show a picture: an ImageBitmap, a video frame or an image element. */
async function show(source, width, height) {
  pixels.width = width;
  pixels.height = height;
  pixelContext.drawImage(source, 0, 0);
  state.image = pixelContext.getImageData(0, 0, width, height);
  await predict();
}

async function openFile(file) {
  stopCamera();
  try {
    const bitmap = await createImageBitmap(file);
    state.source = bitmap;
    state.boxes = [];
    if (state.model) fail("");
    await show(bitmap, bitmap.width, bitmap.height);
  } catch (error) {
    fail(`${file.name}: not a readable picture (${error.message})`);
  }
}

const wholePicture = () => [0, 0, pixels.width, pixels.height];

/** Queue a prediction after the running one, so that the last boxes are shown last. */
function predict() {
  state.idle = state.idle.then(predictNow);
  return state.idle;
}

async function predictNow() {
  if (!state.model || !state.image) return draw();
  const boxes = state.boxes.length ? state.boxes : [wholePicture()];
  const start = performance.now();
  try {
    state.found = await state.model.predict(state.image, boxes);
    const taken = performance.now() - start;
    element("time").textContent = `${taken.toFixed(0)} ms for ${boxes.length} ` +
      `${boxes.length > 1 ? "boxes" : state.boxes.length ? "box" : "whole picture"}`;
  } catch (error) {
    state.found = [];
    element("time").textContent = `error: ${error.message}`;
  }
  draw();
  list(boxes);
}

function draw() {
  if (!state.image) return;
  const longer = Math.max(pixels.width, pixels.height), scale = Math.max(MIN_CANVAS / longer, 1);
  canvas.width = Math.round(pixels.width * scale);
  canvas.height = Math.round(pixels.height * scale);
  context.setTransform(canvas.width / pixels.width, 0, 0, canvas.height / pixels.height, 0, 0);
  context.drawImage(pixels, 0, 0);
  const unit = longer / 640;
  context.font = `${12 * unit}px system-ui, sans-serif`;
  const boxes = state.drag ? [...state.boxes, state.drag] : state.boxes;
  boxes.forEach(([x0, y0, x1, y1], i) => {
    context.strokeStyle = "#ffc400";
    context.lineWidth = 2 * unit;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    text(String(i + 1), x0 + 3 * unit, y0 + 14 * unit, "#ffc400", unit);
  });
  for (const [i, prediction] of state.found.entries()) {
    const [x0, y0, x1, y1] = state.boxes[i] ?? wholePicture();
    const side = Math.min(x1 - x0, y1 - y0), radius = Math.min(Math.max(side / 80, 1.5 * unit), 8 * unit);
    let line = 0;
    for (const task of state.model.tasks) {
      if (state.model.metadata.tasks[task].kind === "landmarks") {
        for (const [name, [x, y]] of Object.entries(prediction[task])) {
          context.beginPath();
          context.arc(x, y, radius, 0, 2 * Math.PI);
          context.fillStyle = "#40ff60";
          context.strokeStyle = "#181818";
          context.lineWidth = unit;
          context.fill();
          context.stroke();
          if (side < 120 * unit) continue;
          const left = x < (x0 + x1) / 2; // a name is on the outer side of its point
          context.textAlign = left ? "right" : "left";
          text(name, x + (left ? -1 : 1) * (radius + 2 * unit), y + 4 * unit, "#e8ffe8", unit);
          context.textAlign = "left";
        }
      } else {
        for (const words of lines(task, prediction[task]).slice(0, 5)) {
          text(words, x0 + 3 * unit, y1 - 6 * unit - 15 * unit * line++, "#fff", unit);
        }
      }
    }
  }
}

function text(words, x, y, color, unit) {
  context.lineWidth = 3 * unit;
  context.strokeStyle = "#181818";
  context.strokeText(words, x, y);
  context.fillStyle = color;
  context.fillText(words, x, y);
}

/** Text on the picture: the class, the values, or the likely attributes. */
function lines(task, prediction) {
  const kind = state.model.metadata.tasks[task].kind;
  if (kind === "class") return [`${task}: ${prediction.label} ${(100 * prediction.probabilities[prediction.label]).toFixed(0)} %`];
  const entries = Object.entries(prediction);
  if (kind !== "attributes") return entries.map(([name, value]) => `${name}: ${value.toPrecision(4)}`);
  const likely = entries.filter(([, value]) => value > 0.5).sort((a, b) => b[1] - a[1]);
  return likely.map(([name, value]) => `${name} ${(100 * value).toFixed(0)} %`);
}

function list(boxes) {
  const results = element("results");
  results.replaceChildren();
  state.found.forEach((prediction, i) => {
    if (boxes.length > 1) add(results, "h2", `object ${i + 1}`);
    for (const task of state.model.tasks) {
      const kind = state.model.metadata.tasks[task].kind;
      add(results, "h3", task);
      const table = add(results, "table");
      const values = kind === "class" ? prediction[task].probabilities : prediction[task];
      for (const [name, value] of Object.entries(values)) {
        const row = add(table, "tr");
        if (kind === "class" && name === prediction[task].label) row.className = "top";
        add(row, "td", name);
        add(row, "td", kind === "landmarks" ? value.map((v) => v.toFixed(1)).join(", ")
          : kind === "class" || kind === "attributes" ? `${(100 * value).toFixed(1)} %` : value.toPrecision(5));
      }
    }
  });
}

function add(parent, tag, content) {
  const made = document.createElement(tag);
  if (content !== undefined) made.textContent = content;
  parent.append(made);
  return made;
}

/** Position of the pointer in the picture's pixels. */
function position(event) {
  const area = canvas.getBoundingClientRect();
  return [Math.round((event.clientX - area.left) * pixels.width / area.width),
    Math.round((event.clientY - area.top) * pixels.height / area.height)];
}

const inside = ([x, y], [x0, y0, x1, y1]) => x >= x0 && x < x1 && y >= y0 && y < y1;

let from = null, moved = null;
canvas.addEventListener("pointerdown", (event) => {
  if (!state.image) return;
  canvas.setPointerCapture(event.pointerId);
  from = position(event);
  const index = state.boxes.findLastIndex((box) => inside(from, box));
  moved = event.shiftKey || index < 0 ? null : { index, box: [...state.boxes[index]] };
});
canvas.addEventListener("pointermove", (event) => {
  if (!from) return;
  const [x, y] = position(event);
  if (moved) {
    const [dx, dy] = [x - from[0], y - from[1]], [x0, y0, x1, y1] = moved.box;
    state.boxes[moved.index] = [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
  } else {
    state.drag = [Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x), Math.max(from[1], y)];
  }
  draw();
});
canvas.addEventListener("pointerup", async () => {
  if (state.drag && state.drag[2] - state.drag[0] > 3 && state.drag[3] - state.drag[1] > 3) state.boxes.push(state.drag);
  from = moved = state.drag = null;
  await predict();
});

async function startCamera() {
  const video = element("camera");
  try {
    state.camera = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    return fail(`no camera: ${error.message}`);
  }
  if (state.model) fail("");
  video.srcObject = state.camera;
  await video.play();
  element("start-camera").textContent = "Stop";
  state.boxes = [];
  while (state.camera) {
    await show(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  state.camera?.getTracks().forEach((track) => track.stop());
  state.camera = null;
  element("start-camera").textContent = "Camera";
}

element("start-camera").onclick = () => (state.camera ? stopCamera() : startCamera());
element("file").onchange = (event) => event.target.files[0] && openFile(event.target.files[0]);
element("model-file").onchange = async (event) => {
  try {
    await useModel(new Uint8Array(await event.target.files[0].arrayBuffer()));
  } catch (error) {
    fail(`${event.target.files[0].name}: ${error.message}`);
  }
};
element("clear").onclick = () => { state.boxes = []; predict(); };
const stage = element("stage");
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.className = "over"; });
stage.addEventListener("dragleave", () => { stage.className = ""; });
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.className = "";
  if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
});

/** Open the picture of a link: index.html?picture=photo.jpg&boxes=10,20,90,120;... */
async function openLink() {
  const link = new URLSearchParams(location.search);
  const name = link.get("picture");
  if (!name) return;
  const response = await fetch(name);
  if (!response.ok) return fail(`${name}: ${response.status} ${response.statusText}`);
  await openFile(new File([await response.blob()], name));
  const given = (link.get("boxes") ?? "").split(";").filter(Boolean);
  const boxes = given.map((box) => box.split(",").map(Number));
  const wrong = boxes.findIndex((box) => box.length !== 4 || !box.every(Number.isInteger));
  if (wrong >= 0) return fail(`boxes=${given[wrong]}: expected x0,y0,x1,y1 in whole pixels; separate several boxes by ;`);
  state.boxes = boxes;
  await predict();
}

await begin();
await openLink();
document.body.dataset.ready = "yes";
