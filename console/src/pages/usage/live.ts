import { useEffect, useRef, useState } from "preact/hooks";
import type { Stats } from "./types";

const KEPT = 150; // samples: five minutes

export interface Sample {
  at: number;
  rates: Readonly<Record<string, number | null>>;
  running: number;
  waiting: number;
}

/** The last minutes of what a server tells, since the page was opened. */
export function useSamples(stats: Stats | undefined): readonly Sample[] {
  const [samples, setSamples] = useState<readonly Sample[]>([]);
  const last = useRef(stats);
  useEffect(() => {
    if (stats === undefined || stats === last.current) return;
    last.current = stats;
    setSamples((before) => [...before.slice(1 - KEPT), sampleOf(stats, Date.now() / 1000)]);
  }, [stats]);
  return samples;
}

export function sampleOf(stats: Stats, at: number): Sample {
  return {
    at,
    rates: Object.fromEntries(stats.models.map((model) => [model.id, model.tokens_per_s])),
    running: stats.models.reduce((sum, model) => sum + model.running, 0),
    waiting: stats.models.reduce((sum, model) => sum + model.waiting, 0),
  };
}
