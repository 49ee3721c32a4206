// Both charts: what this server did with each picture, and what one would do that knows one operating point.

import {FixedPoint} from "./fixed.js";
import {Overhead} from "./overhead.js";
import {node} from "./panel.js";
import {Lane} from "./timeline.js";

const DRAW_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 50;
const SPEAK_MS = 6000; // how often what the charts show is said
// Of pictures that nobody needs any longer: a newer one has come, or the stream is over.
const GONE = ["superseded", "lost"];
// Of what no server would have answered, however much time there was: no image, too large, without a key.
const REFUSED = [400, 401, 403, 413, 415];
const LATE = 504; // which took its time, as an answer does

const $ = (id) => document.getElementById(id);

export class Charts {
  #served = new Lane($("lane-served"), $("figures-served"));
  #fixed = new Lane($("lane-fixed"), $("figures-fixed"));
  #fixedPoint = new FixedPoint();
  #overhead = new Overhead();
  #points = null;
  #awake = false;
  #drawnMs = -Infinity;
  #spokenMs = -Infinity;

  // `isSpoken` says whether what the charts show is to be said now and then.
  constructor(isSpoken) {
    this.isSpoken = isSpoken;
    for (const lane of [this.#served, this.#fixed]) this.#figures(lane, 0);
    $("fixed").addEventListener("input", () => this.#begin());
    addEventListener("resize", () => this.wake());
  }

  // Take what the operating points are and what each takes now.
  learn(points) {
    this.#points = points;
    $("scale").style.background = `linear-gradient(to right, ${[0, .25, .5, .75, 1].map((share) =>
      points.color(points.lowest + share * (points.highest - points.lowest))).join()})`;
    this.wake();
    const names = [...$("fixed").options].map(({value}) => value);
    if (names.join() === points.all.map(({point}) => point).join()) return;
    $("fixed").replaceChildren(...points.all.map(({point}) => {
      const option = node("option", points.name(point) + points.unit);
      option.value = point;
      option.selected = point === points.best.point;
      return option;
    }));
    this.#begin();
  }

  // Note what one picture ended with; `own` says that it was not one of the others'.
  record(atMs, budgetMs, reply, own) {
    if (GONE.includes(reply.outcome) || REFUSED.includes(reply.status)) return;
    this.#served.add(reply.detections
      ? {atMs, own, share: reply.elapsed_ms / reply.budget_ms, ap: reply.expected_ap, point: reply.operating_point}
      : {atMs, own, share: null, ap: 0, point: null});
    const nowMs = performance.now();
    const engineMs = reply.detections && this.#points.engineMs(reply.operating_point);
    if (engineMs) this.#overhead.add(atMs, atMs + reply.elapsed_ms, engineMs);
    if (reply.status === LATE) this.#overhead.add(atMs, nowMs, 0);
    const point = this.#points.all.find((each) => each.point === $("fixed").value);
    if (point.ms !== null) {
      const workMs = point.ms + (this.#overhead.eachMs(nowMs) ?? point.reserveMs);
      $("fixed-ms").textContent = `${workMs.toFixed(1)} ms each, `;
      this.#fixed.add({
        atMs, own, share: this.#fixedPoint.arrive(atMs, budgetMs, workMs),
        ap: point.ap, point: point.point,
      });
    }
    this.wake();
  }

  wake() {
    if (this.#awake || !this.#points) return;
    this.#awake = true;
    requestAnimationFrame(() => this.#draw());
  }

  // What would be at another point is not known of the pictures before.
  #begin() {
    this.#fixedPoint = new FixedPoint();
    this.#fixed.clear();
    $("fixed-ms").textContent = "";
    this.wake();
  }

  #draw() {
    const nowMs = performance.now(), isDue = nowMs - this.#drawnMs >= DRAW_MS;
    if (isDue) {
      this.#drawnMs = nowMs;
      const [real, computed] = [this.#served, this.#fixed].map((lane) => {
        lane.draw(nowMs, this.#points);
        return this.#figures(lane, nowMs);
      });
      if (this.isSpoken() && real && computed && nowMs - this.#spokenMs > SPEAK_MS) {
        this.#spokenMs = nowMs;
        const percent = ({inTime}) => `${Math.floor(100 * inTime)} percent in time`;
        $("spoken").textContent = `Punctual: ${percent(real)}. At one point: ${percent(computed)}.`;
      }
    }
    this.#awake = !isDue || !this.#served.isEmpty(nowMs);
    if (this.#awake) requestAnimationFrame(() => this.#draw());
  }

  #figures(lane, nowMs) {
    const now = lane.summary(nowMs);
    const shown = [
      ["in time", now && `${Math.floor(100 * now.inTime)} %`, now?.inTime < .99],
      [`${this.#points?.measure ?? "AP"}, missed as 0`, now?.ap.toFixed(3).replace(/^0/, "")],
      ["answers / s", now?.rate.toFixed(now.rate < 10 ? 1 : 0)],
      [`most often at${this.#points?.unit ? ", px" : ""}`, now?.point && this.#points.name(now.point)],
    ];
    lane.figures.replaceChildren(...shown.map(([name, value, bad]) => {
      const pair = node("div", ""), data = node("dd", value ?? "\u2013");
      data.className = bad ? "bad" : "";
      pair.append(node("dt", name), data);
      return pair;
    }));
    return now;
  }
}
