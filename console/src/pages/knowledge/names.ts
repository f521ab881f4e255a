import { useRef } from "preact/hooks";
import { api } from "../../api/client";
import type { Page } from "../../api/types";
import type { StoreFile, StoredFile } from "./types";

const AT_ONCE = 6;
const MOST_AT_ONCE = 1000;

/** Returns a function that adds to files of a store the names they were sent under; each is asked for once, many of them at once. */
export function useNames(): (files: readonly StoreFile[], signal: AbortSignal) => Promise<Map<string, string>> {
  const known = useRef(new Map<string, string>());
  return async (files, signal) => {
    const names = known.current;
    const waiting = files.map((file) => file.id).filter((id) => !names.has(id));
    if (waiting.length > AT_ONCE) {
      const recent = await api<Page<StoredFile>>("/v1/files", { query: { limit: MOST_AT_ONCE }, signal });
      for (const file of recent.data) names.set(file.id, file.filename);
    }
    const ask = async () => {
      for (let id = waiting.pop(); id !== undefined; id = waiting.pop()) {
        if (!names.has(id)) names.set(id, await nameOf(id, signal));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, ask));
    return new Map(names);
  };
}

/** The name of a file; its id where the file itself was deleted. */
export async function nameOf(id: string, signal: AbortSignal): Promise<string> {
  try {
    return (await api<StoredFile>(`/v1/files/${encodeURIComponent(id)}`, { signal })).filename;
  } catch (error) {
    if (signal.aborted) throw error;
    return id;
  }
}
