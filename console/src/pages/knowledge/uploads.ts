import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import type { StoreFile, StoredFile } from "./types";

const AT_ONCE = 2;

/** A file on its way from this browser into a knowledge base. */
export interface Upload {
  key: number;
  name: string;
  size: number;
  state: "waiting" | "sending" | "failed";
  error: unknown;
}

export interface Uploads {
  list: readonly Upload[];
  add: (files: readonly File[]) => void;
  dismiss: (key: number) => void;
}

/** Sends files and attaches them to a knowledge base, two at a time. Those that arrived leave the list; errors stay. */
export function useUploads(storeId: string, onArrived: () => void): Uploads {
  const [list, setList] = useState<readonly Upload[]>([]);
  const queue = useRef<{ key: number; file: File }[]>([]);
  const made = useRef(0);
  const running = useRef(0);
  const left = useRef(new AbortController());
  const arrived = useRef(onArrived);
  arrived.current = onArrived;
  useEffect(() => () => left.current.abort(), []);

  const change = (key: number, to: Partial<Upload>) =>
    setList((before) => before.map((one) => (one.key === key ? { ...one, ...to } : one)));
  const dismiss = (key: number) => setList((before) => before.filter((one) => one.key !== key));

  const work = async () => {
    running.current += 1;
    for (let next = queue.current.shift(); next !== undefined; next = queue.current.shift()) {
      const { key, file } = next;
      change(key, { state: "sending" });
      try {
        await send(storeId, file, left.current.signal);
        dismiss(key);
        arrived.current();
      } catch (error) {
        if (left.current.signal.aborted) return;
        change(key, { state: "failed", error });
      }
    }
    running.current -= 1;
  };

  const add = (files: readonly File[]) => {
    const entries = files.map((file) => ({ key: ++made.current, file }));
    queue.current.push(...entries);
    setList((before) => [
      ...before,
      ...entries.map(({ key, file }): Upload => ({ key, name: file.name, size: file.size, state: "waiting", error: null })),
    ]);
    while (running.current < Math.min(AT_ONCE, entries.length)) void work();
  };
  return { list, add, dismiss };
}

async function send(storeId: string, file: File, signal: AbortSignal): Promise<void> {
  const form = new FormData();
  form.set("purpose", "assistants");
  form.set("file", file, file.name);
  const stored = await api<StoredFile>("/v1/files", { body: form, signal });
  const files = `/v1/vector_stores/${encodeURIComponent(storeId)}/files`;
  await api<StoreFile>(files, { body: { file_id: stored.id }, signal });
}
