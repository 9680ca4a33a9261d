// Ended episodes: a clip of each, and another label.
import { byId, element, icon, say, show } from "./dom.js";

const FIRST = 12, LABELS = ["success", "failure", "discard"];

export class History {
  // press(data): a promise of whether it was done.
  constructor(press, tell) {
    Object.assign(this, { press, tell, rows: new Map(), limit: FIRST, version: null, allowed: false, data: null });
    byId("more").onclick = () => { this.limit += 3 * FIRST; this.render(); };
  }

  async refresh(version) {
    if (version === this.version || this.busy) return this.data;
    this.busy = true;
    try {
      const answer = await fetch("/episodes", { cache: "no-store" });
      if (answer.ok) { this.data = await answer.json(); this.version = version; this.render(); }
    } catch { /* asked again with the next picture */ } finally { this.busy = false; }
    return this.data;
  }

  allow(allowed) {
    if (allowed === this.allowed) return;
    this.allowed = allowed;
    for (const row of this.rows.values()) for (const button of row.labels) button.setAttribute("aria-disabled", String(!allowed));
  }

  render() {
    const { episodes, total, problem } = this.data;
    say(byId("episodes-note"), problem || (total ? `${total} ended, newest first.` : "None has ended yet."));
    const chosen = episodes.slice(0, this.limit), list = byId("episodes");
    const kept = chosen.map((episode) => {
      const before = this.rows.get(episode.episode_id);
      const text = JSON.stringify(episode);
      if (before && before.text === text) return before;
      return this.row(episode, text, before);
    });
    this.rows = new Map(chosen.map((episode, i) => [episode.episode_id, kept[i]]));
    kept.forEach((row, i) => { if (list.children[i] !== row.item) list.insertBefore(row.item, list.children[i] ?? null); });
    while (list.children.length > kept.length) list.lastChild.remove();
    show(byId("more"), episodes.length > this.limit);
  }

  row(episode, text, before) {
    const id = episode.episode_id, below = before ? before.below : element("div", { class: "below", hidden: true });
    const play = element("button", { type: "button", "aria-expanded": String(!!(before && before.video)) }, "Clip");
    const relabel = element("button", { type: "button", "aria-expanded": "false" }, "Label");
    play.setAttribute("aria-label", `Clip of episode ${id}`);
    relabel.setAttribute("aria-label", `Another label for episode ${id}`);
    const changed = episode.recorded_label ? ` (was ${episode.recorded_label})` : "";
    const facts = [
      [episode.purpose, episode.driver].filter(Boolean).join(", "),
      episode.critical_steps ? `${episode.critical_steps} critical steps of ${episode.steps}` : `${episode.steps} steps`,
      new Date(episode.ended_s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
    ].map((fact) => element("span", {}, fact));
    if (episode.intervened) facts.push(element("span", {}, icon("human"), " a human took over"));
    if (episode.warning) facts.push(element("span", {}, "warning: " + episode.warning));
    const line = element("div", { class: "episode" },
      element("b", {}, "#" + id),
      element("span", { class: "badge " + (LABELS.includes(episode.label) ? episode.label : "timeout") },
        icon(LABELS.includes(episode.label) ? episode.label : "timeout"), element("span", {}, episode.label + changed)),
      element("span", { class: "what" }, ...facts),
      element("span", { class: "row" }, play, relabel));
    const item = before ? before.item : element("li");
    item.replaceChildren(line, below);
    const row = { item, below, text, video: before ? before.video : null, labels: [], choice: null };
    below.querySelectorAll(".row").forEach((node) => node.remove());
    play.onclick = () => this.clip(row, id, play);
    relabel.onclick = () => this.choose(row, episode, relabel);
    show(below, !!row.video);
    return row;
  }

  async clip(row, id, button) {
    if (row.video) {
      row.video.remove();
      row.video = null;
      button.setAttribute("aria-expanded", "false");
      show(row.below, !!row.choice);
      return;
    }
    const note = element("p", { class: "soft", role: "status" }, "making the clip …");
    row.video = note;
    row.below.append(note);
    show(row.below, true);
    button.setAttribute("aria-expanded", "true");
    let made;
    try {
      const answer = await fetch(`/clips/${id}`, { method: "POST" });
      made = await answer.json();
    } catch { made = { problem: "no answer from the page's node" }; }
    if (row.video !== note) return;  // closed meanwhile
    if (!made.url) { note.textContent = "No clip: " + made.problem; return; }
    const video = element("video", { controls: true, playsinline: true, loop: true, preload: "auto", "aria-label": `Clip of episode ${id}` });
    video.muted = true;
    video.src = made.url;
    note.replaceWith(video);
    row.video = video;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
  }

  choose(row, episode, button) {
    if (row.choice) {
      row.choice.remove();
      row.choice = null;
      row.labels = [];
      button.setAttribute("aria-expanded", "false");
      show(row.below, !!row.video);
      return;
    }
    row.labels = LABELS.filter((label) => label !== episode.label).map((label) => {
      const made = element("button", { type: "button", "aria-disabled": String(!this.allowed) }, `It was a ${label}`);
      made.setAttribute("aria-label", `Episode ${episode.episode_id} was a ${label}`);
      made.onclick = () => {
        if (!this.allowed) return this.tell("Refused: no label can be changed now.", "refused");
        this.press({ press: "relabel", episode_id: episode.episode_id, label, was: episode.label });
      };
      return made;
    });
    row.choice = element("div", { class: "row", role: "group", "aria-label": `Another label for episode ${episode.episode_id}` }, ...row.labels);
    row.below.prepend(row.choice);
    show(row.below, true);
    button.setAttribute("aria-expanded", "true");
    row.labels[0].focus();
  }
}
