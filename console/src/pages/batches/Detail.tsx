import { useState } from "preact/hooks";
import { api, apiBlob } from "../../api/client";
import { bytes, count, t, texts, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { saveAs } from "../../ui/files/save";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { Amount, Status, took } from "./Status";
import { type Batch, type BatchError, ended, endOf, type StoredFile } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const LIVE_MS = 1000;

/** One batch, followed until it ends, with its errors and its files. */
export function Detail({ id, onClose, onChange }: { id: string; onClose: () => void; onChange: () => void }) {
  const [live, setLive] = useState(true);
  const [asking, setAsking] = useState(false);
  const path = `/v1/batches/${encodeURIComponent(id)}`;
  const load = async (signal: AbortSignal) => {
    const batch = await api<Batch>(path, { signal });
    if (ended(batch) && live) onChange();
    setLive(!ended(batch));
    return batch;
  };
  const { data: batch, error, reload } = useLoad(load, [id], live ? LIVE_MS : 0);
  const cancel = async () => {
    try {
      await api<Batch>(`${path}/cancel`, { method: "POST" });
      toast(say("cancelled"));
      reload();
      onChange();
    } catch (failure) {
      toastError(failure);
    }
  };
  const open = batch?.status === "validating" || batch?.status === "in_progress";
  return (
    <>
      <Dialog
        wide
        title={say("title")}
        onClose={onClose}
        actions={
          open && (
            <Button kind="danger" onClick={() => setAsking(true)}>
              {say("cancel")}
            </Button>
          )
        }
      >
        {error !== null && <Failure error={error} onRetry={reload} />}
        {batch && <Facts batch={batch} />}
      </Dialog>
      {asking && (
        <Confirm
          title={say("cancel.title")}
          text={say("cancel.text")}
          action={say("cancel")}
          dismiss={t("action.keep")}
          onYes={() => void cancel()}
          onClose={() => setAsking(false)}
        />
      )}
    </>
  );
}

function Facts({ batch }: { batch: Batch }) {
  const end = endOf(batch);
  const { total, completed, failed } = batch.request_counts;
  const facts: [string, preact.ComponentChildren][] = [
    [say("column.status"), <Status batch={batch} />],
    [say("endpoint"), <code>{batch.endpoint}</code>],
    [say("id"), <code>{batch.id}</code>],
  ];
  if (batch.model) facts.push([say("model"), batch.model]);
  facts.push([say("column.created"), time(batch.created_at)]);
  if (end === null) facts.push([say("expires"), time(batch.expires_at)]);
  else facts.push([say("ended"), time(end)], [say("column.took"), took(batch)]);
  if (total > 0) {
    const counted = { total: count(total), completed: count(completed), failed: count(failed) };
    facts.push([say("counts"), say("counts.of", counted)]);
  }
  if (batch.usage) {
    const { input_tokens: input, output_tokens: output } = batch.usage;
    facts.push([say("tokens"), say("tokens.of", { input: count(input), output: count(output) })]);
  }
  return (
    <div class="stack">
      <dl class="batches-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {!ended(batch) && <Amount batch={batch} />}
      {batch.errors && batch.errors.data.length > 0 && <Errors errors={batch.errors.data} />}
      <Files batch={batch} />
    </div>
  );
}

function Errors({ errors }: { errors: readonly BatchError[] }) {
  return (
    <section>
      <h3>{say("errors")}</h3>
      <p class="muted">{say("errors.fix")}</p>
      <Table
        label={say("errors")}
        columns={ERRORS.map((column) => ({ ...column, title: say(column.title) }))}
        rows={errors.map((error, place) => ({ ...error, place }))}
        id={(error) => String(error.place)}
      />
    </section>
  );
}

type ErrorColumn = Omit<Column<BatchError & { place: number }>, "title"> & { title: keyof typeof en };
const ERRORS: readonly ErrorColumn[] = [
  { name: "line", title: "column.line", cell: (one) => (one.line === null ? "" : count(one.line)), number: true },
  { name: "message", title: "column.message", cell: (one) => <span class="batches-message">{one.message}</span> },
  { name: "code", title: "column.code", cell: (one) => <code>{one.code}</code>, wide: true },
];

interface Made {
  id: string;
  kind: "input" | "output" | "errors";
  /** Null where the file was deleted. */
  file: StoredFile | null;
}

/** The file that a batch read, and those that it made. */
function Files({ batch }: { batch: Batch }) {
  const ids = [batch.input_file_id, batch.output_file_id, batch.error_file_id];
  const kinds = ["input", "output", "errors"] as const;
  const load = (signal: AbortSignal): Promise<Made[]> =>
    Promise.all(
      kinds.flatMap((kind, at) => {
        const id = ids[at];
        if (!id) return [];
        const found = api<StoredFile>(`/v1/files/${encodeURIComponent(id)}`, { signal }).catch((error: unknown) => {
          if (signal.aborted) throw error;
          return null;
        });
        return [found.then((file) => ({ id, kind, file }))];
      }),
    );
  const { data: files } = useLoad(load, ids);
  return (
    <section>
      <h3>{say("files")}</h3>
      {files && <Table label={say("files")} columns={fileColumns()} rows={files} id={(made) => made.kind} />}
      {!ended(batch) && <p class="muted small">{say("files.none")}</p>}
    </section>
  );
}

function fileColumns(): Column<Made>[] {
  return [
    {
      name: "file",
      title: say("column.file"),
      cell: ({ kind, file }) => (
        <>
          {say(`file.${kind}`)} <span class="muted small batches-message">{file?.filename}</span>
        </>
      ),
    },
    { name: "size", title: say("column.size"), cell: ({ file }) => (file ? bytes(file.bytes) : say("file.gone")), number: true },
    {
      name: "download",
      title: "",
      cell: ({ file }) => file && <Download file={file} />,
      number: true,
    },
  ];
}

function Download({ file }: { file: StoredFile }) {
  const [busy, setBusy] = useState(false);
  const save = async () => {
    setBusy(true);
    try {
      saveAs(await apiBlob(`/v1/files/${encodeURIComponent(file.id)}/content`), file.filename);
    } catch (failure) {
      toastError(failure);
    }
    setBusy(false);
  };
  return (
    <Button
      kind="quiet"
      small
      icon="download"
      busy={busy}
      label={say("download", { name: file.filename })}
      onClick={() => void save()}
    />
  );
}
