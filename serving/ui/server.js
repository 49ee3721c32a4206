// What is said to the server and what it says. Paths are relative, since a proxy may put a prefix in front.

const PATIENCE_MS = 10_000; // beyond the budget, to get through and to be read
const BROKEN = "The connection broke off in the middle of the answer.";

let key = "";

// Nobody answered, or not to the end; the message is for people.
export class Unanswered extends Error {
  title = "The server did not answer";
}

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

// A reply. Fails with Unanswered, also if it has not ended `budgetMs` and some seconds later.
export async function ask(path, init = {}, budgetMs = 0) {
  const headers = new Headers(init.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  const patienceMs = Math.ceil(budgetMs) + PATIENCE_MS;
  try {
    return await fetch(path, {...init, headers, signal: AbortSignal.timeout(patienceMs)});
  } catch (error) {
    throw new Unanswered(error.name === "TimeoutError"
      ? `${location.host} has said nothing for ${Math.round(patienceMs / 1000)} seconds.`
      : `Nobody answers at ${location.host}: the server has ended, or the network is down.`);
  }
}

// What is in a reply; a problem that says what came instead if that is no JSON, as of a proxy. Fails with
// Unanswered if it breaks off.
export async function json(response) {
  try {
    return await response.json();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw new Unanswered(BROKEN);
    const status = `${response.status} ${response.statusText}`.trim();
    return {
      title: "Not a reply of this server", status: response.status,
      detail: `${new URL(response.url).pathname} was answered with ${status} and no JSON.`,
    };
  }
}

// The objects of a stream of lines, each as soon as its line has come. Fails with Unanswered if it breaks off.
export async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const broken = () => { throw new Unanswered(BROKEN); };
  try {
    for (let text = "";;) {
      const {value, done} = await reader.read().catch(broken);
      if (done) return;
      const whole = (text + value).split("\n");
      text = whole.pop();
      yield* whole.map((line) => JSON.parse(line));
    }
  } finally {
    reader.cancel().catch(() => {}); // of one that has broken off
  }
}
