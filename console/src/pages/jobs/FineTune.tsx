import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { t, texts } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import * as session from "../chat/model/session";
import { en } from "./en";
import { ChosenFile, sent, useBases } from "./sending";
import { zh } from "./zh";

const say = texts(en, zh);
const SUFFIX = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

interface FineTuningJob {
  id: string;
}

/** Sends a file of conversations and trains a model on it. */
export function FineTune({ onClose, onMade }: { onClose: () => void; onMade: (id: string) => void }) {
  const { bases, error: missing, reload } = useBases();
  const [file, setFile] = useState<File | null>(null);
  const [model, setModel] = useState("");
  const [suffix, setSuffix] = useState("");
  const [epochs, setEpochs] = useState("3");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const base = model || bases[0]?.id;
  const wrong = suffix !== "" && !SUFFIX.test(suffix);
  const passes = Number(epochs);
  const counted = Number.isInteger(passes) && passes >= 1 && passes <= 50;
  const start = async () => {
    if (!file || !base) return;
    setBusy(true);
    setError(null);
    try {
      const hyperparameters = { n_epochs: passes };
      const body = {
        model: base,
        training_file: await sent(file, "fine-tune"),
        ...(suffix === "" ? {} : { suffix }),
        method: { type: "supervised", supervised: { hyperparameters } },
      };
      onMade((await api<FineTuningJob>("/v1/fine_tuning/jobs", { body })).id);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      wide
      title={say("tune")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={!file || !base || wrong || !counted} onClick={() => void start()}>
            {say("tune.start")}
          </Button>
        </>
      }
    >
      <p>{say("tune.lead")}</p>
      <ChosenFile
        action={say("tune.drop")}
        other={say("tune.other")}
        hint={say("tune.drop.hint")}
        accept=".jsonl,.ndjson,.json"
        file={file}
        onFile={setFile}
      />
      {missing !== null && <Failure error={missing} onRetry={reload} />}
      <SelectField
        label={say("tune.model")}
        value={base ?? ""}
        choices={bases.map((one) => ({ value: one.id, label: one.id }))}
        onChange={setModel}
        disabled={bases.length === 0}
      />
      <TextField
        label={say("tune.suffix")}
        hint={say("tune.suffix.hint")}
        {...(wrong ? { error: say("tune.suffix.wrong") } : {})}
        value={suffix}
        onInput={setSuffix}
      />
      <TextField
        label={say("tune.epochs")}
        hint={say("tune.epochs.hint")}
        {...(counted ? {} : { error: say("tune.epochs.wrong") })}
        type="number"
        min={1}
        max={50}
        value={epochs}
        onInput={setEpochs}
      />
      {busy && <Progress label={say("tune.sending")} text={say("tune.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}

/** Opens the chat with the model that a job has made. */
export function ChatWith({ model }: { model: string }) {
  return (
    <Button
      kind="primary"
      onClick={() => {
        session.changeSettings({ model });
        go({ page: "chat" });
      }}
    >
      {say("tune.chat")}
    </Button>
  );
}
