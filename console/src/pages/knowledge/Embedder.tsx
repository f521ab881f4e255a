import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job, Page as Listed } from "../../api/types";
import { bytes, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Progress } from "../../ui/Progress";
import { toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import type { StoreFile } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const LIVE_MS = 1000;

interface Entry {
  id: string;
  kind: string;
  download_bytes: number | null;
  downloaded: boolean;
}

interface Props {
  files: readonly StoreFile[];
  /** Address of the files of the knowledge base. */
  path: string;
  onDone: () => void;
}

/** Offers the embedding model that files failed for, where the catalog has it: fetches it, and reads those files again. */
export function Embedder({ files, path, onDone }: Props) {
  const failed = files.filter((one) => one.status === "failed");
  const [busy, setBusy] = useState(false);
  const [job, setJob] = useState<Job | null>(null);
  const catalog = useLoad((signal) => (failed.length > 0 ? embedders(signal) : Promise.resolve([])), [failed.length]);
  const named = catalog.data?.find((one) => failed.some((file) => names(file, one.id)));
  if (named === undefined) return null;
  const work = async () => {
    setBusy(true);
    try {
      if (!named.downloaded) await pull(named.id, setJob);
      for (const file of failed.filter((one) => names(one, named.id))) {
        await api(`${path}/${encodeURIComponent(file.id)}`, { method: "DELETE" });
        await api(path, { body: { file_id: file.id, attributes: file.attributes } });
      }
    } catch (failure) {
      toastError(failure);
    }
    setBusy(false);
    catalog.reload();
    onDone();
  };
  const { done, total } = job?.progress ?? {};
  return (
    <div class="knowledge-embedder" role="note">
      <p>{say(named.downloaded ? "embedder.here" : "embedder.missing", { model: named.id })}</p>
      {busy && typeof done === "number" && typeof total === "number" ? (
        <Progress label={say("embedder.pulling")} done={done} total={total} text={`${bytes(done)} / ${bytes(total)}`} />
      ) : (
        <Button kind="primary" busy={busy} onClick={() => void work()}>
          {named.downloaded ? say("embedder.retry") : say("embedder.pull", { size: bytes(named.download_bytes ?? 0) })}
        </Button>
      )}
    </div>
  );
}

function names(file: StoreFile, model: string): boolean {
  return file.last_error?.message.includes(`'${model}'`) ?? false;
}

/** Embedding models of the catalog. A server without one, or a key that may not read it, has none to offer. */
async function embedders(signal: AbortSignal): Promise<Entry[]> {
  try {
    const page = await api<Listed<Entry>>("/v1/catalog", { query: { limit: 100 }, signal });
    return page.data.filter((one) => one.kind === "embedding");
  } catch (error) {
    if (signal.aborted) throw error;
    return [];
  }
}

/** Fetches a model, and tells how far it is until it is here. */
async function pull(model: string, tell: (job: Job) => void): Promise<void> {
  let job = await api<Job>("/v1/catalog/pull", { body: { model } });
  while (job.status === "queued" || job.status === "running") {
    tell(job);
    await new Promise((resolve) => setTimeout(resolve, LIVE_MS));
    job = await api<Job>(`/v1/jobs/${encodeURIComponent(job.id)}`);
  }
  if (job.status !== "succeeded") throw new Error(job.error ?? job.status);
}
