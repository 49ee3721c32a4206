// The panel beside the image: what answered, what the time went into, what was found; or the problem.

import {classColor} from "./picture.js";

const STAGES = [["read", "#8aa0a8"], ["decode", "#d79a2b"], ["queue", "#b5483a"], ["engine", "#0a9a90"]];
const $ = (id) => document.getElementById(id);
const ms = (value) => value.toFixed(1) + " ms";

export function node(tag, text, style) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (style) made.style.cssText = style;
  return made;
}

// Name, color and milliseconds of what the time went into: stages or, without any, exit after exit.
function spentOn(answers, points, serverTiming) {
  if (!serverTiming)
    return answers.map((answer, i) => [
      points.several ? points.name(answer.operating_point) + points.unit : `Exit ${answer.exit_depth}`,
      points.color(answer.expected_ap),
      answer.elapsed_ms - (answers[i - 1]?.elapsed_ms ?? 0)]);
  const spent = Object.fromEntries(serverTiming.split(", ").map((entry) => {
    const [name, duration] = entry.split(";");
    return [name, Number(duration.replace("dur=", ""))];
  }));
  return STAGES.map(([name, paint]) => [name[0].toUpperCase() + name.slice(1), paint, spent[name]]);
}

// Show `reply`, one of the `answers` to an image. `done` says that no better one will come, `choose` is
// called with another of them that somebody wants to see.
export function showReply({reply, answers, points, maxDepth, done, serverTiming, choose}) {
  const latest = answers.at(-1);
  const shown = reply.operating_point.split("+"); // of a merged answer, all that it is of
  $("exits").replaceChildren(...points.all.map(({point, depth, text}) => {
    const reached = shown.includes(point);
    const other = !reached && answers.find((each) => each.operating_point.split("+").includes(point));
    const box = node(other ? "button" : "span", text);
    box.className = reached ? "reached" : depth > maxDepth ? "barred" : "";
    box.ariaCurrent = reached ? "true" : null;
    if (other) box.onclick = () => choose(other);
    return box;
  }));
  $("expected").textContent =
    (points.several ? `${points.name(reply.operating_point)}${points.unit}, expected` : "Expected") +
    ` ${points.measure} ${reply.expected_ap.toFixed(3)}` +
    (!reply.degraded ? "" : done && reply === latest ? ", degraded to be on time" : ", on the way");
  const spent = spentOn(answers, points, serverTiming);
  $("bar").replaceChildren(...spent.map(([, paint, time]) =>
    node("i", "", `background:${paint};width:${100 * time / reply.budget_ms}%`)));
  $("timing").replaceChildren(...spent.flatMap(([name, paint, time]) => [term(name, paint), node("dd", ms(time))]),
    node("dt", "Total"), node("dd", `${latest.elapsed_ms.toFixed(1)} of ${reply.budget_ms} ms`));
  const counts = new Map();
  for (const {label, class_id} of reply.detections)
    counts.set(class_id, {label, count: (counts.get(class_id)?.count ?? 0) + 1});
  const found = [...counts].flatMap(([id, {label, count}]) => [term(label, classColor(id)), node("dd", count)]);
  $("classes").replaceChildren(...(found.length ? found : [node("dt", "Nothing")]));
  $("result").hidden = false;
}

export function term(name, paint) {
  const made = node("dt", name);
  made.prepend(node("i", "", `background:${paint}`));
  return made;
}

// Show a problem; `allow` is called with the smallest budget that would do, if it names one. Null hides it.
export function showProblem(problem, allow) {
  $("problem").hidden = !problem;
  if (!problem) return;
  $("problem-title").textContent = problem.status ? `${problem.title} (${problem.status})` : problem.title;
  $("problem-detail").textContent = problem.detail + (problem.reason ? ` [${problem.reason}]` : "");
  const suggested = problem.min_budget_ms;
  $("allow").hidden = !suggested;
  $("allow").textContent = `Allow ${suggested} ms`;
  $("allow").onclick = () => allow(suggested);
}
