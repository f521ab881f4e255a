import { marked, type Token } from "marked";

/**
 * Splits Markdown that grows at its end into blocks. Only the last block can still change, so that a long answer costs no
 * more to show than its last paragraph, list or table.
 */
export class BlockReader {
  #done: string[] = [];
  #doneLength = 0;
  #linesLength = 0;
  #text = "";

  /** Takes the whole text so far and returns its blocks. A text that did not only grow is read anew. */
  read(text: string): readonly string[] {
    if (!text.startsWith(this.#text)) {
      this.#done = [];
      this.#doneLength = 0;
      this.#linesLength = 0;
    }
    this.#text = text;
    const lines = text.lastIndexOf("\n") + 1;
    if (lines > this.#linesLength) this.#close(text.slice(this.#doneLength, lines));
    this.#linesLength = lines;
    return [...this.#done, ...shown(marked.lexer(text.slice(this.#doneLength), OPTIONS))];
  }

  /** Puts away all blocks but the last of some whole lines. A line that is not whole may yet continue the block before. */
  #close(text: string): void {
    const tokens = marked.lexer(text, OPTIONS);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last]?.type === "space") last -= 1;
    const closed = tokens.slice(0, Math.max(last, 0));
    for (const token of closed) this.#doneLength += token.raw.length;
    this.#done.push(...shown(closed));
  }
}

function shown(tokens: readonly Token[]): string[] {
  return tokens.filter((token) => token.type !== "space").map((token) => token.raw.replace(/\n+$/, ""));
}

/** The blocks of a text that is whole. Definitions of links are given to every block that may use them. */
export function blocksOf(text: string): readonly string[] {
  const tokens: Token[] = marked.lexer(text, OPTIONS);
  const definitions = tokens.filter((token) => token.type === "def").map((token) => token.raw.trim());
  const known = definitions.length > 0 ? `\n\n${definitions.join("\n")}` : "";
  return tokens
    .filter((token) => token.type !== "def")
    .flatMap((token) => shown([token]).map((raw) => (raw.includes("]") && token.type !== "code" ? raw + known : raw)));
}

const OPTIONS = { gfm: true };
