import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { bytes, t, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { DropZone } from "../../ui/files/DropZone";
import { saveAs } from "../../ui/files/save";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { en } from "./en";
import { classesOf } from "./keys";
import { PROJECTS, type Project, STRATEGIES, type Strategy } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** Sends a file of texts and makes a project of it. */
export function New({ onClose, onMade }: { onClose: () => void; onMade: (project: Project) => void }) {
  const [file, setFile] = useState<File | null>(null);
  const [typed, setTyped] = useState("");
  const [strategy, setStrategy] = useState<Strategy>("margin");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const classes = classesOf(typed);
  const start = async () => {
    if (!file) return;
    setBusy(true);
    setError(null);
    try {
      const form = new FormData();
      form.set("purpose", "user_data");
      form.set("file", file, file.name);
      const sent = await api<{ id: string }>("/v1/files", { body: form });
      onMade(await api<Project>(PROJECTS, { body: { file_id: sent.id, classes, strategy } }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={say("new")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={file === null || classes.length < 2} onClick={() => void start()}>
            {say("new.start")}
          </Button>
        </>
      }
    >
      <p>{say("new.lead")}</p>
      <DropZone
        action={say(file ? "new.other" : "new.drop")}
        hint={say("new.drop.hint")}
        accept=".jsonl,.ndjson,.json"
        onFiles={([one]) => {
          if (one) setFile(one);
          setError(null);
        }}
      />
      <p class="labelling-file" aria-live="polite">
        {file && (
          <>
            <b>{file.name}</b> <span class="muted">{bytes(file.size)}</span>
          </>
        )}
      </p>
      <TextField
        label={say("new.classes")}
        hint={say("new.classes.hint")}
        error={classes.length === 1 ? say("new.classes.few") : undefined}
        rows={4}
        value={typed}
        onInput={setTyped}
      />
      <SelectField
        label={say("new.strategy")}
        hint={say("strategy.hint")}
        value={strategy}
        choices={STRATEGIES.map((one) => ({ value: one, label: say(`strategy.${one}`) }))}
        onChange={setStrategy}
      />
      {busy && <Progress label={say("new.sending")} text={say("new.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}

const LINES = ["The train was late again.", "Great service, thank you!", "The parcel arrived on Tuesday."];

/** Downloads a file of three texts. */
export function Example() {
  const save = () => {
    const text = LINES.map((one) => `${JSON.stringify({ text: one })}\n`).join("");
    saveAs(new Blob([text], { type: "application/jsonl" }), "texts.jsonl");
  };
  return (
    <Button icon="download" onClick={save}>
      {say("example")}
    </Button>
  );
}
