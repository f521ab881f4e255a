import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Model, Page as Listed } from "../../api/types";
import { bytes, t, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { DropZone } from "../../ui/files/DropZone";
import { Failure } from "../../ui/Failure";
import { SelectField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { saveAs } from "../../ui/files/save";
import { toastError } from "../../ui/Toast";
import { en } from "./en";
import { ENDPOINTS, example, type Preview, preview } from "./input";
import type { Batch, StoredFile } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const LOOKED_AT_BYTES = 256 * 1024;

interface Chosen {
  file: File;
  found: Preview;
}

/** Sends a file of requests and starts a batch with it. */
export function New({ onClose, onMade }: { onClose: () => void; onMade: (batch: Batch) => void }) {
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const [endpoint, setEndpoint] = useState<string>(ENDPOINTS[0]);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const choose = async (file: File) => {
    const text = await file.slice(0, LOOKED_AT_BYTES).text();
    const found = preview(text, file.size <= LOOKED_AT_BYTES);
    setChosen({ file, found });
    setEndpoint(found.endpoint ?? ENDPOINTS[0]);
    setError(null);
  };
  const start = async () => {
    if (!chosen) return;
    setBusy(true);
    setError(null);
    try {
      const form = new FormData();
      form.set("purpose", "batch");
      form.set("file", chosen.file, chosen.file.name);
      const sent = await api<StoredFile>("/v1/files", { body: form });
      onMade(await api<Batch>("/v1/batches", { body: { input_file_id: sent.id, endpoint, completion_window: "24h" } }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const broken = chosen?.found.broken ?? null;
  return (
    <Dialog
      wide
      title={say("new")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={chosen === null || broken !== null} onClick={() => void start()}>
            {say("new.start")}
          </Button>
        </>
      }
    >
      <p>{say("new.lead")}</p>
      <DropZone
        action={say(chosen ? "new.other" : "new.drop")}
        hint={say("new.drop.hint")}
        accept=".jsonl,.ndjson,.json,.txt"
        onFiles={([file]) => {
          if (file) void choose(file).catch(toastError);
        }}
      />
      <div aria-live="polite">
        {chosen && (
          <p class="batches-chosen">
            <b>{chosen.file.name}</b> <span class="muted">{bytes(chosen.file.size)}</span>
            {chosen.found.model !== null && <> · {say("new.model", { model: chosen.found.model })}</>}
          </p>
        )}
      </div>
      {broken !== null && (
        <div class="failure" role="alert">
          <div>
            <p>{say("new.broken", { line: broken })}</p>
            <code>{example(chosen?.found.model ?? "MODEL").split("\n", 1)[0]}</code>
          </div>
        </div>
      )}
      {chosen === null ? (
        <Example />
      ) : (
        <SelectField
          label={say("new.endpoint")}
          hint={say("new.endpoint.hint")}
          value={endpoint}
          choices={ENDPOINTS.map((one) => ({ value: one as string, label: one }))}
          onChange={setEndpoint}
        />
      )}
      {busy && <Progress label={say("new.sending")} text={say("new.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}

/** Downloads an input of three lines for a model that is served. */
export function Example() {
  const save = async () => {
    const models = await api<Listed<Model>>("/v1/models").catch(() => null);
    const text = example(models?.data[0]?.id ?? "MODEL");
    saveAs(new Blob([text], { type: "application/jsonl" }), "example.jsonl");
  };
  return (
    <Button icon="download" onClick={() => void save()}>
      {say("example")}
    </Button>
  );
}
