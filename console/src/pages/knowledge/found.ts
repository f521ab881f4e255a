import type { Chunk } from "./types";

/** The chunk whose text a search returned; chunks that say the same count as one. */
export function chunkOf<T extends Pick<Chunk, "text">>(text: string, chunks: readonly T[]): T | undefined {
  return chunks.find((one) => one.text === text) ?? chunks.find((one) => one.text.includes(text) || text.includes(one.text));
}
