export interface GuardRule {
  detector: string;
  action: string;
  min_score: number;
}

/** The policy in force for the key's tenant. */
export interface Guard {
  enabled: boolean;
  name: string | null;
  version: number | null;
  hash: string | null;
  input: GuardRule[];
  context: GuardRule[];
  output: GuardRule[];
  on_failure: string | null;
  labels: { enabled: boolean; producer: string };
  missing: string[];
}

export interface Moderation {
  flagged: boolean;
  categories: Record<string, boolean>;
  category_scores: Record<string, number>;
}

export interface AuditFinding {
  rule: string;
  layer: string | null;
  span: [number, number];
  category: string | null;
  action: string | null;
  score: number | null;
}

export interface AuditEntry {
  id: string;
  at: number;
  event: string;
  decision: string | null;
  layer: string | null;
  route: string | null;
  model: string | null;
  findings: AuditFinding[];
  policy_hash: string | null;
  user: string | null;
  request_id: string | null;
  hash: string;
}

export interface Verification {
  holds: boolean;
  entries: number;
  seconds: number;
  error: string | null;
}

/** A text in both languages. */
export interface Words {
  en: string;
  zh: string;
}

export interface CheckHead {
  id: string;
  title: Words;
  rule: { document: Words; clause: string; read: boolean; source: Words };
}

export interface Check extends CheckHead {
  status: "pass" | "fail" | "not_applicable" | "not_run";
  evidence: { name: Words; value: string | number | Words }[];
  fix: Words;
}

export interface Question extends CheckHead {
  due: boolean;
  answer: { answer: string; evidence: string | null; answered_by: string; answered_at: number; day: string } | null;
}

export interface PackReport {
  pack: string;
  title: Words;
  counts: Partial<Record<Check["status"], number>>;
  due: number;
  checks: Check[];
  questions: Question[];
}

/** A compliance report, as `deepwell compliance check --json` prints it. */
export interface Report {
  made_at: string;
  holds: boolean;
  facts: Record<string, string>;
  packs: PackReport[];
}
