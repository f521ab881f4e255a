import { count, duration, texts } from "../../i18n";
import { Progress } from "../../ui/Progress";
import { en } from "./en";
import { type Batch, type BatchStatus, ended, endOf } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const KINDS: Partial<Record<BatchStatus, string>> = {
  validating: "accent",
  in_progress: "accent",
  finalizing: "accent",
  completed: "good",
  failed: "bad",
  expired: "warn",
};

/** The state of a batch in words, with the colour of its kind. */
export function Status({ batch }: { batch: Batch }) {
  return <span class={`badge ${KINDS[batch.status] ?? ""}`}>{say(`status.${batch.status}`)}</span>;
}

/** How many requests of a batch have ended, and how many of these failed. */
export function Amount({ batch }: { batch: Batch }) {
  const { total, completed, failed } = batch.request_counts;
  if (total === 0) return null;
  const done = completed + failed;
  const text = say("progress.of", { done: count(done), total: count(total) });
  return (
    <span class="batches-amount">
      {ended(batch) ? text : <Progress label={say("progress")} done={done} total={total} text={text} />}
      {failed > 0 && <span class="badge bad">{say("progress.failed", { count: count(failed) })}</span>}
    </span>
  );
}

/** How long a batch took, once it has ended. The server counts whole seconds. */
export function took(batch: Batch): string {
  const end = endOf(batch);
  if (end === null) return "";
  return end > batch.created_at ? duration(end - batch.created_at) : `< ${duration(1)}`;
}
