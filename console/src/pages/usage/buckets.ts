import type { UsageBucket, UsageResult } from "./types";

export type Range = "day" | "week" | "month";
export type Group = "" | "model" | "api_key_id";

const HOUR_S = 3600;
const DAY_S = 86_400;
const MOST_GROUPS = 6; // as many as charts have colours

/** Requests and tokens added up. */
export interface Sums {
  requests: number;
  input: number;
  cached: number;
  output: number;
}

/** The buckets of one group, in their order, and their sum. `name` is null for what several smaller groups have together. */
export interface Grouped {
  name: string | null;
  sums: Sums;
  buckets: Sums[];
}

/** What to ask for, so that the newest bucket is the one that goes on now. */
export function queryOf(range: Range, now: number): { start_time: number; bucket_width: "1h" | "1d"; limit: number } {
  const [width, limit] = range === "day" ? [HOUR_S, 24] : range === "week" ? [HOUR_S, 168] : [DAY_S, 30];
  const newest = Math.floor(now) - (Math.floor(now) % width);
  return { start_time: newest - (limit - 1) * width, bucket_width: width === HOUR_S ? "1h" : "1d", limit };
}

/** Adds up buckets by what they are grouped by, the largest group first; the seventh and later ones become one. */
export function grouped(buckets: readonly UsageBucket[], group: Group): Grouped[] {
  const found = new Map<string, Grouped>();
  buckets.forEach((bucket, place) => {
    for (const result of bucket.results) {
      const name = group === "" ? "" : (result[group] ?? "");
      let one = found.get(name);
      if (one === undefined) {
        one = { name, sums: none(), buckets: buckets.map(none) };
        found.set(name, one);
      }
      const counted = sumsOf(result);
      add(one.sums, counted);
      const at = one.buckets[place];
      if (at) add(at, counted);
    }
  });
  const all = [...found.values()].sort((a, b) => tokens(b.sums) - tokens(a.sums) || b.sums.requests - a.sums.requests);
  return all.length <= MOST_GROUPS ? all : [...all.slice(0, MOST_GROUPS - 1), together(all.slice(MOST_GROUPS - 1))];
}

export function tokens(sums: Sums): number {
  return sums.input + sums.output;
}

export function total(groups: readonly Grouped[]): Sums {
  const sums = none();
  for (const one of groups) add(sums, one.sums);
  return sums;
}

function together(groups: readonly Grouped[]): Grouped {
  const one: Grouped = { name: null, sums: total(groups), buckets: groups[0]?.buckets.map(none) ?? [] };
  for (const group of groups) {
    group.buckets.forEach((sums, place) => {
      const at = one.buckets[place];
      if (at) add(at, sums);
    });
  }
  return one;
}

function none(): Sums {
  return { requests: 0, input: 0, cached: 0, output: 0 };
}

function sumsOf(result: UsageResult): Sums {
  return {
    requests: result.num_model_requests,
    input: result.input_tokens,
    cached: result.input_cached_tokens,
    output: result.output_tokens,
  };
}

function add(to: Sums, more: Sums): void {
  to.requests += more.requests;
  to.input += more.input;
  to.cached += more.cached;
  to.output += more.output;
}
