// What a server would do that answers every picture at one operating point, as a computation: one picture
// after another, each in the time that the point takes. A picture that would be late is given up without any
// work, which is kinder than what a plain queue does.

export class FixedPoint {
  #freeMs = 0; // when the engine is done with what it has taken

  // The share of its budget that a picture which comes at `atMs` uses; null of one that would be late.
  arrive(atMs, budgetMs, point) {
    const startMs = Math.max(atMs + point.reserveMs, this.#freeMs);
    const doneMs = startMs + point.ms;
    if (doneMs > atMs + budgetMs) return null;
    this.#freeMs = doneMs;
    return (doneMs - atMs) / budgetMs;
  }
}
