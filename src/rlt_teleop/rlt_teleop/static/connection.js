// The WebSocket to the node: comes back by itself, and notices when the node falls silent.
const SILENT_MS = 3000, RETRY_MS = [200, 500, 1000, 2000];

const address = (path) => location.origin.replace(/^http/, "ws") + path;

export class Connection {
  constructor({ onState, onLink, hello }) {
    Object.assign(this, { onState, onLink, hello });
    this.number = 0;
    this.answers = new Map();
    this.tries = 0;
    this.live = false;
    this.open();
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.retry(); });
  }

  open() {
    clearTimeout(this.timer);
    const socket = new WebSocket(address("/state"));
    this.socket = socket;
    this.watch();
    socket.onopen = () => { if (socket === this.socket) this.hello(); };
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.tries = 0;
      const data = JSON.parse(event.data);
      if (data.state) {
        this.watch();
        this.link(true);
        this.onState(data);
      } else {
        const answer = this.answers.get(data.answer);
        this.answers.delete(data.answer);
        if (answer) answer(data);
      }
    };
    socket.onclose = () => { if (socket === this.socket) this.lost(); };
  }

  watch() {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.lost(), SILENT_MS);
  }

  lost() {
    clearTimeout(this.watchdog);
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    if (socket) socket.close();
    this.link(false);
    for (const answer of this.answers.values()) answer(null);
    this.answers.clear();
    this.timer = setTimeout(() => this.check(), RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)]);
  }

  // A cookie that is no longer good shows as 401: the page is then loaded again, with the form for the token.
  async check() {
    try {
      const answer = await fetch("/episodes", { cache: "no-store", signal: AbortSignal.timeout(SILENT_MS) });
      if (answer.status === 401) return location.reload();
    } catch { /* not there yet */ }
    if (!this.socket) this.open();  // retry() may have, meanwhile
  }

  retry() {
    if (!this.live && !this.socket) { this.tries = 0; this.open(); }
  }

  link(live) {
    if (live !== this.live || !live) { this.live = live; this.onLink(live); }
  }

  send(data) {
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(data));
    return true;
  }

  // The node's answer {done, text}; null when the connection went or nothing came in time.
  ask(data, ms) {
    return new Promise((resolve) => {
      const number = ++this.number;
      const timer = setTimeout(() => { this.answers.delete(number); resolve(null); }, ms);
      this.answers.set(number, (answer) => { clearTimeout(timer); resolve(answer); });
      if (!this.send({ ...data, number })) { this.answers.delete(number); clearTimeout(timer); resolve(null); }
    });
  }
}
