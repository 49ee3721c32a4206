// What a server would do that answers every picture at one operating point, as a computation: one picture
// after another, each in the same time. A picture that would be late is given up without any work, which is
// kinder than what a plain queue does.

export class FixedPoint {
  #freeMs = 0; // when it is done with what it has taken

  // The share of its budget that a picture which comes at `atMs` and takes `workMs` uses; null of one that
  // would be late.
  arrive(atMs, budgetMs, workMs) {
    const doneMs = Math.max(atMs, this.#freeMs) + workMs;
    if (doneMs > atMs + budgetMs) return null;
    this.#freeMs = doneMs;
    return (doneMs - atMs) / budgetMs;
  }
}
