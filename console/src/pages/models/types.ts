import type { Job, Model } from "../../api/types";

export type ModelState = "not_loaded" | "loading" | "loaded" | "unloading";

/** A model of `/v1/models`. One without `default_sampling` writes no text; one without `state` stays loaded. */
export interface ListedModel extends Model {
  state?: ModelState;
  size_bytes?: number;
  /** What a model of sound or images does; models of text have none. */
  kind?: "speech" | "recognition" | "image";
}

export interface Alias {
  object: "alias";
  id: string;
  model: string;
  changed_at: number;
  changed_by: string;
}

export interface AliasChange {
  object: "alias.change";
  id: string;
  name: string;
  model: string | null;
  changed_at: number;
  changed_by: string;
}

export interface CatalogModel {
  object: "catalog.model";
  id: string;
  kind: string;
  description: string;
  languages: string[];
  license: string;
  parameters: number | null;
  download_bytes: number | null;
  memory_bytes: number | null;
  downloaded: boolean;
  served: boolean;
}

export interface MemoryPlan {
  object: "memory_plan";
  model: string;
  fits: boolean;
  precision: string;
  context: number;
  total_bytes: number;
  available_bytes: number;
  lines: { name: string; bytes: number }[];
  advice: string | null;
}

export type UpdateState = "new" | "moved" | "current" | "unasked";

export interface SourceUpdate {
  source: string;
  state: UpdateState;
  revision_before: string;
  revision_now: string;
  changed_at: number | null;
  files: {
    name: string;
    kind: "changed" | "added" | "removed";
    size_before: number | null;
    size_now: number | null;
    hash_before: string | null;
    hash_now: string | null;
  }[];
  license: { before: string; now: string } | null;
  template: { before: string; now: string } | null;
  not_told: string[];
  reason: string | null;
  fix: string | null;
  fetch: string | null;
}

export interface ModelUpdate {
  object: "catalog.update";
  id: string;
  state: UpdateState;
  sources: SourceUpdate[];
}

export interface UpdateReport {
  object: "catalog.updates";
  checked_at: number | null;
  data: ModelUpdate[];
}

export interface LoadedAdapter {
  name: string;
  rank: number;
  digest: string;
  parent: string;
}

/** Whether a job has come to an end. */
export function hasEnded(job: Job): boolean {
  return job.finished_at !== null;
}
