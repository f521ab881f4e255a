import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Model, Page as Listed } from "../../api/types";
import { t, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { CheckField, SelectField, TextField } from "../../ui/Field";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import type { Run, ServerTool } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const TURNS = "20";
/** Tools that change something are the user's choice, one by one. */
const UNCHOSEN: ReadonlySet<string> = new Set(["files_write"]);
const TOLD = ["calculator", "knowledge", "files", "files_write", "sql", "python"] as const;

/** Asks for a task and the tools that the model may use, and starts the run. */
export function New({ onClose, onMade }: { onClose: () => void; onMade: (id: string) => void }) {
  const { data, error: missing, reload } = useLoad(async (signal) => {
    const models = await api<Listed<Model>>("/v1/models", { signal });
    const tools = await api<{ data: ServerTool[] }>("/v1/agents/tools", { signal });
    return { models: models.data.filter((one) => one.default_sampling !== undefined), tools: tools.data };
  }, []);
  const [task, setTask] = useState("");
  const [model, setModel] = useState("");
  const [left, setLeft] = useState<ReadonlySet<string>>(UNCHOSEN);
  const [turns, setTurns] = useState(TURNS);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const chosen = model || data?.models[0]?.id;
  const usable = (data?.tools ?? []).filter((one) => one.why_not === null);
  const most = Number(turns);
  const counted = Number.isInteger(most) && most >= 1 && most <= 200;
  const start = async () => {
    setBusy(true);
    setError(null);
    try {
      const tools = usable.map((one) => one.name).filter((name) => !left.has(name));
      const body = { model: chosen, input: task.trim(), tools, budget: { turns: most } };
      onMade((await api<Run>("/v1/agents/runs", { body })).id);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const turn = (name: string, on: boolean) => {
    const next = new Set(left);
    if (on) next.delete(name);
    else next.add(name);
    setLeft(next);
  };
  return (
    <Dialog
      wide
      title={say("new")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={task.trim() === "" || !chosen || !counted} onClick={() => void start()}>
            {say("new.start")}
          </Button>
        </>
      }
    >
      <p>{say("new.lead")}</p>
      {missing !== null && <Failure error={missing} onRetry={reload} />}
      <TextField label={say("new.task")} hint={say("new.task.hint")} rows={4} value={task} onInput={setTask} />
      <SelectField
        label={say("new.model")}
        value={chosen ?? ""}
        choices={(data?.models ?? []).map((one) => ({ value: one.id, label: one.id }))}
        onChange={setModel}
        disabled={data === undefined}
      />
      <fieldset class="agents-tools">
        <legend>{say("new.tools")}</legend>
        {data?.tools.length === 0 && <p class="muted">{say("new.tools.none")}</p>}
        {data?.tools.map((one) => (
          <CheckField
            key={one.name}
            label={one.name}
            hint={one.why_not ?? described(one)}
            value={one.why_not === null && !left.has(one.name)}
            disabled={one.why_not !== null}
            onChange={(on) => turn(one.name, on)}
          />
        ))}
      </fieldset>
      <TextField label={say("new.turns")} hint={say("new.turns.hint")} type="number" min={1} max={200} value={turns} onInput={setTurns} />
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}

/** Tools that come along are told in the user's language, those of other servers in their own words. */
function described(tool: ServerTool): string {
  const own = TOLD.find((name) => name === tool.name);
  return own === undefined ? tool.description : say(`tool.${own}`);
}
