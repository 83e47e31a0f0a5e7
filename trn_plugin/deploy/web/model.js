// trn-plugin-page: metadata and predictions of an exported model.
// Gives the same numbers as `trn-plugin predict`, see TaskPredictor in trn_plugin/deploy/runtime.py.

const FORMAT_VERSION = 1; // FORMAT_VERSION in trn_plugin/deploy/metadata.py
const LARGEST_CROP = 32_000_000; // pixels

/** A JSON metadata entry of an ONNX file (ModelProto.metadata_props, field 14). */
export function metadataOf(bytes, key = "trn_plugin") {
  const text = new TextDecoder();
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const entry = Object.fromEntries([...fields(value)].map(([n, v]) => [n, text.decode(v)]));
    if (entry[1] === key) return JSON.parse(entry[2]);
  }
  throw new Error("expected a file written by trn-plugin export, found no metadata of trn_plugin");
}

/** Yields [number, bytes] of the length-delimited fields of a Protocol Buffers message. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("not an ONNX file");
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("not an ONNX file");
  }
}

/** RGB pixels of a box (x0, y0, x1, y1) of an ImageData; black outside the picture. */
export function crop(image, [x0, y0, x1, y1]) {
  const width = x1 - x0, height = y1 - y0;
  const data = new Uint8Array(width * height * 3);
  for (let y = Math.max(y0, 0); y < Math.min(y1, image.height); y++) {
    for (let x = Math.max(x0, 0); x < Math.min(x1, image.width); x++) {
      const from = (y * image.width + x) * 4, to = ((y - y0) * width + (x - x0)) * 3;
      data[to] = image.data[from];
      data[to + 1] = image.data[from + 1];
      data[to + 2] = image.data[from + 2];
    }
  }
  return { data, width, height };
}

/** Weights [size][side] of an antialiased bilinear resize along one axis. */
function resizeWeights(side, size) {
  const scale = side / size;
  return Array.from({ length: size }, (_, row) => {
    const weights = Float64Array.from({ length: side }, (_, pixel) =>
      Math.max(1 - Math.abs(pixel + 0.5 - (row + 0.5) * scale) / Math.max(scale, 1), 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  });
}

/** Resize a crop to whole grey levels, for files without resizing. */
export function resized(picture, height, width) {
  const rows = resizeWeights(picture.height, height), columns = resizeWeights(picture.width, width);
  const between = new Float64Array(height * picture.width * 3), line = picture.width * 3;
  rows.forEach((weights, row) => weights.forEach((weight, y) => {
    if (weight) for (let i = 0; i < line; i++) between[row * line + i] += weight * picture.data[y * line + i];
  }));
  const data = new Uint8Array(height * width * 3);
  for (let row = 0; row < height; row++) columns.forEach((weights, column) => {
    for (let channel = 0; channel < 3; channel++) {
      let sum = 0;
      weights.forEach((weight, x) => { if (weight) sum += weight * between[row * line + x * 3 + channel]; });
      data[(row * width + column) * 3 + channel] = Math.round(sum);
    }
  });
  return { data, width, height };
}

export class Model {
  /** @param ort onnxruntime-web  @param bytes Uint8Array of an .onnx file */
  static async load(ort, bytes) {
    const metadata = metadataOf(bytes);
    if (metadata.format_version > FORMAT_VERSION) {
      throw new Error(`has export format ${metadata.format_version}, this page reads up to ${FORMAT_VERSION}: ` +
        "export --web of a newer trn_plugin writes a page that reads it");
    }
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    return new Model(ort, session, metadata);
  }

  constructor(ort, session, metadata) {
    Object.assign(this, { ort, session, metadata, tasks: Object.keys(metadata.tasks) });
  }

  /** Predictions of each box (x0, y0, x1, y1, whole pixels) of an ImageData, in order. */
  async predict(image, boxes) {
    boxes.forEach((box) => checkBox(box, image));
    const found = [];
    for (const box of boxes) found.push(await this.predictOne(crop(image, box), box));
    return found;
  }

  async predictOne(picture, [left, top]) {
    const [height, width] = this.metadata.input_size;
    const given = this.metadata.resize === "none" ? resized(picture, height, width) : picture;
    const type = this.metadata.input.type;
    const data = type === "float32" ? Float32Array.from(given.data) : given.data;
    const input = new this.ort.Tensor(type, data, [1, given.height, given.width, 3]);
    const outputs = await this.session.run({ [this.metadata.input.name]: input });
    const scale = [picture.width / given.width, picture.height / given.height];
    return Object.fromEntries(this.tasks.map((task) =>
      [task, read(this.metadata.tasks[task], this.metadata.outputs[task], outputs[task], scale, [left, top])]));
  }
}

/** Refuse what `TaskPredictor.predict` refuses, and crops too large for a browser. */
function checkBox(box, image) {
  const [x0, y0, x1, y1] = box, name = `box (${box.join(", ")})`;
  if (box.length !== 4 || !box.every(Number.isInteger)) throw new Error(`${name}: expected four whole pixels`);
  if (x1 <= x0 || y1 <= y0) throw new Error(`${name} is empty: expected x0 < x1 and y0 < y1`);
  if ((x1 - x0) * (y1 - y0) > LARGEST_CROP) throw new Error(`${name} has more than ${LARGEST_CROP} pixels`);
  if (x1 <= 0 || y1 <= 0 || x0 >= image.width || y0 >= image.height) {
    throw new Error(`${name} lies outside the picture of ${image.width} x ${image.height} pixels`);
  }
}

/** A prediction in the format of `trn-plugin predict`. */
function read(task, output, tensor, scale, corner) {
  const values = Array.from(tensor.data, Number);
  const names = output.names;
  if (task.kind === "landmarks") {
    return Object.fromEntries(names.map((name, i) =>
      [name, [0, 1].map((axis) => values[2 * i + axis] * scale[axis] + corner[axis])]));
  }
  const named = Object.fromEntries(values.map((value, i) => [names[i] ?? String(i), value]));
  if (task.kind !== "class") return named;
  const index = values.indexOf(Math.max(...values));
  return { label: names[index], index, probabilities: named };
}
