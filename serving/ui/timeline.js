// The last seconds of many pictures: how much of its budget each used, and which operating points answered.

const SPAN_MS = 20_000;
const FIGURES_MS = 5_000; // what the figures are over
const MAX_RECORDS = 8_000;
const TOP = 1.25; // the share of a budget that the chart reaches to
const MISSED = 1.13; // where what was not answered in time is drawn

// A record: when the picture was sent; the share of its budget that the answer used, null if there was none
// in time; its expected AP and its operating point; whether it was one's own.
export class Lane {
  #records = [];

  constructor(canvas, figures) {
    this.canvas = canvas;
    this.figures = figures;
  }

  add(record) {
    this.#records.push(record);
    if (this.#records.length > MAX_RECORDS) this.#records.splice(0, MAX_RECORDS / 4);
  }

  clear() {
    this.#records = [];
  }

  isEmpty(nowMs) {
    return !this.#records.length || this.#records.at(-1).atMs < nowMs - SPAN_MS;
  }

  // In time, 0..1; AP with what was missed as 0; answers a second; the point of most answers. Null of no
  // pictures.
  summary(nowMs) {
    const recent = this.#records.filter(({atMs}) => atMs > nowMs - FIGURES_MS);
    if (!recent.length) return null;
    const answered = recent.filter(({share}) => share !== null);
    const spanMs = Math.min(FIGURES_MS, Math.max(1000, nowMs - recent[0].atMs));
    return {
      inTime: answered.length / recent.length,
      ap: answered.reduce((sum, {ap}) => sum + ap, 0) / recent.length,
      rate: 1000 * answered.length / spanMs,
      point: most(answered.map(({point}) => point)),
    };
  }

  draw(nowMs, points) {
    const {canvas} = this, style = getComputedStyle(canvas);
    const ink = (name) => style.getPropertyValue(name);
    const scale = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const plot = height * .7, base = height - 15, columns = base - plot - 8;
    const x = (atMs) => width - width * (nowMs - atMs) / SPAN_MS;
    const y = (share) => plot - (plot - 2) * Math.min(share, TOP) / TOP;
    pen.font = '11px system-ui, "DejaVu Sans", sans-serif';
    const line = (at, color, dash) => {
      pen.strokeStyle = color;
      pen.setLineDash(dash);
      pen.beginPath();
      pen.moveTo(0, at);
      pen.lineTo(width, at);
      pen.stroke();
    };
    line(plot, ink("--line"), []);
    line(y(1), ink("--quiet"), [4, 4]);
    pen.setLineDash([]);
    const recent = this.#records.filter(({atMs}) => atMs > nowMs - SPAN_MS);
    for (const own of [false, true]) // one's own on top
      for (const {atMs, share, ap, own: isOwn} of recent)
        if (own === isOwn)
          share === null ? cross(pen, x(atMs), y(MISSED), own ? 4 : 2.5, ink("--bad"))
            : dot(pen, x(atMs), y(share), own ? 4.5 : 1.8, points.color(ap), own ? ink("--panel") : null);
    const seconds = Map.groupBy(recent, ({atMs}) => Math.floor(atMs / 1000));
    for (const [second, all] of seconds) {
      let top = base;
      const layers = Map.groupBy(all, ({share, ap}) => share === null ? null : ap);
      // The most accurate at the bottom, what was missed on top.
      for (const ap of [...layers.keys()].sort((a, b) => (b ?? -1) - (a ?? -1))) {
        const tall = columns * layers.get(ap).length / all.length;
        pen.fillStyle = ap === null ? ink("--bad") : points.color(ap);
        pen.fillRect(x(second * 1000) + 1, top - tall, width * 1000 / SPAN_MS - 2, tall);
        top -= tall;
      }
    }
    pen.fillStyle = ink("--quiet");
    pen.fillText("deadline", 2, y(1) - 4);
    pen.fillText(`${SPAN_MS / 1000} s ago`, 2, height - 3);
    pen.textAlign = "right";
    pen.fillText("now", width - 2, height - 3);
  }
}

function most(values) {
  const groups = [...Map.groupBy(values, (value) => value).values()];
  return groups.reduce((best, each) => each.length > best.length ? each : best, [])[0] ?? null;
}

function dot(pen, x, y, radius, color, rim) {
  pen.fillStyle = color;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
  if (!rim) return;
  pen.strokeStyle = rim;
  pen.lineWidth = 1.5;
  pen.stroke();
  pen.lineWidth = 1;
}

function cross(pen, x, y, size, color) {
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x - size, y - size);
  pen.lineTo(x + size, y + size);
  pen.moveTo(x - size, y + size);
  pen.lineTo(x + size, y - size);
  pen.stroke();
  pen.lineWidth = 1;
}
