/** A page of a list, as OpenAI's API has it. */
export interface Page<T> {
  object: "list";
  data: T[];
  first_id?: string | null;
  last_id?: string | null;
  has_more?: boolean;
}

export interface Model {
  id: string;
  object: "model";
  created: number;
  owned_by: string;
  /** The model that an adapter or an alias stands on. */
  parent?: string;
  max_model_len: number;
  /** What is drawn with where a request says nothing; absent for a model that generates no text. */
  default_sampling?: {
    temperature: number;
    top_p: number;
    top_k: number;
    min_p: number;
    repetition_penalty: number;
    source: string;
  };
  /** Of a model that is loaded on demand. */
  state?: "not_loaded" | "loading" | "loaded" | "unloading";
  size_bytes?: number;
  /** Of a model that is not for text. */
  kind?: "speech" | "recognition" | "image";
  /** Whether it is the recognition model that writes recordings down where a request names none of the store. */
  default?: boolean;
}

export type JobStatus = "queued" | "running" | "succeeded" | "failed" | "cancelled";

export interface Job {
  object: "job";
  id: string;
  kind: string;
  status: JobStatus;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  progress: JobProgress | null;
  result: Record<string, unknown> | null;
  error: string | null;
  attempts: number;
  cancel_requested: boolean;
  /** What the job is about, where its kind tells it. */
  subject?: { method?: string; model?: string; name?: string; prompt?: string } | null;
}

export interface JobProgress {
  done?: number;
  total?: number;
  unit?: string;
  step?: string;
  series?: Record<string, [number, number][]>;
  [other: string]: unknown;
}

export interface VectorStore {
  object: "vector_store";
  id: string;
  name: string | null;
  created_at: number;
  status: string;
  usage_bytes: number;
  file_counts: { total: number; completed: number; in_progress: number; failed: number; cancelled: number };
}
