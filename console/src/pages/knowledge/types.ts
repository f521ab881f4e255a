/** A file of a vector store. */
export interface StoreFile {
  id: string;
  created_at: number;
  attributes: Record<string, string | number | boolean>;
  usage_bytes: number;
  vector_store_id: string;
  status: "in_progress" | "completed" | "cancelled" | "failed";
  last_error: { code: string; message: string } | null;
}

/** A file that was sent, whatever it is for. */
export interface StoredFile {
  id: string;
  filename: string;
  bytes: number;
  created_at: number;
}

/** A chunk of a file; `start` and `end` count characters (code points) of its text. */
export interface Chunk {
  id: string;
  index: number;
  start: number;
  end: number;
  page: number | null;
  headings: string[];
  text: string;
}

export interface ArmScore {
  rank: number;
  score: number;
}

export interface SearchResult {
  file_id: string;
  filename: string;
  score: number;
  content: { type: "text"; text: string }[];
  scores?: {
    lexical: ArmScore | null;
    vector: ArmScore | null;
    translated: ArmScore | null;
    fused: number;
    rerank: number | null;
  };
}
