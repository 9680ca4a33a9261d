// The operator page. One picture comes in (page_state.py), presses go out with the state they were made in.
import { Cameras } from "./cameras.js";
import { drawCurve } from "./charts.js";
import { Connection } from "./connection.js";
import { byId, element, fixed, icon, percent, remembered, say, show, words } from "./dom.js";
import { History } from "./history.js";

const TITLES = { next_episode: "Next episode", handoff: "Hand off", success: "Success", failure: "Failure", discard: "Discard", undo: "Undo" };
const KEYS = { Enter: "next_episode", h: "handoff", y: "success", n: "failure", x: "discard", z: "undo" };
const SHORTCUT = Object.fromEntries(Object.entries(KEYS).map(([key, name]) => [name, key]));
const PHASES = { IDLE: "Idle", RESETTING: "Resetting", BASE: "Base", CRITICAL: "Critical", LABELLED: "Labelled", ESTOP: "Emergency stop" };
const CONFIRMED = { pending: "not written yet", done: "written", lost: "lost: no whole file came of it" };
const ANSWER_MS = 12000, STOP_AGAIN_MS = 700, STOP_POST_MS = 2500;

let state = null, live = false, resetSeen = null, said = "", drawnFor = null;
const buttons = {};

// ---- words

function tell(text, level = "ok") {
  byId("said").dataset.level = level;
  say(byId("said"), text.replace(/^Refused: /, ""));
  const region = byId(level === "ok" ? "announce" : "alarm");
  region.textContent = "";
  region.textContent = level === "refused" && !text.startsWith("Refused") ? "Refused: " + text : text;
}

function announce(text) {
  if (text !== said) { said = text; byId("announce").textContent = text; }
}

// ---- presses

async function press(data) {
  if (!live || !state) { tell("the connection is lost: this button did nothing", "refused"); return false; }
  const answer = await connection.ask({ seen: state.seen, ...data }, ANSWER_MS);
  if (answer) tell(answer.text, answer.done ? "ok" : "refused");
  else tell(`no answer to ${words(data.press)}: look at the state before you press again`, "refused");
  return !!(answer && answer.done);
}

function decide(name) {
  if (buttons[name].getAttribute("aria-disabled") === "true") {
    tell(live ? `${words(name)} is not possible now` : "the connection is lost: this button did nothing", "refused");
    return;
  }
  press({ press: name });
}

// By the WebSocket, and where no answer comes at once by a request of its own.
async function stop() {
  byId("alarm").textContent = "Emergency stop sent";
  const asked = connection.ask({ press: "estop" }, ANSWER_MS);
  const soon = new Promise((resolve) => setTimeout(() => resolve("late"), STOP_AGAIN_MS));
  let answer = await Promise.race([asked, soon]);
  if (answer === "late" || !answer || !answer.done) {
    const who = encodeURIComponent(byId("name").value);
    const posted = fetch(`/estop?who=${who}`, { method: "POST", signal: AbortSignal.timeout(STOP_POST_MS) })
      .then((reply) => (reply.ok ? reply.json() : null)).catch(() => null);
    answer = (await posted) ?? (answer === "late" ? await Promise.race([asked, null]) : answer);
  }
  if (answer && answer.done) tell(answer.text);
  else tell((answer && answer.text ? answer.text + ". " : "") + "NOBODY HAS CONFIRMED THE EMERGENCY STOP: use the pad, or the switch at the robot", "refused");
}

// ---- the picture

function render() {
  const stopped = state.estop, phase = stopped ? "ESTOP" : state.phase;
  document.body.dataset.phase = phase;
  document.body.dataset.estop = String(stopped);
  document.body.dataset.moving = String(state.moving);
  say(byId("task"), state.task);
  say(byId("phase"), PHASES[phase] ?? "Not known");
  say(byId("driver"), drives(stopped));
  document.title = `${PHASES[phase] ?? "?"} · episode ${state.episode_id} · RLT`;
  for (const step of byId("steps").children) {
    if (step.dataset.phase === state.phase) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  }
  const label = state.label ? ` · ${state.label}, ${CONFIRMED[state.confirmation] ?? state.confirmation}` : "";
  say(byId("facts"), state.episode_id ? `episode ${state.episode_id} · ${state.purpose} · step ${state.step}${label}` : "no episode yet");
  say(byId("reason"), state.reason);
  show(byId("hold"), !!state.hold_reason && state.moving && !stopped);
  say(byId("hold"), "holds: " + state.hold_reason);
  show(byId("silent"), state.silent.length > 0);
  say(byId("silent"), `No word from ${state.silent.map(words).join(" and ")}: what is shown here may be old.`);
  show(byId("recorder"), !!state.recorder_error);
  say(byId("recorder"), "recorder: " + state.recorder_error);
  waiting();
  reset(stopped);
  for (const button of state.buttons) {
    const node = buttons[button.name];
    node.setAttribute("aria-disabled", String(!(live && button.enabled)));
    const small = node.querySelector("small");
    say(small, button.text);
    show(small, button.text !== words(button.name));
  }
  const enable = state.pad.enable;
  say(byId("pad"), enable && state.moving ? `To take over: ${enable}.` : "");
  training();
  advice();
  health();
  log();
  announce(`${PHASES[phase] ?? ""}, ${state.moving ? state.driver : ""} episode ${state.episode_id}${stopped ? ": " + state.reason : ""}. ${state.waiting_for ? "Waits for you: " + state.waiting_for : ""}`);
}

function drives(stopped) {
  if (!state.phase || state.silent.length) return "Who drives is not known.";
  if (stopped) return "Nobody drives: the arms hold.";
  if (!state.moving) return "Nobody drives.";
  if (state.driver.includes(":")) return state.driver[0].toUpperCase() + state.driver.slice(1);
  return state.driver === "human" ? "A human drives." : `${state.driver} drives.`;
}

function waiting() {
  const box = byId("waiting");
  show(box, !!state.waiting_for && !(state.estop && state.can_reset));  // that says how to release it
  const text = "Waits for you: " + state.waiting_for;
  const reminded = state.reminders ? `reminded ${state.reminders} ${state.reminders === 1 ? "time" : "times"}` : "";
  if (box.dataset.text === text + reminded) return;
  box.dataset.text = text + reminded;
  box.replaceChildren(text, reminded ? element("small", {}, reminded) : "");
}

function reset(stopped) {
  show(byId("latched"), stopped);
  byId("reset-open").setAttribute("aria-disabled", String(!(live && state.can_reset)));
  const again = stopped && resetSeen && resetSeen.stops !== state.seen.stops;
  if (again) tell("another emergency stop came in: look at the arms again", "refused");
  if (again || (resetSeen && !stopped)) closeReset();
  const ready = live && resetSeen && byId("reset-looked").checked && state.can_reset;
  byId("reset-do").setAttribute("aria-disabled", String(!ready));
}

function closeReset() {
  resetSeen = null;
  byId("reset-looked").checked = false;
  show(byId("reset-panel"), false);
  show(byId("reset-open"), true);
  byId("reset-open").setAttribute("aria-expanded", "false");
}

function training() {
  const learner = state.training, curve = history.data ? history.data.curve : [], last = curve[curve.length - 1];
  const tiles = [
    [String(state.episodes), "episodes that count", Object.entries(state.labels).map(([name, count]) => `${count} ${name}`).join(", ")],
    [percent(last ? last.rate : state.success_rate), "success, latest 20", `${percent(state.success_rate)} of all`],
    [last ? fixed(last.throughput, 1) : "–", "successes per 10 min", "of robot time, latest 20"],
    [percent(state.intervention_rate), "with a human's hand", ""],
  ];
  const text = JSON.stringify(tiles);
  if (byId("tiles").dataset.text !== text) {
    byId("tiles").dataset.text = text;
    byId("tiles").replaceChildren(...tiles.map(([figure, name, more]) =>
      element("div", { class: "tile" }, element("b", {}, figure), element("span", {}, name), more ? element("span", {}, more) : null)));
  }
  say(byId("training"), !learner ? "No word from the learner." :
    `${learner.stage}${learner.busy ? ", at work" : ""}; actor version ${learner.actor_version}${learner.ready ? "" : ", may not drive yet"}; ` +
    `${learner.updates} updates, ${Math.round(learner.update_debt)} owed; Q ${fixed(learner.q_mean, 2)}; ` +
    `|π − reference| ${fixed(learner.reference_distance, 2)} spreads${learner.message ? "; " + learner.message : ""}`);
}

function advice() {
  const list = byId("advice"), text = JSON.stringify(state.advice);
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  show(list, state.advice.length > 0);
  list.replaceChildren(...state.advice.map((told) => element("li", { class: told.warning ? "warning" : undefined },
    element("b", {}, (told.warning ? "Warning: " : "") + told.text), element("span", {}, told.why))));
}

const SHAPES = { ok: "ok", warn: "warn", error: "error", silent: "error" };

function health() {
  const text = JSON.stringify([state.health, state.drops]);
  if (byId("health").dataset.text === text) return;
  byId("health").dataset.text = text;
  const bad = state.health.filter((node) => !["ok", "unheard"].includes(node.level));
  say(byId("health-sum"), bad.length ? `· ${bad.length} not well` : "· all well");
  const heard = state.health.filter((node) => node.level !== "unheard");
  const unheard = state.health.filter((node) => node.level === "unheard").map((node) => node.name.split("/").pop());
  show(byId("unheard"), unheard.length > 0);
  say(byId("unheard"), "Not seen so far: " + unheard.join(", "));
  byId("health").replaceChildren(...heard.map((node) => element("li", { class: node.level }, icon(SHAPES[node.level]),
    element("div", {}, element("b", {}, node.name.split("/").pop()), ` ${node.level}`, element("span", {}, node.message)))));
  const drops = Object.entries(state.drops);
  show(byId("drops-box"), drops.length > 0);
  byId("drops").replaceChildren(...drops.map(([name, count]) => element("li", {}, `${count} ${name}`)));
}

function log() {
  const text = JSON.stringify(state.log);
  if (byId("log").dataset.text === text) return;
  byId("log").dataset.text = text;
  const lines = state.log.slice().reverse().map((line) => {
    const at = new Date(line.time_s * 1000);
    return element("li", {}, element("time", { datetime: at.toISOString() }, at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" })),
      element("span", { class: line.level }, element("b", {}, line.who), ": " + line.text));
  });
  byId("log").replaceChildren(...(lines.length ? lines : [element("li", {}, element("span", { class: "soft" }, "nothing yet"))]));
}

async function curve(version) {
  const data = await history.refresh(version);
  if (data && drawnFor !== data) { drawnFor = data; drawCurve(data); training(); }
}

// ---- what a person does

for (const [name, title] of Object.entries(TITLES)) {
  const key = SHORTCUT[name];
  buttons[name] = element("button", { type: "button", "data-name": name, class: name === "next_episode" ? "main" : name === "handoff" ? "wide-one" : undefined, "aria-disabled": "true", "aria-keyshortcuts": key },
    icon(name), element("span", {}, title), element("kbd", { "aria-hidden": "true" }, key), element("small"));
  buttons[name].onclick = () => decide(name);
  byId("buttons").append(buttons[name]);
}
byId("estop").onclick = stop;
byId("reset-open").onclick = () => {
  if (byId("reset-open").getAttribute("aria-disabled") === "true") return;
  resetSeen = state.seen;
  show(byId("reset-panel"), true);
  show(byId("reset-open"), false);
  byId("reset-open").setAttribute("aria-expanded", "true");
  byId("reset-looked").focus();
};
byId("reset-looked").onchange = () => reset(state.estop);
byId("reset-cancel").onclick = () => { closeReset(); byId("reset-open").focus(); };
byId("reset-do").onclick = () => {
  if (byId("reset-do").getAttribute("aria-disabled") === "true") { tell("first say that you have looked at the arms", "refused"); return; }
  press({ press: "reset_estop", seen: resetSeen, confirmed: true });
};

addEventListener("keydown", (event) => {
  if (event.key === "Escape") { event.preventDefault(); if (!event.repeat) stop(); return; }
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || !byId("keys").checked) return;
  const at = event.target;
  if (at.closest("input:not([type=checkbox]), select, textarea, video") || (event.key === "Enter" && at.closest("button, a"))) return;
  const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (name) { event.preventDefault(); decide(name); }
});
byId("keys").checked = remembered.get("rlt-keys", "on") === "on";
byId("keys").onchange = () => remembered.set("rlt-keys", byId("keys").checked ? "on" : "off");
byId("name").value = remembered.get("rlt-name", "");
byId("name").onchange = () => { remembered.set("rlt-name", byId("name").value); hello(); };

// ---- start

function hello() {
  connection.send({ name: byId("name").value });
}

const history = new History(press, tell);
const connection = new Connection({
  hello: () => hello(),
  onState(data) {
    state = data.state;
    byId("name").placeholder = data.you;
    say(byId("pages"), data.pages === 1 ? "Nobody else has the page open." : `${data.pages} pages are open.`);
    render();
    history.allow(live && state.can_relabel);
    curve(state.history);
  },
  onLink(now) {
    live = now;
    document.body.dataset.link = now ? "live" : "lost";
    say(byId("link"), now ? "live" : "connection lost");
    show(byId("lost"), !now);
    say(byId("lost"), now ? "" : "Connection lost: buttons do nothing, and what you see is old. Trying again …");
    if (now) { drawnFor = null; history.version = null; }
    history.allow(now && !!state && state.can_relabel);
    if (state) render();
  },
});
new Cameras();
addEventListener("resize", () => { if (history.data) drawCurve(history.data); });
