/** Parts of reading aloud that make no sound: the text that is said, its pieces, and samples out of bytes. */

/** Most characters of one request; the server's limit is 4,096. */
const MOST = 4000;

/** Returns what of an answer in Markdown is said: code blocks, marks of citations and all signs of the format are left out. */
export function spokenText(markdown: string): string {
  return markdown
    .replace(/^[ \t]*(```|~~~)[\s\S]*?(?:^[ \t]*\1[ \t]*$|(?![\s\S]))/gm, "")
    .replace(/!?\[([^\]\n]*)\]\([^)\n]*\)/g, "$1")
    .replace(/ ?\[\d+\](?![([:])/g, "")
    .replace(/<\/?[a-z][^>\n]*>/gi, "")
    .split("\n")
    .map(spokenLine)
    .join("\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}

function spokenLine(line: string): string {
  if (/^\s*([-*_])(?:\s*\1){2,}\s*$/.test(line) || /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/.test(line)) return "";
  const cells = /^\s*\|.*\|\s*$/.test(line) ? line.trim().slice(1, -1).split("|").map((one) => one.trim()).join(", ") : line;
  return cells
    .replace(/^\s*(?:>\s?)+/, "")
    .replace(/^\s*#{1,6}\s+/, "")
    .replace(/^\s*[-*+]\s+(?:\[[ xX]\]\s+)?/, "")
    .replace(/`+([^`]*)`+/g, "$1")
    .replace(/(\*{1,3}|~~)(?=\S)([^*~]*?\S)\1/g, "$2")
    .replace(/(?<!\w)(_{1,3})(?=\S)([^_]*?\S)\1(?!\w)/g, "$2")
    .trimEnd();
}

/** Splits a text into pieces that one request may have: at the end of a paragraph or a sentence, else at a space. */
export function piecesOf(text: string, most = MOST): string[] {
  const found: string[] = [];
  let rest = text.trim();
  while (rest.length > most) {
    const head = rest.slice(0, most);
    const ends = [/\n(?=[^\n]*$)/, /[。！？](?=[^。！？]*$)/, /[.!?] (?=(?:(?![.!?] ).)*$)/s, / (?=[^ ]*$)/];
    const places = ends.map((end) => end.exec(head)).map((match) => (match ? match.index + match[0].length : 0));
    let cut = places.find((place) => place > most / 2) ?? Math.max(...places);
    if (cut === 0) cut = /[\ud800-\udbff]$/.test(head) ? most - 1 : most;
    found.push(rest.slice(0, cut).trim());
    rest = rest.slice(cut).trim();
  }
  return [...found, rest].filter((one) => one !== "");
}

/** Turns bytes of 16-bit sound into samples, whatever pieces the bytes come in. */
export class SampleReader {
  #odd: number | null = null;

  /** Takes bytes and returns the samples that they complete, from -1 to 1. */
  push(bytes: Uint8Array): Float32Array<ArrayBuffer> {
    const all = this.#odd === null ? bytes : new Uint8Array([this.#odd, ...bytes]);
    const count = all.length >> 1;
    this.#odd = all.length % 2 === 1 ? (all[all.length - 1] ?? null) : null;
    const view = new DataView(all.buffer, all.byteOffset, all.length);
    const samples = new Float32Array(count);
    for (let at = 0; at < count; at += 1) samples[at] = view.getInt16(2 * at, true) / 32_768;
    return samples;
  }
}

/** Keeps what was read aloud, the newest up to a number of samples. */
export class Kept {
  readonly #most: number;
  readonly #sounds = new Map<string, Float32Array<ArrayBuffer>[]>();

  constructor(most: number) {
    this.#most = most;
  }

  get(text: string): Float32Array<ArrayBuffer>[] | undefined {
    return this.#sounds.get(text);
  }

  add(text: string, sound: Float32Array<ArrayBuffer>[]): void {
    this.#sounds.delete(text);
    this.#sounds.set(text, sound);
    let total = 0;
    for (const one of this.#sounds.values()) total += lengthOf(one);
    for (const [name, one] of this.#sounds) {
      if (total <= this.#most) break;
      this.#sounds.delete(name);
      total -= lengthOf(one);
    }
  }
}

function lengthOf(sound: readonly Float32Array[]): number {
  return sound.reduce((sum, one) => sum + one.length, 0);
}
