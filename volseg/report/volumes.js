/* First of four parts of the page's script, which page.py puts into one block: what there is to be shown,
   and the volumes, put together from the pictures that the page carries. */
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const errors = [];
function fail(message) {
  errors.push(String(message));
  root.dataset.errors = JSON.stringify(errors);
  byId("trouble").textContent = "The views cannot be shown: " + errors[0];
  byId("trouble").hidden = false;
}
addEventListener("error", (event) => fail(event.message));
addEventListener("unhandledrejection", (event) => fail(event.reason));

const meta = JSON.parse(byId("meta").textContent);
const [X, Y, Z] = meta.shape;
const VOXELS = X * Y * Z;
const STRIDES = [1, X, X * Y];
const UNLABELLED = 255;
const volumes = {};
const position = meta.start.slice(); // in voxels of the whole volume
const layers = {};
for (const row of document.querySelectorAll(".layer")) {
  const name = row.dataset.layer;
  layers[name] = {
    on: row.querySelector("input[type=checkbox]"),
    amount: row.querySelector("input[type=range]"),
    output: row.querySelector("output"),
    style: row.querySelector("select"),
  };
}
const classBoxes = [...document.querySelectorAll(".class input")];
let crosshair = true;

async function inflate(id) {
  const text = atob(byId(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const volume = new Uint8Array(await new Response(stream).arrayBuffer());
  if (volume.length !== VOXELS) throw new Error(id + " is damaged.");
  return volume;
}

async function assemble(name, channels) {
  const volume = new Uint8Array(VOXELS * channels);
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (const [number, sheet] of meta.sheets[name].entries()) {
    const picture = new Image();
    picture.src = "data:image/jpeg;base64," + byId(`data-${name}-${number}`).textContent;
    await picture.decode();
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    context.drawImage(picture, 0, 0);
    for (let i = 0; i < sheet.count; i++) {
      const left = (i % sheet.columns) * sheet.tile[0];
      const top = Math.floor(i / sheet.columns) * sheet.tile[1];
      const pixels = context.getImageData(left, top, X, Y).data;
      let to = (sheet.first + i) * X * Y * channels;
      for (let from = 0; from < pixels.length; from += 4)
        for (let c = 0; c < channels; c++) volume[to++] = pixels[from + c];
    }
  }
  return volume;
}

function refuseBlankCanvas() {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = "rgb(10, 120, 230)";
  context.fillRect(0, 0, 2, 2);
  const seen = context.getImageData(0, 0, 1, 1).data;
  if (Math.abs(seen[0] - 10) + Math.abs(seen[1] - 120) + Math.abs(seen[2] - 230) > 12)
    throw new Error("this browser keeps pages from reading pictures. Allow it for this page, or use another.");
}
