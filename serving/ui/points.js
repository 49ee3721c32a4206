// The operating points of a server, by what GET /v1/models says.

export class Points {
  constructor({models, merged = []}) {
    this.models = models;
    this.several = models.length > 1; // input sizes
    // Whether a side in pixels says which point is meant.
    this.isSide = this.several && new Set(models.map(({name}) => name)).size === 1 &&
      models.every((model) => model.exits.length === 1 && model.input_width === model.input_height);
    // In order of size and depth, with what each is called among the others.
    this.all = models.flatMap(({exits, input_width, reserve_ms}) => exits.map((exit) => ({
      point: exit.operating_point, depth: exit.depth, ap: exit.ap,
      ms: exit.predicted_ms, reserveMs: reserve_ms,
      text: !this.several ? `${exit.depth}` : this.isSide ? `${input_width}`
        : exits.length === 1 ? exit.operating_point.split("/")[0] : exit.operating_point,
    })));
    this.measure = models[0].evaluation?.measure ?? "AP"; // or agreement, or order
    this.best = this.all.reduce((best, each) => each.ap > best.ap ? each : best);
    // An answer that is made of two sizes may be better than either.
    const aps = [...this.all, ...merged].map(({ap}) => ap);
    [this.lowest, this.highest] = [Math.min(...aps), Math.max(...aps)];
    this.maxDepth = Math.max(...models.map(({exits}) => exits.length));
    this.minScore = Math.max(...models.map(({score_threshold}) => score_threshold));
    // What the deepest exit needs; 0 while the server is starting.
    this.neededMs = Math.max(...models.flatMap(({exits}) => exits.map((exit) => exit.min_budget_ms ?? 0)));
  }

  // What the points are.
  get kind() {
    return this.isSide ? "Input size" : this.several ? "Operating point" : "Exit";
  }

  // What the numbers in their names are of.
  get unit() {
    return this.isSide ? " px" : "";
  }

  // What the models are: their exits, if they have several, and their input sizes.
  get summary() {
    if (this.isSide) return `${this.models[0].name}, ${this.all.map(({text}) => text).join(", ")} px`;
    return [...new Set(this.models.map(({name}) => name))].map((name) => {
      const sizes = this.models.filter((model) => model.name === name);
      const most = Math.max(...sizes.map(({exits}) => exits.length));
      const pixels = sizes.map(({input_width, input_height}) => `${input_width} x ${input_height}`);
      return [name, ...(most > 1 ? [`${most} exits`] : []), ...pixels].join(", ");
    }).join("; ");
  }

  // What an operating point is called for people; two, of a merged answer.
  name(operatingPoint) {
    return operatingPoint.split("+").map((point) => {
      const text = this.all.find((each) => each.point === point)?.text ?? point;
      return this.several ? text : `exit ${text}`;
    }).join(" + ");
  }

  // The milliseconds that the engine is said to take for an answer of this point, or of these, if it is
  // merged; null where nothing is said.
  engineMs(operatingPoint) {
    const each = operatingPoint.split("+").map((point) => this.all.find((known) => known.point === point)?.ms ?? null);
    return each.includes(null) ? null : each.reduce((sum, ms) => sum + ms, 0);
  }

  // The color of an answer with this AP: from amber, the least accurate, to teal.
  color(ap) {
    const share = this.highest > this.lowest ? (ap - this.lowest) / (this.highest - this.lowest) : 1;
    return `hsl(${40 + 135 * share} ${80 - 15 * share}% ${52 - 14 * share}%)`;
  }
}
