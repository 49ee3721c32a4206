// What is said to the server and what it says. Paths are relative, since a proxy may put a prefix in front.

let key = "";

export function useKey(text) {
  key = text.trim();
}

// By which a page shows its key as it opens a WebSocket: browsers let it set nothing else.
export function subprotocols() {
  if (!key) return [];
  const bytes = String.fromCharCode(...new TextEncoder().encode(key));
  const written = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["punctual", `punctual.key.${written}`];
}

export function ask(path, init = {}) {
  const headers = new Headers(init.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  return fetch(path, {...init, headers});
}

// What is in a reply; a problem that says what came instead if that is no JSON, as of a proxy.
export async function json(response) {
  try {
    return await response.json();
  } catch {
    const status = `${response.status} ${response.statusText}`.trim();
    return {
      title: "Not a reply of this server", status: response.status,
      detail: `${new URL(response.url).pathname} was answered with ${status} and no JSON.`,
    };
  }
}

// The objects of a stream of lines, each as soon as its line has come.
export async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const {value, done} = await reader.read();
    if (done) return;
    const whole = (text + value).split("\n");
    text = whole.pop();
    yield* whole.map((line) => JSON.parse(line));
  }
}
