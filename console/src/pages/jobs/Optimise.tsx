import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Page as Listed } from "../../api/types";
import { t, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { CheckField, SelectField, TextField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { ChosenFile, sent, useBases } from "./sending";
import { zh } from "./zh";

const say = texts(en, zh);
const ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;
const NEW = "";

interface Prompt {
  id: string;
  version: string;
}

/** Sends rows of a task and searches for a better prompt; one that is not stored yet is stored first. */
export function Optimise({ onClose, onMade }: { onClose: () => void; onMade: (id: string) => void }) {
  const { bases, error: missing, reload } = useBases();
  const { data: known } = useLoad((signal) => api<Listed<Prompt>>("/v1/prompts", { query: { limit: 100 }, signal }), []);
  const prompts = known?.data ?? [];
  const [chosen, setChosen] = useState<string | null>(null);
  const [id, setId] = useState("");
  const [instructions, setInstructions] = useState("");
  const [file, setFile] = useState<File | null>(null);
  const [model, setModel] = useState("");
  const [metric, setMetric] = useState<"label" | "exact">("label");
  const [calls, setCalls] = useState("2000");
  const [current, setCurrent] = useState(true);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const base = model || bases[0]?.id;
  const prompt = chosen ?? prompts[0]?.id ?? NEW;
  const wrongId = id !== "" && !ID.test(id);
  const budget = Number(calls);
  const counted = Number.isInteger(budget) && budget >= 100 && budget <= 1_000_000;
  const ready = prompt !== NEW || (ID.test(id) && instructions.trim() !== "");
  const start = async () => {
    if (!file || !base) return;
    setBusy(true);
    setError(null);
    try {
      const data_file = await sent(file);
      if (prompt === NEW) await api("/v1/prompts", { body: { id, instructions } });
      const body = { prompt: { id: prompt || id }, model: base, data_file, metric, calls: budget, current };
      onMade((await api<{ id: string }>("/v1/prompt_optimisations", { body })).id);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      wide
      title={say("optimise")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={!file || !base || !ready || !counted} onClick={() => void start()}>
            {say("tune.start")}
          </Button>
        </>
      }
    >
      <p>{say("optimise.lead")}</p>
      <SelectField
        label={say("optimise.prompt")}
        value={prompt}
        choices={[
          ...prompts.map((one) => ({ value: one.id, label: say("optimise.version", { id: one.id, version: one.version }) })),
          { value: NEW, label: say("optimise.new") },
        ]}
        onChange={setChosen}
      />
      {prompt === NEW && (
        <>
          <TextField
            label={say("optimise.id")}
            {...(wrongId ? { error: say("optimise.id.wrong") } : {})}
            value={id}
            onInput={setId}
          />
          <TextField label={say("optimise.text")} rows={3} value={instructions} onInput={setInstructions} />
        </>
      )}
      <ChosenFile
        action={say("optimise.rows")}
        other={say("tune.other")}
        hint={say("optimise.rows.hint")}
        accept=".jsonl,.ndjson"
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
      <SelectField
        label={say("optimise.metric")}
        value={metric}
        choices={(["label", "exact"] as const).map((one) => ({ value: one, label: say(`optimise.${one}`) }))}
        onChange={setMetric}
      />
      <TextField
        label={say("optimise.calls")}
        hint={say("optimise.calls.hint")}
        {...(counted ? {} : { error: say("optimise.calls.wrong") })}
        type="number"
        min={100}
        max={1_000_000}
        value={calls}
        onInput={setCalls}
      />
      <CheckField label={say("optimise.current")} hint={say("optimise.current.hint")} value={current} onChange={setCurrent} />
      {busy && <Progress label={say("tune.sending")} text={say("tune.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}
