/* The boxes that open over the page: save as, make the volume, report, keys. */
import { element } from "./side.js";
import { post } from "./wire.js";

const byId = (id) => document.getElementById(id);

export function connectBoxes(app) {
  for (const button of document.querySelectorAll("dialog .close")) button.addEventListener("click", () => button.closest("dialog").close());
  byId("help").addEventListener("click", () => byId("help-box").showModal());
  byId("save").addEventListener("click", () => {
    byId("save-said").textContent = "";
    byId("save-box").showModal();
  });
  byId("make").addEventListener("click", () => byId("make-box").showModal());
  connectSaving(app);
  connectMaking(app);
}

function connectSaving(app) {
  const path = byId("path"), format = byId("format"), stem = app.name.replace(/(\.ome)?\.[^.]+$|\.nii\.gz$|\.seg\.nrrd$/i, "");
  format.replaceChildren(...app.formats.map((suffix) => new Option(suffix, suffix)));
  const chosen = () => document.querySelector("#save-form [name=what]:checked").value;
  const propose = () => { path.value = `${stem}_${chosen()}${format.value}`; };
  propose();
  for (const control of [format, ...document.querySelectorAll("#save-form [name=what]")]) control.addEventListener("input", propose);
  byId("save-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = byId("save-said");
    byId("save-now").disabled = true;
    said.textContent = "saving …";
    try {
      while (app.outbox.items.length) await new Promise((done) => setTimeout(done, 50)); // what was painted belongs in it
      const { path: where } = await post("save", { what: chosen(), path: path.value, overwrite: byId("replace").checked });
      said.textContent = `Saved: ${where}`;
    } catch (error) {
      said.textContent = error.message;
    }
    byId("save-now").disabled = false;
  });
}

function connectMaking(app) {
  byId("make-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      showMaking(app, await post("densify", { minutes: Number(byId("minutes").value) }));
    } catch (error) {
      byId("made").hidden = false;
      byId("made-says").textContent = error.message;
    }
  });
  byId("make-stop").addEventListener("click", () => post("densify/stop", {}).catch((error) => { byId("made-says").textContent = error.message; }));
  byId("show-report").addEventListener("click", () => {
    byId("make-box").close();
    const box = byId("report-box");
    box.querySelector("iframe")?.remove();
    box.append(element("iframe", { src: "/report", title: "report" }));
    box.showModal();
  });
}

let timer = 0;
export function showMaking(app, { densify, report }) {
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const isMade = densify.ended === "made";
  const began = densify.seconds == null ? null : performance.now() - 1000 * densify.seconds;
  const show = () => {
    const gone = (performance.now() - began) / 1000;
    byId("made-share").value = Math.min(0.99, densify.share ?? gone / (60 * densify.minutes));
    byId("made-says").textContent = densify.what || "beginning";
    byId("make").textContent = `Making the volume, ${clock(gone)} …`;
  };
  clearInterval(timer);
  byId("made").hidden = !(densify.running || densify.ended);
  byId("made-share").hidden = !densify.running;
  byId("make-now").hidden = densify.running;
  byId("make-stop").hidden = !densify.running;
  byId("show-report").hidden = !(report || isMade);
  if (densify.running) {
    show();
    timer = setInterval(show, 1000);
    return;
  }
  byId("make").textContent = "Make the volume …";
  const said = { made: "The volume is made. The layer “result” shows it.", stopped: "Stopped." };
  byId("made-says").textContent = said[densify.ended] ?? densify.ended;
}
