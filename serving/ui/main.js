// The page: one image or a camera, what the server answers, and a crowd of others beside it.

import {Camera} from "./camera.js";
import {Charts} from "./charts.js";
import {Crowd} from "./crowd.js";
import {showProblem, showReply} from "./panel.js";
import {drawBoxes, upright} from "./picture.js";
import {Points} from "./points.js";
import {Unanswered, ask, json, lines, useKey} from "./server.js";
import {FrameStream} from "./stream.js";

const $ = (id) => document.getElementById(id);
const MIN_MS = 2, MAX_MS = 2000;
// Whatever a file is called, the server looks at it; of a name that nobody may send it would say just that.
const SERVED = ["image/jpeg", "image/png", "image/webp"];
const FRAME_MS = 66; // least time between two pictures of the camera
const AGAIN_MS = 400; // while there are others, how often one's own image is asked about again
const LEARN_MS = 5000; // while there are others, how often what the points take is learnt anew
const RETURN_MS = 3000; // while nobody answers, how often the server is looked for

const state = {
  points: null,
  away: false, // whether nobody has answered the last time
  file: null, picture: null, running: false, again: false,
  answers: [], // what has come for the present image: one, or one of each exit
  reply: null, // the one of them that is shown
  serverTiming: null,
  maxDepth: 1, // what they were asked for with
  done: false, // whether there will be no deeper one
  problem: null,
  budgetChosen: false, // whether somebody has moved that slider
  maxMs: MAX_MS, // the budget at its right end: more, where the server asks for more
  camera: null, stream: null,
};

// ---- what is asked -------------------------------------------------------------------------------

// The slider is logarithmic: milliseconds matter at its left end, not at its right one. Rounded up, so that
// a budget that was set is not cut.
const budgetMs = () => {
  const exact = MIN_MS * (state.maxMs / MIN_MS) ** ($("budget").value / 100);
  return exact < 20 ? Math.ceil(exact * 2 - 1e-6) / 2 : Math.ceil(exact - 1e-6);
};
const setBudget = (ms) => {
  state.maxMs = Math.max(state.maxMs, ms);
  const position = 100 * Math.log(ms / MIN_MS) / Math.log(state.maxMs / MIN_MS);
  $("budget").value = Math.min(100, Math.ceil(position - 1e-9));
};
const query = () =>
  new URLSearchParams({max_depth: $("depth").value, score_threshold: $("score").value});

function labels() {
  $("budget").ariaValueText = $("budget-out").textContent = budgetMs() + " ms";
  $("depth-out").textContent = $("depth").value;
  $("score-out").textContent = Number($("score").value).toFixed(2);
  $("others-out").textContent = $("others").value;
}

// ---- the server ----------------------------------------------------------------------------------

async function connect() {
  const response = await ask("v1/models");
  const known = await json(response);
  if (response.status === 401) $("access").open = true;
  if (!known.models) {
    const {title = "Not a reply of this server", detail = "v1/models names no models.", status} = known;
    throw response.status < 500 ? Object.assign(new Error(detail), {title, status}) : new Unanswered(detail);
  }
  const points = state.points = new Points(known);
  state.away = false;
  charts.learn(points);
  $("model").textContent = points.summary;
  $("reached").textContent = `${points.kind} reached${points.unit && ","}${points.unit}`;
  const isDeepest = $("depth").value === $("depth").max;
  // In this order: a value above its input's maximum is cut to it.
  $("depth").max = points.maxDepth;
  if (isDeepest) $("depth").value = $("depth").max;
  $("depth").hidden = $("depth-label").hidden = $("depth").max === "1";
  $("score").min = points.minScore;
  // Enough for the deepest exit, with room.
  if (points.neededMs && !state.budgetChosen) setBudget(2 * points.neededMs);
  labels();
}

// Connect, and ask about the image that is there. While nobody answers, try again.
async function start() {
  const wasAway = state.away;
  try {
    await connect();
  } catch (error) {
    return lose(error);
  }
  if (wasAway && !state.file) tell(null);
  detect();
}

let returning = null;

function lose(error) {
  const isAway = error instanceof Unanswered;
  $("model").textContent = `not connected: ${error.message}${isAway ? " Trying again." : ""}`;
  if (!isAway) return;
  state.away = true;
  clearTimeout(returning);
  returning = setTimeout(start, RETURN_MS);
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

// Of what is no problem of the server's own: who failed says what it is called.
const asProblem = ({title = "This page failed", status, message}) => ({title, status, detail: message});

function tell(problem) {
  state.problem = problem;
  showProblem(problem, (enough) => { setBudget(enough); changed(); });
}

async function askOnce() {
  if (!state.points || state.away) await connect();
  const streaming = $("streaming").checked, sentMs = performance.now(), budget = budgetMs(), {file} = state;
  Object.assign(state, {
    answers: [], reply: null, maxDepth: Number($("depth").value), done: !streaming, problem: null,
  });
  const response = await ask(`v1/detect?${query()}`, {
    method: "POST", body: file,
    headers: {
      "Accept": streaming ? "application/x-ndjson" : "application/json",
      "Content-Type": SERVED.includes(file.type) ? file.type : SERVED[0], "X-Deadline-Ms": budget,
    },
  }, budget);
  state.serverTiming = streaming ? null : response.headers.get("Server-Timing");
  let problem = response.ok ? null : await json(response);
  if (!problem)
    for await (const reply of streaming ? lines(response.body) : [await json(response)]) {
      if (state.file !== file) return; // another one has been chosen, which is asked about next
      if (reply.event === "error" || reply.title) problem = reply;
      if (problem) break;
      state.done ||= reply.event === "done";
      if (reply.event !== "done") state.answers.push(reply);
      show(state.answers.at(-1));
      draw();
    }
  if (state.file !== file) return;
  if (problem) tell(problem);
  charts.record(sentMs, budget, state.answers.at(-1) ?? problem ?? {}, true);
}

// One request at a time; the sliders' last position always gets its own.
async function detect() {
  labels();
  if (!state.file || state.camera) return;
  state.again = state.running;
  if (state.running) return;
  state.running = true;
  $("viewer").ariaBusy = "true";
  try {
    await askOnce();
  } catch (error) {
    if (error instanceof Unanswered) lose(error);
    tell(asProblem(error));
  }
  state.running = false;
  $("viewer").ariaBusy = "false";
  if (state.camera) return; // which has begun meanwhile
  $("result").hidden = !state.reply;
  showProblem(state.problem, (enough) => { setBudget(enough); changed(); });
  draw();
  if (state.again) detect();
}

let numChosen = 0; // of pictures and cameras that were asked for, the last one counts

// Take the picture that `open` returns the file of; `sample` is the button that stands for it, if one does.
async function choose(open, sample = null) {
  const mine = ++numChosen;
  closeCamera();
  let file, picture;
  try {
    file = await open();
    picture = await upright(file);
  } catch (error) {
    if (mine === numChosen) tell(asProblem(error));
    return;
  }
  if (mine !== numChosen) return;
  press(sample);
  Object.assign(state, {file, picture, answers: [], reply: null});
  draw();
  detect();
}

function chooseFile(file) {
  if (file) choose(() => file);
}

function chooseSample(button) {
  const image = button.firstElementChild;
  choose(async () => {
    const response = await ask(image.src);
    return new File([await response.blob()], image.alt, {type: "image/jpeg"});
  }, button);
}

function press(sample) {
  for (const each of $("samples").children) each.ariaPressed = each === sample;
}

// ---- a camera ------------------------------------------------------------------------------------

async function openCamera() {
  const mine = ++numChosen;
  const ended = () => {
    if (mine !== numChosen) return;
    closeCamera();
    tell({title: "No camera", detail: "The camera was unplugged, or this page may not use it any longer."});
  };
  let camera;
  try {
    if (!state.points || state.away) await connect();
    camera = await Camera.open(ended);
  } catch (error) {
    if (error instanceof Unanswered) lose(error);
    tell(asProblem(error));
    return;
  }
  if (mine !== numChosen) return camera.close();
  state.camera = camera;
  tell(null);
  $("camera").ariaPressed = true;
  $("camera-text").textContent = "Stop";
  hush();
  press(null);
  state.stream = openStream(`${crowd.name}-camera`);
  film(state.camera, state.stream);
}

// Its last picture stays.
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
  $("result").ariaLive = isOften() ? "off" : "polite";
  $("problem").ariaLive = isOften() ? "off" : "assertive";
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
    charts.record(sentMs, budget, reply, true);
    Object.assign(state, {
      file, picture, answers: answered ? [reply] : [], maxDepth: Number($("depth").value), done: true,
      serverTiming: null,
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
  start();
});

const isOften = () => crowd.size > 0 || state.camera !== null;
const charts = new Charts(isOften);
const crowd = new Crowd({
  open: openStream,
  ended: (sentMs, reply) => charts.record(sentMs, budgetMs(), reply, false),
});
let crowdFile = null;

async function resizeCrowd() {
  labels();
  const wanted = () => document.hidden ? 0 : Number($("others").value);
  try {
    if (wanted() && (!state.points || state.away)) await connect();
    if (wanted() && !crowdFile) crowdFile = await (await ask($("samples").querySelector("img").src)).blob();
  } catch (error) {
    $("others").value = 0;
    labels();
    lose(error);
    tell(asProblem(error));
  }
  crowd.resize(wanted(), crowdFile);
  hush();
  charts.wake();
}

// While others are there, one's own image is asked about again and again, to see what becomes of it.
setInterval(() => {
  if (crowd.size && !state.running) detect();
}, AGAIN_MS);

// A busy machine is a slower one, and the server follows it.
setInterval(async () => {
  if (!crowd.size) return;
  const response = await ask("v1/models").catch(() => null);
  const known = response?.ok ? await json(response) : {};
  if (known.models) charts.learn(state.points = new Points(known));
}, LEARN_MS);

// ---- events --------------------------------------------------------------------------------------

function changed() {
  labels();
  state.stream?.allow(budgetMs());
  crowd.allow(budgetMs());
  detect();
}

$("file").addEventListener("change", ({target}) => {
  chooseFile(target.files[0]);
  target.value = ""; // or nothing would happen if the same one is chosen again
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
  $("stage").addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", over);
    if (name === "drop") chooseFile(event.dataTransfer.files[0]);
  });
for (const button of $("samples").children) button.addEventListener("click", () => chooseSample(button));
$("camera").addEventListener("click", () => state.camera ? closeCamera() : openCamera());
$("budget").addEventListener("input", () => { state.budgetChosen = true; });
for (const id of ["budget", "depth", "score", "streaming"]) $(id).addEventListener("input", changed);
$("others").addEventListener("input", resizeCrowd);
$("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  closeAccess();
  start();
});
$("access").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeAccess();
});
document.addEventListener("visibilitychange", resizeCrowd); // nobody looks: nobody else need wait

function closeAccess() {
  $("access").open = false;
  $("access").querySelector("summary").focus();
}

labels();
start();
