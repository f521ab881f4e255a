/** One server-sent event: its name ("message" if it has none) and its data. */
export interface ServerEvent {
  event: string;
  data: string;
}

/** Splits text into server-sent events as it comes, in pieces of any length (HTML standard, 9.2.6). */
export class EventParser {
  #rest = "";
  #event = "";
  #data: string[] = [];

  /** Takes a piece and returns the events that it completes. */
  push(piece: string): ServerEvent[] {
    const found: ServerEvent[] = [];
    const text = this.#rest + piece;
    let begin = 0;
    for (;;) {
      const end = lineEnd(text, begin);
      if (end < 0) break;
      this.#line(text.slice(begin, end), found);
      begin = end + (text.startsWith("\r\n", end) ? 2 : 1);
    }
    this.#rest = text.slice(begin);
    return found;
  }

  #line(line: string, found: ServerEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) found.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}

/** The place where a line ends, or -1. A carriage return at the very end may be half of a pair, so it waits. */
function lineEnd(text: string, from: number): number {
  const feed = text.indexOf("\n", from);
  const carriage = text.indexOf("\r", from);
  if (carriage < 0 || (feed >= 0 && feed < carriage)) return feed;
  return carriage === text.length - 1 ? -1 : carriage;
}

/** Yields the events of a body. The mark `[DONE]` of OpenAI's streams ends them. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      for (const event of parser.push(done ? "\n\n" : decoder.decode(value, { stream: true }))) {
        if (event.data === "[DONE]") return;
        yield event;
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
