// The search runs in a worker, which browsers refuse to pages that are opened as files. There, and
// only there, this runs it in a hidden frame that behaves like one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      window.addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return;
        const told = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(told);
        if (this.onmessage) this.onmessage(told);
      });
      frame.addEventListener("load", () => {
        this.frame = frame;
        for (const message of this.waiting.splice(0)) this.postMessage(message);
      });
      frame.srcdoc =
        "<script>" +
        "window.postMessage = (message) => parent.postMessage(message, '*');" +
        "window.importScripts = (...urls) => Promise.all(urls.map((url) =>" +
        " new Promise((resolve) => {" +
        "  const script = document.createElement('script');" +
        "  script.src = url; script.onload = resolve; document.head.append(script); })));" +
        "</script><script src='" + url + "'></script>";
      document.body.append(frame);
    }
    postMessage(message) {
      if (!this.frame) return void this.waiting.push(message);
      const event = new MessageEvent("message", { data: message });
      this.frame.contentWindow.dispatchEvent(event);
    }
    terminate() {
      if (this.frame) this.frame.remove();
    }
  };
}
