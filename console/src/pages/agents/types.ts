/** What `/v1/agents` answers, as far as the page shows it. */

export type RunStatus = "queued" | "in_progress" | "requires_action" | "completed" | "incomplete" | "cancelled" | "failed";

export interface WaitingCall {
  id: string;
  name: string;
  arguments: string;
  needs: "approval" | "output";
}

export interface Run {
  id: string;
  status: RunStatus;
  model: string;
  input: string;
  output_text: string;
  reason: string;
  limit: string | null;
  required_action: WaitingCall[];
  tools: string[];
  budget: { turns: number; calls: number; tokens: number; seconds: number };
  usage: { turns: number; calls: number; total_tokens: number; seconds: number };
  created_at: number;
  finished_at: number | null;
}

export interface Call {
  id: string;
  name: string;
  arguments: string;
}

export type StepBody =
  | { type: "started"; tools: { name: string }[] }
  | { type: "turn"; text: string; calls: Call[]; prompt_tokens: number; completion_tokens: number }
  | { type: "note"; check: string; text: string }
  | { type: "call"; call_id: string; name: string; arguments: Record<string, unknown> }
  | { type: "result"; call_id: string; outcome: string; text: string; characters: number; seconds: number }
  | { type: "decision"; call_id: string; is_approved: boolean; reason: string }
  | { type: "end"; status: string; text: string; reason: string };

export interface RunStep {
  number: number;
  at: number;
  clock: number;
  step: StepBody;
}

export interface ServerTool {
  name: string;
  description: string;
  why_not: string | null;
}

export function ended(run: Run): boolean {
  return run.status === "completed" || run.status === "incomplete" || run.status === "cancelled" || run.status === "failed";
}
