/** Results of compressions and of searches for prompts, as jobs keep them. */

/** Two models or prompts on held-out samples: `value` is the second's figure without the first's. */
export interface Change {
  first: number;
  second: number;
  value: number;
  low: number;
  high: number;
  paired: number;
  verdict: string;
}

export interface Compressed {
  compressed_model: string;
  bytes: number;
  base_bytes: number;
  held_out: (Change & { precision: string }) | null;
  record: {
    method: string;
    base?: string;
    loss_before?: number | null;
    loss?: number | null;
    agreement?: number;
    divergence?: number;
    parameters?: number;
    base_parameters?: number;
    recovery?: { method: string; loss_before?: number; tokens_seen?: number };
    type?: string;
    to?: string;
    shape?: Record<string, number>;
    base_cached?: number;
  };
}

export interface Tried {
  name: string;
  key: string;
  score: number;
  rows: number;
  tokens: number;
}

export interface Optimised {
  prompt: string;
  metric: string;
  rows: { train: number; development: number; held_out: number };
  start: Tried;
  winner: Tried & { text: { instructions: string; messages: { role: string; content: string }[] } };
  better: boolean;
  held_out: Change | null;
  search: { calls: number; prompt_tokens: number; answer_tokens: number };
  candidates: Tried[];
  version: string | null;
  current: boolean;
}

export interface Told {
  number: number;
  created_at: number;
  level: string;
  message: string;
  message_zh?: string;
  /** What happened, where a page has words of its own for it. */
  kind?: string;
}

/** Whether the interval of a change leaves zero out. */
export function certain(change: Change): boolean {
  return change.low > 0 || change.high < 0;
}

/** The share of a loss that recovery has brought back; null where there was none to bring back. */
export function regained(donor: number, before: number, after: number): number | null {
  return before > donor ? (before - after) / (before - donor) : null;
}
