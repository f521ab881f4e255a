/** Bodies of `/v1/registry`, `/v1/rollouts` and `/v1/improvements`. */

export interface RegistryAlias {
  object: "registry.alias";
  id: string;
  model: string;
  changed_at: number;
  changed_by: string;
  candidate: string | null;
  share: number | null;
  rollout: string | null;
  versions: number;
  /** The model that a revert would bring back. */
  undo: string | null;
}

export interface Gate {
  name: string;
  passed: boolean;
  reason: string;
  numbers: Record<string, number | string>;
}

export interface GateReport {
  passed: boolean;
  gates: Gate[];
}

export interface Version {
  object: "registry.version";
  id: string;
  alias: string;
  number: number;
  model: string;
  created_at: number;
  created_by: string;
  now: "serves" | "canary" | null;
  parents: string[];
  artefact: string;
  artefact_sha256: string;
  data: Record<string, string>;
  config: Record<string, unknown>;
  metrics: Record<string, unknown>;
  gates: GateReport | null;
}

export interface Entry {
  object: "registry.entry";
  id: string;
  sequence: number;
  at: number;
  event: string;
  alias: string;
  by: string;
  words: string;
  fields: Record<string, unknown>;
  hash: string;
}

export interface Verification {
  holds: boolean;
  entries: number;
  head: string;
  problems: string[];
}

export interface Side {
  model: string;
  users: number;
  good: number;
}

export interface Votes {
  current: Side;
  candidate: Side;
  without_user: number;
  unverified: number;
  low: number;
  high: number;
  evidence_worse: number;
  evidence_not_worse: number;
  evidence_needed: number;
  days: number;
  action: "promote" | "roll_back" | "wait";
  reason: string;
}

export interface Rollout {
  object: "rollout";
  id: string;
  alias: string;
  version: string;
  current: string;
  candidate: string;
  share: number;
  state: "canary" | "promoted" | "rolled_back" | "aborted";
  started_at: number;
  started_by: string;
  ended_at: number | null;
  ended_by: string;
  reason: string;
  plan: { alpha?: number; margin?: number; most_users?: number; most_days?: number };
  votes: Votes | null;
}

export interface Round {
  number: number;
  model: string;
  stage: string;
  outcome: string | null;
  reason: string;
  votes: Record<string, number>;
  version: string | null;
  rollout: string | null;
  at: number | null;
  gates: GateReport | null;
}

export interface Improvement {
  object: "improvement";
  id: string;
  up: number;
  down: number;
  consent: number;
  problem: string | null;
  rounds: Round[];
}

export interface Replica {
  name: string;
  state: string;
  restarts: number;
}

export interface Slot {
  name: string;
  role: string;
  release: string | null;
  replicas: Replica[];
}

/** The finding of a gate of a deployment by now. */
export interface Finding {
  name: string;
  current: number | null;
  candidate: number | null;
  bound: number;
  holds: boolean;
}

export interface Deployed {
  id: string;
  version: string;
  share: number;
  steps: number[] | null;
  held_seconds: number | null;
  next: string;
  gates: Finding[];
}

export interface Deployment {
  object: "deployment";
  id: string;
  alias: string;
  grade: string | null;
  started_at: number;
  url: string | null;
  model: string | null;
  front: Replica | null;
  slots: Slot[];
  rollout: Deployed | null;
}
