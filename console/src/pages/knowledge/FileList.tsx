import { useEffect, useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import type { Job, Page as Listed, VectorStore } from "../../api/types";
import { bytes, count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm } from "../../ui/Dialog";
import { DropZone } from "../../ui/files/DropZone";
import { Command } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { Embedder } from "./Embedder";
import { en } from "./en";
import { useNames } from "./names";
import type { StoreFile } from "./types";
import type { Upload, Uploads } from "./uploads";
import { zh } from "./zh";

const say = texts(en, zh);
const STEP = 50;
const LIVE_MS = 1000;
const STAGES = ["parse", "chunk", "embed", "publish"] as const;

/** The files of a knowledge base: how to add some, how far they are, and what went wrong with each. */
export function FileList({ store, uploads, onChange }: { store: VectorStore; uploads: Uploads; onChange: () => void }) {
  const [limit, setLimit] = useState(STEP);
  const [removing, setRemoving] = useState<StoreFile | null>(null);
  const reading = store.file_counts.in_progress > 0;
  const named = useNames();
  const path = `/v1/vector_stores/${encodeURIComponent(store.id)}/files`;
  const load = async (signal: AbortSignal) => {
    const page = await collect<StoreFile>(path, limit, { signal });
    return { page, names: await named(page.data, signal) };
  };
  const { data, error, loading, reload } = useLoad(load, [store.id, limit], reading ? LIVE_MS : 0);
  // Whatever changes the counts of the store changes the list: a file that arrived, or the last one that was read.
  const { total, completed, failed, cancelled } = store.file_counts;
  useEffect(reload, [total, completed, failed, cancelled]);
  const nameOf = (file: StoreFile) => data?.names.get(file.id) ?? file.id;
  const remove = async (file: StoreFile) => {
    try {
      await api(`${path}/${encodeURIComponent(file.id)}`, { method: "DELETE" });
      toast(say("removed", { name: nameOf(file) }));
      reload();
      onChange();
    } catch (failure) {
      toastError(failure);
    }
  };
  const files = data?.page.data ?? [];
  return (
    <>
      <DropZone many action={say("add")} hint={say("add.hint")} onFiles={uploads.add} />
      <div aria-live="polite">
        {uploads.list.length > 0 && (
          <ul class="knowledge-uploads" aria-label={say("uploads")}>
            {uploads.list.map((one) => (
              <li key={one.key}>
                <Sending upload={one} onDismiss={() => uploads.dismiss(one.key)} />
              </li>
            ))}
          </ul>
        )}
      </div>
      {reading && <Reading store={store} />}
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && files.length === 0 && uploads.list.length === 0 && (
        <div class="stack knowledge-none">
          <p class="muted">{say("files.none")}</p>
          <Command text={`deepwell knowledge add ${quoted(store.name || store.id)} ./documents`} />
        </div>
      )}
      <Embedder
        files={files}
        path={path}
        onDone={() => {
          onChange();
          reload();
        }}
      />
      {files.length > 0 && (
        <Table
          label={say("files")}
          columns={columns(nameOf, setRemoving)}
          rows={files}
          id={(file) => file.id}
          onOpen={(file) => go({ page: "knowledge", rest: [store.id, file.id] })}
        />
      )}
      {data?.page.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {removing && (
        <Confirm
          title={say("remove.title")}
          text={say("remove.text", { name: nameOf(removing) })}
          action={say("remove.action")}
          onYes={() => void remove(removing)}
          onClose={() => setRemoving(null)}
        />
      )}
    </>
  );
}

/** A word for a shell: in quotes unless it is plain. */
function quoted(word: string): string {
  return /^[\w.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function columns(nameOf: (file: StoreFile) => string, onRemove: (file: StoreFile) => void): Column<StoreFile>[] {
  return [
    { name: "name", title: say("column.name"), cell: (file) => <span class="knowledge-file">{nameOf(file)}</span> },
    {
      name: "status",
      title: say("column.status"),
      cell: (file) => (
        <>
          <span class={`badge ${{ in_progress: "accent", completed: "good", failed: "bad", cancelled: "" }[file.status]}`}>
            {say(`status.${file.status}`)}
          </span>
          {file.last_error && <p class="knowledge-error small">{file.last_error.message}</p>}
        </>
      ),
    },
    { name: "size", title: say("column.size"), cell: (file) => bytes(file.usage_bytes), number: true, wide: true },
    { name: "added", title: say("column.added"), cell: (file) => <span class="knowledge-time">{time(file.created_at)}</span>, wide: true },
    {
      name: "actions",
      title: "",
      cell: (file) => (
        <Button
          kind="quiet"
          small
          icon="trash"
          label={say("remove", { name: nameOf(file) })}
          onClick={() => onRemove(file)}
        />
      ),
      number: true,
    },
  ];
}

function Sending({ upload, onDismiss }: { upload: Upload; onDismiss: () => void }) {
  if (upload.state === "failed") {
    return (
      <div class="knowledge-upload">
        <span class="grow">
          <b>{upload.name}</b> <span class="badge bad">{say("upload.failed")}</span>
          <Failure error={upload.error} />
        </span>
        <Button kind="quiet" small icon="close" label={t("toast.dismiss")} onClick={onDismiss} />
      </div>
    );
  }
  const sending = upload.state === "sending";
  return (
    <div class="knowledge-upload">
      <span class="clip">{upload.name}</span>
      <span class="muted small">{bytes(upload.size)}</span>
      {sending ? (
        <div class="grow">
          <Progress label={`${say("uploading")}: ${upload.name}`} text={say("uploading")} />
        </div>
      ) : (
        <span class="muted small">{say("upload.waiting")}</span>
      )}
    </div>
  );
}

/** How far the reading of files is: files of this knowledge base, and the step of the file that is being read. */
function Reading({ store }: { store: VectorStore }) {
  const { total, in_progress: open } = store.file_counts;
  const load = (signal: AbortSignal) =>
    api<Listed<Job>>("/v1/jobs", { query: { kind: "ingest", status: "running", limit: 1 }, signal });
  const step = useLoad(load, [store.id], LIVE_MS).data?.data[0]?.progress;
  const stage = STAGES.find((one) => one === step?.step);
  const shown = [say("reading.of", { done: count(total - open), total: count(total) })];
  if (stage && typeof step?.done === "number" && typeof step.total === "number" && step.total > 1) {
    shown.push(say("reading.step", { step: say(`stage.${stage}`), done: count(step.done), total: count(step.total) }));
  } else if (stage) {
    shown.push(say(`stage.${stage}`));
  }
  return (
    <div class="knowledge-reading">
      <Progress label={say("reading")} done={total - open} total={total} text={shown.join(" · ")} />
    </div>
  );
}
