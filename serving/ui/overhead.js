// What a server needs for an answer beside its engine, by how long its answers take: decoding, replying, and
// waiting for a processor that others use as well.

const SPAN_MS = 5_000; // what it is measured over
const STANDS_MS = 500; // for how long it is not measured again

export class Overhead {
  #answers = [];
  #measuredMs = -Infinity;
  #perAnswerMs = null;

  // Note an answer to a picture that came at `atMs`, and how many milliseconds the engine is said to take for it.
  add(atMs, doneMs, engineMs) {
    this.#answers.push({atMs, doneMs, engineMs});
  }

  // The milliseconds of each answer of the last seconds: those in which the server had at least one of these
  // pictures, less the engine's, over the number of answers. So work that goes on beside other work is not
  // counted twice. Null before the first answer; the last known if there were none lately.
  perAnswerMs(nowMs) {
    if (nowMs - this.#measuredMs < STANDS_MS) return this.#perAnswerMs;
    this.#answers = this.#answers.filter(({atMs}) => atMs > nowMs - SPAN_MS);
    if (!this.#answers.length) return this.#perAnswerMs;
    this.#measuredMs = nowMs;
    let busyMs = 0, untilMs = -Infinity;
    for (const {atMs, doneMs} of this.#answers.sort((a, b) => a.atMs - b.atMs)) {
      busyMs += Math.max(0, doneMs - Math.max(atMs, untilMs));
      untilMs = Math.max(untilMs, doneMs);
    }
    const engineMs = this.#answers.reduce((sum, answer) => sum + answer.engineMs, 0);
    return this.#perAnswerMs = Math.max(0, busyMs - engineMs) / this.#answers.length;
  }
}
