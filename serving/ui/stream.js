// A stream of pictures over a WebSocket: each that is sent ends exactly once.

import {subprotocols} from "./server.js";

const MAX_UNANSWERED = 4;
const BROKEN = 1006; // the code of what ended without a word

export class FrameStream {
  #socket;
  #waiting = new Map(); // frame number -> what is told of its end
  #lastFrame = 0;
  #told;

  // `told` is called once with a sentence if the stream ends before it is closed.
  constructor(name, deadlineMs, query, told) {
    this.#told = told;
    const url = new URL(`v1/streams/${encodeURIComponent(name)}?${query}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("deadline_ms", deadlineMs);
    this.#socket = new WebSocket(url, subprotocols());
    this.#socket.onmessage = ({data}) => {
      const reply = JSON.parse(data);
      this.#waiting.get(reply.frame)?.(reply);
      this.#waiting.delete(reply.frame);
    };
    this.#socket.onclose = ({code, reason}) => {
      for (const end of this.#waiting.values()) end({outcome: "lost"});
      this.#waiting.clear();
      this.#told?.(reason || (code === BROKEN ? "The server refused it, or the connection broke off." : `Its code is ${code}.`));
    };
  }

  // Whether another picture may be sent now.
  get ready() {
    return this.#socket.readyState === WebSocket.OPEN && this.#waiting.size < MAX_UNANSWERED;
  }

  // Send a picture; what it ended with.
  send(file) {
    this.#socket.send(file);
    return new Promise((resolve) => { this.#waiting.set(++this.#lastFrame, resolve); });
  }

  allow(deadlineMs) {
    if (this.#socket.readyState === WebSocket.OPEN)
      this.#socket.send(JSON.stringify({deadline_ms: deadlineMs}));
  }

  close() {
    this.#told = null;
    this.#socket.close();
  }
}
