// What a server needs for a picture beside its engine, by how long its pictures take: decoding, replying, and
// waiting for a processor that others use as well.

const SPAN_MS = 5_000; // what it is measured over
const STANDS_MS = 500; // for how long it is not measured again

export class Overhead {
  #pictures = [];
  #measuredMs = -Infinity;
  #eachMs = null;

  // Note a picture that came at `atMs`, and how many milliseconds the engine is said to take for its answer: 0
  // of one that was late.
  add(atMs, doneMs, engineMs) {
    this.#pictures.push({atMs, doneMs, engineMs});
  }

  // The milliseconds of each picture of the last seconds: those in which the server had at least one of them,
  // less the engine's, over their number. So work that goes on beside other work is not counted twice. Null
  // before the first picture; the last known if there were none lately.
  eachMs(nowMs) {
    if (nowMs - this.#measuredMs < STANDS_MS) return this.#eachMs;
    this.#pictures = this.#pictures.filter(({atMs}) => atMs > nowMs - SPAN_MS);
    if (!this.#pictures.length) return this.#eachMs;
    this.#measuredMs = nowMs;
    let spentMs = 0, untilMs = -Infinity;
    for (const {atMs, doneMs, engineMs} of this.#pictures.sort((a, b) => a.atMs - b.atMs)) {
      spentMs += Math.max(0, doneMs - Math.max(atMs, untilMs)) - engineMs;
      untilMs = Math.max(untilMs, doneMs);
    }
    return this.#eachMs = Math.max(0, spentMs) / this.#pictures.length;
  }
}
