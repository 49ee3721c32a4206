// Cameras that are not there: each sends the same picture five times a second over a stream of its own.

import {FrameStream} from "./stream.js";

const INTERVAL_MS = 200;

export class Crowd {
  #members = [];
  #file;
  name = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;

  // `open` makes a member's stream by its name; `ended` is told when each picture was sent and with what it
  // ended.
  constructor({open, ended}) {
    this.open = open;
    this.ended = ended;
  }

  get size() {
    return this.#members.length;
  }

  resize(count, file) {
    this.#file = file;
    while (this.#members.length > count) this.#stop(this.#members.pop());
    while (this.#members.length < count) this.#members.push(this.#start(this.#members.length + 1));
  }

  allow(deadlineMs) {
    for (const {stream} of this.#members) stream.allow(deadlineMs);
  }

  #start(number) {
    const stream = this.open(`${this.name}-${number}`);
    const member = {stream};
    const send = async () => {
      if (!stream.ready) return;
      const sentMs = performance.now();
      this.ended(sentMs, await stream.send(this.#file));
    };
    // Cameras do not take their pictures at the same instant.
    member.timer = setTimeout(() => {
      send();
      member.timer = setInterval(send, INTERVAL_MS);
    }, Math.random() * INTERVAL_MS);
    return member;
  }

  #stop({stream, timer}) {
    clearInterval(timer); // as good for what setTimeout gave
    stream.close();
  }
}
