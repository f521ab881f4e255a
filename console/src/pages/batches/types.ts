export const STATUSES = [
  "validating",
  "in_progress",
  "finalizing",
  "completed",
  "failed",
  "expired",
  "cancelling",
  "cancelled",
] as const;
export type BatchStatus = (typeof STATUSES)[number];

export interface BatchError {
  code: string;
  message: string;
  line: number | null;
  param: string | null;
}

export interface Batch {
  id: string;
  endpoint: string;
  model?: string;
  errors: { data: BatchError[] } | null;
  input_file_id: string;
  status: BatchStatus;
  output_file_id: string | null;
  error_file_id: string | null;
  created_at: number;
  in_progress_at: number | null;
  expires_at: number;
  completed_at: number | null;
  failed_at: number | null;
  expired_at: number | null;
  cancelled_at: number | null;
  request_counts: { total: number; completed: number; failed: number };
  usage?: { input_tokens: number; output_tokens: number; total_tokens: number };
}

export interface StoredFile {
  id: string;
  filename: string;
  bytes: number;
}

/** Whether a batch changes no more. */
export function ended({ status }: Pick<Batch, "status">): boolean {
  return status === "completed" || status === "failed" || status === "expired" || status === "cancelled";
}

/** When a batch ended, in Unix seconds. */
export function endOf(batch: Batch): number | null {
  return batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at;
}
