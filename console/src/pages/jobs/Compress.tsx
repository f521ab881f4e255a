import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { t, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { CheckField, SelectField, TextField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { en } from "./en";
import { ChosenFile, sent, useBases } from "./sending";
import { zh } from "./zh";

const say = texts(en, zh);
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const TYPES = ["q4_1", "q4_0", "q4_k", "q8_0", "q3_k"] as const;
const TARGETS = ["mla", "moe", "deepseek-v3"] as const;

const MINUTES = { prune: "10", convert: "20" } as const;

type Method = "quantise" | "prune" | "convert";
type Target = (typeof TARGETS)[number];

/** Sends texts and makes a smaller model of a served one. */
export function Compress({ onClose, onMade }: { onClose: () => void; onMade: (id: string) => void }) {
  const { bases, error: missing, reload } = useBases();
  const [method, setMethod] = useState<Method>("quantise");
  const [text, setText] = useState<File | null>(null);
  const [heldOut, setHeldOut] = useState<File | null>(null);
  const [model, setModel] = useState("");
  const [name, setName] = useState("");
  const [share, setShare] = useState("20");
  const [type, setType] = useState<string>(TYPES[0]);
  const [to, setTo] = useState<Target>("mla");
  const [recover, setRecover] = useState(true);
  const [minutes, setMinutes] = useState<string>(MINUTES.prune);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const base = model || bases[0]?.id;
  const wrongName = name !== "" && !NAME.test(name);
  const wrongShare = !(Number(share) >= 1 && Number(share) <= 70);
  const wrongMinutes = !(Number(minutes) >= 0.05 && Number(minutes) <= 1440);
  const wrong = wrongName || (method === "prune" && wrongShare) || (method !== "quantise" && recover && wrongMinutes);
  const choose = (chosen: Method) => {
    setMethod(chosen);
    if (chosen !== "quantise") setMinutes(MINUTES[chosen]);
  };
  const options = () => {
    if (method === "quantise") return { type };
    const recovery = recover ? { recover: "distil", minutes: Number(minutes) } : { recover: "none" };
    return method === "prune" ? { share: Number(share) / 100, ...recovery } : { to, ...recovery };
  };
  const start = async () => {
    if (!text || !base) return;
    setBusy(true);
    setError(null);
    try {
      const body = {
        method,
        model: base,
        text_file: await sent(text),
        ...(heldOut ? { held_out_file: await sent(heldOut) } : {}),
        ...(name === "" ? {} : { name }),
        [method]: options(),
      };
      onMade((await api<{ id: string }>("/v1/compression/jobs", { body })).id);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      wide
      title={say("compress")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={!text || !base || wrong} onClick={() => void start()}>
            {say("tune.start")}
          </Button>
        </>
      }
    >
      <p>{say("compress.lead")}</p>
      <SelectField
        label={say("compress.method")}
        hint={say(`compress.${method}.hint`)}
        value={method}
        choices={(["quantise", "prune", "convert"] as const).map((one) => ({ value: one, label: say(`compress.${one}`) }))}
        onChange={choose}
      />
      {missing !== null && <Failure error={missing} onRetry={reload} />}
      <SelectField
        label={say("tune.model")}
        value={base ?? ""}
        choices={bases.map((one) => ({ value: one.id, label: one.id }))}
        onChange={setModel}
        disabled={bases.length === 0}
      />
      <ChosenFile
        action={say("compress.text")}
        other={say("tune.other")}
        hint={say("compress.text.hint")}
        accept=".txt,.md,text/plain"
        file={text}
        onFile={setText}
      />
      <ChosenFile
        action={say("compress.held")}
        other={say("tune.other")}
        hint={say("compress.held.hint")}
        accept=".txt,.md,text/plain"
        file={heldOut}
        onFile={setHeldOut}
      />
      {method === "quantise" && (
        <SelectField
          label={say("compress.type")}
          value={type}
          choices={TYPES.map((one) => ({ value: one, label: say(`compress.type.${one}`) }))}
          onChange={setType}
        />
      )}
      {method === "prune" && (
        <TextField
          label={say("compress.share")}
          hint={say("compress.share.hint")}
          type="number"
          min={1}
          max={70}
          {...(wrongShare ? { error: say("compress.share.hint") } : {})}
          value={share}
          onInput={setShare}
        />
      )}
      {method === "convert" && (
        <SelectField
          label={say("compress.to")}
          value={to}
          choices={TARGETS.map((one) => ({ value: one, label: say(`compress.to.${one}`) }))}
          onChange={setTo}
        />
      )}
      {method !== "quantise" && (
        <>
          <CheckField label={say("compress.recover")} hint={say("compress.recover.hint")} value={recover} onChange={setRecover} />
          {recover && (
            <TextField
              label={say("compress.minutes")}
              type="number"
              min={0.05}
              max={1440}
              {...(wrongMinutes ? { error: say("compress.minutes.wrong") } : {})}
              value={minutes}
              onInput={setMinutes}
            />
          )}
        </>
      )}
      <TextField
        label={say("tune.suffix")}
        hint={say("compress.name.hint")}
        {...(wrongName ? { error: say("compress.name.wrong") } : {})}
        value={name}
        onInput={setName}
      />
      {busy && <Progress label={say("tune.sending")} text={say("tune.sending")} />}
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}
