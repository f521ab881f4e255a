export interface Study {
  id: string;
  name: string;
  pairs: number;
  raters: number;
  votes: number;
  created_at: number;
}

export interface Pair {
  index: number;
  prompt: string;
  left: string;
  right: string;
}

export type Choice = "left" | "right" | "tie";

export interface Progress {
  rater: string;
  rated: number;
  pairs: number;
}

export interface Following {
  data: Pair[];
  progress: Progress;
}

export interface Undone {
  pair: Pair | null;
  progress: Progress;
}

export interface Interval {
  value: number;
  low: number;
  high: number;
}

export interface RaterVotes {
  rater: string;
  first: number;
  second: number;
  tie: number;
}

export interface Agreement {
  raters: [string, string];
  pairs: number;
  agreement: Interval;
  /** Null where chance alone would always agree. */
  kappa: Interval | null;
}

export interface Outcome {
  first: string;
  second: string;
  pairs: number;
  rated: number;
  /** Of the second model; a tie counts half. */
  win_rate: Interval | null;
  raters: RaterVotes[];
  agreements: Agreement[];
}

export const STUDIES = "/v1/ratings/studies";

/** The path of a study, and what follows it. */
export function pathOf(id: string, part = ""): string {
  return `${STUDIES}/${encodeURIComponent(id)}${part && `/${part}`}`;
}
