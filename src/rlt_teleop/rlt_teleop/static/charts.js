// The learning curve, drawn as SVG in the width that there is.
import { byId, fixed, percent, say, svg } from "./dom.js";

const HEIGHT = 190, LEFT = 44, RIGHT = 10, TOP = 10, BOTTOM = 24;

function frame(box, points, top, ticks) {
  const width = Math.max(260, box.clientWidth || 560);
  const x = (i) => LEFT + (points.length > 1 ? (i / (points.length - 1)) * (width - LEFT - RIGHT) : (width - LEFT - RIGHT) / 2);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const tick of ticks) {
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick.at), y2: y(tick.at) }));
    parts.push(svg("text", { x: LEFT - 8, y: y(tick.at) + 4, "text-anchor": "end" }, tick.text));
  }
  if (points.length) {
    parts.push(svg("text", { x: LEFT, y: HEIGHT - 4 }, "episode " + points[0].episode_id));
    const last = points[points.length - 1].episode_id;
    if (points.length > 1) parts.push(svg("text", { x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, String(last)));
  }
  return { width, x, y, parts };
}

function line(points, x, y, value) {
  let path = "", down = false;
  points.forEach((point, i) => {
    if (value(point) === null) { down = false; return; }
    path += `${down ? "L" : "M"}${x(i).toFixed(1)} ${y(value(point)).toFixed(1)}`;
    down = true;
  });
  return svg("path", { class: "curve", d: path });
}

function dot(won, cx, cy) {
  return svg("circle", { class: won ? "won" : "lost-dot", cx: cx.toFixed(1), cy: cy.toFixed(1), r: won ? 3 : 2.5 });
}

function put(id, { width, parts }, label) {
  byId(id).replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...parts));
}

export function drawCurve({ curve: points, window }) {
  const last = points[points.length - 1], over = `over the last ${window} episodes`;
  const success = frame(byId("chart-success"), points, 1, [0, 0.5, 1].map((at) => ({ at, text: percent(at) })));
  points.forEach((point, i) => success.parts.push(dot(point.success, success.x(i), success.y(point.success ? 1 : 0))));
  success.parts.push(line(points, success.x, success.y, (point) => point.rate));
  put("chart-success", success, last ? `Success rate ${over}: ${percent(last.rate)}, after ${points.length} episodes` : "No episode yet");
  say(byId("caption-success"), last ? `Success rate ${over}. Filled dots: successes; rings: the others.` : "Success rate: no episode yet.");

  const most = Math.max(50, ...points.map((point) => point.steps)), step = nice(most / 3);
  const ticks = [];
  for (let at = 0; at <= most; at += step) ticks.push({ at, text: String(at) });
  const steps = frame(byId("chart-steps"), points, most * 1.05, ticks);
  points.forEach((point, i) => steps.parts.push(dot(point.success, steps.x(i), steps.y(point.steps))));
  steps.parts.push(line(points, steps.x, steps.y, (point) => point.median));
  put("chart-steps", steps, last ? `Steps per episode; median of successes ${over}: ${fixed(last.median, 0)}` : "No episode yet");
  say(byId("caption-steps"), last ? `Control steps per episode; line: median of successes ${over}.` : "Steps per episode: none yet.");
}

function nice(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough);
}
