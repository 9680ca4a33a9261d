// Live images: the page asks for the next ones when it has drawn the last, so a slow link gets fewer, never late ones.
import { byId, element, say, show } from "./dom.js";

const HEAD = 6, KINDS = ["image/png", "image/jpeg"], SILENT_MS = 5000, RETRY_MS = 1000, OLD_S = 2, TINY = 240;

export class Cameras {
  constructor() {
    this.figures = [];
    this.newest = 0;
    this.open();
    setInterval(() => this.age(), 500);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.ask(); });
  }

  open() {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/cameras");
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    const again = () => {
      if (socket !== this.socket) return;
      this.socket = null;
      clearTimeout(this.watchdog);
      socket.close();
      setTimeout(() => this.open(), RETRY_MS);
    };
    const alive = () => {
      clearTimeout(this.watchdog);
      this.watchdog = setTimeout(() => { if (document.hidden) alive(); else again(); }, SILENT_MS);
    };
    alive();
    socket.onclose = again;
    socket.onmessage = async (event) => {
      alive();
      if (typeof event.data === "string") this.name(JSON.parse(event.data).cameras);
      else if (event.data.byteLength) await this.draw(event.data);
      if (!document.hidden) this.ask();
    };
  }

  ask() {
    if (this.socket && this.socket.readyState === WebSocket.OPEN) this.socket.send("next");
  }

  name(names) {
    if (names.join() === this.figures.map((figure) => figure.name).join()) return;
    this.figures = names.map((name) => {
      const image = element("img", { alt: "camera " + name + ": no image yet" });
      return { name, image, box: element("figure", {}, image, element("figcaption", {}, name)) };
    });
    byId("cameras").replaceChildren(...this.figures.map((figure) => figure.box));
  }

  async draw(buffer) {
    const view = new DataView(buffer), drawn = [];
    for (let at = 0; at + HEAD <= buffer.byteLength;) {
      const [camera, kind, length] = [view.getUint8(at), view.getUint8(at + 1), view.getUint32(at + 2, true)];
      drawn.push(this.put(this.figures[camera], new Blob([new Uint8Array(buffer, at + HEAD, length)], { type: KINDS[kind] })));
      at += HEAD + length;
    }
    await Promise.all(drawn);
    this.newest = performance.now();
    this.age();
  }

  put(figure, blob) {
    if (!figure) return Promise.resolve();
    const url = URL.createObjectURL(blob), image = figure.image;
    return new Promise((done) => {
      const finish = () => { URL.revokeObjectURL(url); image.classList.toggle("tiny", image.naturalWidth < TINY); done(); };
      image.onload = finish;
      image.onerror = finish;
      image.alt = "camera " + figure.name + ", live";
      image.src = url;
    });
  }

  age() {
    const seconds = (performance.now() - this.newest) / 1000, old = this.newest === 0 || seconds > OLD_S;
    for (const figure of this.figures) figure.box.classList.toggle("old", old && document.body.dataset.moving !== "false");
    show(byId("no-image"), old);
    if (old) say(byId("no-image"), this.newest ? `No new image for ${Math.floor(seconds)} s.` : "No image yet.");
  }
}
