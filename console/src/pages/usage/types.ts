export interface ModelStats {
  id: string;
  running: number;
  waiting: number;
  kv_used_blocks: number;
  kv_total_blocks: number;
  prefix_hit_tokens: number;
  prefix_query_tokens: number;
  tokens_per_s: number | null;
  /** Rows by mixture and expert, since the engine started. */
  experts: number[][] | null;
}

export interface Percentiles {
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface Lookups {
  hits: number;
  misses: number;
}

export interface Stats {
  object: "stats";
  version: string;
  uptime_s: number;
  memory_bytes: number;
  models: ModelStats[];
  latency_ms: { first_token: Percentiles; inter_token: Percentiles; queue: Percentiles };
  requests: { total: number; errors: number; open: number };
  caches: { response: Lookups | null; semantic: Lookups | null };
  /** Of each tenant; 0: none. */
  limits: { requests_per_minute: number; tokens_per_minute: number };
}

export interface UsageResult {
  input_tokens: number;
  output_tokens: number;
  input_cached_tokens: number;
  num_model_requests: number;
  model: string | null;
  api_key_id: string | null;
}

export interface UsageBucket {
  start_time: number;
  end_time: number;
  results: UsageResult[];
}

export interface UsagePage {
  object: "page";
  data: UsageBucket[];
  has_more: boolean;
}

export interface ListedKey {
  object: "api_key";
  id: string;
  name: string;
  tenant: string;
  scopes: string[];
  created_at: number;
  last_used_at: number | null;
  expires_at: number | null;
  revoked: boolean;
  /** Null: the tenant's; 0: none. */
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
}
