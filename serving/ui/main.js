// The page: one image or a camera, what the server answers, and a crowd of others beside it.

import {Camera} from "./camera.js";
import {Crowd} from "./crowd.js";
import {FixedPoint} from "./fixed.js";
import {node, showProblem, showReply} from "./panel.js";
import {drawBoxes, upright} from "./picture.js";
import {Points} from "./points.js";
import {ask, json, lines, useKey} from "./server.js";
import {FrameStream} from "./stream.js";
import {Lane} from "./timeline.js";

const $ = (id) => document.getElementById(id);
const MIN_MS = 2, MAX_MS = 2000;
const FRAME_MS = 66; // least time between two pictures of the camera
const AGAIN_MS = 400; // while there are others, how often one's own image is asked about again
const DRAW_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 50;
const LEARN_MS = 5000; // while there are others, how often what the points take is learnt anew
const SPEAK_MS = 6000; // how often what the charts show is said

const state = {
  points: null,
  file: null, picture: null, running: false, again: false,
  answers: [], // what has come for the present image: one, or one of each exit
  reply: null, // the one of them that is shown
  serverTiming: null,
  maxDepth: 1, // what they were asked for with
  done: false, // whether there will be no deeper one
  problem: null,
  budgetChosen: false, // whether somebody has moved that slider
  camera: null, stream: null,
};

// ---- what is asked -------------------------------------------------------------------------------

// The slider is logarithmic: milliseconds matter at its left end, not at its right one. Rounded up, so that
// a budget that was set is not cut.
const budgetMs = () => {
  const exact = MIN_MS * (MAX_MS / MIN_MS) ** ($("budget").value / 100);
  return exact < 20 ? Math.ceil(exact * 2 - 1e-6) / 2 : Math.ceil(exact - 1e-6);
};
const setBudget = (ms) => {
  const position = 100 * Math.log(ms / MIN_MS) / Math.log(MAX_MS / MIN_MS);
  $("budget").value = Math.min(100, Math.ceil(position));
};
const query = () =>
  new URLSearchParams({max_depth: $("depth").value, score_threshold: $("score").value});

function labels() {
  $("budget-out").textContent = budgetMs() + " ms";
  $("depth-out").textContent = $("depth").value;
  $("score-out").textContent = Number($("score").value).toFixed(2);
  $("others-out").textContent = $("others").value;
}

async function connect() {
  const response = await ask("v1/models");
  const known = await json(response);
  if (response.status === 401) $("access").open = true;
  if (!known.models) throw new Error(known.detail ?? `v1/models: ${response.status}`);
  const points = state.points = new Points(known);
  $("model").textContent = points.summary;
  $("reached").textContent = points.several ? "Operating point reached" : "Exit reached";
  // In this order: a value above its input's maximum is cut to it.
  $("depth").max = points.maxDepth;
  $("depth").value = $("depth").max;
  $("depth").hidden = $("depth-label").hidden = $("depth").max === "1";
  $("score").min = points.minScore;
  // Enough for the deepest exit, with room.
  if (points.neededMs && !state.budgetChosen) setBudget(2 * points.neededMs);
  $("fixed").replaceChildren(...points.all.map(({point}) => {
    const option = node("option", points.name(point));
    option.value = point;
    option.selected = point === points.best.point;
    return option;
  }));
  $("scale").style.background = `linear-gradient(to right, ${[0, .25, .5, .75, 1].map((share) =>
    points.color(points.lowest + share * (points.highest - points.lowest))).join()})`;
  labels();
}

// ---- one image -----------------------------------------------------------------------------------

function draw() {
  $("hint").hidden = true;
  $("canvas").hidden = false;
  drawBoxes($("canvas"), state.picture, state.reply);
  $("canvas").ariaLabel = !state.reply ? "The image" :
    `The image with ${state.reply.detections.length} boxes`;
}

function show(reply) {
  state.reply = reply;
  const {answers, points, maxDepth, done, serverTiming} = state;
  showReply({reply, answers, points, maxDepth, done, serverTiming, choose: (other) => { show(other); draw(); }});
}

function tell(problem) {
  state.problem = problem;
  showProblem(problem, (enough) => { setBudget(enough); changed(); });
}

async function askOnce() {
  if (!state.points) await connect(); // it may have failed when the page was opened
  const streaming = $("streaming").checked, sentMs = performance.now(), budget = budgetMs();
  Object.assign(state, {
    answers: [], reply: null, maxDepth: Number($("depth").value), done: !streaming, problem: null,
  });
  const response = await ask(`v1/detect?${query()}`, {
    method: "POST", body: state.file,
    headers: {
      "Accept": streaming ? "application/x-ndjson" : "application/json",
      "Content-Type": state.file.type, "X-Deadline-Ms": budget,
    },
  });
  state.serverTiming = streaming ? null : response.headers.get("Server-Timing");
  let problem = response.ok ? null : await json(response);
  if (!problem)
    for await (const reply of streaming ? lines(response.body) : [await json(response)]) {
      if (reply.event === "error" || reply.title) problem = reply;
      if (problem) break;
      state.done ||= reply.event === "done";
      if (reply.event !== "done") state.answers.push(reply);
      show(state.answers.at(-1));
      draw();
    }
  if (problem) tell(problem);
  record(sentMs, budget, state.answers.at(-1) ?? problem ?? {}, true);
}

// One request at a time; the sliders' last position always gets its own.
async function detect() {
  labels();
  if (!state.file || state.camera) return;
  state.again = state.running;
  if (state.running) return;
  state.running = true;
  try {
    await askOnce();
  } catch (error) {
    tell({title: "The server did not answer", detail: String(error)});
  }
  state.running = false;
  if (state.camera) return; // which has begun meanwhile
  $("result").hidden = !state.reply;
  showProblem(state.problem, (enough) => { setBudget(enough); changed(); });
  draw();
  if (state.again) detect();
}

async function choose(file) {
  if (!file) return;
  closeCamera();
  let picture;
  try {
    picture = await upright(file);
  } catch {
    tell({title: "Not an image", detail: `This browser cannot show ${file.name}.`});
    return;
  }
  Object.assign(state, {file, picture, answers: [], reply: null});
  draw();
  detect();
}

async function chooseSample(button) {
  for (const each of $("samples").children) each.ariaPressed = each === button;
  const image = button.firstElementChild;
  const response = await fetch(image.src);
  choose(new File([await response.blob()], image.alt, {type: "image/jpeg"}));
}

// ---- a camera ------------------------------------------------------------------------------------

async function openCamera() {
  try {
    if (!state.points) await connect();
    state.camera = await Camera.open();
  } catch (error) {
    tell({title: "No camera", detail: error.message});
    return;
  }
  tell(null);
  $("camera").ariaPressed = true;
  $("camera-text").textContent = "Stop";
  hush();
  for (const each of $("samples").children) each.ariaPressed = false;
  state.stream = openStream(`${crowd.name}-camera`);
  film(state.camera, state.stream);
}

function closeCamera() {
  if (!state.camera) return;
  state.camera.close();
  state.stream.close();
  Object.assign(state, {camera: null, stream: null});
  $("camera").ariaPressed = false;
  $("camera-text").textContent = "Camera";
  hush();
}

// What changes several times a second is not read out; the charts say in a sentence what it amounts to.
function hush() {
  const often = crowd.size > 0 || state.camera !== null;
  $("result").ariaLive = often ? "off" : "polite";
  $("problem").ariaLive = often ? "off" : "assertive";
}

// Send picture after picture for as long as this camera is the one that is open.
async function film(camera, stream) {
  for (let sentMs = -FRAME_MS; state.camera === camera;) {
    const early = sentMs + FRAME_MS - performance.now();
    if (early > 0 || !stream.ready) {
      await new Promise((resolve) => { setTimeout(resolve, Math.max(early, 20)); });
      continue;
    }
    sentMs = performance.now();
    const budget = budgetMs();
    const {picture, file} = await camera.frame();
    if (state.camera !== camera || !stream.ready) continue;
    const reply = await stream.send(file);
    if (state.camera !== camera) return;
    const answered = reply.outcome === "answered";
    record(sentMs, budget, reply, true);
    state.picture = picture;
    Object.assign(state, {
      answers: answered ? [reply] : [], maxDepth: Number($("depth").value), done: true, serverTiming: null,
    });
    if (answered) show(reply);
    tell(answered ? null : reply.title ? reply : {title: "Not answered", detail: reply.outcome});
    state.reply = answered ? reply : null;
    draw();
  }
}

// ---- others --------------------------------------------------------------------------------------

const openStream = (name) => new FrameStream(name, budgetMs(), query(), (words) => {
  closeCamera();
  $("others").value = 0;
  resizeCrowd();
  tell({title: "The stream of pictures has ended", detail: words});
});

const crowd = new Crowd({
  open: openStream,
  ended: (sentMs, reply) => record(sentMs, budgetMs(), reply, false),
});
let crowdFile = null;

async function resizeCrowd() {
  labels();
  const wanted = () => document.hidden ? 0 : Number($("others").value);
  try {
    if (wanted() && !state.points) await connect();
    if (wanted() && !crowdFile) crowdFile = await (await fetch($("samples").querySelector("img").src)).blob();
  } catch (error) {
    $("others").value = 0;
    tell({title: "The server did not answer", detail: String(error)});
  }
  crowd.resize(wanted(), crowdFile);
  hush();
  wake();
}

// While others are there, one's own image is asked about again and again, to see what becomes of it.
setInterval(() => {
  if (crowd.size && !state.running) detect();
}, AGAIN_MS);

// A busy machine is a slower one, and the server follows it.
setInterval(async () => {
  if (!crowd.size) return;
  const response = await ask("v1/models").catch(() => null);
  if (response?.ok) state.points = new Points(await json(response));
}, LEARN_MS);

// ---- the charts ----------------------------------------------------------------------------------

const served = new Lane($("lane-served"), $("figures-served"));
const fixed = new Lane($("lane-fixed"), $("figures-fixed"));
let fixedPoint = new FixedPoint();

// Of pictures that nobody needs any longer: a newer one has come, or the stream is over.
const GONE = ["superseded", "lost"];

// Note what one picture ended with.
function record(atMs, budget, reply, own) {
  if (GONE.includes(reply.outcome)) return;
  const {points} = state;
  served.add(reply.detections
    ? {atMs, own, share: reply.elapsed_ms / reply.budget_ms, ap: reply.expected_ap, point: reply.operating_point}
    : {atMs, own, share: null, ap: 0, point: null});
  const point = points.all.find((each) => each.point === $("fixed").value);
  if (point.ms !== null)
    fixed.add({
      atMs, own, share: fixedPoint.arrive(atMs, budget, point),
      ap: point.ap, point: point.point,
    });
  wake();
}

function figures(lane, nowMs) {
  const now = lane.summary(nowMs);
  const shown = [
    ["in time", now && `${Math.floor(100 * now.inTime)} %`, now?.inTime < .99],
    [`${state.points?.measure ?? "AP"}, missed as 0`, now?.ap.toFixed(3).replace(/^0/, "")],
    ["answers / s", now?.rate.toFixed(now.rate < 10 ? 1 : 0)],
    ["most often at", now?.point && state.points.name(now.point)],
  ];
  lane.figures.replaceChildren(...shown.map(([name, value, bad]) => {
    const pair = node("div", ""), data = node("dd", value ?? "\u2013");
    data.className = bad ? "bad" : "";
    pair.append(node("dt", name), data);
    return pair;
  }));
  return now;
}

let awake = false, drawnMs = 0, spokenMs = 0;

function wake() {
  if (awake) return;
  awake = true;
  requestAnimationFrame(drawLanes);
}

function drawLanes() {
  const nowMs = performance.now();
  if (nowMs - drawnMs >= DRAW_MS && state.points) {
    drawnMs = nowMs;
    served.draw(nowMs, state.points);
    fixed.draw(nowMs, state.points);
    const [real, computed] = [figures(served, nowMs), figures(fixed, nowMs)];
    if (crowd.size && real && computed && nowMs - spokenMs > SPEAK_MS) {
      spokenMs = nowMs;
      const percent = ({inTime}) => `${Math.floor(100 * inTime)} percent in time`;
      $("spoken").textContent = `Punctual: ${percent(real)}. At one point: ${percent(computed)}.`;
    }
  }
  awake = !served.isEmpty(nowMs);
  if (awake) requestAnimationFrame(drawLanes);
}

// ---- events --------------------------------------------------------------------------------------

function changed() {
  labels();
  state.stream?.allow(budgetMs());
  crowd.allow(budgetMs());
  detect();
}

$("file").addEventListener("change", (event) => choose(event.target.files[0]));
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  $("stage").addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", over);
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
for (const button of $("samples").children) button.addEventListener("click", () => chooseSample(button));
$("camera").addEventListener("click", () => state.camera ? closeCamera() : openCamera());
$("budget").addEventListener("input", () => { state.budgetChosen = true; });
for (const id of ["budget", "depth", "score", "streaming"]) $(id).addEventListener("input", changed);
$("others").addEventListener("input", resizeCrowd);
$("fixed").addEventListener("input", () => {
  fixedPoint = new FixedPoint();
  fixed.clear();
});
$("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("access").open = false;
  start();
});
document.addEventListener("visibilitychange", resizeCrowd); // nobody looks: nobody else need wait
addEventListener("resize", wake);

function start() {
  connect().then(detect, (error) => { $("model").textContent = `not connected: ${error.message}`; });
}
labels();
figures(served, 0);
figures(fixed, 0);
start();
