import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job, Page } from "../../api/types";
import { useLoad } from "../../ui/load";
import { newest } from "./rows";
import { hasEnded } from "./types";

const RUNNING_MS = 1000;
const IDLE_MS = 15_000;

/** The jobs that fetch models, by the name of the model; of each model the newest. */
export interface Pulls {
  of: (model: string) => Job | undefined;
  start: (model: string) => Promise<void>;
  cancel: (model: string) => Promise<void>;
  error: unknown;
}

/** Follows all pulls while the page is open; `onEnd` is called when one of them has ended. */
export function usePulls(onEnd: () => void): Pulls {
  const [own, setOwn] = useState<Readonly<Record<string, string>>>({}); // of those that wait, whose rows name no model yet
  const [busy, setBusy] = useState(false);
  const running = useRef<ReadonlySet<string>>(new Set());
  const { data, error, reload } = useLoad(
    async (signal) => {
      const page = await api<Page<Job>>("/v1/jobs", { query: { kind: "model.pull", limit: 50 }, signal });
      setBusy(page.data.some((job) => !hasEnded(job)));
      return page.data;
    },
    [],
    busy ? RUNNING_MS : IDLE_MS,
  );
  useEffect(() => {
    if (data === undefined) return;
    const ended = data.some((job) => hasEnded(job) && running.current.has(job.id));
    running.current = new Set(data.filter((job) => !hasEnded(job)).map((job) => job.id));
    if (ended) onEnd();
  }, [data]);
  const byModel = newest(data ?? [], own);
  return {
    of: (model) => byModel.get(model),
    start: async (model) => {
      const job = await api<Job>("/v1/catalog/pull", { body: { model } });
      running.current = new Set([...running.current, job.id]);
      setOwn((known) => ({ ...known, [job.id]: model }));
      setBusy(true);
      reload();
    },
    cancel: async (model) => {
      const job = byModel.get(model);
      if (job === undefined) return;
      await api<Job>(`/v1/jobs/${encodeURIComponent(job.id)}/cancel`, { method: "POST" });
      reload();
    },
    error,
  };
}
