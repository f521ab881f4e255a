import { marked, type Token } from "marked";

/**
 * Splits Markdown that grows at its end into blocks. Only the last block can still change, so that a long answer costs no
 * more to show than its last paragraph, list or table.
 */
export class BlockReader {
  #done: string[] = [];
  #doneLength = 0;
  #text = "";

  /** Takes the whole text so far and returns its blocks. A text that did not only grow is read anew. */
  read(text: string): readonly string[] {
    if (!text.startsWith(this.#text)) {
      this.#done = [];
      this.#doneLength = 0;
    }
    this.#text = text;
    const tokens = marked.lexer(text.slice(this.#doneLength), OPTIONS);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last]?.type === "space") last -= 1;
    // What precedes the last block is closed: whatever comes is appended behind it.
    const closed = tokens.slice(0, Math.max(last, 0));
    for (const token of closed) {
      this.#doneLength += token.raw.length;
      if (token.type !== "space") this.#done.push(token.raw);
    }
    const rest = tokens.slice(closed.length).filter((token) => token.type !== "space");
    return [...this.#done, ...rest.map((token) => token.raw)];
  }
}

/** The blocks of a text that is whole. Definitions of links are given to every block that may use them. */
export function blocksOf(text: string): readonly string[] {
  const tokens: Token[] = marked.lexer(text, OPTIONS);
  const definitions = tokens.filter((token) => token.type === "def").map((token) => token.raw.trim());
  const known = definitions.length > 0 ? `\n\n${definitions.join("\n")}` : "";
  return tokens
    .filter((token) => token.type !== "space" && token.type !== "def")
    .map((token) => (known !== "" && token.raw.includes("]") && token.type !== "code" ? token.raw + known : token.raw));
}

const OPTIONS = { gfm: true };
